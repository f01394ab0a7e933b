"""Benchmarks of speed, and of what it costs."""
