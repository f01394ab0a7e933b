"""As many kinds as possible for at least 90 % of the clicks that greedy CTR gets."""

from agents import AGENTS, TrainingSetup
from agents.places import open_place
from agents.ppo.constraint import Constraint

if __name__ == "__main__":
    site = open_place("recsim_env/Market-v0", reward={"category_coverage": 1.0}, slates=5_000)
    shoppers = site.simulator("train")
    setup = TrainingSetup(shoppers, site.inputs_for(shoppers), seed=0, steps=60_000, shoppers=256)
    limit = Constraint("clicks", "at_least", 0.9, relative=True)
    agent = AGENTS["ppo_constrained"].learn(setup, {"constraint": limit})
    told = {name: round(agent.facts[name], 2) for name in ("limit", "mean", "margin", "kept")}
    print(told)
