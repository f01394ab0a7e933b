"""Pages of whole visits: where the shopper is, and what the carts came to."""

import gymnasium as gym

import recsim_env  # noqa: F401  (registers the environments)

if __name__ == "__main__":
    envs = gym.make_vec("recsim_env/MarketVisit-v0", num_envs=64, reward={"revenue": 1.0})
    envs.action_space.seed(0)
    seen, _ = envs.reset(seed=0)
    for page in range(8):
        print(page, "home, search, cart:", [int((seen["scenario"] == at).sum()) for at in range(3)])
        seen, revenue, _, _, info = envs.step(envs.action_space.sample())
        print(f"  {(info['gap_days'] > 0).sum()} visits ended, {revenue.sum():.2f} were paid")
