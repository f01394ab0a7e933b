"""Users of a log: which are kept and how they are split, and what was known of them beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from recsim_env.logs.plain.sources import ROW, Source, as_number, as_text
from recsim_env.logs.schema import SPLITS, LogError

SHARES = (0.8, 0.1, 0.1)
"""Shares of the users that train, check and test models."""
LEAST_USERS = 20
"""Users below which there are not two each to check and to test on."""
MOST_CATEGORIES = 15
"""Values of a `user_*` column that have a number of their own; the others share one."""
OTHER = "other"


@dataclass(frozen=True)
class Feature:
    """How a `user_*` column becomes numbers in [-1, 1]."""

    name: str
    values: tuple[str, ...] = ()
    """Categories that have a number of their own, 1 where a user has it and 0 where not; after
    them comes one for all other values. Empty for a column of numbers."""
    mean: float = 0.0
    """Mean of the training users, which stands for a number that is missing."""
    deviation: float | None = None
    """Standard deviation of the training users: a number x becomes tanh((x - mean) / (2
    deviation)). None leaves numbers as they are, since all of them lie in [-1, 1]."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its numbers."""
        if not self.values:
            return (self.name,)
        return tuple(f"{self.name}={value}" for value in (*self.values, OTHER))

    def numbers(self) -> list[pl.Expr]:
        """Make its numbers from the column of that name."""
        value = pl.col(self.name)
        if self.values:
            own = [(value == told).fill_null(False) for told in self.values]
            other = value.is_not_null() & ~value.is_in(list(self.values))
            return [flag.cast(pl.Float32) for flag in (*own, other)]
        if self.deviation is None:
            return [value.fill_null(self.mean).cast(pl.Float32)]
        half = value.fill_null(self.mean) / 2 - self.mean / 2  # no overflow
        squashed = (half / self.deviation).tanh()
        return [squashed.cast(pl.Float32)]


def luck(users: pl.Series, purpose: str, seed: int) -> pl.Series:
    """Draw a number for each user from a hash of the id, the same in every log and order."""
    head = f"{purpose}:{seed}:".encode()
    drawn = (
        int.from_bytes(hashlib.blake2b(head + user.encode(), digest_size=7).digest(), "big")
        for user in users
    )
    return pl.Series("luck", drawn, dtype=pl.Int64)


def sampled(users: pl.DataFrame, size: str, most: int, seed: int) -> pl.DataFrame:
    """Keep users drawn by their ids while their sizes add up to `most` or less; at least one."""
    if int(users[size].sum()) <= most:
        return users
    drawn = users.with_columns(luck(users["user"], "sample", seed)).sort("luck")
    kept = drawn.filter((pl.col(size).cum_sum() <= most) | (pl.int_range(pl.len()) == 0))
    return kept.drop("luck").sort("user")


def split(users: pl.Series, seed: int) -> pl.Series:
    """Split users by their ids: the shares of `SHARES` are exact but for rounding."""
    place = luck(users, "split", seed).rank("ordinal").cast(pl.Int64) - 1
    held = [max(round(share * len(users)), 1) for share in SHARES[1:]]
    ends = (len(users) - sum(held), len(users) - held[1])
    return pl.select(
        pl.when(place < ends[0])
        .then(pl.lit(SPLITS[0]))
        .when(place < ends[1])
        .then(pl.lit(SPLITS[1]))
        .otherwise(pl.lit(SPLITS[2]))
        .alias("split")
    ).to_series()


def features_of(known: pl.DataFrame, split: pl.Series) -> tuple[pl.DataFrame, tuple[Feature, ...]]:
    """Choose how `user_*` columns become numbers, by the training users alone.

    Args:
        known: The texts or numbers of each user, one column a feature.
        split: The split of each user.

    Returns:
        `known` with columns of numbers where texts can be read so, and the features. A text that is
        known of no training user has nothing to be learned from: it counts as a number that is
        missing.
    """
    typed = known.select(_typed(column) for column in known)
    train = typed.filter(split == SPLITS[0])
    unlearned = [
        pl.lit(None, pl.Float64).alias(column.name)
        for column in train
        if column.dtype == pl.String() and column.null_count() == len(column)
    ]
    typed, train = typed.with_columns(unlearned), train.with_columns(unlearned)
    return typed, tuple(_feature(train[name], typed[name]) for name in typed.columns)


