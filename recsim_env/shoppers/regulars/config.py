"""Parameters of a market of regular customers, and where they come from."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, fields
from typing import Any

from recsim_env.catalog import MOST_NUMBERS
from recsim_env.shoppers.worlds import MOST, check_parameters

LONGEST = 1000
"""Most visits of a history."""
_COUNTS = {
    "items": 10**6,
    "categories": 10**6,
    "width": 4096,
    "favourites": 10**6,
    "known": 10**6,
    "fewest_visits": LONGEST,
    "most_visits": LONGEST,
}  # from 1 to this
_LENGTHS = ("interest_noise", "declared_noise", "drift", "sated_exposure", "sated_click")
_SPREADS = ("quality_spread", "habit_spread", "memory_spread", "patience_spread")
_RANGES = {  # of all other numbers: from -MOST to MOST
    **dict.fromkeys(
        ("examination", "familiar_decay", "fatigue_decay", "logged_at_random"), (0.0, 1.0)
    ),
    **dict.fromkeys((*_LENGTHS, *_SPREADS, "examination_spread"), (0.0, MOST)),
    **dict.fromkeys(("speed_spread", "recovery_spread", "rhythm_spread"), (0.0, 5.0)),  # of logs
    **dict.fromkeys(("recovery", "rhythm"), (1.0, 365.0)),  # days
    "memory": (0.01, 0.99),
    "leave_base": (-math.inf, MOST),
}


@dataclass(frozen=True)
class RegularsConfig:
    """Every parameter of a market of regulars, in log-odds unless another unit is given.

    "Measured" are the figures of `python -m benchmarks.data.regular_facts`: households of the
    Complete Journey data with 30 visits or more. Everything else is an assumption.

    Raises:
        ValueError: If a number is none, or is out of its range.
    """

    items: int = 400
    """Number of items in the catalogue."""
    categories: int = 20
    """Number of categories, which are of equal size."""
    width: int = 16
    """Number of dimensions of interests and item embeddings."""
    known: int = 2048
    """Number of regulars whom the shop knows. An episode begins with one of them: three in four are
    the population `train`, the others `evaluation`."""
    fewest_visits: int = 30
    """Fewest visits of a regular before an episode. Measured: 5 % of the households have no more
    than 32 a year."""
    most_visits: int = 300
    """Most visits of a regular before an episode; the logarithm of the number is uniform. Measured:
    the median household has 61 a year, and one in twenty over 154."""
    logged_at_random: float = 0.25
    """Share of the positions of the slates before an episode whose category was drawn at random;
    the others were drawn by what the shopper had declared."""
    favourites: int = 3
    """Number of categories that the interest of a shopper is made of at registration."""
    base: float = -2.5
    """Log-odds of a click on an examined item that has nothing to do with the shopper's
    interest."""
    interest: float = 3.0
    """Log-odds that a click gains per unit of the cosine between interest and item."""
    interest_noise: float = 0.3
    """Length of the noise that is added to the mixture of favourite categories."""
    declared_noise: float = 0.3
    """Length of the noise in what a shopper declares of its interest, which has length 1."""
    drift: float = 0.01
    """Standard deviation by which each number of the interest moves between visits."""
    quality_spread: float = 0.3
    """Standard deviation over items of the log-odds that an item has for every shopper."""
    examination: float = 0.85
    """Probability that the median shopper, having examined a position, examines the next one."""
    examination_spread: float = 0.5
    """Standard deviation over shoppers of the log-odds of examining the next position; the data
    hold no positions."""
    familiar_decay: float = 0.9
    """Share of the familiarity with a category that is left at the next visit."""
    habit_mean: float = 0.0
    """Mean over shoppers of the habit trait: above 0 shoppers want what they know, below 0
    something new."""
    habit_spread: float = 1.0
    """Standard deviation over shoppers of the habit trait, which has no unit of its own."""
    habit_click: float = 0.6
    """Log-odds that a click in a wholly familiar category gains per unit of habit."""
    habit_pleased: float = 10.0
    """Pleasure of a visit per unit of habit and of the familiarity of what was looked at, from
    -1/2 where nothing was familiar to 1/2 where all was; a visit with a click is 1."""
    fatigue: float = 0.7
    """Log-odds that a click loses per unit of fatigue, which each examination of the item adds."""
    fatigue_decay: float = 0.8
    """Share of the fatigue that is left at the next visit."""
    sated: float = 1.0
    """Log-odds that a click loses per unit of the category's satiation: a need that was met."""
    sated_exposure: float = 0.03
    """Satiation that each examined position of the category adds, for the median shopper."""
    sated_click: float = 0.5
    """Satiation that a click in the category adds, for the median shopper."""
    speed_spread: float = 0.5
    """Standard deviation over shoppers of the log of how fast they are sated."""
    recovery: float = 7.0
    """Days in which half of the median shopper's satiation is gone. In the Complete Journey data
    categories are bought least in the days after a purchase, and as often as usual after 6 to 14
    days."""
    recovery_spread: float = 0.4
    """Standard deviation over shoppers of the log of these days. Measured: .38, for the days until
    a category is bought again."""
    rhythm: float = 5.8
    """Mean number of days between two visits of the median shopper. Measured."""
    rhythm_spread: float = 0.42
    """Standard deviation over shoppers of the log of these days. Measured."""
    memory: float = 0.7
    """Share of the satisfaction of the visits before that is left at the next visit, for the median
    shopper."""
    memory_spread: float = 0.8
    """Standard deviation over shoppers of the log-odds of that share."""
    leave_base: float = 0.5
    """Log-odds that the median shopper leaves after a visit at satisfaction 0; with -inf nobody
    ever leaves."""
    leave_satisfied: float = 4.0
    """Log-odds of leaving that a unit of satisfaction takes away."""
    patience_spread: float = 0.5
    """Standard deviation over shoppers of the log-odds of staying."""

    def __post_init__(self) -> None:
        check_parameters(self, _COUNTS, _RANGES)
        if self.fewest_visits > self.most_visits:
            raise ValueError(
                f"fewest_visits is {self.fewest_visits!r}, but it must be from 1 to "
                f"{self.most_visits} (most_visits)."
            )
        if self.items * self.width > MOST_NUMBERS or self.items * self.known > MOST_NUMBERS:
            raise ValueError(
                f"items is {self.items!r}, but items times width and items times known must be "
                f"{MOST_NUMBERS:,} at most."
            )

    def alike(self) -> RegularsConfig:
        """Return the same market with shoppers who all behave as the median one does."""
        spreads: dict[str, Any] = {
            field.name: 0.0
            for field in fields(self)
            if field.name.endswith("_spread") and field.name != "quality_spread"
        }
        return dataclasses.replace(self, **spreads)


REGULARS = RegularsConfig()
"""Shoppers who differ in what keeps them: what pleases one bores another."""
