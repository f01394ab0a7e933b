"""PPO (Schulman et al. 2017) over slates, built on Stable-Baselines3."""
