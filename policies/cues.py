"""Cues: facts about each candidate that a re-ranker may hold for or against it.

A cue is one registered function, together with all that is said of it elsewhere: the keys of the
observation that it needs, its weight per unit of intent, the range in which the policy "constant"
is tuned, and the ranges from which exploring logging policies draw. To add a cue is to write one
such function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.features import LONGEST_DAYS, Recent, lookup_of_bought
from policies.parameters import Range
from policies.pool import Pool
from recsim_env import checks
from recsim_env.logs.facts import LogFacts
from recsim_env.logs.placements import display_of, mailer_of
from recsim_env.registry import Registry
from recsim_env.shoppers.profile import EVER, LATELY
from recsim_env.tensors import looked_up
from recsim_env.types import Observation

WEEK = 7.0
"""Days within which the memory of a purchase falls to 1 / e."""
Span = tuple[float, float]
"""Least and largest log-odds of a knob that is drawn at random."""


@dataclass(frozen=True)
class Knob:
    """A number that steers the composer, and the values it takes where it is not learned."""

    unit: float
    """Log-odds per unit of intent."""
    tuned: Range
    """Log-odds among which tuning looks for a constant value."""
    default: float = 0.0
    """Log-odds where nothing else is said."""
    explored: Span | None = None
    """Log-odds that exploring logging policies draw from; None leaves the knob at 0."""
    explored_broadly: Span | None = None
    """The same for policies that explore a larger part of the slates."""


SLATE_KNOBS = {
    "count": Knob(2.0, Range(-4.0, 0.5), -1.0, explored=(-2.0, 0.0), explored_broadly=(-2.0, 0.0)),
    "similarity": Knob(
        1.0, Range(-4.0, 0.5), -0.5, explored=(-2.0, 0.0), explored_broadly=(-2.0, 0.0)
    ),
}
"""Knobs on the slate so far: items of the same category in it, and the largest cosine to it."""
BUDGET_KNOBS = {
    "budget": Knob(4.0, Range(-8.0, 1.0)),
    "budget_place": Knob(0.5, Range(-1.5, 1.5)),
    "budget_slope": Knob(0.5, Range(-1.5, 1.5)),
    "budget_slates": Knob(0.5, Range(-0.7, 1.6)),
}
"""Knobs on the budget of a category (`policies.budget`): its height, and the logarithms of the
factors on its place, its slope and its window."""


WORTH_KNOBS = {"worth": Knob(1.0, Range(0.0, 4.0))}
"""The knob for what a click is worth beside the reward of the visit, in the reward's units: where
the reward does not pay for clicks, or only in some rows, cues would move nothing, though shoppers
who click may come back more often."""
BUNDLE_KNOBS = {
    "together": Knob(1.0, Range(-1.0, 4.0)),
    "discount": Knob(2.0, Range(0.0, 4.0)),
}
"""Knobs on bundles (`policies.together`): log-odds per unit of log lift, and the level of
discount, in levels."""


@dataclass(frozen=True)
class CueInputs:
    """What a cue is computed from.

    Shapes: B shoppers, P items of the pool, R remembered positions, N items.
        recent:           (B, R) each
        category:         (N,) int64
        category_of_pool: (B, P) int64, category of each item of the pool
    """

    observation: Observation
    recent: Recent
    pool: Pool
    category: Tensor
    category_of_pool: Tensor
    categories: int
    """Number of categories G."""
    slate_size: int
    """Number of slate positions K."""
    facts: LogFacts | None = None
    """Facts about the shop; there for every cue that needs them."""
    lasting: Tensor | None = None
    """(N,) `PolicyInputs.lasting`; there for every cue that needs it."""
    embedding: Tensor | None = None
    """(N, E) vectors of the items, of unit length; a composer tells them."""
    lift: Tensor | None = None
    """(G, G) `PolicyInputs.lift`; there for every cue that needs it."""


Values = Callable[[CueInputs], Tensor]
"""Computes the values of a cue, (B, P) float32, finite and of the order of 1."""


@dataclass(frozen=True, kw_only=True)
class Cue(Knob):
    """Something about each candidate that a re-ranker may hold for or against it."""

    keys: tuple[str, ...]
    """Observation keys that it needs."""
    values: Values
    """Computes it for every item of the pool."""
    needs_facts: bool = False
    """Whether it reads `CueInputs.facts`."""
    needs_lasting: bool = False
    """Whether it reads `CueInputs.lasting`; where that is not known, there is no such cue."""
    needs_lift: bool = False
    """Whether it reads `CueInputs.lift`; where that is not known, there is no such cue."""


CUES: Registry[Cue] = Registry("cue")
"""Every cue by name; a composer uses those whose keys the environment has."""


def cue(
    name: str,
    unit: float,
    *keys: str,
    tuned: Span = (-2.0, 2.0),
    default: float = 0.0,
    explored: Span | None = None,
    explored_broadly: Span | None = None,
    needs_facts: bool = False,
    needs_lasting: bool = False,
    needs_lift: bool = False,
) -> Callable[[Values], Values]:
    """Register a cue: `@cue("shown", 2.0, "recent_slates")` above a function of `CueInputs`.

    Args:
        name: of the knob
        unit: log-odds per unit of intent and of the cue
        keys: keys of the observation that the function reads
        tuned: range of log-odds among which the policy "constant" is tuned
        default: log-odds of the policy "constant" where nothing else is said
        explored: range of log-odds that exploring logging policies draw from; None leaves it at 0
        explored_broadly: the same for policies that explore a larger part of the slates
        needs_facts: whether the function reads `CueInputs.facts`
        needs_lasting: whether it reads `CueInputs.lasting`, without which there is no such cue
        needs_lift: whether it reads `CueInputs.lift`, likewise

    Raises:
        TypeError: If what stands below is no function.
        ValueError: If the name is no text or other code took it, or if a number or a range is none.
    """
    checks.text("name", name)
    checks.number("unit", unit)
    checks.number("default", default)
    for key in keys:
        checks.text("a key", key)
    low, high = checks.several("tuned", tuned, 2)
    searched = Range(low, high)

    def add(values: Values) -> Values:
        """Register the function that computes the cue, which stays as it is."""
        made = Cue(
            unit=unit,
            tuned=searched,
            default=default,
            explored=explored,
            explored_broadly=explored_broadly,
            keys=keys,
            values=values,
            needs_facts=needs_facts,
            needs_lasting=needs_lasting,
            needs_lift=needs_lift,
        )
        CUES.add(name, made, values)
        return values

    return add


def knobs() -> dict[str, Knob]:
    """Every knob by name: those on the slate so far, then the cues that are registered by now."""
    return {**SLATE_KNOBS, **CUES}


def explored_ranges(*, broadly: bool = False) -> dict[str, Span]:
    """Ranges of log-odds from which logging policies draw their knobs; the others stay at 0."""
    spans = {
        name: knob.explored_broadly if broadly else knob.explored for name, knob in knobs().items()
    }
    return {name: span for name, span in spans.items() if span is not None}


# ---- from the slates that the shop remembers ----


@cue("clicked", 2.0, "recent_slates", "recent_clicks", tuned=(-4.0, 2.0))
def clicked_category(inputs: CueInputs) -> Tensor:
    """Recent responses in the item's category, decayed by slate."""
    by_category = inputs.recent.by_group(inputs.category, inputs.categories, inputs.recent.clicked)
    return by_category.gather(1, inputs.category_of_pool)


