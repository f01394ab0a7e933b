"""A small log as a shop exports it, and its catalogue: frames that tests change and read.

Users u00, u01, .. come on some days, at the same hour; a visit is one slate at one time. An item of
category c is clicked with probability 0.1 + 0.1 c.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

START = datetime.datetime(2024, 3, 1, 10)
CATEGORIES = 4

Slate = Callable[[np.random.Generator, int, int], Any]
"""Items of a slate, from the generator, the user and the visit."""


def catalog(items: int = 40) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item": [f"i{item:03d}" for item in range(items)],
            "title": [f"Thing {item}" for item in range(items)],
            "category": [f"shelf {item % CATEGORIES}" for item in range(items)],
            "price": [1.5 + item for item in range(items)],
        }
    )


def log(
    users: int = 30,
    visits: int = 4,
    size: int = 5,
    items: int = 40,
    *,
    every: int = 2,
    slate: Slate | None = None,
    rate: Callable[[int, int], float] = lambda user, item: 0.1 + 0.1 * (item % CATEGORIES),
    policy: Callable[[int, int], str] | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Rows in the order of users and visits, `every` so many days a visit."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for visit in range(visits):
            time = START + datetime.timedelta(days=every * visit + user % 3)
            shown = (
                generator.permutation(items)[:size]
                if slate is None
                else slate(generator, user, visit)
            )
            for position, item in enumerate(shown, start=1):
                click = int(generator.random() < rate(user, int(item)))
                name = "all" if policy is None else policy(user, visit)
                rows.append((f"u{user:02d}", time, f"i{item:03d}", click, position, name))
    columns = ["user", "timestamp", "item", "click", "position", "policy"]
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    return frame.drop("policy") if policy is None else frame


def edited(frame: pl.DataFrame, row: int, **values: Any) -> pl.DataFrame:
    """The frame with other values in one row; a column takes the type of the value."""
    for name, value in values.items():
        column = frame[name].to_list()
        column[row] = value
        frame = frame.with_columns(pl.Series(name, column, strict=False))
    return frame
