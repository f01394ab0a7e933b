"""New items: which of thousands of items a shopper buys for the first time in a visit.

First purchases are a Poisson process over the items, at rates that depend on shopper and week.
Computing every rate at every visit would multiply thousands of vectors for about three purchases,
so the process is thinned (Lewis & Shedler 1979, "Simulation of nonhomogeneous Poisson processes by
thinning", section 1): items are proposed from an upper bound on the rates, which is the same for
all shoppers but for one factor; exact rates are computed for the proposals alone, and a proposal
whose height lies below its rate is accepted. One uniform number gives the item and the height.
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

PROPOSALS = 72
"""Most proposals of a visit. The shipped shoppers have eleven on average, and lose less than one
new item in ten thousand to this limit."""
MARGIN = 0.1
"""How far the logarithm of the upper bound lies above the log rates at the start of an episode."""


@dataclass(frozen=True)
class Peaks:
    """The largest log rates of a member for some shoppers, relative to the mean item.

    Shapes: N items, D hidden.
        centre: (D,) mean of the item vectors, weighted by rate
        height: (N,) largest log rate of each item above that of the mean item
    """

    centre: Tensor
    height: Tensor

    @classmethod
    def of(cls, base: Tensor, vectors: Tensor, queries: Tensor) -> Peaks:
        """Compute the peaks for S shoppers.

        Shapes: base (W, N), vectors (N, D), queries (S, D).
        """
        rate = base.exp().mean(0)
        centre = rate @ vectors / rate.sum()
        heights = [(part @ (vectors - centre).T).amax(0) for part in queries.split(256)]
        return cls(centre, torch.stack(heights).amax(0))


@dataclass(frozen=True)
class Envelope:
    """Upper bounds of the members' mean rates, with one factor for each shopper.

    The bound of shopper b for item n in week w is scale[b] * height[w, n]. A log rate is
    base + query @ vector.

    Shapes: W weeks, N items, D hidden.
        base: (W, N) log rates of each member without the query
        vectors: (N, D) item vectors of each member
        centres: (D,) mean item vector of each member, see `Peaks`
        edges: (1 + W * N,) float64 ascending: 0, then week + share of the week's heights up to and
            with each item
        total: (W,) float32 sums of a week's heights
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
        """Bound the rates of some shoppers from above; rates of others are cut off at the bound.

        Args:
            base: (W, N) log rates without the query, one tensor a member
            vectors: (N, D) item vectors, likewise
            queries: (S, D) queries of the shoppers, likewise
        """
        peaks = [Peaks.of(*parts) for parts in zip(base, vectors, queries, strict=True)]
        return cls.above(base, vectors, peaks)

    @classmethod
    def above(
        cls, base: Sequence[Tensor], vectors: Sequence[Tensor], peaks: Sequence[Peaks]
    ) -> Envelope:
        """Bound the rates of the shoppers that have these peaks; else as `over`."""
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
        """Compute the factor (B,) of each shopper; queries (B, D), one tensor a member."""
        own = [(query @ centre).exp() for query, centre in zip(queries, self.centres, strict=True)]
        return torch.stack(own).amax(0)

    def propose(self, scale: Tensor, week: Tensor, draws: Tensor) -> Proposals:
        """Propose items from the upper bound.

        Args:
            scale: (B,) factor of each shopper
            week: (B,) int64
            draws: (B, 1 + most) uniform numbers: one for how many, then one a proposal
        """
        # How many proposals each shopper has.
        most = draws.shape[1] - 1
        number = poisson((scale * self.total[week]).unsqueeze(1), draws[:, :1], most)
        proposed = torch.arange(most, device=week.device) < number
        rows, columns, _ = places(proposed, most // 2)

        # The item that each draw falls on, and how high above its lower edge.
        of_week, share = week[rows], draws[rows, 1 + columns]
        place = torch.searchsorted(self.edges[1:], share.double() + of_week, right=True)
        height = (share + of_week.double() - self.edges[place]).float() * (
            self.total[of_week] * scale[rows]
        )
        item = place - of_week * self.base[0].shape[1]
        return Proposals(rows, columns, item, height.where(proposed[rows, columns], math.inf))

    def log_rates(
        self, queries: Sequence[Tensor], week: Tensor, proposals: Proposals
    ) -> list[Tensor]:
        """Compute the exact log rate (P,) of each proposal, one tensor a member.

        Shapes: queries (B, D), one tensor a member; week (B,) int64.
        """
        place = week[proposals.rows] * self.base[0].shape[1] + proposals.items
        return [
            looked_up(base.view(-1), place)
            + (looked_up(query, proposals.rows) * looked_up(vectors, proposals.items)).sum(1)
            for base, query, vectors in zip(self.base, queries, self.vectors, strict=True)
        ]


@dataclass(frozen=True)
class Proposals:
    """Proposed items of some shoppers; each is accepted where its height lies below its rate.

    Off the CPU all possible proposals are listed, for counting them would force a synchronisation:
    those that were not made have the height inf, which no rate reaches.

    Shapes: P proposals.
        rows: (P,) int64 whose proposal it is
        columns: (P,) int64 which of that shopper's
        items: (P,) int64
        heights: (P,) float32
    """

    rows: Tensor
    columns: Tensor
    items: Tensor
    heights: Tensor


def poisson(rate: Tensor, draw: Tensor, most: int) -> Tensor:
    """Draw Poisson counts of at most `most` by inversion; rate, draw (B, 1) -> (B, 1) int64."""
    count = torch.arange(most, dtype=torch.float32, device=rate.device)
    log_chance = count * rate.clamp(min=1e-9).log() - rate - torch.lgamma(count + 1.0)
    return (draw >= log_chance.exp().cumsum(1)).sum(1, keepdim=True)
