"""Slates as the impression table of `recsim_env.logs.schema`: visits, pages, days and gaps."""

from __future__ import annotations

import datetime

import polars as pl

from recsim_env.logs.facts import LogFacts
from recsim_env.logs.plain.slates import SILENCE
from recsim_env.logs.plain.sources import ROW
from recsim_env.logs.schema import DAYS, IMPRESSIONS, LogError

WEEKS_A_YEAR = 52
NO_SCENARIO = "shown"
"""The scenario of logs that tell none."""


def impressions_of(slates: pl.DataFrame, split: pl.Series, name: str) -> pl.DataFrame:
    """Number visits and pages, and tell days and the days until the next visit.

    Args:
        slates: One row a slate, as `Slates.frame`.
        split: The split of each shopper.
        name: The file of the log, for messages.

    Raises:
        LogError: If the log spans more days than tables can hold.
    """
    slates = slates if "visit" in slates.columns else _with_visits(slates)
    keys = ["visit", *[key for key in ("page", "time", "scenario") if key in slates.columns], ROW]
    slates = slates.sort(keys).with_columns(
        page=pl.int_range(pl.len()).over("visit"), time=pl.col("time").min().over("visit")
    )
    # On the shop's clock: in an hour that it repeats, time stands still rather than go back.
    here = pl.col("time", "end").dt.replace_time_zone(None)
    slates = slates.with_columns(here.cum_max().over("shopper"))
    first, last = slates.select(
        first=pl.col("time").min().dt.date(), last=pl.col("end").max().dt.date()
    ).row(0)
    if (last - first).days > DAYS:
        raise LogError(f"{name}: found {(last - first).days:,} days, expected {DAYS:,} at most.")
    visits = (
        slates.group_by("visit", maintain_order=True)
        .agg(pl.col("shopper", "time").first())
        .with_columns(day=(pl.col("time").dt.date() - first).dt.total_days())
        .with_columns(next=pl.col("day").shift(-1).over("shopper"))
        .select(
            "visit",
            "day",
            gap=pl.col("next") - pl.col("day"),
            follow_up=(last - first).days - pl.col("day"),
        )
    )
    has = set(slates.columns)
    whole = slates.join(visits, on="visit", how="left", maintain_order="left").with_columns(
        week=pl.col("day") // 7,
        store=pl.lit(0),
        scenario=pl.col("scenario").fill_null(NO_SCENARIO)
        if "scenario" in has
        else pl.lit(NO_SCENARIO),
        split=split.gather(slates["shopper"]),
    )
    return IMPRESSIONS.completed(whole)


def _with_visits(slates: pl.DataFrame) -> pl.DataFrame:
    """End a visit after half an hour of silence, or where pages do not go on."""
    new = (pl.col("shopper") != pl.col("shopper").shift(1)) | (
        pl.col("time") - pl.col("end").shift(1) > pl.duration(minutes=SILENCE)
    )
    if "page" in slates.columns:
        later = pl.col("page") > pl.col("page").shift(1)
        if "scenario" in slates.columns:  # one page may show several kinds of slates
            later |= (pl.col("page") == pl.col("page").shift(1)) & (
                pl.col("scenario").ne_missing(pl.col("scenario").shift(1))
            )
        new = new | ~later
    return slates.with_columns(visit=new.fill_null(True).cum_sum() - 1)


def facts_of(impressions: pl.DataFrame) -> LogFacts:
    """Tell the first day and the weeks. Users are split and not weeks: train has all of them."""
    start: datetime.datetime = impressions["time"].min()  # type: ignore[assignment]
    last = int(impressions["week"].max())  # type: ignore[arg-type]
    after = (last + 1, last)
    return LogFacts(start.date(), WEEKS_A_YEAR, (1, 1), ((0, last), after, after))
