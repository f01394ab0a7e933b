"""What titles tell a shop that is young: `python -m benchmarks.shopper.young_shop`.

A shop with few rows has seen most of its items a few times or never. Its shoppers
(`recsim_env.fit`) are told of an item by its vector: principal components of MiniLM's vector of its
text, and who clicked what. Here they are fitted to the first slates of a log, MovieLens-100k unless
another one is named, with texts that differ:

    category    the item's category alone
    shuffled    the category, and the title of another item: titles without their meaning
    titles      the category and the item's title

All predict the same held-out users, whose slates hold items that the young shop has never shown
(`unmet`) and others. Every cell has a file of its own: a command that was stopped goes on. An
interval holds two sources of error, the held-out users and the seeds of the fits, which also draw
the users that the shop knows; differences are paired in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure

from benchmarks.lab.command import run_command
from benchmarks.lab.heldout import Rows, mean_of, numbered, over_fits, samples_by_fit, with_samples
from benchmarks.lab.logs import plain_files
from benchmarks.lab.measuring import RowCell, measure_and_report, read_cells
from benchmarks.lab.options import Cells, Results
from benchmarks.lab.playing import check_cluster
from benchmarks.lab.plots import intervals, panels
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import settings_of
from benchmarks.lab.tables import markdown
from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate
from recsim_env.logs.plain import PlainLog, catalog_of, embed_items, read_plain
from recsim_env.logs.sessions import Sessions
from recsim_env.settings import NONE_OR_MORE, Within
from recsim_env.shoppers.session.fit import SessionFitConfig, fit_session
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.scores import predict
from recsim_env.shoppers.session.visits import Visits
from recsim_env.verdicts.rows import item_rows, shown_of

CATEGORY, SHUFFLED, TITLES = "category", "shuffled", "titles"
TEXTS = (CATEGORY, SHUFFLED, TITLES)
"""What item vectors are told of an item, least first."""
METRICS = ("auc", "log_loss")
EVERYTHING, UNMET = "all", "unmet"
"""The held-out items that are judged: those shown, and those that the shop has never shown."""
FEWEST = 0.01
"""Share of the held-out items from which on those that the shop has never shown have scores."""
CHECKED = 8
"""Slates to learn from for each one that tells when to stop."""


@dataclass(frozen=True)
class Config(Cells, Results):
    """Measure what titles tell a shop that has few rows."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"slates": NONE_OR_MORE}

    log: Path = Path(".cache/movielens")
    """Folder of `log.csv` and `catalog.csv`; `benchmarks.data.plain_movielens` writes the default
    one. It is read only."""
    slates: tuple[int, ...] = (100, 1_000, 0)
    """Numbers of slates that the shop knows, about, those of users drawn at random; 0 means all."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the fits, and of which users are drawn."""
    most_steps: int = 256
    """Number of slates of a user that are used at most, the first ones."""
    model: SessionFitConfig = field(default_factory=SessionFitConfig)
    """How shoppers are fitted."""
    samples: int = 100
    """Number of bootstrap samples of users behind the width of every interval."""
    work: Path = Path("runs/young_shop")
    """Folder of what was measured so far, which is not measured again; delete it to start anew."""


# ---- one young shop ------------------------------------------------------------------------------


