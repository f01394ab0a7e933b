"""Newer rows of a shop's log, laid behind those that its folder holds: users, days and visits.

Users are those of the folder by their ids, and new ones. Days go on from the folder's day 0. How
many days lie between visits, and how long users were watched, is told anew from the whole.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recsim_env import checks, files
from recsim_env.catalog import Catalog
from recsim_env.logs.facts import LogFacts
from recsim_env.logs.plain.items import texts_of
from recsim_env.logs.plain.reading import Plain, PlainLog, read_leniently
from recsim_env.logs.plain.users import Feature
from recsim_env.logs.plain.visits import facts_of
from recsim_env.logs.schema import IMPRESSIONS, read_impressions
from recsim_env.logs.sessions import Sessions
from recsim_env.shop_file import LOG, SESSION, SHOP_FILE, ShopFile


@dataclass(frozen=True)
class Grown:
    """A shop's log with newer rows behind it."""

    impressions: pl.DataFrame
    """One row a slate, as `recsim_env.logs.schema.IMPRESSIONS`, old and new."""
    users: pl.DataFrame
    """`shopper`, `user` and `split`."""
    declared: pl.DataFrame | None
    """`shopper` and `declared`; None where the shop does not ask."""
    facts: LogFacts
    """Facts of the whole log."""
    first_new: int
    """Day of the first new row."""
    slate_size: int
    """K, that of the shop."""
    most_steps: int
    """Number of slates of a user that are used at most, the last ones."""

    def used(self, before: int | None = None) -> pl.DataFrame:
        """Return the last slates of every user before a day; None means of the whole log.

        A fit keeps the first ones, for users begin as newcomers; an update is about the newest.
        """
        rows = self.impressions
        if before is not None:
            rows = timed(rows.filter(pl.col("day") < before), before - 1)
        return rows.sort(IMPRESSIONS.key).filter(
            pl.int_range(pl.len(), 0, -1).over("shopper") <= self.most_steps
        )

    def sessions(self, before: int | None = None) -> Sessions:
        """Make the episodes of all users, as if the log ended before a day; None means never."""
        rows, declared = self.used(before), self.declared
        if declared is not None:
            declared = declared.join(rows.select("shopper").unique(), on="shopper", how="semi")
        return Sessions.of(rows, declared, slate_size=self.slate_size, most_steps=self.most_steps)

    def splits(self, before: int | None = None) -> list[str]:
        """Return the split of each episode of `sessions`."""
        rows = self.impressions
        rows = rows if before is None else rows.filter(pl.col("day") < before)
        there = self.users.join(rows.select("shopper").unique(), on="shopper", how="semi")
        return there.sort("shopper")["split"].to_list()


def grown(
    site: Path,
    log: Plain,
    catalog: Plain,
    goods: Catalog,
    *,
    columns: Mapping[str, str] | str | None = None,
    time_zone: str | None = None,
) -> Grown:
    """Read newer rows of the log of a shop, and lay them behind the older ones.

    Args:
        site: The folder that `recsim_env.fit` wrote; nothing is written to it.
        log: The new rows, as `recsim_env.fit` reads a log.
        catalog: The catalogue that the shop was fitted with.
        goods: The catalogue of the folder.
        columns: Names in the files by column; None means those that the shop was fitted with.
        time_zone: The zone of the shop's clock, as the shop was fitted with.

    Raises:
        LogError: If a file is not as said.
        ValueError: If the folder holds no log, the catalogue has other items, the new rows begin
            before the old ones end, or new users declare what cannot be told as the shop does.
    """
    told = _told(site)
    plain = read_leniently(
        log,
        catalog,
        columns=told["log"]["columns"] if columns is None else columns,
        time_zone=time_zone,
        seed=told["config"]["seed"],
        may_lack=(),
        told_features=_features(told["log"]["declared"]),
    )
    if tuple(texts_of(plain.items)) != goods.text or tuple(plain.items["path"]) != goods.path:
        raise ValueError(
            f"catalog is {plain.catalog_name}, but it must hold the {len(goods)} items that "
            f"{site} was fitted with, in their order: new items need a new fit."
        )
    old = read_impressions(site / LOG / "impressions.parquet", len(goods))
    users = pl.read_parquet(site / LOG / "users.parquet")
    day_zero = datetime.date.fromisoformat(told["log"]["first_day"])
    shift = (plain.facts.day_zero - day_zero).days
    last = int(old["day"].max())  # type: ignore[arg-type]
    if shift <= last:
        raise ValueError(
            f"log is {plain.name}, whose first day is {plain.facts.day_zero}, but it must be after "
            f"{day_zero + datetime.timedelta(days=last)}, the last day that {site} knows."
        )

    first = int(users["shopper"].max()) + 1  # type: ignore[arg-type]
    number, whole_users = _numbered(users, plain.users, first)
    whole = _behind(old, plain.impressions, shift, number, whole_users)
    return Grown(
        whole,
        whole_users,
        _declared(site, plain, number, first, told["log"]["declared"]),
        facts_of(whole),
        shift,
        ShopFile.read(site).slate_size,
        told["config"]["most_steps"],
    )


