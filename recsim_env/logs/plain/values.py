"""How clicks and times are written in logs, and what they mean here."""

from __future__ import annotations

import datetime
import math
import zoneinfo
from dataclasses import dataclass

import polars as pl

from recsim_env import checks
from recsim_env.logs.schema import LogError

EARLIEST = datetime.datetime(1971, 1, 1)
"""Times below are no times: numbers that count something else end in 1970."""
LATEST = datetime.datetime(2200, 1, 1)
TIME_EXPECTED = (
    "a time from 1971 to 2199, written YYYY-MM-DD HH:MM:SS or as a number of seconds, "
    "milliseconds, microseconds or nanoseconds since 1970"
)
ZONED_EXPECTED = (
    "a time from 1971 to 2199 with its zone, which other rows have, written "
    "YYYY-MM-DD HH:MM:SS+02:00"
)
CLICK_EXPECTED = "0 or 1, true or false, yes or no, or a count"
_YES, _NO = {"true", "t", "yes", "y"}, {"false", "f", "no", "n"}
_UNITS = ((1e11, "s", 10**6), (1e14, "ms", 10**3), (1e17, "us", 1), (math.inf, "ns", 10**-3))
"""Numbers below the first bound are seconds, and so on; microseconds a unit."""
_ISO = r"^\s*\d{4}-\d{1,2}-\d{1,2}"
_ZONED = r"\d:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|[+-]\d{2}:?\d{2})\s*$"
_WRITTEN_OTHERWISE = 10_000  # distinct texts of a click column at most


def read_deed(text: object) -> float | None:
    """Read a click or a purchase: how often, 0 where not; None where it says no whole number."""
    word = str(text).strip().lower()
    if word in _YES or word in _NO:
        return float(word in _YES)
    try:
        count = float(word)
    except ValueError:
        return None
    return count if count >= 0 and count.is_integer() else None


def deeds(column: pl.Series) -> tuple[pl.Series, bool, bool]:
    """Read a column of clicks or purchases.

    Returns:
        Whether it was done, null where that is unreadable or missing; whether counts above 1 were
        met; whether words were met.
    """
    if column.dtype == pl.Boolean():
        return column, False, False
    values = column.unique().drop_nulls()
    if column.dtype.is_numeric():
        real = column.cast(pl.Float64)
        whole = (real >= 0) & real.is_finite() & (real == real.floor())
        done = pl.select(pl.when(whole).then(real > 0)).to_series()
        return done, bool((real > 1).any()), False
    told = {text: read_deed(text) for text in values.head(_WRITTEN_OTHERWISE)}
    meant = {text: None if count is None else count > 0 for text, count in told.items()}
    done = column.replace_strict(
        list(meant), list(meant.values()), default=None, return_dtype=pl.Boolean
    )
    words = any(str(text).strip().lower() in _YES | _NO for text in told)
    return done, any((count or 0) > 1 for count in told.values()), words


@dataclass(frozen=True)
class Clock:
    """How a column of times is read."""

    time: pl.Expr
    """Datetime("us"), with the shop's zone where instants are known, so that an hour that its clock
    repeats stays two; null where it cannot be read."""
    said: str
    """What was done, as a sentence."""
    expected: str = TIME_EXPECTED
    """What a message says of a value that cannot be read."""


def clock(column: str, sample: pl.Series, zone: str | None) -> Clock:
    """Look at some times, and choose how the whole column is read.

    Args:
        column: Name of the column.
        sample: Its first values.
        zone: The zone to whose clock times that say their zone, and numbers, are converted; None is
            UTC.

    Raises:
        LogError: If no value of the sample is a time.
        ValueError: If `zone` is no time zone.
    """
    if zone is not None and zone not in zoneinfo.available_timezones():
        raise ValueError(
            f"time_zone is {checks.told(zone)}, but it must be a name such as 'Europe/Berlin'."
        )
    local, dtype, value = zone or "UTC", sample.dtype, pl.col(column)
    if dtype == pl.Date():
        return Clock(value.cast(pl.Datetime("us")), "Times are dates without a time of day.")
    if isinstance(dtype, pl.Datetime):
        time = value.cast(pl.Datetime("us", dtype.time_zone))
        if dtype.time_zone is None:
            return Clock(time, "Times have no zone and are taken as the shop's local time.")
        return Clock(_local(time, local), _said(f"Times of the zone {dtype.time_zone}", local))
    numbers = sample.cast(pl.Float64, strict=False).drop_nulls()
    if dtype.is_numeric() or (len(numbers) and len(numbers) >= 0.5 * len(sample.drop_nulls())):
        size = float(numbers.abs().median() or 0)  # type: ignore[arg-type]
        unit, factor = next((name, factor) for bound, name, factor in _UNITS if size < bound)
        # Whole numbers stay so: a float holds no nanoseconds since 1970 exactly.
        kind = pl.Float64 if dtype.is_float() or unit in ("s", "ms") else pl.Int64
        count = value.cast(kind, strict=False)
        inside = count.is_finite() if kind is pl.Float64 else count.is_not_null()
        micros = count // 1000 if unit == "ns" else count * int(factor)
        time = (
            pl.when(inside & (micros.abs() < 2.0e17))
            .then(micros)
            .cast(pl.Int64, strict=False)
            .cast(pl.Datetime("us"))
        )
        return Clock(
            _local(time.dt.replace_time_zone("UTC"), local),
            _said(f"Times are numbers of {unit} since 1970 (UTC)", local),
        )
    return _of_texts(column, sample.cast(pl.String).drop_nulls(), local)


def _of_texts(column: str, sample: pl.Series, local: str) -> Clock:
    if not sample.str.contains(_ISO).any():
        found = checks.told(sample[0]) if len(sample) else "nothing"
        raise LogError(f"column '{column}': found {found}, expected {TIME_EXPECTED}.")
    text = pl.col(column).str.strip_chars()
    if sample.str.contains(_ZONED).any():
        time = text.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
        return Clock(_local(time, local), _said("Times say their zone", local), ZONED_EXPECTED)
    time = text.str.to_datetime(time_unit="us", strict=False)
    return Clock(time, "Times have no zone and are taken as the shop's local time.")


def _local(time: pl.Expr, zone: str) -> pl.Expr:
    return time.dt.convert_time_zone(zone)


def _said(found: str, zone: str) -> str:
    return f"{found}; they were converted to the clock of {zone}."
