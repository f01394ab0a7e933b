"""Days until the next visit: a discrete hazard over bins of days, fitted and sampled.

Who stays away from the first day to the end of the last bin has lapsed, and does not come back. The
log is censored: a visit is followed up for some days only. Tutz & Schmid 2016, "Modeling discrete
time-to-event data", chapter 3.

Beside a head that says who never comes back, the hazards speak of those who do: the last bin is
then certain (`all_back`), and a shopper who was not seen again either left or stays away for longer
than was watched (`return_log_likelihood`), the mixture cure model (Berkson & Gage 1952, "Survival
curve for cancer patients following treatment").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsim_env import checks
from recsim_env.shoppers.members import agreed, mean
from recsim_env.tensors import constant
from recsim_env.types import MAX_DAYS


@dataclass(frozen=True)
class GapBins:
    """The bins of days of a hazard: bin i reaches from `edges[i]` up to the next edge.

    Raises:
        ValueError: If the edges do not begin with 0 and ascend, or one lies beyond `lapse_days`.
    """

    edges: tuple[int, ...] = (*range(15), 15, 18, 21, 25, 28, 35, 42, 49)
    """First day of each bin: single days for two weeks, when most shoppers are back, then wider."""
    lapse_days: int = 56
    """Last day of the last bin. Who stays away for longer has lapsed."""

    def __post_init__(self) -> None:
        """Check both fields, and store them as plain integers."""
        lapse_days = checks.whole("lapse_days", self.lapse_days, 0, int(MAX_DAYS))
        edges: list[int] = []
        for place, edge in enumerate(checks.several("gap_edges", self.edges)):
            least = edges[-1] + 1 if edges else 0
            most = lapse_days if edges else 0
            edges.append(checks.whole(f"gap_edges[{place}]", edge, least, most))
        if not edges:
            raise ValueError("gap_edges is empty, but there must be one bin or more.")
        object.__setattr__(self, "edges", tuple(edges))
        object.__setattr__(self, "lapse_days", lapse_days)

    def __len__(self) -> int:
        return len(self.edges)

    def ends(self, like: Tensor) -> Tensor:
        """Return the first day of each bin and the first day after the last, (bins + 1,)."""
        return constant((*self.edges, self.lapse_days + 1), like)


CERTAIN = 30.0
"""Logit of the last bin of those who come back."""
MONTHS = 56
"""Day from which on a bin begins a quarter later than the one before."""


def bins_of(gaps: Tensor, share: float = 0.999) -> GapBins:
    """Choose bins for observed gaps (..., whole days): those of `GapBins`, then ever wider ones.

    They end at the shortest gap that such a share of the gaps does not exceed, and at one day or
    more.
    """
    last = 1
    if gaps.numel():
        ranked = gaps.flatten().sort().values
        last = max(int(ranked[math.ceil(share * len(ranked)) - 1]), 1)
    edges = list(GapBins().edges)
    while edges[-1] < last:
        edges.append(edges[-1] * 5 // 4 if edges[-1] >= MONTHS else MONTHS)
    return GapBins(tuple(edge for edge in edges if edge <= last), last)


class GapHead(nn.Module):
    """Hazard of the next visit, one logit a bin of days (Tutz & Schmid 2016, equation 3.1).

    Args:
        width: numbers of a state and its context
        hidden: width of the hidden layer
        bins: number of bins
        dropout: share of numbers hidden in training; this head is the first to overfit
    """

    def __init__(self, width: int, hidden: int, bins: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, bins)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor) -> Tensor:
        """Compute hazard logits (..., bins) from states with context (..., width)."""
        logits: Tensor = self.outer(self.dropout(F.gelu(self.inner(self.dropout(state)))))
        return logits


def gap_log_likelihood(bins: GapBins, logits: Tensor, gap: Tensor, follow_up: Tensor) -> Tensor:
    """Compute the log-likelihood (...,) of the days until the next visit.

    A gap beyond `bins.lapse_days` survives all bins. A censored visit survives the bins that ended
    before the follow-up did.

    Args:
        bins: the bins of the hazards
        logits: (..., bins) of the hazards
        gap: (...,) days until the next visit, below 0 where none was seen
        follow_up: (...,) days through which the shopper was watched
    """
    # The bin that the shopper came back in, or the first one that was not watched to its end.
    ends, count = bins.ends(gap), len(bins)
    seen = gap >= 0
    last = torch.where(seen, gap, follow_up)
    end = torch.bucketize(torch.where(seen, last, last + 1), ends, right=True) - 1

    # All bins before it were survived.
    stay = F.logsigmoid(-logits)
    survived = (stay * (torch.arange(count, device=gap.device) < end.unsqueeze(-1))).sum(-1)
    returned = seen & (end < count)
    hit = F.logsigmoid(logits).gather(-1, end.clamp(max=count - 1).unsqueeze(-1)).squeeze(-1)
    return survived + torch.where(returned, hit, 0.0)


def all_back(logits: Tensor) -> Tensor:
    """Append the certain last bin to the hazards (..., bins - 1) of those who come back."""
    return F.pad(logits, (0, 1), value=CERTAIN)


def return_log_likelihood(
    bins: GapBins, logits: Tensor, leave: Tensor, gap: Tensor, follow_up: Tensor
) -> Tensor:
    """Compute the log-likelihood (V, S) of coming back after some days, or of not being seen.

    A gap g has log(1 - P(leaves)) + log p(g). Who was not seen in w days either left or comes
    later: log(P(leaves) + (1 - P(leaves)) P(gap > w)). Longer gaps than the bins reach count as
    their last day.

    Args:
        bins: the bins of the hazards
        logits: (V, bins) of the hazards from `all_back`
        leave: (V, S) log-odds of leaving
        gap: (V,) days until the shopper was seen again, below 0 where it was not
        follow_up: (V,) days through which the shopper was watched
    """
    gap = gap.clamp(max=float(bins.lapse_days))
    of_gap = gap_log_likelihood(bins, logits, gap, follow_up).unsqueeze(1)
    stays = F.logsigmoid(-leave) + of_gap
    unseen = torch.logaddexp(F.logsigmoid(leave), stays)
    return torch.where((gap >= 0).unsqueeze(1), stays, unseen)


def back_by(logits: Sequence[Tensor], pessimism: float) -> tuple[Tensor, Tensor]:
    """Combine the members' hazards into the chances to be back by each bin, and to lapse.

    Every bin has the members' mean chance. Lapsing has `pessimism` of their standard deviations
    more, at most 1, and the bins share what is left in the same proportions.

    Args:
        logits: (B, bins) of the hazards, one tensor a member
        pessimism: standard deviations, 0 or more

    Returns:
        (B, bins) chance to be back by the end of each bin, and (B,) chance never to come back.
    """
    stay = [F.logsigmoid(-one) for one in logits]
    back = 1.0 - mean([one.cumsum(1).exp() for one in stay])
    lapse = [one.sum(1).exp() for one in stay]
    leaving = agreed(lapse, pessimism)
    if len(logits) == 1:
        return back, leaving
    share = (1.0 - leaving) / (1.0 - mean(lapse)).clamp(min=1e-9)
    return back * share.unsqueeze(1), leaving


def sample_gap(bins: GapBins, back: Tensor, draw: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Sample the days until the next visit by inversion; all days of a bin are equally likely.

    Args:
        bins: the bins of `back`
        back: (B, bins) from `back_by`
        draw: (B,) uniform, chooses the bin
        within: (B,) uniform, chooses the day of the bin

    Returns:
        (B,) float32 days, `bins.lapse_days` for those who lapse, and (B,) bool who lapses.
    """
    bin_of = (draw.unsqueeze(1) >= back).sum(1)
    left = bin_of >= len(bins)
    place, ends = bin_of.clamp(max=len(bins) - 1), bins.ends(back)
    days = ends[place] + torch.floor(within * (ends[place + 1] - ends[place]))
    return days.where(~left, float(bins.lapse_days)), left
