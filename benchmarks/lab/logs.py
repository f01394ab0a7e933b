"""The log that scripts read: where it lies, what is in it, and its rows as arrays for scores."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich.console import Console
from torch import Tensor

import recsim_env
from benchmarks.lab import heldout
from benchmarks.lab.checked import Checked
from benchmarks.lab.folders import check_apart
from benchmarks.lab.log_checks import check_log, digest_of
from benchmarks.lab.settings import TABLES, share_settings
from recsim_env.catalog import Catalog
from recsim_env.logs import complete_journey
from recsim_env.logs.facts import FACTS_FILE, LogFacts
from recsim_env.logs.schema import (
    SPLITS,
    read_baskets,
    read_impressions,
    read_popularity,
    read_promotions,
    read_shoppers,
)
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.model import ROW_KINDS
from recsim_env.shoppers.household.promotions import StorePromotions

DEFAULT_LOG = Path(".cache/complete_journey")
"""Where the log lies unless another folder is named; the only one that is built unasked."""
SHIPPED_SHOPPER = Path(recsim_env.__file__).parent / "data" / "complete_journey"
"""The shopper that the package ships for the Complete Journey. As everything that is read from the
checkout it has an absolute path; what commands make lies below the current folder."""
KINDS = tuple(kind for kind in ROW_KINDS if kind != "repeat")
"""Names of the impression tables of a log."""


def ready(folder: Path, console: Console, outputs: Mapping[str, Path]) -> Path:
    """Check that a log can be read; only `DEFAULT_LOG` is built where it is missing.

    Args:
        folder: The folder of the log, into which nothing is written.
        console: Where a build is announced.
        outputs: The folders and files that the caller writes, by the names of their options.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If files of another folder are missing, or its build is not finished; the
            sentence names the command that builds a log.
        ValueError: If an output lies in the folder, or the folder in an output.
    """
    check_apart({"log": folder}, outputs)
    if folder == DEFAULT_LOG and not folder.exists():
        console.print(
            f"{folder} is missing: the Complete Journey log is built there, once, in about a "
            "minute."
        )
        with console.status("reading") as status:
            complete_journey.build(folder, progress=status.update)

    missing = [name for name in complete_journey.LOG_FILES if not (folder / name).is_file()]
    if FACTS_FILE in missing and complete_journey.has_facts(folder):
        missing.remove(FACTS_FILE)  # a build of an earlier version: its summary has them
    if missing or (folder / complete_journey.UNFINISHED_FILE).exists():
        what = f"lacks {', '.join(missing)}" if missing else "holds a build that is not finished"
        raise FileNotFoundError(
            f"{folder} {what}: write the tables of recsim_env/logs/schema.py and the facts of "
            "recsim_env/logs/facts.py there, or build the Complete Journey log by "
            f"python -m benchmarks.data.build_log --folder {shlex.quote(str(folder))}."
        )
    return folder


@dataclass(frozen=True, kw_only=True)
class ReadsLog(Checked):
    """The folder of the log, for the configuration of a command that reads one."""

    log: Path = DEFAULT_LOG
    """Folder of the log, by `benchmarks.data.build_log` or your own tables. It is read only; the
    default one is built first where it does not exist."""


@dataclass(frozen=True)
class Log:
    """A log in memory: facts, catalogue, baskets, shoppers, impressions, what the shop did."""

    facts: LogFacts
    catalog: Catalog
    baskets: pl.DataFrame
    shoppers: pl.DataFrame
    impressions: dict[str, pl.DataFrame]
    promotions: StorePromotions
    popularity: pl.DataFrame

    @classmethod
    def load(cls, folder: Path) -> Log:
        """Read and check all tables of a folder; nothing is written.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is not as its schema says, or does not fit the others.
        """
        facts, catalog = complete_journey.read_facts(folder), Catalog.load(folder)
        n = len(catalog)
        promotions = read_promotions(folder / "promotions.parquet", n, facts.n_placements)
        popularity = read_popularity(folder / "popularity.parquet", n)
        impressions = {kind: read_impressions(folder / f"{kind}.parquet", n) for kind in KINDS}
        shoppers = read_shoppers(folder / "shoppers.parquet")
        baskets = read_baskets(folder / "baskets.parquet", n, len(shoppers))
        check_log(folder, baskets, impressions, promotions, popularity)
        of_stores = StorePromotions.of(promotions, popularity, n)
        return cls(facts, catalog, baskets, shoppers, impressions, of_stores, popularity)

    @property
    def n_days(self) -> int:
        """Number of days from day 0 to the last visit."""
        return int(self.baskets["day"].max()) + 1  # type: ignore[arg-type]

    @property
    def cold(self) -> Tensor:
        """(N,) bool, the items that training never shows; none where the catalogue marks none."""
        cold = self.catalog.cold
        return torch.zeros(len(self.catalog), dtype=torch.bool) if cold is None else cold

    def examples(self, *, cold_hidden: bool) -> Examples:
        """Make histories and scored rows.

        Args:
            cold_hidden: Whether cold items are left out of every history, as training must.
        """
        hidden = self.catalog.cold if cold_hidden else None
        return Examples.of(
            self.catalog,
            self.baskets,
            self.impressions,
            self.promotions,
            mailers=self.facts.placements[1],
            hidden=hidden,
            generator=torch.Generator().manual_seed(0),
        )


def need_cold_items(log: Log, folder: Path) -> Tensor:
    """(N,) bool, the cold items of a log.

    Raises:
        ValueError: If its catalogue marks none.
    """
    if log.catalog.cold is None:
        raise ValueError(
            f"{folder} marks no items as cold, but what is judged here includes new items."
        )
    return log.catalog.cold


def opened_log(
    folder: Path, outputs: Mapping[str, Path], told: Mapping[str, Any], console: Console
) -> Log:
    """Load a log with cold items, and remember what `outputs["output"]` is filled from.

    Args:
        folder: The folder of the log.
        outputs: The folders that the caller writes, see `ready`.
        told: The settings that everything in the output folder shares.
        console: Where a build is announced.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If it has no cold items, or the output folder was filled with other settings or
            from other tables.
    """
    log = Log.load(ready(folder, console, outputs))
    need_cold_items(log, folder)
    share_settings(outputs["output"], {**told, TABLES: digest_of(folder)})
    return log


def rows_of(examples: Examples, split: str, kinds: tuple[str, ...]) -> Tensor:
    """Find the rows of a split and of some kinds: (R,) indices."""
    wanted = torch.tensor([kind in kinds for kind in ROW_KINDS])
    in_split = examples.split[examples.row_visit] == SPLITS.index(split)
    return (in_split & wanted[examples.row_kind]).nonzero().flatten()


def cold_splits(log: Log, hidden: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Case-control rows of the train weeks, and those of cold items in valid and test weeks."""
    train, valid, test = (rows_of(hidden, split, ("case_control",)) for split in SPLITS)
    of_valid, of_test = (rows[log.cold[hidden.row_item[rows]]] for rows in (valid, test))
    return train, of_valid, of_test


