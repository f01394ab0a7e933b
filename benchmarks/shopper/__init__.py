"""Benchmarks of the shoppers that are fitted to a log."""
