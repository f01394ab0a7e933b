"""Checks of the arguments that simulators and configurations of environments share."""

from __future__ import annotations

from typing import Any

from recsim_env import checks
from recsim_env.shoppers import cold
from recsim_env.shoppers.base import Shopper, name_of

MOST_POSITIONS = 1000
"""Positions of the longest slate: an observation holds `history` slates, so that both are
bounded."""
LONGEST_HISTORY = 1000
"""Slates that a shop can remember at most."""


def checked_horizon(horizon_days: Any) -> float:
    """Check the days after which an episode is truncated; infinity means never.

    Raises:
        ValueError: If it is no number above 0.
    """
    return checks.number("horizon_days", horizon_days, 0, above=True, infinite=True)


def checked_newcomers(newcomers: Any, shopper: Shopper[Any] | None = None) -> float:
    """Check the share of episodes whose shopper comes without a history.

    Args:
        newcomers: The share.
        shopper: Who comes; None checks the number alone.

    Raises:
        ValueError: If it is no number from 0 to 1, or above 0 for shoppers who have no history to
            lose.
    """
    found = cold.share("newcomers", newcomers)
    if found > 0 and shopper is not None and not shopper.serves_newcomers:
        raise ValueError(
            f"newcomers is {found}, but {name_of(shopper)} has no shoppers with a history here, so "
            "that it must be 0; those of a log have one with starts='history'."
        )
    return found


def checked_history(history: Any) -> int:
    """Check how many slates a shop remembers.

    Raises:
        ValueError: If it is no whole number from 1 to `LONGEST_HISTORY`.
    """
    return checks.whole("history", history, 1, LONGEST_HISTORY)


def checked_slate_size(slate_size: Any) -> int:
    """Check how many positions a slate has.

    Raises:
        ValueError: If it is no whole number from 1 to `MOST_POSITIONS`.
    """
    return checks.whole("slate_size", slate_size, 1, MOST_POSITIONS)
