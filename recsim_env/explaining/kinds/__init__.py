"""Kinds of causes, one file each; a new file joins this import."""

from recsim_env.explaining.kinds import (
    boredom,
    cart,
    category,
    declared,
    habit,
    interest,
    item,
    neighbours,
    position,
    promotion,
    query,
    repetition,
    shopping_list,
    words,
)

__all__ = [
    "boredom",
    "cart",
    "category",
    "declared",
    "habit",
    "interest",
    "item",
    "neighbours",
    "position",
    "promotion",
    "query",
    "repetition",
    "shopping_list",
    "words",
]
