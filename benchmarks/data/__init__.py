"""Logs, and the models that are fitted to them."""
