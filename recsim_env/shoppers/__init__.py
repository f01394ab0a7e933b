"""Populations of shoppers: who comes, how they answer a slate, and when they come back."""
