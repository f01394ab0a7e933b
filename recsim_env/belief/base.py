"""What a shop infers about its shoppers from what it showed them and what they did.

A belief is the shop's own, as the slates that it remembers are: `SlateSimulator` keeps it beside
its episodes, row by row, and adds it to the observation. It is a function of what was observed,
shown and clicked, never of a shopper's hidden state, so that a shop without any simulator keeps the
same belief for each of its users (`start`, `update`, `save`, `load`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import gymnasium
import torch
from torch import Tensor

from recsim_env import checks, trees
from recsim_env.catalog import Catalog
from recsim_env.shoppers.base import Past
from recsim_env.trees import Flat
from recsim_env.types import Observation

S = TypeVar("S")
PREFIX = "belief_"
"""How the names of a belief's observation keys begin."""


@dataclass(frozen=True)
class SeenVisit:
    """What a shop saw of one visit of B shoppers, and when they came back.

    Shapes: B shoppers, K slate positions.
    """

    slates: Tensor
    """(B, K) int64 item ids, top position first."""
    shown: Tensor
    """(B, K) bool, False where nothing was shown."""
    clicks: Tensor
    """(B, K) bool, False wherever `shown` is."""
    days: Tensor
    """(B,) float32, days until the shopper came back; anything for those who did not, whose belief
    is not used again."""
    purchases: Tensor | None = None
    """(B, K) bool, what was bought of what was clicked; None where shoppers do not tell purchases
    from clicks."""


class Belief(ABC, Generic[S]):
    """What a shop infers about B shoppers; `S` is its state, a tree of tensors with B rows.

    Row b of a result depends on row b of the arguments alone. Nothing is random, nothing waits for
    a device, and tensors that are returned are new.

    Args:
        slate_size: K, number of slate positions.
        device: Where the states and the tensors that come and go live.
    """

    kind: str | None = None
    """The family of fitted shoppers that gives it, as `recsim_env.belief.registry` knows it;
    None where no folder holds such a belief."""
    past_visits: int = 0
    """How many visits before an episode `start` wants to know, at most."""

    def __init__(self, slate_size: int, device: torch.device | str) -> None:
        self.slate_size = checks.whole("slate_size", slate_size, 1)
        self.device = torch.device(device)

    @abstractmethod
    def check_fits(
        self, catalog: Catalog, slate_size: int, known: Mapping[str, gymnasium.Space[Any]]
    ) -> None:
        """Check that the belief is about the shoppers of a place.

        Args:
            catalog: The items there.
            slate_size: K.
            known: Space of each key of the shoppers' own observation.

        Raises:
            ValueError: If items or slates are others, or the observation lacks what `start` reads.
        """

    @abstractmethod
    def spaces(self, candidates: int) -> dict[str, gymnasium.Space[Any]]:
        """Return the space of each key of `observe`, for one shopper with so many candidates.

        Their names begin with `PREFIX`.
        """

    @abstractmethod
    def start(self, observation: Observation, past: Past | None = None) -> S:
        """Return the belief about shoppers at the first visit of an episode.

        Args:
            observation: The shoppers' own keys, (B, ...) each, at that visit.
            past: What the shop showed them before, and what they did, of `past_visits` visits at
                most; None where all are new to it. It is as if `update` had followed these visits.
        """

    @abstractmethod
    def update(self, state: S, visit: SeenVisit) -> None:
        """Learn from a visit of every shopper, in place."""

    @torch.no_grad()
    def follow(self, state: S, past: Past) -> None:
        """Learn from visits before an episode, in place, the oldest first.

        Shoppers of fewer visits join in with their own first one. It waits for the device once.

        Args:
            state: The belief about newcomers.
            past: Their visits, each of which showed something.
        """
        shown = past.slates >= 0
        count = shown.any(dim=2).sum(dim=1).tolist()
        newcomers = trees.pick(state, torch.arange(len(count), device=self.device))
        until = torch.diff(past.days, dim=1, prepend=torch.zeros_like(past.days[:, :1]))
        for visit in reversed(range(max(count, default=0))):
            seen = SeenVisit(
                past.slates[:, visit].clamp(min=0),
                shown[:, visit],
                past.clicks[:, visit],
                until[:, visit].clamp(min=0),
            )
            self.update(state, seen)
            # who was not there yet has seen nothing of it
            waiting = [row for row, visits in enumerate(count) if visits == visit]
            self._put_back(state, newcomers, waiting)

    def _put_back(self, state: S, newcomers: S, rows: list[int]) -> None:
        """Make newcomers of some rows again."""
        if rows:
            at = torch.tensor(rows, device=self.device)
            trees.put(state, at, trees.pick(newcomers, at))

    @abstractmethod
    def observe(self, state: S, candidates: Tensor) -> Observation:
        """Tell what is believed at this visit.

        Args:
            state: The state.
            candidates: (B, C) int64 items that may be shown, padded with -1; it may be one row that
                all shoppers share.
        """

    @abstractmethod
    def blank(self, batch: int) -> S:
        """Return a state of so many rows of which only shapes and types matter."""

    def save(self, state: S, row: int) -> dict[str, Tensor]:
        """Copy the belief about one shopper as plain tensors on the CPU, for `load` and for files.

        Args:
            state: The state.
            row: The shopper's row.
        """
        picked = trees.pick(state, torch.tensor([row], device=self.device))
        return trees.flat(picked, "belief").tensors

    def load(self, tensors: Mapping[str, Tensor]) -> S:
        """Return the state of one row that `save` copied.

        Raises:
            TypeError: If `tensors` is no mapping.
            ValueError: If names, shapes or types are not those that `save` gives; the message names
                the tensor.
        """
        tensors = checks.mapping("tensors", tensors)
        like = self.blank(1)
        wanted = trees.flat(like, "belief")
        if other := sorted(wanted.tensors.keys() ^ tensors.keys()):
            raise ValueError(
                f"tensors differs in {other}, but it must hold {sorted(wanted.tensors)}."
            )
        loaded: S = trees.restored(like, Flat(dict(tensors), wanted.outline))
        return loaded
