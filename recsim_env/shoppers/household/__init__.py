"""Shoppers with a loyalty card: a transformer over baskets, fine-tuned to a log of purchases."""