def as_told(
    known: pl.DataFrame, features: Sequence[Feature], name: str
) -> tuple[pl.DataFrame, tuple[Feature, ...]]:
    """Let `user_*` columns of categories become numbers as an earlier log decided.

    Args:
        known: The texts or numbers of each user, one column a feature.
        features: How its columns become numbers, those of categories.
        name: The file of the log, for messages.

    Raises:
        LogError: If a column is missing.
    """
    for feature in features:
        if feature.name not in known.columns:
            raise LogError(
                f"{name}: found no column {feature.name!r}, expected it: the shop knows it of "
                "every user."
            )
    return known.select(pl.col(one.name).cast(pl.String) for one in features), tuple(features)


def _typed(column: pl.Series) -> pl.Series:
    if column.dtype.is_numeric() or column.dtype == pl.Boolean():
        numbers = column.cast(pl.Float64)
        return numbers.set(~numbers.is_finite(), None)
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() == column.null_count() and numbers.is_finite().all():
        return numbers
    return column.cast(pl.String)


def _feature(train: pl.Series, everybody: pl.Series) -> Feature:
    if train.dtype == pl.String():
        counts = (
            train.drop_nulls().value_counts().sort("count", train.name, descending=[True, False])
        )
        return Feature(train.name, tuple(counts[train.name].head(MOST_CATEGORIES)))
    # Numbers may be so large that their sum is none: they are added up in parts of the largest.
    largest = float(train.abs().max() or 1.0)  # type: ignore[arg-type]
    parts = train / largest
    mean = float(parts.mean() or 0.0) * largest  # type: ignore[arg-type]
    if bool((everybody.drop_nulls().abs() <= 1).all()):
        return Feature(train.name, mean=mean)
    deviation = float(parts.std() or 0.0) * largest  # type: ignore[arg-type]
    return Feature(train.name, mean=mean, deviation=deviation or 1.0)


def declared_of(known: pl.DataFrame, features: tuple[Feature, ...]) -> pl.DataFrame:
    """Make the table of what each user had declared, users in order."""
    numbers = [
        number.alias(str(at))
        for at, number in enumerate(number for feature in features for number in feature.numbers())
    ]
    return known.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("shopper"),
        pl.concat_list(numbers).cast(pl.List(pl.Float32)).alias("declared"),
    )


def count_users(source: Source, user: str | None, features: Mapping[str, str]) -> pl.DataFrame:
    """Count every user's rows, and find the least and the largest value of each feature.

    Args:
        source: The log.
        user: Its column of users; None makes every row a user of its own.
        features: Names of the `user_*` columns in the file.

    Returns:
        `user`, `rows`, `first` row, and `NAME` and `NAME max` for each feature; sorted by user.
    """
    who = as_text(user, source.schema[user]) if user else _numbered()
    spans: list[pl.Expr] = []
    for name, column in features.items():
        value = feature_value(column, source.schema[column])
        spans += [value.min().alias(name), value.max().alias(f"{name} max")]
    counts = source.frame.group_by(who.alias("user")).agg(
        pl.len().cast(pl.Int64).alias("rows"), pl.col(ROW).min().alias("first"), *spans
    )
    return source.collect(counts).sort("user")


def _numbered() -> pl.Expr:
    return pl.col(ROW).cast(pl.String).str.zfill(10)


def user_text(source: Source, user: str | None) -> pl.Expr:
    """The id of a row's user as a text."""
    return as_text(user, source.schema[user]) if user else _numbered()


def feature_value(column: str, dtype: pl.DataType) -> pl.Expr:
    """The value of a `user_*` column, as a text or a number."""
    if dtype == pl.String():
        return pl.col(column).str.strip_chars()
    if dtype.is_numeric() or dtype == pl.Boolean():
        return as_number(column, dtype)
    return pl.col(column).cast(pl.String)


def first_values(
    source: Source, features: Mapping[str, str], users: pl.DataFrame, first: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Find what was known of each user before the first visit.

    Args:
        source: The log.
        features: Names of the `user_*` columns in the file.
        users: What `count_users` found of the users that are kept, in the order of shoppers.
        first: `shopper` and `ROW`: each shopper's first row in time.

    Returns:
        One column a feature, one row a shopper; and for each feature whose value changes, how many
        users have several.
    """
    changing: dict[str, Any] = {}
    for name in features:
        several = int((users[name] != users[f"{name} max"]).sum())
        if several:
            changing[name] = several
    known = users.select(*features)
    if changing:
        wanted = first.lazy().select(pl.col(ROW), "shopper")
        there = source.collect(
            source.frame.select(
                ROW,
                *(
                    feature_value(features[name], source.schema[features[name]]).alias(name)
                    for name in changing
                ),
            ).join(wanted, on=ROW, how="inner")
        ).sort("shopper")
        known = known.with_columns(there[name] for name in changing)
    return known, changing
