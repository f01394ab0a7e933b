"""What can be learned from a log, told without training: one sentence a topic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from recsim_env.logs.chance import (
    LEAST_SLATES,
    LIFT,
    SURE,
    drawn_at_random,
    exposures,
    first_slates,
    lift_of,
    unrelated,
)
from recsim_env.logs.plain.reading import PlainLog

TOPICS = ("clicks", "order", "levels", "leaving", "returning", "positions")
"""What shoppers click; which of several policies is best; what each of them earns; when shoppers
stay away for good; when they come back; how far down a slate they look."""
IMPRESSIONS_KIND = "impressions"
FEEDBACK_KIND = "ratings or purchases without exposures"
BANDIT_KIND = "bandit rows without users"

LEAST_CLICKS = 1000
"""Clicks below which no model of this package beats the mean of each item."""
LEAST_GAPS = 100
"""Gaps between visits below which their lengths cannot be told."""
LEAST_WATCHED = 50
"""Users who were watched long enough to tell who left."""
MOST_UNEVEN = 0.05
"""Share of slates with gaps in their positions up to which places in the slate are those shown."""
ONE_VISIT = 1.1
"""Visits a user below which there is nothing that comes later."""
OFTEN_CLICKED = 0.3
"""Click rate from which on rows that never repeat look like ratings."""
EXPECTED_REPEATS = 20
"""Repeated exposures of an item to a user that chance alone would make, from which on their absence
tells something."""
LEAST_USED = 0.5
"""Share of the catalogue from which on items that nobody was shown count as not on sale, so that
random slates need not hold them."""
RANDOM_SHARE = 0.01
"""Share of the slates that a random policy must have served."""


@dataclass(frozen=True)
class Finding:
    """Whether something can be learned from a log, and why."""

    topic: str
    """One of `TOPICS`."""
    holds: bool
    """Whether it can be learned."""
    sentence: str
    """The reason, with its figure."""


@dataclass(frozen=True)
class Served:
    """What one logging policy did."""

    name: str | None
    """The name of the policy; None where the log tells none."""
    slates: int
    clicks: int
    random: bool | None
    """Whether its slates look drawn at random; None where there are too few to say."""
    lift: float | None = None
    """Clicks on its first slates, divided by those that random slates let one expect; None where
    that cannot be told, or where it is no larger than chance."""


def kind_of(plain: PlainLog) -> str:
    """Tell what kind of rows a log has."""
    impressions = plain.impressions
    shown, clicks = _shown_and_clicked(plain)
    if "click" not in plain.columns or clicks == shown:
        return FEEDBACK_KIND
    alone = len(plain.users) > 0.95 * len(impressions) and shown < 1.5 * len(impressions)
    if "user" not in plain.columns or alone:
        return BANDIT_KIND
    told = {"position", "policy", "propensity"} & plain.columns.keys()
    if clicks > OFTEN_CLICKED * shown and not told:
        pairs = impressions.select("shopper", "slate").explode("slate")
        by_user = pairs.group_by("shopper").len()["len"].cast(pl.Float64)
        by_chance = float((by_user**2).sum()) / (2 * len(plain.items))
        if by_chance > EXPECTED_REPEATS and not pairs.is_duplicated().any():
            return FEEDBACK_KIND
    return IMPRESSIONS_KIND


def served_by(plain: PlainLog) -> tuple[Served, ...]:
    """Tell what each logging policy did, those with most slates first."""
    impressions, items = plain.impressions, len(plain.items)
    first = first_slates(impressions)
    counts = (
        impressions.group_by("policy")
        .agg(slates=pl.len(), clicks=pl.col("click").list.sum().sum())
        .sort("slates", "policy", descending=[True, False])
    )
    used = exposures(impressions, items) > 0
    if used.mean() < LEAST_USED:  # those that are not shown were left out by somebody's choice
        used[:] = True
    shelf = plain.items["path"].str.split("/").list.head(2).list.join("/").rank("dense") - 1
    category = np.where(used, shelf.cast(pl.Int64).to_numpy(), -1)
    served, uniform = [], []
    for name, slates, clicks in counts.iter_rows():
        here = pl.col("policy").eq_missing(pl.lit(name, pl.String))
        own = impressions.filter(here)
        by_chance = drawn_at_random(exposures(first.filter(here), items)[used])
        if by_chance is None:
            by_chance = drawn_at_random(exposures(own, items)[used])
        if by_chance and unrelated(own, category) is False:
            by_chance = False
        if by_chance and slates >= RANDOM_SHARE * len(impressions):
            uniform.append(name)
        served.append(Served(name, int(slates), int(clicks), by_chance))
    if not uniform:
        return tuple(served)
    drawn = impressions.filter(_served(uniform))
    return tuple(who if who.random else _with_lift(who, first, drawn) for who in served)


def _served(names: list[str | None]) -> pl.Expr:
    return pl.any_horizontal(pl.col("policy").eq_missing(pl.lit(name, pl.String)) for name in names)


def _with_lift(who: Served, first: pl.DataFrame, drawn: pl.DataFrame) -> Served:
    lift = _sure_lift(first.filter(_served([who.name])), drawn)
    return who if lift is None else replace(who, lift=lift)


def _sure_lift(slates: pl.DataFrame, drawn: pl.DataFrame) -> float | None:
    found = lift_of(slates, drawn)
    return found[0] if found is not None and found[0] >= LIFT and found[1] >= SURE else None


def lift_of_all(plain: PlainLog, served: tuple[Served, ...]) -> float | None:
    """Compare the clicks on first slates of all policies that leave little to chance at once.

    Returns:
        As `Served.lift`, which single policies may be too small for.
    """
    uniform = [who.name for who in served if who.random]
    if not uniform or _random_share(served) == 0:
        return None
    first = first_slates(plain.impressions)
    return _sure_lift(first.filter(~_served(uniform)), plain.impressions.filter(_served(uniform)))


def findings_of(plain: PlainLog, kind: str, served: tuple[Served, ...]) -> tuple[Finding, ...]:
    """Judge every topic of `TOPICS`."""
    if kind == FEEDBACK_KIND:
        why = (
            "the rows tell what was rated or bought and not what was shown beside it; they tell "
            "taste among what was rated, and nothing about slates"
        )
        return tuple(Finding(topic, False, why) for topic in TOPICS)
    if kind == BANDIT_KIND:
        why = (
            "no user is seen twice, so that nothing can be told about what comes later; the value "
            "of a policy for slates of one can be estimated by IPS, SNIPS and DR"
            + ("" if "propensity" in plain.columns else ", but only with propensities")
        )
        return tuple(Finding(topic, False, why) for topic in TOPICS)
    clicks = _clicks(plain)
    return (
        clicks,
        _order(plain, clicks, served),
        _levels(plain, clicks, served),
        _leaving(plain),
        _returning(plain),
        _positions(plain, clicks),
    )


def _clicks(plain: PlainLog) -> Finding:
    shown, clicks = _shown_and_clicked(plain)
    if plain.problems:
        return Finding("clicks", False, plain.problems[0].rstrip("."))
    if clicks < LEAST_CLICKS:
        why = f"the log has {clicks:,} clicks, and about {LEAST_CLICKS:,} are needed"
        return Finding("clicks", False, why)
    told = f"{clicks:,} clicks on {shown:,} shown items ({clicks / shown:.1%})"
    return Finding("clicks", True, told)


def _order(plain: PlainLog, clicks: Finding, served: tuple[Served, ...]) -> Finding:
    if not clicks.holds:
        return Finding("order", False, clicks.sentence)
    if _random_share(served) > 0 or _has_propensities(plain):
        return Finding("order", True, f"{_how_chosen(plain, served)}")
    named = [who for who in served if who.name is not None and who.slates >= LEAST_SLATES]
    if len(named) < 2:
        why = (
            "one policy chose all slates as far as the log tells, and not at random: nothing tells "
            "what other slates would have earned"
        )
        return Finding("order", False, why)
    return Finding("order", True, f"among policies like the {len(named)} of the log")


def _levels(plain: PlainLog, clicks: Finding, served: tuple[Served, ...]) -> Finding:
    if not clicks.holds:
        return Finding("levels", False, clicks.sentence)
    if _random_share(served) == 0 and not _has_propensities(plain):
        why = (
            "no policy's slates look drawn at random and none has propensities: what the policies "
            "knew of users, and the log does not tell, would be taken for the pull of the items"
        )
        return Finding("levels", False, why)
    knowing = [who for who in served if who.lift is not None]
    most = max(knowing, key=lambda who: who.lift or 0.0, default=None)
    lift = lift_of_all(plain, served) if most is None else most.lift
    told = _how_chosen(plain, served)
    if lift is None:
        return Finding("levels", True, told)
    whose = "the policies that were not random" if most is None else f"policy {_named(most.name)}"
    if plain.declared is None:
        why = (
            f"{whose} knew something that the log does not tell: what was chosen at a first visit "
            f"is clicked {lift:.2f} times as often as the same items in random slates"
        )
        return Finding("levels", False, why)
    told += (
        f"; {whose} knew something of users at their first visit, and only a fitted model's "
        "verdict says whether user_* columns tell all of it"
    )
    return Finding("levels", True, told)


def _leaving(plain: PlainLog) -> Finding:
    visits, per_user = _visits(plain)
    gaps = visits["gap"].drop_nulls()
    if per_user < ONE_VISIT or len(gaps) < LEAST_GAPS:
        return Finding("leaving", False, _too_few_gaps(per_user, len(gaps)))
    quiet = int(gaps.quantile(0.99, "higher") or 0)
    ends = visits.filter(pl.col("gap").is_null())["follow_up"]
    watched = int((ends > max(quiet, 1)).sum())
    told = f"{watched:,} users were silent for longer than 99% of the gaps last ({_days(quiet)})"
    if watched < LEAST_WATCHED:
        return Finding("leaving", False, f"only {told} before the log ended")
    return Finding("leaving", True, told)


def _returning(plain: PlainLog) -> Finding:
    visits, per_user = _visits(plain)
    gaps = visits["gap"].drop_nulls()
    if per_user < ONE_VISIT or len(gaps) < LEAST_GAPS:
        return Finding("returning", False, _too_few_gaps(per_user, len(gaps)))
    median, most = (int(gaps.quantile(share, "higher") or 0) for share in (0.5, 1.0))
    if most == 0:
        return Finding("returning", False, "all visits of a user are on one day")
    told = f"{len(gaps):,} gaps between visits, median {_days(median)}, longest {_days(most)}"
    return Finding("returning", True, told)


def _positions(plain: PlainLog, clicks: Finding) -> Finding:
    if "position" not in plain.columns:
        why = "the log has no column `position`; the order of rows is taken for it"
        return Finding("positions", False, why)
    impressions = plain.impressions
    if impressions["slate"].list.len().max() == 1:
        return Finding("positions", False, "every slate has one item")
    if plain.uneven > MOST_UNEVEN * len(impressions):
        why = f"{plain.uneven / len(impressions):.0%} of the slates lack rows of some positions"
        return Finding("positions", False, why)
    if not clicks.holds:
        return Finding("positions", False, clicks.sentence)
    moved = (
        impressions.select(item="slate", position=pl.int_ranges(0, pl.col("slate").list.len()))
        .explode("item", "position")
        .group_by("item")
        .agg(at=pl.col("position").n_unique())
    )
    share = float((moved["at"] > 1).mean() or 0.0)  # type: ignore[arg-type]
    if share < 0.5:
        why = f"only {share:.0%} of the items were shown at more than one position"
        return Finding("positions", False, why)
    rates = plain.by_position.filter(pl.col("shown") > 0)
    first, last = (int(c) / int(s) for _, s, c in (rates.row(0), rates.row(-1)))
    return Finding(
        "positions", True, f"{first:.1%} of the first and {last:.1%} of the last are clicked"
    )


def _shown_and_clicked(plain: PlainLog) -> tuple[int, int]:
    slates = plain.impressions.select(pl.col("slate").list.len(), pl.col("click").list.sum())
    return int(slates["slate"].sum()), int(slates["click"].sum())


def _visits(plain: PlainLog) -> tuple[pl.DataFrame, float]:
    visits = plain.impressions.unique("visit", maintain_order=True).select(
        "shopper", "gap", "follow_up"
    )
    return visits, len(visits) / len(plain.users)


def _too_few_gaps(per_user: float, gaps: int) -> str:
    if per_user < ONE_VISIT:
        return (
            f"there is one visit a user ({per_user:.2f} in the mean), so that nothing comes later"
        )
    return f"only {gaps:,} visits follow another one of their user, and {LEAST_GAPS} are needed"


def _random_share(served: tuple[Served, ...]) -> float:
    total = sum(who.slates for who in served)
    share = sum(who.slates for who in served if who.random) / total
    return share if share >= RANDOM_SHARE else 0.0


def _has_propensities(plain: PlainLog) -> bool:
    """Whether nearly all slates have a propensity, of a policy that leaves something to chance."""
    chance = plain.impressions["propensity"]
    told: Any = (chance < -1e-6).mean()
    return chance.null_count() < 0.05 * len(chance) and float(told or 0.0) > 0.5


def _how_chosen(plain: PlainLog, served: tuple[Served, ...]) -> str:
    share = _random_share(served)
    parts = []
    if share:
        names = [_named(who.name) for who in served if who.random]
        parts.append(f"{share:.0%} of the slates look drawn at random ({', '.join(names[:3])})")
    if _has_propensities(plain):
        parts.append("slates have propensities")
    return " and ".join(parts)


def _days(days: int) -> str:
    return "1 day" if days == 1 else f"{days} days"


def _named(name: str | None) -> str:
    return "without a name" if name is None else repr(name)
