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

    n_items: int = 3500  # catalogue: the most bought of the training weeks
    min_households: int = 15  # buyers that an item of the catalogue has in the training weeks
    n_cold: int = 365  # items of the catalogue never exposed in training
    train_until: int = 44  # last week of the train split
    valid_until: int = 48  # last week of the valid split; the rest is test
    min_earlier: int = 3  # visits of the household before one that gets a slate
    min_exposed: int = 30  # promoted catalogue items in the store and week of a slate
    slate_size: int = 10
    negatives: int = 20  # not bought, sampled for each visit of the case-control log
    holdout: float = 0.2  # share of households kept for evaluation
    item_weight: float = 1.2  # logging policy: of log(1 + earlier visits that bought the item)
    category_weight: float = 0.5  # of log(1 + earlier purchases in the item's category)
    popularity_weight: float = (
        0.5  # of log(1 + visits that bought the item in the four weeks before)
    )

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
