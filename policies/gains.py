"""Gains: what each candidate would add to the reward, were it the next item of the slate.

A slate that is greedy in the reward itself takes, position by position, the item with the largest
expected gain,

    gain(i | slate) = sum over terms t of w_t gain_t(i | slate, p_i)

where w_t is the weight of the term and p_i the chance that the item is looked at and clicked. A
term on clicks gains with p_i; a term on the slate as a set, such as its diversity, gains whatever
is clicked (for the sum of both see Agrawal et al. 2009, "Diversifying search results", section 4.2,
and Nemhauser et al. 1978 for what greed loses). A gain is one registered function. A reward term
that has none is asked itself, once with the item and once without: see `gain_of_term`.

Dimensions: B shoppers, P items of the pool, K slate positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policies.cosines import Cosines
from policies.cues import Knob
from policies.filling import LogOddsScores, SlateSoFar
from policies.inputs import UNRANKED
from policies.parameters import Range
from policies.pool import Pool
from policies.slates import FARTHEST, SlateScores
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.registry import Registry
from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs, ShareOf, term_value
from recsim_env.rewards.inputs import catalog_tables
from recsim_env.tensors import looked_up, widened

SCALE = Knob(1.0, Range(-1.5, 2.0))
"""The knob that scales a term: the logarithm of a factor on its weight, 0 = the reward's own. A
factor from a fifth to seven is searched, because diversity now may be worth more than the reward
pays for it, through later visits, and seldom less."""


Gain = Callable[[SlateSoFar, Tensor], Tensor]
"""Computes what each item of the pool would add to a term at the next position, (B, P), from the
slate so far and the chance (B, P) that the item is looked at and clicked there."""


@dataclass(frozen=True)
class GainSpec:
    """How a reward term gains."""

    gain: Gain
    """Computes the gain."""
    scaled: bool
    """Whether a knob scales the term. What is earned by clicks has none: cues move the clicks."""


GAINS: Registry[GainSpec] = Registry("gain")
"""The gain of reward terms by their name."""


def gain(term: str, *, scaled: bool = True) -> Callable[[Gain], Gain]:
    """Register the gain of a reward term: `@gain("category_coverage")` above a function.

    Args:
        term: name of the reward term
        scaled: whether a knob scales the term against the others

    Raises:
        ValueError: If there is no such reward term, if other code took the name, or if `scaled` is
            no flag.
    """
    REWARD_TERMS.find("term", term)
    checks.flag("scaled", scaled)

    def add(function: Gain) -> Gain:
        GAINS.add(term, GainSpec(function, scaled), function)
        return function

    return add


# ---- what clicks earn ----


@gain("clicks", scaled=False)
@gain("purchases", scaled=False)
@gain("outside_reward", scaled=False)
def clicks(slate: SlateSoFar, chance: Tensor) -> Tensor:
    """Count a click as one.

    Purchases, and what an outside environment pays, are taken to be in proportion: a ranker of
    clicks knows no more of them.
    """
    return chance


@gain("revenue", scaled=False)
def revenue(slate: SlateSoFar, chance: Tensor) -> Tensor:
    """Count a click as the price of the item, as if what is clicked were bought."""
    return chance * _of_items(slate, "revenue", slate.catalog.known_price)


@gain("kept", scaled=False)
def kept(slate: SlateSoFar, chance: Tensor) -> Tensor:
    """Count nothing: a ranker of clicks does not tell how an item moves the chance of leaving."""
    return torch.zeros_like(chance)


# ---- what the slate as a set earns ----


@gain("intra_list_distance")
def intra_list_distance(slate: SlateSoFar, chance: Tensor) -> Tensor:
    """Sum the distances to the items of the slate, over the number of pairs in a full one."""
    pairs = max(slate.size * (slate.size - 1) // 2, 1)
    return (slate.length - slate.similar) / pairs


@gain("category_coverage")
def category_coverage(slate: SlateSoFar, chance: Tensor) -> Tensor:
    """Count 1 / (K - 1) for an item of a new category; the first item of a slate adds nothing."""
    new = (slate.count == 0).to(chance.dtype)
    return new * (slate.length > 0) / max(slate.size - 1, 1)


@gain("category_entropy")
def category_entropy(slate: SlateSoFar, chance: Tensor) -> Tensor:
    """Add f(n) - f(c) over K log K for c of n items of its category, f(x) = (x+1)log(x+1) - xlogx.

    It is the change of n log n - sum of c log c, which is the entropy times n.
    """
    if slate.size == 1:
        return torch.zeros_like(chance)
    count, length = slate.count, slate.length
    added: Tensor = torch.special.xlogy(count + 1, count + 1) - torch.special.xlogy(count, count)
    most = (length + 1) * math.log(length + 1) - length * math.log(max(length, 1))
    return (most - added) / (slate.size * math.log(slate.size))


@gain("novelty")
def novelty(slate: SlateSoFar, chance: Tensor) -> Tensor:
    """Add the self-information of the item, over K."""
    return -_of_items(slate, "novelty", slate.catalog.popularity).log2() / slate.size


@gain("exposure")
def exposure(slate: SlateSoFar, chance: Tensor) -> Tensor:
    """Add what the category still lacks of its target share, at most one position of K."""
    target = _of_items(slate, "exposure", slate.catalog.category_share)
    return (slate.size * target - slate.count).clamp(0, 1) / slate.size


def _of_items(slate: SlateSoFar, term: str, table: Tensor | None) -> Tensor:
    """What a table (N,) of the catalogue says of the items of the pool: (B, P).

    Raises:
        ValueError: If the catalogue does not have it; the term itself says so too.
    """
    if table is None:
        raise ValueError(
            f"The reward term {term!r} needs a column that this catalogue does not have in full: "
            "revenue needs every price, novelty needs popularity."
        )
    return looked_up(table, slate.ids)


def share_gain(term: ShareOf) -> Gain:
    """The gain of a share of named categories: 1 / K for an item of them."""

    def gained(slate: SlateSoFar, chance: Tensor) -> Tensor:
        return term.of(slate.ids) / slate.size

    return gained


# ---- any other term ----


def gain_of_term(name: str) -> Gain:
    """The gain of a reward term that has none registered, from the term itself.

    It is the change of the term by the item unclicked, plus the chance of a click times the change
    by the click, with nothing else on the slate clicked. This is exact for all terms that are a sum
    over clicked items, such as a margin, and for all that do not look at clicks.
    """

    def gained(slate: SlateSoFar, chance: Tensor) -> Tensor:
        without = _valued(name, slate, None, clicked=False).unsqueeze(1)
        shown = _valued(name, slate, slate.ids, clicked=False)
        clicked = _valued(name, slate, slate.ids, clicked=True)
        unclicked, by_click = shown - without, clicked - shown  # of large numbers, in float64
        return unclicked.to(chance.dtype) + chance * by_click.to(chance.dtype)

    return gained


def _valued(name: str, slate: SlateSoFar, items: Tensor | None, *, clicked: bool) -> Tensor:
    """The value of a term in float64: (B,), or (B, P) of the slates that are one item longer.

    What is clicked counts as bought, an outside environment as paying nothing, and the shopper as
    coming back at once to a shop that remembers nothing.
    """
    catalog, length = slate.catalog, slate.length
    batch, pool = slate.ids.shape
    rows, shape = (batch, (batch,)) if items is None else (batch * pool, (batch, pool))

    # the slates so far, padded by positions at which nothing is shown
    slates = slate.ids.new_zeros(batch, slate.size)
    for position, chosen in enumerate(slate.chosen):
        slates[:, position] = chosen
    slates = slates.repeat_interleave(rows // batch, dim=0)
    shown = torch.zeros_like(slates, dtype=torch.bool)
    shown[:, :length] = True
    clicks = torch.zeros_like(shown)
    if items is not None:
        slates[:, length], shown[:, length] = items.flatten(), True
        clicks[:, length] = clicked
    tables: dict[str, Any] = catalog_tables(catalog)
    inputs = RewardInputs(
        slates,
        shown,
        clicks,
        purchases=clicks,
        outside_reward=torch.zeros_like(clicks[:, 0], dtype=torch.float32),
        days=torch.zeros_like(clicks[:, 0], dtype=torch.float32),
        left=torch.zeros_like(clicks[:, 0]),
        recent_slates=torch.full_like(slates, -1).unsqueeze(1),
        **tables,
    )
    return widened(term_value(name, inputs)).reshape(shape)


def gain_spec(term: str) -> GainSpec:
    """How a reward term gains, whether or not somebody registered it."""
    if term in GAINS:
        return GAINS[term]
    made = REWARD_TERMS.get(term)
    return GainSpec(
        share_gain(made) if isinstance(made, ShareOf) else gain_of_term(term), scaled=True
    )


def knob_of(term: str) -> str:
    """The name of the knob that scales a reward term."""
    return f"scale_{term}"


def scale_knobs() -> dict[str, Knob]:
    """The knobs of all reward terms that are registered by now, by name."""
    return {knob_of(term): SCALE for term in REWARD_TERMS if gain_spec(term).scaled}


def click_worth(reward: Reward, catalog: Catalog) -> Tensor:
    """What a click on each item earns by the terms that clicks earn: (N,) float32.

    Raises:
        ValueError: If a term needs what the catalogue does not have.
    """
    items = torch.arange(len(catalog), device=catalog.device).unsqueeze(0)
    sure = torch.ones_like(items, dtype=torch.float32)
    slate = SlateSoFar(Pool(items, torch.zeros_like(sure), items), catalog, Cosines(catalog), 1)
    total = torch.zeros_like(sure)
    for name, weight in reward.weights.items():
        if weight != 0 and not (spec := gain_spec(name)).scaled:
            total += weight * spec.gain(slate, sure)
    return total.squeeze(0)


class Gains:
    """The gains of all terms of a reward.

    `knobs` are the names of the knobs of the terms that are scaled; `always_clicks` tells whether
    clicks earn something in every row.

    Args:
        reward: the reward; terms of weight 0 are left out
        goals: names of its terms that have weights of their own in every row, in their order
    """

    def __init__(self, reward: Reward, goals: Sequence[str] = ()) -> None:
        # in one order, so that knobs mean the same however the reward was written down
        weights = {name: reward.weights[name] for name in sorted(reward.weights)}
        weights = {name: weight for name, weight in weights.items() if weight != 0}
        specs = {name: gain_spec(name) for name in weights}
        columns = {name: at for at, name in enumerate(goals)}
        known = {name: (weights[name], columns.get(name), one.gain) for name, one in specs.items()}
        self._clicked = [known[name] for name, one in specs.items() if not one.scaled]
        self._scaled = [known[name] for name, one in specs.items() if one.scaled]
        self.knobs = tuple(knob_of(name) for name, one in specs.items() if one.scaled)
        steady = [column is None or len(columns) == 1 for _, column, _ in self._clicked]
        self.always_clicks = any(steady)  # a single goal weighs the same in all rows

    def of(
        self, slate: SlateSoFar, chance: Tensor, scales: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """What each item would add to the reward: (B, P), a new tensor.

        Args:
            slate: the slate so far
            chance: (B, P) that each item is looked at and clicked at the next position
            scales: (B, S) log of the factor on each scaled term
            weights: (B, G) of the goals; None where all rows have the weights of the reward
        """
        factors = scales.exp()
        total = torch.zeros_like(chance)
        for weight, column, gained in self._clicked:
            if weights is None or column is None:
                total.add_(gained(slate, chance), alpha=weight)
            else:
                total.addcmul_(weights[:, column : column + 1], gained(slate, chance))
        for at, (weight, column, gained) in enumerate(self._scaled):
            factor = factors[:, at : at + 1]
            if weights is not None and column is not None:
                factor = factor * weights[:, column : column + 1]
            total.addcmul_(factor, gained(slate, chance), value=weight)
        return total


class RewardScores(SlateScores):
    """What each item would add to the reward, clicked by its log-odds where it is looked at.

    Args:
        log_odds: those of the items as the slate fills
        gains: those of the terms of the reward
        scales: (B, S) log of the factor on each term that is scaled
        looks: (B, K) or (1, K) chance that each position is looked at
        weights: (B, G) of the goals; None where all rows have the weights of the reward
        worth: (B, 1) what a click is worth beside the reward; None means nothing
    """

    def __init__(
        self,
        log_odds: LogOddsScores,
        gains: Gains,
        scales: Tensor,
        looks: Tensor,
        weights: Tensor | None = None,
        worth: Tensor | None = None,
    ) -> None:
        self._log_odds, self._gains, self._scales, self._looks = log_odds, gains, scales, looks
        self._weights, self._worth = weights, worth
        # what has no number is taken after everything else, however diverse it is
        logits = log_odds.slate.pool.logits
        self._last = torch.zeros_like(logits).masked_fill_(logits <= UNRANKED, -FARTHEST)

    def scores(self) -> Tensor:
        """The gain of each item of the pool as the next one: (B, P)."""
        slate = self._log_odds.slate
        look = self._looks[:, slate.length].unsqueeze(1)
        chance = self._log_odds.scores().sigmoid_().mul_(look)
        gained = self._gains.of(slate, chance, self._scales, self._weights).add_(self._last)
        return gained if self._worth is None else gained.addcmul_(self._worth, chance)

    def add(self, chosen: Tensor) -> None:
        """Put the items at places (B,) of the pool into the slates."""
        self._log_odds.add(chosen)
