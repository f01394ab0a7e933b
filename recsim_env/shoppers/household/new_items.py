"""New items: which of thousands a shopper tries in a visit.

They are a Poisson process over the items, at rates that depend on shopper and week. To work out
every rate at every visit would be to multiply thousands of vectors for three purchases, so the
process is thinned (Lewis & Shedler 1979, "Simulation of nonhomogeneous Poisson processes by
thinning", section 1): darts are thrown under an envelope that lies above the rates and is the same
for all shoppers but for one factor; the rate is worked out where a dart lands, and what it hits is
bought if it lies below. The item and the height of a dart come from one number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env.shoppers.members import mean
from recsim_env.tensors import looked_up, places

DARTS = 48  # most of a visit: the shipped shoppers throw nine on average, and more than this once in 50,000 visits
MARGIN = 0.1  # how far the logarithm of the envelope lies above what shoppers want at their start


@dataclass(frozen=True)
class Peaks:
    """How far a member's log rates for some shoppers rise at most: centre (D,), the mean item by
    rate, and height (N,) of each item above it.
    """

    centre: Tensor
    height: Tensor

    @classmethod
    def of(cls, base: Tensor, vectors: Tensor, queries: Tensor) -> Peaks:
        """Of S shoppers: base (W, N), vectors (N, D), queries (S, D)."""
        rate = base.exp().mean(0)
        centre = rate @ vectors / rate.sum()
        heights = [(part @ (vectors - centre).T).amax(0) for part in queries.split(256)]
        return cls(centre, torch.stack(heights).amax(0))

    def to(self, device: torch.device) -> Peaks:
        """Copy to a device."""
        return Peaks(self.centre.to(device), self.height.to(device))


@dataclass(frozen=True)
class Envelope:
    """Bounds of the rates, which are the members' mean: of shopper b for item n in week w, scale[b] * height[w, n].

    Shapes: W weeks, N items; of each member base (W, N), vectors (N, D) and centre (D,), the mean
    item by rate: a log rate is base + query @ vector. edges (1 + W * N,) float64 ascending, first
    0, then week + share of the week's heights up to and with each item; total (W,) float32 sums of
    a week's heights.
    """

    base: tuple[Tensor, ...]
    vectors: tuple[Tensor, ...]
    centres: tuple[Tensor, ...]
    edges: Tensor
    total: Tensor

    @classmethod
    def over(
        cls, base: Sequence[Tensor], vectors: Sequence[Tensor], queries: Sequence[Tensor]
    ) -> Envelope:
        """Above the rates of S shoppers by `MARGIN`: queries (S, D), one of each member as all else.

        What other shoppers want beyond that is cut off.
        """
        peaks = [Peaks.of(*parts) for parts in zip(base, vectors, queries, strict=True)]
        return cls.above(base, vectors, peaks)

    @classmethod
    def above(
        cls, base: Sequence[Tensor], vectors: Sequence[Tensor], peaks: Sequence[Peaks]
    ) -> Envelope:
        """Above the rates of the shoppers of these peaks by `MARGIN`."""
        heights = [
            (log_rate + own.height + MARGIN).exp()
            for log_rate, own in zip(base, peaks, strict=True)
        ]
        so_far = mean(heights).double().cumsum(1)
        week = torch.arange(len(so_far), device=so_far.device).unsqueeze(1)
        edges = F.pad((week + so_far / so_far[:, -1:]).flatten(), (1, 0))
        centres = tuple(own.centre for own in peaks)
        return cls(tuple(base), tuple(vectors), centres, edges, so_far[:, -1].float())

    def scale(self, queries: Sequence[Tensor]) -> Tensor:
        """The shoppers' own factor (B,): queries (B, D), one a member."""
        own = [(query @ centre).exp() for query, centre in zip(queries, self.centres, strict=True)]
        return torch.stack(own).amax(0)

    def throw(self, scale: Tensor, week: Tensor, draws: Tensor) -> Darts:
        """The darts of shoppers with some scale (B,) in their week (B,); draws (B, 1 + most darts) uniform."""
        most = draws.shape[1] - 1
        number = poisson((scale * self.total[week]).unsqueeze(1), draws[:, :1], most)
        thrown = torch.arange(most, device=week.device) < number
        rows, columns = places(thrown)
        of_week, share = week[rows], draws[rows, 1 + columns]
        place = torch.searchsorted(self.edges[1:], share.double() + of_week, right=True)
        height = (share + of_week.double() - self.edges[place]).float() * (
            self.total[of_week] * scale[rows]
        )
        item = place - of_week * self.base[0].shape[1]
        return Darts(rows, columns, item, height.where(thrown[rows, columns], math.inf))

    def log_rates(self, queries: Sequence[Tensor], week: Tensor, darts: Darts) -> list[Tensor]:
        """Log rate of each dart's item for its shopper, (P,) a member: queries (B, D) a member, week (B,)."""
        place = week[darts.rows] * self.base[0].shape[1] + darts.items
        return [
            looked_up(base.view(-1), place)
            + (looked_up(query, darts.rows) * looked_up(vectors, darts.items)).sum(1)
            for base, query, vectors in zip(self.base, queries, self.vectors, strict=True)
        ]


@dataclass(frozen=True)
class Darts:
    """P darts: rows (P,) int64 whose, columns (P,) int64 which of that shopper's, items (P,) int64 hit, heights (P,).

    Where to know how many were thrown is to wait for the device, all possible ones are there: the
    others have the height inf, which no rate reaches.
    """

    rows: Tensor
    columns: Tensor
    items: Tensor
    heights: Tensor


def poisson(rate: Tensor, draw: Tensor, most: int) -> Tensor:
    """Poisson counts by inversion: rate (B, 1), draw (B, 1) uniform -> (B, 1) int64, at most `most`."""
    count = torch.arange(most, dtype=torch.float32, device=rate.device)
    log_chance = count * rate.clamp(min=1e-9).log() - rate - torch.lgamma(count + 1.0)
    return (draw >= log_chance.exp().cumsum(1)).sum(1, keepdim=True)
