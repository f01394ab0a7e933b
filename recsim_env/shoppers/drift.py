"""How a market moves by the calendar of its shop: what `Drift` says, and the tables made of it.

With d the day of the shop, a market that drifts differs from one that does not by

    log-odds of item i of category c  +  popularity x_i(d) + season sin(2 pi (d / 365 + phase_c))
    the interest u of every shopper   ->  unit(u + interests f(d) / sqrt(D))
    a newcomer's favourite category   ->  g with a chance in proportion to exp(arrivals y_g(d))

where each number of x, f and y is an Ornstein-Uhlenbeck process of mean 0 and variance 1 in steps
of a day (Uhlenbeck & Ornstein 1930, "On the theory of the Brownian motion"),

    x(d + 1) = rho x(d) + sqrt(1 - rho^2) noise,    rho = 2^(-1 / half_life),

so that the market of every day is as hard as that of any other. Items enter, and leave for good, on
days that are spread evenly over `item_days`; which ones do is drawn by the world. All of it comes
from (world, day) alone: the calendar of a world is the same for every shopper, seed and batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recsim_env import checks, noise
from recsim_env.noise import Stream, normal
from recsim_env.settings import ONE_OR_MORE, POSITIVE, SHARE, Within, settle
from recsim_env.types import MAX_DAYS

if TYPE_CHECKING:  # its tables need polars, and a market without a supply needs none
    from recsim_env.shoppers.session.availability import Availability

YEAR = 365.0
"""Days of a season."""
MOST_CELLS = 2 * 10**8
"""Largest number of days times items whose popularity is kept."""
AT_ONCE = 10**6
"""Numbers that are drawn at once, which bounds the memory."""
_SPREAD = Within(0, 100)


@dataclass(frozen=True)
class Drift:
    """How a market moves from day to day; by default nothing moves.

    Raises:
        ValueError: If a number is out of its range, or if more items enter and leave than there
            are.
    """

    interests: float = 0.0
    """Typical length of the fashion that is added to the interest of every shopper, which has
    length 1."""
    popularity: float = 0.0
    """Standard deviation over items of the log-odds of a click that come and go with the days."""
    arrivals: float = 0.0
    """Standard deviation over categories of the log of how likely a category is a favourite of
    those who arrive on a day: other shoppers come than came before."""
    season: float = 0.0
    """Log-odds of a click that a category gains at the height of its season, and loses half a year
    later."""
    half_life: float = 14.0
    """Days after which half of what moved interests, popularity and arrivals is left."""
    entering: float = 0.0
    """Share of the items that are not there on day 0 and enter later."""
    leaving: float = 0.0
    """Share of the items that are there on day 0 and leave for good later."""
    item_days: int = 56
    """Days from day 0 on over which items enter and leave, evenly."""
    arrival_days: int = 1
    """Days over which shoppers arrive: each comes first on one of so many days, by chance."""
    days: int = 730
    """Days of the calendar that are told apart; after the last one everything stays as it is."""

    def __post_init__(self) -> None:
        settle(
            self,
            interests=_SPREAD,
            popularity=_SPREAD,
            arrivals=_SPREAD,
            season=_SPREAD,
            half_life=POSITIVE,
            entering=SHARE,
            leaving=SHARE,
            item_days=Within(1, MAX_DAYS),
            arrival_days=ONE_OR_MORE,
            days=Within(1, MAX_DAYS),
        )
        if self.entering + self.leaving > 1:
            raise ValueError(
                f"leaving is {self.leaving}, but it must be from 0 to {1 - self.entering:g} where "
                f"entering is {self.entering}: an item does not do both."
            )


DRIFTS: dict[str, Drift] = {
    "none": Drift(),
    "interests": Drift(interests=0.7),
    "popularity": Drift(popularity=0.7),
    "shoppers": Drift(arrivals=1.5, arrival_days=7),
    "items": Drift(entering=0.3, leaving=0.3),
    "season": Drift(season=1.0),
    "all": Drift(
        interests=0.7, popularity=0.7, arrivals=1.0, season=0.5, entering=0.3, leaving=0.3
    ),
}
"""Drifts by name, as options of commands tell them."""

NewItems = float | Mapping[int, float]
"""The share of the items that enter, or such a share by the day on which they do."""


def drift_of(name: str, value: Any) -> Drift:
    """Return the drift that an option tells: one, the name of one, or None, which is none.

    Raises:
        ValueError: If it is anything else.
    """
    if value is None:
        return DRIFTS["none"]
    if isinstance(value, Drift):
        return value
    if isinstance(value, str):
        return DRIFTS[checks.choice(name, value, DRIFTS)]
    raise ValueError(
        f"{name} is {checks.told(value)}, but it must be a Drift or one of "
        f"{', '.join(map(repr, DRIFTS))}."
    )


def checked_new_items(name: str, value: Any) -> NewItems:
    """Check a share, or shares by the day on which the items enter.

    Raises:
        ValueError: If a share is not from 0 to 1, if all together are more than 1, or if a day is
            no whole number of 1 or more.
    """
    if not isinstance(value, Mapping):
        return checks.number(name, value, 0, 1)
    found = {
        checks.whole(f"a day of {name}", day, 1, int(MAX_DAYS)): checks.number(
            f"{name}[{day!r}]", share, 0, 1
        )
        for day, share in value.items()
    }
    if math.fsum(found.values()) > 1:
        raise ValueError(
            f"{name} is {checks.told(value)}, but its shares must be 1 or less together."
        )
    return found


# ---- what moves ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calendar:
    """What every day of a world brings; a part that never moves is None.

    Shapes: T days, N items, D interest width, G categories.
    """

    popularity: Tensor | None
    """(T, N) float32, log-odds of a click."""
    fashion: Tensor | None
    """(T, D) float32, what is added to every interest."""
    season: Tensor | None
    """(T, G) float32, log-odds of a click."""
    favourites: Tensor | None
    """(T, G) float32, the chance that a favourite of a newcomer is one of the categories so far."""
    available: Availability | None
    """The items that are there."""

    def to(self, device: torch.device) -> Calendar:
        """Copy it to a device."""
        return Calendar(
            *(None if part is None else part.to(device) for part in vars(self).values())
        )


def calendar_of(
    drift: Drift,
    world: int,
    *,
    items: int,
    width: int,
    categories: int,
    new_items: NewItems | None = None,
) -> Calendar:
    """Make the calendar of a world, on the CPU.

    Args:
        drift: How the market moves.
        world: The seed of the world.
        items: N.
        width: D.
        categories: G.
        new_items: What enters, in place of `drift.entering`.

    Raises:
        ValueError: If there are more days times items than fit into memory.
    """
    if drift.popularity and drift.days * items > MOST_CELLS:
        raise ValueError(
            f"days is {drift.days}, but with {items} items whose popularity moves it must be "
            f"{max(MOST_CELLS // items, 1)} or less."
        )
    season = favourites = None
    if drift.season:
        day = torch.arange(drift.days, dtype=torch.float32).unsqueeze(1)
        phase = _numbers(world, 3, torch.zeros(1, dtype=torch.int64), categories)
        season = drift.season * torch.sin(2 * math.pi * (day / YEAR + phase))
    if drift.arrivals:
        weight = drift.arrivals * moving(drift, world, 2, categories)
        favourites = weight.softmax(dim=1).cumsum(dim=1)
    length = drift.interests / math.sqrt(width)
    return Calendar(
        popularity=drift.popularity * moving(drift, world, 0, items) if drift.popularity else None,
        fashion=length * moving(drift, world, 1, width) if drift.interests else None,
        season=season,
        favourites=favourites,
        available=_available(*lives(drift, world, items, new_items)),
    )


def moving(drift: Drift, world: int, part: int, size: int) -> Tensor:
    """Return `size` numbers of variance 1 that move from day to day: (T, size) float32.

    Args:
        drift: Tells the days and the half-life.
        world: The seed of the world.
        part: What moves; another number moves independently.
        size: How many numbers move, each by itself.
    """
    rho = 2 ** (-1 / drift.half_life)
    days = torch.arange(drift.days).split(max(AT_ONCE // size, 1))
    found = torch.cat([normal(_numbers(world, part, some, size)) for some in days])
    found[1:] *= math.sqrt(1 - rho * rho)
    for day in range(1, drift.days):
        found[day] += rho * found[day - 1]
    return found


def _numbers(world: int, part: int, days: Tensor, size: int) -> Tensor:
    """Return uniform numbers (some, size) of a world, a part and days (some,)."""
    key = noise.episode_key(torch.tensor([world]), torch.tensor([part]), stream=Stream.DRIFT)
    return noise.uniform(key.expand(len(days)), days, size)


# ---- which items are there -----------------------------------------------------------------------


def lives(
    drift: Drift, world: int, items: int, new_items: NewItems | None = None
) -> tuple[Tensor, Tensor]:
    """Return the days (N,) int64 of each item: the first one, and the first after its last.

    Those that were always there have first day 0, and those that stay the day `MAX_DAYS`.

    Args:
        drift: How many items enter and leave.
        world: The seed of the world.
        items: N.
        new_items: What enters, in place of `drift.entering`.
    """
    first = torch.zeros(items, dtype=torch.int64)
    gone = torch.full((items,), int(MAX_DAYS), dtype=torch.int64)
    chance = _numbers(world, 4, torch.zeros(1, dtype=torch.int64), items).squeeze(0)
    order = chance.argsort(stable=True)
    enters = _entry_days(drift, items, new_items)
    leaves = _spread(round(drift.leaving * items), drift.item_days)
    first[order[: len(enters)]] = enters
    leaving = order.flip(0)[: min(len(leaves), items - len(enters))]
    gone[leaving] = leaves[: len(leaving)]
    return first, gone


def fewest_there(first: Tensor, gone: Tensor, day: int) -> int:
    """Count the items that are there on the day with the fewest, from a day on."""
    changes = torch.cat([first, gone, torch.tensor([day])]).unique()
    changes = changes[(changes >= day) & (changes < int(MAX_DAYS))].unsqueeze(1)
    return int(((first <= changes) & (changes < gone)).sum(dim=1).min())


def _entry_days(drift: Drift, items: int, new_items: NewItems | None) -> Tensor:
    """Return the day of each item that enters, ascending: (some,) int64.

    Of shares by day as many have entered after each as is nearest to their sum so far, so that
    rounding moves an item by a day and never adds up.
    """
    if isinstance(new_items, Mapping):
        days = torch.tensor(sorted(new_items), dtype=torch.int64)
        shares = torch.tensor([new_items[day] for day in days.tolist()], dtype=torch.float64)
        entered = (shares.cumsum(0) * items).round().long()
        return days.repeat_interleave(entered.diff(prepend=entered.new_zeros(1)))
    share = drift.entering if new_items is None else new_items
    return _spread(round(share * items), drift.item_days)


def _spread(count: int, days: int) -> Tensor:
    """Spread so many things evenly over the days 1 to `days`: (count,) int64, ascending."""
    return 1 + torch.arange(count) * days // max(count, 1)


def _available(first: Tensor, gone: Tensor) -> Availability | None:
    """Return the items of each day; None where all are always there."""
    if bool((first == 0).all()) and bool((gone == int(MAX_DAYS)).all()):
        return None
    import polars as pl

    from recsim_env.shoppers.session.availability import Availability

    columns = {"item": torch.arange(len(first)), "first_day": first, "last_day": gone - 1}
    table = pl.DataFrame({name: value.numpy() for name, value in columns.items()})
    return Availability.of(table, len(first), "new_items")
