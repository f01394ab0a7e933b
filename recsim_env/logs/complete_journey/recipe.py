"""The settings by which the logs are cut from the source tables."""

from __future__ import annotations

from dataclasses import dataclass, fields

from recsim_env import checks


@dataclass(frozen=True)
class Recipe:
    """How the logs are cut from the source tables.

    Raises:
        ValueError: If a field is not a number within its bounds.
    """

    n_items: int = 3500
    """Size of the catalogue: the items that most visits of the training weeks bought."""
    min_households: int = 15
    """Fewest households that bought an item of the catalogue in the training weeks."""
    n_cold: int = 365
    """Items of the catalogue that are never exposed in the training weeks."""
    train_until: int = 44
    """Last week of the train split."""
    valid_until: int = 48
    """Last week of the valid split; all later weeks are the test split."""
    min_earlier: int = 3
    """Fewest earlier visits of the household where a visit gets slates."""
    min_exposed: int = 30
    """Fewest items on promotion in the store and week of a slate."""
    slate_size: int = 10
    """Positions of a slate."""
    negatives: int = 20
    """Items not bought that are sampled for each visit of the case-control log."""
    holdout: float = 0.2
    """Share of the households that are kept for evaluation."""
    item_weight: float = 1.2
    """Weight of log(1 + earlier visits that bought the item) in the logging policy."""
    category_weight: float = 0.5
    """Weight of log(1 + earlier purchases in the category of the item)."""
    popularity_weight: float = 0.5
    """Weight of log(1 + visits of the four weeks before that bought the item)."""

    def __post_init__(self) -> None:
        """Check every field, and store it as the plain Python type."""
        least = {"n_items": 1, "slate_size": 1}
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if isinstance(field.default, int):
                checked: float = checks.whole(name, value, least.get(name, 0), 10**6)
            else:
                checked = checks.number(
                    name, value, *((0, 1) if name == "holdout" else (-1e3, 1e3))
                )
            object.__setattr__(self, name, checked)
