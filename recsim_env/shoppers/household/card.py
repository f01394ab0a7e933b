"""What the household model reads, rebuilt from what the shop observes: the inverse of the card.

The model's inputs are counters of every item, kind and category, the rhythm of the visits, and the
baskets so far. `memory.loyalty_card` shows a summary of them: how often and how lately each of the
items remembered was bought, the same by category, and the numbers of `Context`. From these,

- counts, and days since the last purchase, of items and categories are exact; those of kinds are
  exact but for items that are remembered no more;
- purchases are taken to be spread evenly since the first visit, which gives the usual interval and
  the decayed count;
- the visits are those on which a remembered item was bought last, with these items as baskets, in
  the rhythm of today.

Nothing else of a shopper is read, so the answers are those of a shop, not of the simulator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recsim_env.shoppers.household.features import visit_context
from recsim_env.shoppers.household.memory import (
    NEVER,
    RECENT_DAYS,
    WEEK,
    WEEKDAY_DAYS,
    Context,
    Keys,
    packed,
)
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.types import Observation

KEYS = (
    "context",
    "bought_items",
    "bought_counts",
    "bought_days",
    "category_counts",
    "category_days",
)
"""Observation keys that are read."""
VISITS = 8
"""Last visits that are encoded: all 64 that the model can attend to rank as well as these."""
SHORTEST = 0.5
"""Least days between two purchases of an item."""
RAREST = 0.05
"""Least visits a week."""


def weekday_of(observation: Observation) -> Tensor:
    """Find the day of the week (B,) int64, 0 to 6, as the model counts it."""
    context = observation["context"]
    angle = torch.atan2(context[:, Context.WEEKDAY_SINE], context[:, Context.WEEKDAY_COSINE])
    return (angle * (WEEK / (2 * math.pi))).round().long() % WEEK


def rhythm_of(observation: Observation) -> Tensor:
    """Rebuild the rhythm (B, RHYTHM) of a shopper's visits: see `memory.tally_features`."""
    context, held = observation["context"], observation["bought_items"] >= 0
    known = context[:, Context.VISITS : Context.VISITS_A_WEEK + 1]
    usual_gap = torch.log1p(WEEK / _visits_a_week(context)).unsqueeze(1)

    # The weekdays of the days on which something was bought last, each day once.
    days = observation["bought_days"].where(held, NEVER).sort(dim=1).values
    once = torch.ones_like(held)
    once[:, 1:] = days[:, 1:] != days[:, :-1]
    weight = torch.exp(-days / WEEKDAY_DAYS) * (once & (days < NEVER))
    ahead = (-days.long()) % WEEK  # days from today to the weekday of that day
    shares = known.new_zeros(len(known), WEEK).scatter_add_(1, ahead, weight)
    shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return torch.cat([known, usual_gap, shares], dim=1)


def stats_of(observation: Observation, keys: Keys, items: Tensor) -> Tensor:
    """Rebuild the counters of items, as `Memory.stats` gives them.

    Args:
        observation: The keys of `KEYS`, (B, ...) each.
        keys: The counters that each item moves.
        items: (B, C) int64, padded with -1.

    Returns:
        (B, C, LEVELS, STATS) float32.
    """
    bought, days = observation["bought_items"], observation["bought_days"]
    held = bought >= 0
    counts = observation["bought_counts"] * held
    known = _visits(observation["context"]) * WEEK / _visits_a_week(observation["context"])
    known = known.unsqueeze(1)  # days since the first visit

    # Purchases of an item are taken to be `apart` days apart, which makes a geometric series.
    apart = ((known - days).clamp(min=0) / counts.clamp(min=1)).clamp(min=SHORTEST)
    fall = torch.exp(-apart / RECENT_DAYS)
    recent = torch.exp(-days / RECENT_DAYS) * (1 - fall**counts) / (1 - fall) * held

    # Counters of items, kinds and categories in one table; those of categories are told.
    at = keys.of_item[bought.where(held, keys.n_items)].flatten(1)  # (B, M * LEVELS)
    levels = keys.of_item.shape[1]
    count, lately = (
        days.new_zeros(len(bought), keys.total + 1).scatter_add_(
            1, at, value.repeat_interleave(levels, dim=1)
        )
        for value in (counts, recent)
    )
    since = days.new_full((len(bought), keys.total + 1), NEVER)
    last = days.where(held, NEVER).repeat_interleave(levels, dim=1)
    since.scatter_reduce_(1, at, last, "amin")
    count[:, keys.categories] = observation["category_counts"]
    since[:, keys.categories] = observation["category_days"]

    # Looked up for the items that are asked for.
    asked = keys.of_item[items.where(items >= 0, keys.n_items)].flatten(1)
    count, lately, since = (value.gather(1, asked) for value in (count, lately, since))
    bought_ever = count > 0
    interval = ((known - since).clamp(min=0) / (count - 1).clamp(min=1)).where(count > 1, 0.0)
    stats = [count, lately.where(bought_ever, 0.0), since.where(bought_ever, NEVER), interval]
    found: Tensor = torch.stack(stats, dim=-1).unflatten(1, (-1, levels))
    return found


def state_of(observation: Observation, model: SlateShopper, vectors: Tensor) -> Tensor:
    """Rebuild what the heads read of shoppers: the encoded visits, and today's context.

    Args:
        observation: The keys of `KEYS`, (B, ...) each.
        model: The model.
        vectors: (N, D) its item vectors.

    Returns:
        (B, D + CONTEXT).
    """
    rhythm, weekday = rhythm_of(observation), weekday_of(observation)
    bought, days = observation["bought_items"], observation["bought_days"]
    gap = (WEEK / _visits_a_week(observation["context"])).unsqueeze(1)

    # The days of the last visits, newest first, inf where there were fewer; which bought what.
    days = days.where(bought >= 0, math.inf)
    at, newest = [], days.amin(dim=1, keepdim=True)
    for _ in range(VISITS + 1):
        at.append(newest)
        newest = days.masked_fill(days <= newest, math.inf).amin(dim=1, keepdim=True)
    ago = torch.cat(at, dim=1)
    since = ago.diff(dim=1).where(ago[:, 1:].isfinite(), gap)
    ago, there = ago[:, :-1], ago[:, :-1].isfinite()
    of_visit = (days.unsqueeze(1) == ago.unsqueeze(2)) & there.unsqueeze(2)  # (B, T, M)
    baskets = packed(bought.unsqueeze(1).where(of_visit, -1).flatten(0, 1))

    # Encoded from the oldest to the newest; a visit that was none is seen by no other.
    ago = ago.where(there, ago.where(there, 0.0).amax(dim=1, keepdim=True))
    context = visit_context(
        rhythm.repeat_interleave(VISITS, dim=0),
        ((weekday.unsqueeze(1) - ago.long()) % WEEK).float().flatten(),
        since.flatten(),
    )
    token = model.token(vectors, baskets, context).unflatten(0, (-1, VISITS))
    states = model.encode(token.flip(1), -ago.flip(1), there.flip(1))
    state = states[:, -1].where(there[:, :1], model.newcomers(len(states)))
    today = torch.expm1(observation["context"][:, Context.SINCE])
    return torch.cat([state, visit_context(rhythm, weekday.float(), today)], dim=1)


def _visits(context: Tensor) -> Tensor:
    return torch.expm1(context[:, Context.VISITS])


def _visits_a_week(context: Tensor) -> Tensor:
    return torch.expm1(context[:, Context.VISITS_A_WEEK]).clamp(min=RAREST)
