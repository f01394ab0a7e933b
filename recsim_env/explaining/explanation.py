"""What `explain` returns: every cause of a visit with the responses without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from recsim_env import checks

LEAST = 1e-9
"""Chances below this count as this, so that every factor is finite."""
FELT = 1.05
"""Factor, or one over it, from which on a text names a cause."""
NAMED = 3
"""Most causes of a response that a text names."""


@dataclass(frozen=True)
class Cause:
    """What may have moved a response: a kind, and which one of it."""

    kind: str
    """A name of `KINDS`."""
    key: int
    """Which one, as the kind counts them."""


@dataclass(frozen=True)
class Reason:
    """A cause of one response."""

    cause: Cause
    name: str
    """What it is, in words."""
    factor: float
    """What it multiplied the chance of the response by: the chance as it was over the chance
    without the cause."""
    probability: float
    """The chance without it."""
    clicked: bool
    """Whether there would have been a response without it, under the same noise."""

    @property
    def times(self) -> str:
        """The factor as a person reads it: x0.6, x1.4, x12."""
        return times(self.factor)

    def __str__(self) -> str:
        return f"{self.name}: {self.times}"


@dataclass(frozen=True)
class Explanation:
    """The responses to slates, and every cause with the responses without it.

    Shapes: B shoppers, K positions, M causes of all shoppers together.
    """

    slates: Tensor
    """(B, K) int64, top position first."""
    shown: Tensor
    """(B, K) bool, False for a repeated item and for what is no candidate."""
    probability: Tensor
    """(B, K) float32, the chance of each response."""
    clicks: Tensor
    """(B, K) bool, the responses."""
    rows: Tensor
    """(M,) int64, whose each cause is; ascending."""
    causes: tuple[Cause, ...]
    """(M,), what they are."""
    without_probability: Tensor
    """(M, K) float32, the chance of each response of that shopper without the cause."""
    without_clicks: Tensor
    """(M, K) bool, the responses without it."""
    speaks: Tensor
    """(M, K) bool, at which positions a cause is named."""
    names: tuple[str, ...]
    """(M,), in words; `{position}` stands for the position."""
    about: tuple[str, ...]
    """(M,), the item that the cause is about; "" where it is about none, or about the whole
    slate."""
    titles: tuple[tuple[str, ...], ...]
    """(B, K), the items of the slates in words."""
    notes: tuple[str, ...] = ()
    """Kinds of causes that cannot be told at this visit, with the reason."""

    @property
    def effect(self) -> Tensor:
        """(M, K) float32, log of the factor by which each cause moved each response."""
        was = self.probability[self.rows].clamp(min=LEAST).log()
        moved = was - self.without_probability.clamp(min=LEAST).log()
        return moved.where(self.speaks, 0.0)

    def reasons(self, row: int, position: int, most: int | None = None) -> list[Reason]:
        """Return the causes of a response, the strongest first.

        Causes that changed nothing are left out.

        Args:
            row: The shopper, 0 to B - 1.
            position: The position, 0 at the top.
            most: The most causes that are returned; None means all.

        Raises:
            ValueError: If there is no such row or position, or `most` is no number of causes.
        """
        shoppers, positions = self.slates.shape
        row = checks.whole("row", row, 0, shoppers - 1)
        position = checks.whole("position", position, 0, positions - 1)
        most = None if most is None else checks.whole("most", most, 0)
        mine = (self.rows == row).nonzero().flatten()
        effect = self.effect[mine, position]
        order = effect.abs().argsort(descending=True, stable=True)
        found = [self._reason(int(mine[at]), row, position) for at in order if effect[at].abs() > 0]
        return found[:most]

    def _reason(self, cause: int, row: int, position: int) -> Reason:
        name = self.names[cause].replace("{position}", str(position + 1))
        about = self.about[cause]
        if about and about != self.titles[row][position]:
            name = f"{about}, {name}"
        return Reason(
            self.causes[cause],
            name,
            math.exp(float(self.effect[cause, position])),
            float(self.without_probability[cause, position]),
            bool(self.without_clicks[cause, position]),
        )

    def felt(self, row: int, position: int, most: int = NAMED) -> list[Reason]:
        """Return the strongest causes of a response, without those that are hardly felt."""
        strongest = self.reasons(row, position, most)
        return [reason for reason in strongest if not 1 / FELT < reason.factor < FELT]

    def lines(self, row: int, position: int) -> list[str]:
        """Say the strongest causes of a response, one a line."""
        clicked = bool(self.clicks[row, position])
        return [
            f"{reason}" if reason.clicked == clicked else f"{reason}; it decided"
            for reason in self.felt(row, position)
        ]

    def __str__(self) -> str:
        """Say for every response of every shopper what moved it."""
        lines = []
        for row, titles in enumerate(self.titles):
            lines.append(f"shopper {row}")
            for position, title in enumerate(titles):
                if not self.shown[row, position]:
                    lines.append(f"  {position + 1:2d}. {title}: not shown")
                    continue
                answer = "yes" if self.clicks[row, position] else "no"
                chance = float(self.probability[row, position])
                lines.append(f"  {position + 1:2d}. {title}: {answer}, chance {chance:.3f}")
                lines += [f"        {line}" for line in self.lines(row, position)]
        return "\n".join([*lines, *self.notes])


def times(factor: float) -> str:
    """Write a factor as a person reads it: x0.6, x1.4, x12, x1000 or more."""
    if factor >= 1000:
        return "x1000 or more"
    if factor < 0.005:
        return "x0.00"
    return (
        f"x{factor:.0f}" if factor >= 10 else f"x{factor:.2f}" if factor < 0.1 else f"x{factor:.1f}"
    )
