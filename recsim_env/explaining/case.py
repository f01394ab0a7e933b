"""A visit that is explained, and what it would be without some causes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recsim_env import trees
from recsim_env.episodes import Question
from recsim_env.shoppers.base import Shopper
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import looked_up

Change = Callable[[Shopper[Any]], Shopper[Any]]
"""Makes shoppers who answer in another way; those that it is given stay as they are."""


@dataclass(frozen=True)
class Case:
    """B shoppers before their slates.

    Nothing of it may be written into: a `world` has copies.

    Shapes: B shoppers, K positions.
    """

    simulator: SlateSimulator
    question: Question
    """What the shoppers are asked."""
    memo: dict[str, Any] = field(default_factory=dict, repr=False)
    """What kinds of causes have worked out, for other worlds of this case."""

    @property
    def shopper(self) -> Shopper[Any]:
        """The shoppers who answer the slates."""
        return self.simulator.acting

    @property
    def state(self) -> Any:
        """The hidden state of the shoppers."""
        return self.simulator.hidden

    @property
    def categories(self) -> Tensor:
        """The category of each item of the slates, (B, K) int64."""
        return looked_up(self.simulator.catalog.category, self.question.slates)

    def title(self, item: int) -> str:
        """Name an item: its text up to the first semicolon."""
        return self.simulator.catalog.text[item].split("; ")[0]

    def category(self, number: int) -> str:
        """Name a category, without the department in front."""
        return self.simulator.catalog.category_name(number)

    def world(self, rows: Tensor) -> World:
        """Copy the shoppers of some rows (R,) int64, who may be named repeatedly."""
        return World(self, rows, trees.pick(self.state, rows), self.question.rows(rows))


@dataclass
class World:
    """What R shoppers are asked, as it would be: kinds of causes change it in place.

    Shapes: R rows, K positions, N items.
    """

    case: Case
    rows: Tensor
    """(R,) int64, the row of each in the case."""
    state: Any
    """The hidden state of these shoppers."""
    question: Question
    """What they are asked; tensors of their own."""
    dropped: Tensor | None = None
    """(R, N) bool, purchases that never were; None where all of them were."""
    placed: Tensor | None = None
    """(R, N) uint8, placements of each row's own store; None where they are those of the case."""
    _changes: list[tuple[Tensor, Change]] = field(default_factory=list)
    _lasts: dict[str, Callable[[World], None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def change(self, hit: Tensor, change: Change) -> None:
        """Let the shoppers of some rows, (R,) bool, answer in another way."""
        self._changes.append((hit, change))

    def last(self, name: str, change: Callable[[World], None]) -> None:
        """Change the world once all causes are out of it; of equal names once."""
        self._lasts[name] = change

    @torch.no_grad()
    def answer(self) -> tuple[Tensor, Tensor]:
        """Ask the shoppers, once.

        Returns:
            The chance of each response, (R, K) float32, and the responses, (R, K) bool.
        """
        for last in self._lasts.values():
            last(self)
        chance = torch.zeros(self.question.slates.shape, device=self.rows.device)
        clicks = torch.zeros_like(chance, dtype=torch.bool)

        # Rows of the same shoppers are asked together.
        group = torch.zeros_like(self.rows)
        for place, (hit, _) in enumerate(self._changes):
            group = group + hit.long() * 2**place
        for number in group.unique().tolist():
            shopper = self.case.shopper
            for place, (_, change) in enumerate(self._changes):
                shopper = change(shopper) if number >> place & 1 else shopper
            rows = (group == number).nonzero().flatten()
            state = self.state if len(rows) == len(self) else trees.pick(self.state, rows)
            response = self.question.rows(rows).answer(shopper, state)
            chance[rows], clicks[rows] = response.probability, response.clicks
        return chance, clicks