def of_young_shop(plain: PlainLog, slates: int, seed: int) -> PlainLog:
    """Keep the slates of the users to test on, and about so many of users to learn from.

    Users are drawn until there are so many slates, one in `CHECKED` as many of users to check with,
    and at least one user of each.

    Args:
        plain: The log.
        slates: The number of slates to learn from; 0 keeps all.
        seed: Seed of the draw.
    """
    if not slates:
        return plain
    number = plain.impressions.group_by("shopper", "split").len().sort("shopper")
    kept = number.filter(pl.col("split") == "test").select("shopper")
    for split, most in (("train", slates), ("valid", slates // CHECKED)):
        users = number.filter(pl.col("split") == split).sample(
            fraction=1.0, shuffle=True, seed=seed
        )
        before = users["len"].cum_sum() - users["len"]
        kept = pl.concat([kept, users.filter(before < max(most, 1)).select("shopper")])
    return replace(plain, impressions=plain.impressions.join(kept, on="shopper", how="semi"))


def catalog_with(plain: PlainLog, texts: str, seed: int) -> Catalog:
    """The catalogue of a log, whose item vectors are told some texts and the log's clicks.

    Args:
        plain: The log.
        texts: Which texts, of `TEXTS`.
        seed: Seed of the shuffle, and of the vectors.
    """
    given = plain.items.schema["embedding"]  # vectors that the log's catalogue gives are not read
    items = plain.items.with_columns(embedding=pl.lit(None, given))
    if texts == CATEGORY:
        items = items.with_columns(title=pl.lit(None, pl.String), brand=pl.lit(None, pl.String))
    elif texts == SHUFFLED:
        order = np.random.default_rng(seed).permutation(len(items))
        items = items.with_columns(items.select("title", "brand")[order])
    vectors = embed_items(replace(plain, items=items), seed=seed)
    return catalog_of(plain, vectors=vectors)


def measured(
    config: Config, texts: str, slates: int, seed: int, plain: PlainLog
) -> list[dict[str, object]]:
    """Fit shoppers to a young shop's log, and score them on the held-out users."""
    young = of_young_shop(plain, slates, seed)
    catalog = catalog_with(young, texts, seed)
    parts = {
        split: episodes(young, split, config.most_steps) for split in ("train", "valid", "test")
    }
    model = fit_session(
        parts["train"],
        catalog,
        config.model,
        seed=seed,
        held_out=0.0,
        validation=parts["valid"],
    )
    judged, unmet = predictions(model, parts["train"], parts["test"], catalog)
    values: dict[str, list[float]] = {}
    for name, rows in ((EVERYTHING, judged), (UNMET, judged.only(unmet))):
        if len(np.unique(rows.label)) < 2:  # a shop that has shown nearly all of its items
            continue
        found = with_samples(rows, METRICS, samples=config.samples)
        values |= {f"{name}/{what}": several for what, several in found.items()}
        values[f"{name}/users"] = [float(rows.households)]
    values["unmet"] = [float(unmet.mean())]
    values["slates"] = [float(parts["train"].real.sum())]
    return numbered(values, texts=texts, slates=slates, seed=seed)


def episodes(plain: PlainLog, split: str, most_steps: int) -> Sessions:
    """The episodes of a part of the users, with slates of the size of all."""
    part = plain.impressions.filter(pl.col("split") == split)
    declared = plain.declared
    if declared is not None:
        declared = declared.join(part.select("shopper").unique(), on="shopper", how="semi")
    size = int(plain.impressions["slate"].list.len().to_numpy().max())
    return Sessions.of(part, declared, slate_size=size, most_steps=most_steps)


def predictions(
    model: SessionShopper, train: Sessions, test: Sessions, catalog: Catalog
) -> tuple[Rows, np.ndarray]:
    """Rows (R,) of the items that held-out users were shown, and which of them are unmet."""
    rows, shown = item_rows(test, catalog), shown_of(test)
    met = torch.zeros(len(catalog), dtype=torch.bool)
    met[train.slates[train.slates >= 0]] = True
    chance = predict(model, Visits.of(test, catalog)).clicks[shown].double().numpy()
    judged = Rows(
        label=rows.label.astype(np.float64),
        weight=np.ones(len(rows)),
        chance=chance,
        shopper=rows.user,
        slate=shown.nonzero()[:, 0].numpy(),
    )
    return judged, ~met.numpy()[rows.item]


# ---- report --------------------------------------------------------------------------------------

ROW = {
    "texts": pl.String,
    "slates": pl.Int64,
    "seed": pl.Int64,
    "what": pl.String,
    "n": pl.Int64,
    "value": pl.Float64,
}
"""`slates` 0 means all. `what` is a metric of the items that are judged, where `n` 0 is the score
itself and the others are bootstrap samples of users; the number of `users`; the share of the items
that is `unmet`; or the number of `slates` that were learned from."""


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows."""
    sizes = sorted(rows["slates"].unique(), key=lambda number: number or np.inf)
    texts = [name for name in TEXTS if name in rows["texts"].unique()]
    summary: dict[str, Estimate] = {}
    lines: list[dict[str, object]] = []
    for size in sizes:
        own = rows.filter(pl.col("slates") == size)
        found = estimates_of(own, texts)
        summary |= {f"{size or 'all'}/{name}": value for name, value in found.items()}
        for judged in (EVERYTHING, UNMET):
            if f"{judged}/{texts[0]}/auc" not in found:
                continue
            line: dict[str, object] = {
                "slates": f"{mean_of(own, 'slates'):,.0f}",
                "items": judged,
                "share": f"{mean_of(own, 'unmet') if judged == UNMET else 1.0:.0%}",
            }
            line |= {f"AUC, `{name}`": found[f"{judged}/{name}/auc"] for name in texts}
            line |= {
                f"{label}, `{TITLES}` less `{base}`": found[f"{judged}/{base}/{what}_below"]
                for what, label in (("auc", "AUC"), ("log_loss", "log-loss"))
                for base in texts
                if base != TITLES and TITLES in texts
            }
            lines.append(line)
    return Report(markdown(lines), summary, picture(summary, sizes, texts))


def estimates_of(rows: pl.DataFrame, texts: list[str]) -> dict[str, Estimate]:
    """Estimate every score of shops of one size, and how far each is below that with titles.

    Scores of unmet items are left out where the shops have shown nearly all items.
    """
    found: dict[str, Estimate] = {}
    few = mean_of(rows, "unmet") < FEWEST
    for judged in (EVERYTHING,) if few else (EVERYTHING, UNMET):
        for what in METRICS:
            scored = rows.filter(pl.col("what") == f"{judged}/{what}")
            each = {name: samples_by_fit(scored.filter(pl.col("texts") == name)) for name in texts}
            if any(len(fits) < rows["seed"].n_unique() for fits in each.values()):
                continue
            users = int(mean_of(rows, f"{judged}/users"))
            for name in texts:
                found[f"{judged}/{name}/{what}"] = over_fits(each[name], users)
                if name != TITLES and TITLES in texts:
                    less = each[TITLES] - each[name]
                    found[f"{judged}/{name}/{what}_below"] = over_fits(less, users)
    return found


def picture(summary: Mapping[str, Estimate], sizes: list[int], texts: list[str]) -> Figure:
    """Draw the AUC with each of the texts over the size of the shop."""
    figure, axes = panels(8, 3.6, 2)
    for at, judged in zip(axes, (EVERYTHING, UNMET), strict=True):
        for number, name in enumerate(texts):
            keys = {size: f"{size or 'all'}/{judged}/{name}/auc" for size in sizes}
            there = [place for place, size in enumerate(sizes) if keys[size] in summary]
            intervals(
                at,
                [place + (number - (len(texts) - 1) / 2) / 12 for place in there],
                [summary[keys[sizes[place]]] for place in there],
                colour=f"C{number}",
                joined=True,
                label=name,
            )
        at.set_xlim(-0.4, len(sizes) - 0.6)
        at.set_xticks(range(len(sizes)), [f"{size:,}" if size else "all" for size in sizes])
        at.set_xlabel("slates that the shop knows")
        at.set_ylabel(f"AUC of {judged} items")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


# ---- the command ---------------------------------------------------------------------------------


def opened(config: Config) -> PlainLog:
    """Read the log that every young shop knows a part of.

    Raises:
        FileNotFoundError: If it is missing; the message names the command that writes it.
        LogError: If a file is not as said.
    """
    log, items = plain_files(config.log, "benchmarks.data.plain_movielens")
    return read_plain(log, items)


def cells_of(config: Config) -> list[RowCell]:
    """Every size of the shop, seed, and kind of texts."""
    return [
        RowCell(
            config.work / f"{slates or 'all'}-{texts}-seed{seed}.json",
            str(config.log),
            partial(opened, config),
            partial(measured, config, texts, slates, seed),
        )
        for slates in config.slates
        for seed in config.seeds
        for texts in TEXTS
    ]


def main(config: Config) -> None:
    """Measure what is missing, then report.

    Raises:
        FileNotFoundError: If the log is missing.
        ValueError, SystemExit, ConnectionError: As `measure_and_report`.
    """

    def in_columns(cells: Sequence[RowCell]) -> pl.DataFrame:
        return read_cells(cells).cast(ROW)  # type: ignore[arg-type]

    check_cluster(config.ray)
    plain_files(config.log, "benchmarks.data.plain_movielens")
    run = Run("young_shop", config, results=config.results)
    told = settings_of(config, free=("slates", "seeds"))
    measure_and_report(run, config, cells_of(config), report, told, config.work, in_columns)


if __name__ == "__main__":
    run_command(main, Config)
