"""Pages of households' visits: what is searched for, and what lies in the cart."""

import gymnasium as gym

import recsim_env  # noqa: F401  (registers the environments)

if __name__ == "__main__":
    env = gym.make("recsim_env/CompleteJourneyVisit-v0", render_mode="ansi")
    seen, _ = env.reset(seed=3)
    for _ in range(6):
        candidates = seen["candidates"][seen["candidates"] >= 0]
        cosines = env.unwrapped.simulator.catalog.embedding.numpy()[candidates] @ seen["query"]
        slate = candidates[(-cosines).argsort(kind="stable")[:10]]
        seen, _, _, _, _ = env.step(slate)
        print(env.render())
