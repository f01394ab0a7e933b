# %% [markdown]
# # A log of your own becomes a simulator
#
# This is a notebook in percent format: editors and Jupytext open it cell by cell, and
# `python -m examples.own_log` runs it in about three minutes, in the folder of a checkout. The page
# docs/your-own/log.md explains every step.

# %%
from pathlib import Path

import gymnasium
import torch

import recsim_env
from agents.evaluate import evaluate
from agents.folder import load_agent
from agents.places import open_place
from agents.statistics import paired_difference
from benchmarks.agents import train
from benchmarks.lab.where import Where
from policies import POLICIES
from recsim_env.fitting import FitConfig
from recsim_env.shoppers.session.fit import SessionFitConfig

torch.set_num_threads(1)
EXAMPLES = Path(recsim_env.__file__).parents[1] / "examples"
LOG, ITEMS = EXAMPLES / "shop_log.csv", EXAMPLES / "shop_items.csv"
SHOP = Path("runs/own_log/shop")

# %% [markdown]
# What is in the log, and what can be learned from it?

# %%
print(recsim_env.check_log(LOG, ITEMS))

# %% [markdown]
# Fit a simulator with a small budget: `FitConfig()` fits two models of twice the width with 500
# steps each, and two more that predict policies which they never saw.

# %%
quick = FitConfig(
    members=1,
    judged_users=100,
    counterfactual=False,
    model=SessionFitConfig(
        epochs=1, least_steps=150, temperaments=8, hidden_size=32, layers=1, head_size=32
    ),
)
fitted = recsim_env.fit(LOG, ITEMS, SHOP, config=quick)
print(fitted)
print(f"Episodes last {fitted.horizon_days:g} days. Look at {fitted.folder / 'report.html'}.")

# %% [markdown]
# The folder is an environment. Held-out users are its population for evaluation.

# %%
recsim_env.register("shop/Mine-v0", SHOP)
env = gymnasium.make("shop/Mine-v0", population="evaluation")
observation, _ = env.reset(seed=0)
observation, reward, terminated, truncated, info = env.step(observation["candidates"][:6])
print(f"{reward:.0f} clicks, back after {info['gap_days']:.0f} days")

# %% [markdown]
# Train an agent for much too short a time, from the ranker that is fitted to the log, and let it
# serve. `tensorboard --logdir runs/own_log/train` shows the training.

# %%
config = train.Config(
    place=Where(str(SHOP)),
    seeds=(0,),
    visits=2_560,
    shoppers=128,
    output=Path("runs/own_log/train"),
)
train.main(config)
agent = load_agent(config.output / "composer" / "seed0" / "agent")
print(f"items {agent.recommend(observation)}")

# %% [markdown]
# Is the agent better than showing what is most likely to be clicked? Both meet the same shoppers.

# %%
site = open_place(str(SHOP))
simulator = site.simulator("evaluation")
greedy = POLICIES["greedy_ctr"].build(site.inputs)
returns = {
    name: evaluate(policy, simulator, 128).rows["return"]
    for name, policy in {"agent": agent.policy, "greedy CTR": greedy}.items()
}
print(f"agent above greedy CTR: {paired_difference(returns['agent'], returns['greedy CTR'])}")
