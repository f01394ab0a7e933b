"""Benchmarks of shopper models against the log."""
