"""Agents of other libraries on our environments; docs/others-agents.md shows each of them."""