def scored_rows(examples: Examples, rows: Tensor, chance: Tensor) -> heldout.Rows:
    """Put rows (R,) of the examples beside their predicted chances (R,), as arrays of float64."""
    visit = examples.row_visit[rows]
    return heldout.Rows(
        label=examples.row_label[rows].double().numpy(),
        weight=examples.row_weight[rows].double().numpy(),
        chance=chance.double().numpy(),
        shopper=examples.visits.shopper[visit].numpy(),
        slate=visit.numpy(),
    )


def sorted_rows(examples: Examples, rows: Tensor, logit: Tensor) -> heldout.Rows:
    """As `scored_rows`, from logits (R,), and sorted by them: later sorts are then quick."""
    order = logit.argsort()
    return scored_rows(examples, rows[order], torch.sigmoid(logit[order].double()))


def week_range(weeks: tuple[int, int]) -> str:
    """Write weeks as a text: "49-53"."""
    return f"{weeks[0]}-{weeks[1]}"


def plain_files(folder: Path, command: str) -> tuple[Path, Path]:
    """The log and the catalogue in a folder.

    Raises:
        FileNotFoundError: If they are missing; the message names the command that writes them.
    """
    files = folder / "log.csv", folder / "catalog.csv"
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run python -m {command}.")
    return files
