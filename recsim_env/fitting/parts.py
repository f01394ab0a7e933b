"""The episodes of a log, by what they are used for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from recsim_env.fitting.config import FitConfig
from recsim_env.logs.plain import PlainLog
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.session.starts import Logged

WITHIN = 0.95
"""Share of the users whose time in the log a simulated episode spans."""


@dataclass(frozen=True)
class Parts:
    """The episodes of all users, and which of them are learned from and which are judged on."""

    sessions: Sessions
    """The episodes of all users, in the order of their numbers."""
    split: tuple[str, ...]
    """`train`, `valid` or `test` for each episode."""
    log_days: int
    """Number of days from the first to the last of the log."""

    def part(self, split: str) -> Sessions:
        """Select the episodes of a split."""
        return self.sessions.take(self._of(split))

    @property
    def horizon_days(self) -> float:
        """Days that `WITHIN` of the users stay within, from their first slate to their last."""
        spans = self.sessions.days[:, -1]
        return float(math.ceil(float(torch.quantile(spans, WITHIN)))) + 1.0

    @property
    def windows(self) -> Tensor:
        """Days (S,) through which each user to test on was watched, from the first slate on."""
        return (self.log_days - self.part("test").first_day).float()

    @property
    def logged(self) -> Logged:
        """The shoppers of the simulator: those learned from, and those to evaluate with."""
        rows = self._of("train") | self._of("test")
        return Logged(self.sessions.take(rows), self._of("test")[rows])

    def _of(self, split: str) -> Tensor:
        return torch.tensor([one == split for one in self.split])


def parts_of(plain: PlainLog, config: FitConfig) -> Parts:
    """Make the episodes of a log, all with slates of one size.

    Raises:
        ValueError: If a split has no user.
    """
    sessions = Sessions.of(
        plain.impressions,
        plain.declared,
        slate_size=config.slate_size,
        most_steps=config.most_steps,
    )
    split = tuple(plain.users.sort("shopper")["split"])
    for name in ("train", "valid", "test"):
        if name not in split:
            raise ValueError(
                f"{plain.name}: no user is in the split {name!r}, but every split needs one: "
                "the log is too small."
            )
    last = plain.impressions.select(pl.col("day").max()).item()
    return Parts(sessions, split, int(last) + 1)
