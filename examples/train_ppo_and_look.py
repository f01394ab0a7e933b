"""Train PPO in the market and compare it with greedy CTR: `python -m examples.train_ppo_and_look`.

A log of random slates is written first, and a CTR ranker is fitted to it, as a shop would. PPO
starts as the greedy policy of that ranker. Watch it with `tensorboard --logdir runs/example`.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
import tyro
from torch.utils.tensorboard import SummaryWriter

from agents import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from policies import POLICIES, PolicyInputs
from policies.rankers.two_tower_fit import fit_two_tower
from recsim_env import SlateSimulator, make_simulator
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.types import Policy

LOGGED, TRAINED, JUDGED = 1_000_000, 0, 2_000_000
"""First seeds of the shoppers of the log, the training and the comparison, which never overlap."""


@dataclass(frozen=True)
class Config:
    """Train PPO for about a minute, and compare it with greedy CTR."""

    env: str = "recsim_env/Market-v0"
    """Id of the market."""
    logged: int = 500
    """Shoppers of the log; a ranker that saw fewer orders the items less well."""
    steps: int = 150_000
    """Visits that PPO learns from; the learning curve is still rising at the default."""
    shoppers: int = 512
    """Shoppers that PPO serves at once."""
    episodes: int = 128
    """Shoppers that each policy is judged on."""
    output: Path = Path("runs/example")
    """Folder of the TensorBoard events."""


def inputs_from_a_log(simulator: SlateSimulator, shoppers: int) -> PolicyInputs:
    """Log random slates, fit a ranker to them, and return what policies are built from."""
    blind = PolicyInputs(simulator.catalog, simulator.observation_space, simulator.slate_size)
    seeds = torch.arange(LOGGED, LOGGED + shoppers)
    impressions, _ = record(simulator, POLICIES["uniform"].build(blind), seeds, split="train")

    # what newcomers declared of their interests is part of the log
    said = simulator.reset(seeds)["declared"].cpu()
    types = {"shopper": pl.Int64(), "declared": pl.List(pl.Float32)}
    declared = pl.DataFrame(
        {"shopper": range(shoppers), "declared": said.tolist()}, schema_overrides=types
    )
    log = Sessions.of(impressions, declared)
    ranker = fit_two_tower(log, simulator.catalog, simulator.slate_size, title="fitting the ranker")
    return PolicyInputs(
        simulator.catalog,
        simulator.observation_space,
        simulator.slate_size,
        ranker=ranker,
        per_category=3,
    )


def main(config: Config) -> None:
    """Train, watch, and print the returns of both policies on the same fresh shoppers."""
    simulator, judging = make_simulator(config.env), make_simulator(config.env)
    inputs = inputs_from_a_log(simulator, config.logged)
    seeds = torch.arange(JUDGED, JUDGED + config.episodes)

    def mean_return(policy: Policy) -> float:
        return float(evaluate(policy, judging, seeds).rows["return"].mean())  # type: ignore[arg-type]

    with SummaryWriter(str(config.output)) as events:

        def watch(steps: int, policy: Policy) -> None:
            earned = mean_return(policy)
            events.add_scalar("return", earned, steps)
            print(f"{steps:>9,} visits: return {earned:.1f}")

        setup = TrainingSetup(
            simulator, inputs, TRAINED, config.steps, config.shoppers, watch=watch
        )
        trained = AGENTS["ppo_composer"].learn(setup)

    for name, policy in (("greedy CTR", trained.untrained), ("PPO", trained.policy)):
        print(f"{name}: return {mean_return(policy):.1f} over {config.episodes} shoppers")
    print(f"curve: tensorboard --logdir {shlex.quote(str(config.output))}")


if __name__ == "__main__":
    main(tyro.cli(Config))
