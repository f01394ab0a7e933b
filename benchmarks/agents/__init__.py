"""Benchmarks of policies and agents, and their training and tuning."""
