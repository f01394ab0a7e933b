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
from pathlib import Path
from typing import ClassVar

import polars as pl
import torch
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

from benchmarks.lab.cold_rows import (
    ColdRows,
    fit_head,
    plain_columns,
    read_rows,
    steps_for,
    text_columns,
)
from benchmarks.lab.command import run_command
from benchmarks.lab.encoder_report import METRICS, ROW, encoder_report
from benchmarks.lab.encoders import ENCODERS, encode
from benchmarks.lab.heldout import numbered, with_samples
from benchmarks.lab.logs import (
    Log,
    ReadsLog,
    cold_splits,
    opened_log,
    sorted_rows,
)
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import TABLES, check_settings, settings_of
from benchmarks.lab.threads import use_threads
from benchmarks.shopper.baselines import platt
from recsim_env.files import read_json, write_json
from recsim_env.settings import NONE_OR_MORE, Within
from recsim_env.shoppers.household.examples import Examples

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
    use_threads(config.threads)
    run, console = Run("language", config, results=config.results), Console()
    told = settings_of(config, only=COMMON)
    check_settings(config.output, told, free=(TABLES,))
    cells = [
        Cell(encoder, rows, seed)
        for encoder in config.encoders
        for rows in config.rows
        for seed in config.seeds
    ]
    missing = [cell for cell in cells if not cell.path(config.output).exists()]
    if missing:
        outputs = {"output": config.output, "results": run.folder}
        log = opened_log(config.log, outputs, told, console)
        play(missing, log, config)
    found = [row for cell in cells for row in read_json(cell.path(config.output))]
    table = pl.DataFrame(found, schema=ROW)
    run.publish(table, report(table))


# ---- rows ----------------------------------------------------------------------------------------


def play(cells: list[Cell], log: Log, config: Config) -> None:
    """Fit and score cells, encoder by encoder, and write the rows of each."""
    # Vectors of all texts come first, as it is here that something may be missing.
    folder, texts = config.output / "vectors", list(log.catalog.text)
    encoded = {
        name: encode(name, texts, folder / f"{name}.safetensors")
        for name in dict.fromkeys(cell.encoder for cell in cells)
    }

    # Rows of the train weeks, and those of cold items in the other weeks.
    hidden = log.examples(cold_hidden=True)
    splits = cold_splits(log, hidden)
    plain = [plain_columns(hidden, rows, log.facts.placements) for rows in splits]

    # The cells of each encoder.
    for encoder, (vectors, seconds) in encoded.items():
        read = [
            read_rows(hidden, rows, columns, text_columns(hidden, rows, vectors))
            for columns, rows in zip(plain, splits, strict=True)
        ]
        facts = {"width": [float(vectors.shape[1])], "seconds": [seconds]}
        own = [cell for cell in cells if cell.encoder == encoder]
        for cell in tqdm(own, desc=encoder, unit="cell"):
            values = scored(cell, read, splits, hidden, config) | facts
            place = {"encoder": encoder, "rows": cell.rows, "seed": cell.seed}
            write_json(cell.path(config.output), numbered(values, **place))


def scored(
    cell: Cell,
    read: list[ColdRows],
    splits: tuple[Tensor, ...],
    hidden: Examples,
    config: Config,
) -> dict[str, list[float]]:
    """Fit the head of a cell, calibrate it on the valid weeks, and score it on the test weeks.

    Rows of the train, valid and test weeks are given as the head reads them, and by their indices
    in the examples, in whose histories cold items are hidden.

    Returns:
        The score and its bootstrap samples, by metric, and the number of households.
    """
    train, valid, test = read
    taught = train
    if cell.rows:
        drawn = torch.randperm(len(train.item), generator=torch.Generator().manual_seed(cell.seed))
        taught = train.only(drawn[: cell.rows])
    head = fit_head(taught, valid, len(hidden.first[0]), steps_for(cell.rows), cell.seed)
    with torch.no_grad():
        on_valid, on_test = head(valid.read), head(test.read)
    scale, shift = platt(on_valid, valid.label, hidden.row_weight[splits[1]])
    table = sorted_rows(hidden, splits[2], on_test * scale + shift)
    values = with_samples(table, METRICS, samples=config.samples)
    return values | {"households": [float(table.households)]}


# ---- report --------------------------------------------------------------------------------------


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows."""
    return encoder_report(rows, "all")


if __name__ == "__main__":
    run_command(main, Config)
