"""The replay memory of SlateQ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.slateq.values import Visits


@dataclass(frozen=True)
class Batch:
    """B visits with the slates that were shown, the responses, and the next visits."""

    visits: Visits
    """The visits before the slates."""
    places: Tensor
    """(B, K) int64, the slate as indices into the pool, top position first."""
    clicks: Tensor
    """(B, K) bool, which positions were clicked."""
    reward: Tensor
    """(B,) float32, the scaled reward."""
    terminated: Tensor
    """(B,) bool, whether the shopper lapsed, so that nothing follows."""
    following: Visits
    """The next visits of the same shoppers; without meaning where `terminated` or not `known`."""
    known: Tensor
    """(B,) bool, False where the horizon cut off the next visit: such a visit has no target."""


class ReplayMemory:
    """The last visits of B shoppers, on their device; the next visit of a row follows in that row.

    Args:
        rounds: visits of every shopper that are kept, at least 2

    Raises:
        ValueError: If `rounds` is below 2.
    """

    def __init__(self, rounds: int) -> None:
        if rounds < 2:
            raise ValueError(
                f"rounds is {rounds}, but a visit and the one after it must fit into the memory."
            )
        self._rounds = rounds
        self._kept: dict[str, Tensor] = {}  # (rounds, B, ...) each
        self._added = 0

    def state(self) -> dict[str, Any]:
        """The content, for `restore`; storage that was never written to is left out."""
        there = min(self._added, self._rounds)
        return {
            "kept": {name: value[:there] for name, value in self._kept.items()},
            "added": self._added,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with the content of `state`."""
        self._added = state["added"]
        self._kept = {}
        for name, value in state["kept"].items():
            self._kept[name] = value.new_zeros(self._rounds, *value.shape[1:])
            self._kept[name][: len(value)] = value

    @property
    def pairs(self) -> int:
        """Number of rounds that can be drawn: those whose next round is stored as well."""
        return max(min(self._added, self._rounds) - 1, 0)

    def add(
        self,
        visits: Visits,
        places: Tensor,
        clicks: Tensor,
        reward: Tensor,
        terminated: Tensor,
        known: Tensor,
    ) -> None:
        """Add one visit of every shopper; arguments have the shapes of the fields of `Batch`."""
        new = {**vars(visits), "places": places, "clicks": clicks, "reward": reward}
        new |= {"terminated": terminated, "known": known}
        if not self._kept:
            self._kept = {
                name: value.new_zeros(self._rounds, *value.shape) for name, value in new.items()
            }
        for name, value in new.items():
            self._kept[name][self._added % self._rounds] = value
        self._added += 1

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """Visits that are drawn uniformly with replacement.

        Raises:
            ValueError: If `pairs` is 0.
        """
        if self.pairs == 0:
            raise ValueError(
                "The memory holds no visit with the one after it, but a batch is made of such."
            )
        device = self._kept["reward"].device
        ago = torch.randint(self.pairs, (size,), generator=generator).to(device) + 2
        row = torch.randint(self._kept["reward"].shape[1], (size,), generator=generator).to(device)
        at = (self._added - ago) % self._rounds
        own = {
            name: self._kept[name][at, row]
            for name in ("places", "clicks", "reward", "terminated", "known")
        }
        return Batch(
            visits=self._visits(at, row),
            following=self._visits((at + 1) % self._rounds, row),
            **own,
        )

    def _visits(self, at: Tensor, row: Tensor) -> Visits:
        return Visits(
            **{name: self._kept[name][at, row] for name in ("features", "items", "logits", "ids")}
        )
