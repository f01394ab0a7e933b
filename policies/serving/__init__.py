"""A trained policy at work in a shop: retrieval of candidates, and slates on request."""
