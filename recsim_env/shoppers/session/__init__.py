"""Shoppers of an impression log: a transformer over slates, clicks and leaving."""
