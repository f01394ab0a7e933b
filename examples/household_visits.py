"""Pages of households' visits: what is searched for, and what lies in the cart."""

from typing import cast

import gymnasium as gym

from recsim_env.env import SlateEnv

if __name__ == "__main__":
    env = gym.make("recsim_env/CompleteJourneyVisit-v0", render_mode="ansi")
    items = cast(SlateEnv, env.unwrapped).simulator.catalog.embedding.numpy()
    seen = env.reset(seed=3)[0]
    for _ in range(6):
        candidates = seen["candidates"][seen["candidates"] >= 0]
        cosines = items[candidates] @ seen["query"]
        slate = candidates[(-cosines).argsort(kind="stable")[:10]]
        seen = env.step(slate)[0]
        print(env.render())