@cue("shown", 2.0, "recent_slates", tuned=(-4.0, 2.0))
def shown_category(inputs: CueInputs) -> Tensor:
    """Recent exposures of the item's category, decayed by slate, in slates."""
    by_category = inputs.recent.by_group(
        inputs.category, inputs.categories, inputs.recent.shown / inputs.slate_size
    )
    return by_category.gather(1, inputs.category_of_pool)


@cue("repeated", 1.0, "recent_slates")
def shown_item(inputs: CueInputs) -> Tensor:
    """Recent exposures of the item itself, decayed by slate."""
    return inputs.recent.of_items(inputs.pool.ids, inputs.recent.shown, len(inputs.category))


# ---- from loyalty cards ----


@cue("habit", 1.0, "bought_items", "bought_counts", tuned=(-1.5, 1.5))
def own_purchases(inputs: CueInputs) -> Tensor:
    """Log of one plus the number of times that the shopper bought the item."""
    items, counts = inputs.observation["bought_items"], inputs.observation["bought_counts"]
    return torch.log1p(_of_bought(inputs, items, counts.clamp(min=0)))


@cue("lately", 1.0, "bought_items", "bought_days")
def bought_lately(inputs: CueInputs) -> Tensor:
    """1 where the shopper bought the item today, 1 / e a week ago, 0 never."""
    items, days = inputs.observation["bought_items"], inputs.observation["bought_days"]
    return _of_bought(inputs, items, torch.exp(-days.clamp(0, LONGEST_DAYS) / WEEK))