def _numbered(
    users: pl.DataFrame, newer: pl.DataFrame, first: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give the users of newer rows the numbers that they have, and those from `first` to new ones.

    Returns:
        `shopper` in the newer rows and the number `known` in the shop, and all users of both.
    """
    names = newer.join(users.select("user", known="shopper"), on="user", how="left")
    fresh = names.filter(pl.col("known").is_null()).sort("shopper")
    fresh = fresh.with_columns(known=pl.int_range(pl.len()) + first)
    number = pl.concat([names.filter(pl.col("known").is_not_null()), fresh])
    whole = pl.concat(
        [users, fresh.with_columns(shopper=pl.col("known")).select(users.columns)],
        how="vertical_relaxed",
    )
    return number.select("shopper", pl.col("known").cast(pl.Int64)), whole.sort("shopper")


def _behind(
    old: pl.DataFrame, newer: pl.DataFrame, shift: int, number: pl.DataFrame, users: pl.DataFrame
) -> pl.DataFrame:
    """Lay newer rows behind old ones, in the numbers and days of the shop.

    Args:
        old: One row a slate.
        newer: Likewise.
        shift: The day of the shop on which the newer rows begin.
        number: `shopper` of the newer rows, and the `known` number of each.
        users: All users, with their `split`.
    """
    rows = (
        newer.join(number, on="shopper", how="left", maintain_order="left")
        .with_columns(
            shopper=pl.col("known"),
            visit=pl.col("visit") + int(old["visit"].max()) + 1,  # type: ignore[arg-type]
            day=pl.col("day") + shift,
        )
        .drop("known")
    )
    rows = pl.concat([old, rows.select(old.columns).cast(old.schema)])
    split = users.select("shopper", of_user="split")
    rows = (
        rows.join(split, on="shopper", how="left", maintain_order="left")
        .with_columns(split=pl.col("of_user"), week=(pl.col("day") // 7).cast(old.schema["week"]))
        .drop("of_user")
    )
    end = int(rows["day"].max())  # type: ignore[arg-type]
    return IMPRESSIONS.completed(timed(rows, end))


def timed(rows: pl.DataFrame, end: int) -> pl.DataFrame:
    """Tell anew the days from each visit to the next, and those through which it was watched.

    Args:
        rows: One row a slate, as `recsim_env.logs.schema.IMPRESSIONS`.
        end: The last day of the log.
    """
    rows = rows.sort("shopper", "day", "visit", "page")
    visits = (
        rows.group_by("visit", maintain_order=True)
        .agg(pl.col("shopper", "day").first())
        .with_columns(next=pl.col("day").shift(-1).over("shopper"))
        .select(
            "visit",
            gap=(pl.col("next") - pl.col("day")).cast(rows.schema["gap"]),
            follow_up=(end - pl.col("day")).cast(rows.schema["follow_up"]),
        )
    )
    return (
        rows.drop("gap", "follow_up")
        .join(visits, on="visit", how="left", maintain_order="left")
        .select(rows.columns)
    )


def days_of(sessions: Sessions) -> Tensor:
    """Return the day of the log of every step: (S, T) int64."""
    return sessions.first_day.unsqueeze(1) + sessions.days.to(torch.int64)


def _told(site: Path) -> dict[str, Any]:
    """Return `shop.json` of a folder with the log that its shoppers were fitted to.

    Raises:
        ValueError: If it is no such folder.
    """
    path = checks.path("site", site) / SHOP_FILE
    found = files.read_object(path) if path.is_file() else {}
    if found.get("kind") != SESSION or not (site / LOG / "users.parquet").is_file():
        raise ValueError(
            f"site is {str(site)!r}, but it must be a folder that recsim_env.fit wrote, with its "
            "log in it."
        )
    return found


def _features(names: list[str]) -> list[Feature] | None:
    """Return how columns of categories became numbers of these names; None where there is none."""
    values: dict[str, list[str]] = {}
    for name in names:
        column, equals, value = name.partition("=")
        if equals:
            values.setdefault(column, []).append(value)
    return [Feature(column, tuple(found[:-1])) for column, found in values.items()] or None


def _declared(
    site: Path, plain: PlainLog, number: pl.DataFrame, first: int, names: list[str]
) -> pl.DataFrame | None:
    """Return what all users declare, in the numbers of the shop; None where it does not ask.

    Raises:
        ValueError: If there are new users of whom the log says nothing, or of whom the shop asks
            for plain numbers, which were scaled by users of its own log.
    """
    if not names:
        return None
    old = pl.read_parquet(site / LOG / "declared.parquet")
    fresh = number.filter(pl.col("known") >= first)
    if fresh.height == 0:
        return old
    if scaled := [name for name in names if "=" not in name]:
        raise ValueError(
            f"log is {plain.name}, which has new users, but {site} knows their {scaled[0]!r} as a "
            "number that was scaled by its own users: fit the shop anew."
        )
    if plain.declared is None:
        raise ValueError(
            f"log is {plain.name}, which has new users, but it lacks the columns that {site} knows "
            f"of every user: {', '.join(dict.fromkeys(one.partition('=')[0] for one in names))}."
        )
    new = fresh.join(plain.declared, on="shopper", how="left").select(
        shopper=pl.col("known"), declared=pl.col("declared")
    )
    return pl.concat([old, new.cast(old.schema)]).sort("shopper")
