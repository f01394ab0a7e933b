"""Clicks, revenue, distance and who comes back, told side by side: a vector for each shopper."""

import gymnasium as gym

import recsim_env  # noqa: F401  (registers the environments)

GOALS = ("clicks", "revenue", "intra_list_distance", "kept")

if __name__ == "__main__":
    envs = gym.make_vec("recsim_env/Market-v0", num_envs=64, objectives=GOALS)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    _, reward, _, _, _ = envs.step(envs.action_space.sample())
    print({goal: round(float(mean), 2) for goal, mean in zip(GOALS, reward.mean(0), strict=True)})
