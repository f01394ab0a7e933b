"""What a kind of cause must tell, and the registry of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.explaining.case import Case, World
from recsim_env.registry import Registry
from recsim_env.shoppers.base import Shopper

NOTHING = -1
"""The key of no cause."""


@dataclass(frozen=True)
class Found:
    """The M causes of a kind that B shoppers have.

    Shapes: M causes.
    """

    rows: Tensor
    """(M,) int64, whose each is."""
    keys: Tensor
    """(M,) int64 >= 0, which it is: the number of an item, of a category, or 0 where there is only
    one."""

    @classmethod
    def pairs(cls, keys: Tensor, there: Tensor) -> Found:
        """Find the distinct keys of each row.

        Args:
            keys: (B, L) int64 >= 0 wherever `there`.
            there: (B, L) bool, which of them are causes.
        """
        rows, places = there.nonzero(as_tuple=True)
        if len(rows) == 0:
            return cls(rows, rows.clone())
        pairs = torch.stack([rows, keys[rows, places]], dim=1).unique(dim=0)
        return cls(pairs[:, 0], pairs[:, 1])

    @classmethod
    def ones(cls, there: Tensor) -> Found:
        """Find the one cause of each row for which `there` (B,) bool is True."""
        rows = there.nonzero().flatten()
        return cls(rows, torch.zeros_like(rows))

    def listed(self) -> list[tuple[int, int]]:
        """List the row and the key of each."""
        return list(zip(self.rows.tolist(), self.keys.tolist(), strict=True))


class Kind(ABC):
    """A kind of cause, such as the purchases of an item.

    Dimensions: B shoppers of a case, M causes, R rows of a world, K positions.
    """

    @abstractmethod
    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether these shoppers can be moved by it."""

    @abstractmethod
    def find(self, case: Case) -> Found:
        """Find the causes of this kind that the shoppers have."""

    @abstractmethod
    def remove(self, world: World, keys: Tensor) -> None:
        """Take one cause out of each row of a world, in place.

        Args:
            world: The world.
            keys: (R,) int64, those of `find`, or -1 where nothing is taken out.
        """

    @abstractmethod
    def tell(self, case: Case, row: int, key: int) -> str:
        """Say to a person what a cause is; `{position}` stands for the position."""

    def item(self, case: Case, row: int, key: int) -> int:
        """Return the item that a cause is about; -1 where it is about none.

        The item is named in front, but not at its own position.
        """
        return NOTHING

    def speaks(self, case: Case, found: Found) -> Tensor:
        """Tell at which positions each cause is named: (M, K) bool; by default at all."""
        return torch.ones_like(case.question.shown[found.rows])

    def missing(self, case: Case) -> str:
        """Say in one sentence why this kind cannot be told at this visit; "" where it can."""
        return ""


KINDS: Registry[Kind] = Registry("kind of cause")
"""The kinds of causes that `explain` looks for, by name."""


def register_kind(name: str) -> Any:
    """Register a kind of cause: a class that takes no arguments.

    Args:
        name: What `explain` calls it.

    Raises:
        TypeError: If what stands below is no class derived from `Kind`.
        ValueError: If the name is no text, or is taken.
    """
    checks.text("name", name)

    def registered(kind: type[Kind]) -> type[Kind]:
        if not (isinstance(kind, type) and issubclass(kind, Kind)):
            raise TypeError(
                f"The kind of cause {name!r} is {checks.told(kind)}, but it must be a class "
                "derived from Kind."
            )
        KINDS.add(name, kind(), kind)
        return kind

    return registered


def at_own_items(case: Case, found: Found) -> Tensor:
    """Tell at which positions the item of each cause stands: (M, K) bool."""
    return case.question.slates[found.rows] == found.keys.unsqueeze(1)


def at_own_category(case: Case, found: Found) -> Tensor:
    """Tell at which positions items of the category of each cause stand: (M, K) bool."""
    return case.categories[found.rows] == found.keys.unsqueeze(1)


def cleared(table: Tensor, keys: Tensor) -> Tensor:
    """Return a table (R, G) with a 0 at the key (R,) of each row; -1 clears nothing."""
    at = keys.clamp(min=0).unsqueeze(1)
    kept = table.gather(1, at).where((keys < 0).unsqueeze(1), 0.0)
    return table.scatter(1, at, kept)
