"""One agent for any weights of clicks and diversity: `python -m examples.any_weights`."""

from agents import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from agents.places import open_place
from policies.learnable.conditioned import ConditionedPolicy

if __name__ == "__main__":
    site = open_place("recsim_env/Market-v0", slates=3_000)  # which pays for both of them
    setup = TrainingSetup(site.simulator("train"), site.inputs, seed=0, steps=8_000, shoppers=64)
    policy = AGENTS["ppo_conditioned"].learn(setup).policy
    assert isinstance(policy, ConditionedPolicy)
    for share in (0.0, 0.5, 1.0):
        rows = evaluate(policy.at([1 - share, share]), site.simulator(), 32).rows
        print(share, policy.goals, [round(float(rows[goal].mean()), 1) for goal in policy.goals])  # type: ignore[arg-type]
