"""Searches for the one intent that serves everybody best: the rivals of agents that adapt."""
