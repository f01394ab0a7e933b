"""Rankers: models that score candidates one by one, learned from logs."""
