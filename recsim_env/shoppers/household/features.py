"""What the networks read of the memory: numbers of order 1, or buckets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env.shoppers.household.memory import (
    COUNT,
    INTERVAL,
    NEVER,
    RECENT,
    RHYTHM,
    SINCE,
    WEEK,
)

CONTEXT = RHYTHM + WEEK + 1
"""Numbers of `visit_context`: rhythm, day of the week, log days since the last visit."""
ITEM_CONTEXT = 2
"""Numbers of an item in a week: the columns `POPULARITY` and `DISCOUNT`, of the last four weeks."""
POPULARITY, DISCOUNT = range(ITEM_CONTEXT)
COUNTER_FEATURES = 4
"""Numbers of `counter_features` for each level."""
SINGLE_DAYS = 29
"""Days since a purchase that have a bucket each: up to four weeks."""
SINCE_BUCKETS = SINGLE_DAYS + 12
"""Buckets of `since_bucket`: single days, then quarter octaves; the last one is "never"."""
SHARES, RECENCIES = 16, 4
"""Buckets of `repeat_bucket`: of how often an item was bought, and of the days since."""


def counter_features(stats: Tensor) -> Tensor:
    """Bring counters to order 1: log count, log recent count, log days since, and phase.

    The phase is days since the last purchase over the usual interval, at most 4, and 0 before the
    second purchase.

    Shapes: stats (..., LEVELS, STATS) -> (..., LEVELS, COUNTER_FEATURES).
    """
    count, recent = stats[..., COUNT], stats[..., RECENT]
    since, interval = stats[..., SINCE], stats[..., INTERVAL]
    phase = torch.where(interval > 0, (since / interval.clamp(min=0.5)).clamp(max=4.0), 0.0)
    gone = torch.log1p(since.clamp(min=0.0, max=400.0)) / 3.0
    return torch.stack([torch.log1p(count), torch.log1p(recent) * 1.5, gone, phase], dim=-1)


def without_item(stats: Tensor) -> Tensor:
    """Change counters (..., LEVELS, STATS) to those of shoppers who never bought the item itself.

    A new item has no share in the counters of its kind and category. Counts are exact; the days
    since the last purchase stay, unless the item alone made them.
    """
    others = stats.clone()
    others[..., COUNT] = stats[..., COUNT] - stats[..., :1, COUNT]
    others[..., RECENT] = (stats[..., RECENT] - stats[..., :1, RECENT]).clamp(min=0.0)
    none = others[..., COUNT] <= 0
    others[..., RECENT] = others[..., RECENT].masked_fill(none, 0.0)
    others[..., SINCE] = stats[..., SINCE].masked_fill(none, NEVER)
    others[..., INTERVAL] = stats[..., INTERVAL].masked_fill(none, 0.0)
    return others


def since_bucket(since: Tensor) -> Tensor:
    """Map days since a purchase to buckets: single days, then quarter octaves, then "never"."""
    late = SINGLE_DAYS + torch.log2(since.clamp(min=float(SINGLE_DAYS)) / SINGLE_DAYS) * 4.0
    bucket = torch.where(
        since < SINGLE_DAYS, since.clamp(min=0.0), late.clamp(max=SINCE_BUCKETS - 2.0)
    )
    return bucket.where(since < NEVER, SINCE_BUCKETS - 1.0).long()


def repeat_bucket(purchases: Tensor, visits: Tensor, since: Tensor) -> Tensor:
    """Map purchases in so many visits, and days since the last, to 0 .. SHARES * RECENCIES - 1.

    Buckets of the share of visits begin at (b / SHARES)^2, those of days at 10 b^2, so that rare
    and recent purchases are told apart best.
    """
    share = (purchases / visits.clamp(min=1.0)).sqrt_().mul_(SHARES).clamp_(max=SHARES - 0.5)
    recency = (since / 10.0).sqrt_().clamp_(max=RECENCIES - 0.5)
    return share.long() * RECENCIES + recency.long()


def visit_context(rhythm: Tensor, day: Tensor, since: Tensor) -> Tensor:
    """Describe the circumstances of a visit: rhythm, day of the week, and days since the last one.

    Shapes: rhythm (..., RHYTHM); day, since (...,) -> (..., CONTEXT) float32.
    """
    weekday = F.one_hot((day % WEEK).long(), WEEK).to(rhythm.dtype)
    gone = torch.log1p(since.clamp(min=0.0, max=120.0)).unsqueeze(-1)
    return torch.cat([rhythm, weekday, gone], dim=-1)


def scale_of(read: Tensor) -> Tensor:
    """Return mean and standard deviation (2, F) of rows (R, F); 1 where a column never varies."""
    deviation = read.std(0)
    return torch.stack([read.mean(0), deviation.where(deviation > 0, 1.0)])


def no_scale(width: int) -> Tensor:
    """Return the scale (2, width) that changes nothing."""
    return torch.stack([torch.zeros(width), torch.ones(width)])


def scaled(read: Tensor, scale: Tensor) -> Tensor:
    """Bring numbers (..., F) to mean 0 and deviation 1 by a scale (2, F)."""
    return (read - scale[0]) / scale[1]
