"""Logs: their tables and facts, the sessions in them, logs of simulations, and one data set."""
