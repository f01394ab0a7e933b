"""A training of PPO as `benchmarks.agents.train` does it: its options, sizes, model and end."""