# ---- from the offer ----


@cue("popular", 0.5, "popularity", tuned=(-1.0, 1.0))
def popular_item(inputs: CueInputs) -> Tensor:
    """Log of the item's popularity minus the mean of the pool."""
    popularity = inputs.observation["popularity"].gather(1, inputs.pool.columns)
    logs = torch.log(popularity.clamp(min=0) + 1e-3)
    present = inputs.pool.items >= 0
    mean = (logs * present).sum(dim=1, keepdim=True) / present.sum(dim=1, keepdim=True).clamp(min=1)
    return (logs - mean) * present


@cue("promoted", 1.0, "placement", tuned=(-1.5, 1.5), needs_facts=True)
def promotions_of_item(inputs: CueInputs) -> Tensor:
    """Number of ways in which the item is promoted: on display, in the mailer, or both."""
    assert inputs.facts is not None  # the composer made sure
    placement = inputs.observation["placement"].gather(1, inputs.pool.columns)
    mailers = inputs.facts.placements[1]
    display, mailer = display_of(placement, mailers), mailer_of(placement, mailers)
    return (display > 0).float() + (mailer > 0).float()


# ---- from impression logs ----


@cue(
    "sated",
    2.0,
    "category_clicked",
    tuned=(-2.0, 1.0),
    explored=(-1.5, 0.3),
    explored_broadly=(-3.0, 0.3),
)
def sated_category(inputs: CueInputs) -> Tensor:
    """Responses in the item's category in about the last ten visits."""
    lately = inputs.observation["category_clicked"][:, :, LATELY]
    return lately.gather(1, inputs.category_of_pool)


@cue(
    "flooded",
    3.0,
    "category_shown",
    tuned=(-4.0, 2.0),
    explored=(-3.0, 0.5),
    explored_broadly=(-3.0, 0.5),
)
def flooded_category(inputs: CueInputs) -> Tensor:
    """Exposures of the item's category in about the last ten visits, in slates."""
    shown = inputs.observation["category_shown"][:, :, LATELY] / inputs.slate_size
    return shown.gather(1, inputs.category_of_pool)


@cue("loyal", 2.0, "category_clicked")
def loyal_category(inputs: CueInputs) -> Tensor:
    """Log of one plus the number of responses in the item's category so far."""
    ever = torch.log1p(inputs.observation["category_clicked"][:, :, EVER])
    return ever.gather(1, inputs.category_of_pool)


# ---- from what came later in the log ----


@cue("lasting", 1.0, tuned=(-1.0, 4.0), needs_lasting=True)
def lasting_item(inputs: CueInputs) -> Tensor:
    """Clicks that a click on the item brings later, more than on the mean item.

    With the knob at 1, a chance p of a click counts as p exp(value): about p (1 + value), which is
    what the click and all that follows from it are worth.
    """
    assert inputs.lasting is not None  # the composer made sure
    return looked_up(inputs.lasting, inputs.pool.ids) * (inputs.pool.items >= 0)


# ---- from the belief ----


@cue("weary", 2.0, "belief_weary", tuned=(-4.0, 2.0))
def weary_of_category(inputs: CueInputs) -> Tensor:
    """Expected weariness of the item's category, in log-odds of a click.

    The belief's own logits hold it already; what is weighed here is that weariness lasts.
    """
    return inputs.observation["belief_weary"].gather(1, inputs.category_of_pool)


@cue("uncertain", 1.0, "belief_spread")
def uncertain_item(inputs: CueInputs) -> Tensor:
    """Standard deviation of what is believed of the item's log-odds, by which exploring pays.

    A click on what is uncertain teaches the shop most: a bonus of this form is the upper confidence
    bound of Li et al. 2010, "A contextual-bandit approach to personalized news article
    recommendation", equation 5.
    """
    spread = inputs.observation["belief_spread"].gather(1, inputs.pool.columns)
    return spread * (inputs.pool.items >= 0)


def _of_bought(inputs: CueInputs, bought: Tensor, values: Tensor) -> Tensor:
    """Look up values (B, M) of the items bought (B, M) at the pool (B, P); 0 where never bought."""
    return lookup_of_bought(inputs.pool.ids, bought, values, len(inputs.category))
