"""Does a simulator that was fitted to somebody's log rank agents as the shoppers themselves do?

    python -m benchmarks.shopper.own_log
    python -m benchmarks.shopper.own_log --ray auto   # on the machines of a Ray cluster

The log of a market, whose truth is known, is written out as the CSV files of a shop and goes the
way of every log: `recsim_env.fit`, a ranker, an environment. Contenders that no simulator trained
then play in the fitted shop and in the true market. This is done twice for every world: with all
that the logging policies knew, and without what shoppers had declared, which the verdict on levels
must notice. Two public data sets follow: MovieLens-100k, which is no log of slates, and the sample
of the Open Bandit data, which has no users.

    runs/own_log/world<w>-<known|hidden>/    log.csv, items.csv, shop/, rows/<contender>.parquet
    runs/own_log/movielens/, open_bandit/    log.csv, catalog.csv, shop/

Every contender of a world and a case is a cell, and so is each public data set. What is there is
not made again, so a run goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from operator import methodcaller
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, Site, open_place, seeds
from agents.statistics import estimate_mean
from benchmarks.lab.bts import value_of_bts
from benchmarks.lab.cells import all_rows
from benchmarks.lab.command import run_command
from benchmarks.lab.contenders import FIXED, TUNED, Case, MarketCase, contender, tune_constant
from benchmarks.lab.logs import plain_files
from benchmarks.lab.markets import MARKETS
from benchmarks.lab.measuring import UNFINISHED, RowCell
from benchmarks.lab.options import Cells, Device, Results
from benchmarks.lab.playing import Task, end, play_cells, there
from benchmarks.lab.plots import BLUE, RED, level_intervals
from benchmarks.lab.run import Report, Run, read_summary
from benchmarks.lab.settings import settings_of, share_settings
from benchmarks.lab.shops import fit_ranker_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from recsim_env import check_log
from recsim_env.estimates import Estimate
from recsim_env.files import locked, read_object, write_json, write_text
from recsim_env.fitting import FitConfig, fit
from recsim_env.fitting.bar import stage_bar
from recsim_env.logs.plain import write_plain
from recsim_env.logs.schema import read_impressions
from recsim_env.settings import POSITIVE, Within
from recsim_env.shop_file import RANKER, SHOP_FILE
from recsim_env.simulator import SlateSimulator

Part = Literal["market", "movielens", "open_bandit"]
PUBLIC_FILE = "public.md"
"""File of the table of public data, beside the rows of markets."""
FOUND = "found.json"
"""File of what was found in the Open Bandit data."""
REACHED = {"known": "market_csv", "hidden": "market_csv_hidden"}
"""Beginning of the names in the summary, by case."""


@dataclass(frozen=True)
class Config(Cells, Device, Results):
    """Fit simulators to plain logs, and compare them with the truth where it is known."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"horizon_days": POSITIVE}
    EMPTY: ClassVar[Collection[str]] = ("worlds",)

    parts: tuple[Part, ...] = ("market", "movielens", "open_bandit")
    """What to measure; the report is about everything that was measured so far."""
    worlds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the markets' catalogues; limits of verdicts were fixed on others."""
    cases: tuple[Case, ...] = ("known", "hidden")
    """What the log holds: `known`, all that its policies used; `hidden`, without what shoppers
    declared."""
    slates: int = 300_000
    """Number of logged slates of a market, about."""
    horizon_days: float = 50.0
    """Length of an episode in which contenders play. The default is that of the market."""
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(members=1, most_slates=1_000_000, counterfactual=False)
    )
    """How simulators are fitted. One model is enough to rank agents, and the whole log is used."""
    episodes: int = 1024
    """Number of episodes of an evaluation, with the same seeds in both markets."""
    batch: int = 512
    """Number of shoppers served at a time in an evaluation, which changes its speed alone."""
    trials: int = 20
    """Number of settings tried for the tuned constant re-ranker in the true market."""
    tuning_episodes: int = 128
    """Number of episodes of a trial."""
    markets: Path = MARKETS
    """Folder of the markets' logs and rankers; those that are missing are built."""
    movielens: Path = Path(".cache/movielens")
    """Folder of MovieLens-100k as `benchmarks.data.plain_movielens` writes it."""
    open_bandit: Path = Path(".cache/open_bandit/all")
    """Folder of a campaign as `benchmarks.data.plain_open_bandit` writes it."""
    work: Path = Path("runs/own_log")
    """Folder of what was measured so far, which is not measured again."""


# ---- a market, whose truth is known --------------------------------------------------------------


@dataclass(frozen=True)
class ShopCase(MarketCase[Config]):
    """The log of a market as a shop's CSV files, and what comes of it."""

    @property
    def folder(self) -> Path:
        """Where everything of the case lies."""
        return self.config.work / f"world{self.world.world}-{self.case}"

    @property
    def shop(self) -> Path:
        """The folder of the fitted shop."""
        return self.folder / "shop"

    @cached_property
    def truth(self) -> Site:
        """The true market with its log and its ranker."""
        return self.world.open(self.config.markets, self.config.device)

    @cached_property
    def place(self) -> Site:
        """The fitted shop, its log and its ranker."""
        return open_place(
            str(self.shop),
            horizon_days=self.config.horizon_days,
            reward=self.truth.reward,
            device=self.config.device,
        )

    @cached_property
    def markets(self) -> dict[str, SlateSimulator]:
        """The two simulators that contenders play in."""
        return {"true": self.truth.simulator(), "learned": self.place.simulator("evaluation")}

    @cached_property
    def tuned(self) -> dict[str, float]:
        """Knobs that earn most in the true market; both cases of a world have the same."""
        return tune_constant(
            self.config.work / f"world{self.world.world}.json",
            self.truth,
            trials=self.config.trials,
            episodes=self.config.tuning_episodes,
            batch=self.config.batch,
        )

    def write(self) -> tuple[Path, Path]:
        """Write the market's log and catalogue as CSV files, where they are missing."""
        log, items = self.folder / "log.csv", self.folder / "items.csv"
        if not items.exists():
            catalog = self.truth.inputs.catalog.to("cpu")
            folder = self.config.markets / self.world.name
            rows = read_impressions(folder / "impressions.parquet", len(catalog))
            declared = pl.read_parquet(folder / "declared.parquet")
            told = declared if self.case == "known" else None
            write_plain(rows, catalog, log, items, declared=told, embedding=True)
        return log, items

    def fit(self) -> None:
        """Fit the shop and its ranker, where they are missing."""
        with locked(self.folder, wait=True):  # all contenders need them
            log, items = self.write()
            if not (self.shop / SHOP_FILE).exists():
                with stage_bar() as progress:
                    fit(log, items, self.shop, config=self.config.fit, progress=progress)
            if not (self.shop / RANKER).exists():
                fit_ranker_of(self.shop, self.config.device)

    def opened(self) -> ShopCase:
        """A copy whose shop is fitted, and which holds the markets that its contenders play in."""
        case = replace(self)
        case.fit()
        return case

    def row(self, name: str) -> pl.DataFrame:
        """What a contender earns in both markets: one row."""
        tuned = self.tuned if name == TUNED else {}
        policy = self.seen(contender(name, self.place.inputs, tuned))
        earned: dict[str, float] = {}
        for where, simulator in self.markets.items():
            episodes = seeds(REPORTED_SEED, self.config.episodes)
            found = evaluate(policy, simulator, episodes, batch=self.config.batch).rows
            returns = found["return"].to_numpy()
            earned[where] = float(returns.mean())
            earned[f"{where}_se"] = float(returns.std(ddof=1) / math.sqrt(len(returns)))
        return pl.DataFrame(
            {"world": self.world.world, "case": self.case, "contender": name, **earned}
        )

    def cells(self) -> list[RowCell]:
        """Every contender, which plays in the fitted shop and in the market."""
        return [
            RowCell(
                self.folder / "rows" / f"{name.replace(' ', '-').replace('.', '_')}.parquet",
                self.folder.name,
                self.opened,
                methodcaller("row", name),
            )
            for name in FIXED
        ]


def tasks_of(config: Config) -> list[Task]:
    """Every cell that is asked for, as it is played."""
    tasks = []
    if "market" in config.parts:
        tasks += [cell.task for case in ShopCase.every(config) for cell in case.cells()]
    for name, (play, file) in PUBLIC.items():
        if name in config.parts:
            folder = config.work / name
            done, opened = partial(there, folder / file), partial(Path, folder)
            tasks.append(
                Task(name, folder / UNFINISHED / name, name, opened, partial(play, config), done)
            )
    return tasks


# ---- public data ---------------------------------------------------------------------------------


def movielens(config: Config, folder: Path) -> None:
    """Fit a simulator to MovieLens-100k, whose slates are made up."""
    log, items = plain_files(config.movielens, "benchmarks.data.plain_movielens")
    with stage_bar() as progress:
        told = replace(config.fit, members=2)
        fit(log, items, folder / "shop", config=told, progress=progress)


def open_bandit(config: Config, folder: Path) -> None:
    """Check the Open Bandit sample, and value one of its policies by the rows of the other."""
    log, items = plain_files(config.open_bandit, "benchmarks.data.plain_open_bandit")
    checked = check_log(log, items)
    value, seen = value_of_bts(pl.read_csv(log))
    write_json(
        folder / FOUND,
        {
            "findings": [asdict(one) for one in checked.findings],
            "seen": seen,
            "values": {name: asdict(getattr(value, name)) for name in ("ips", "snips", "dr")},
        },
    )


PUBLIC: Mapping[str, tuple[Callable[[Config, Path], None], str]] = {
    "movielens": (movielens, f"shop/{SHOP_FILE}"),
    "open_bandit": (open_bandit, FOUND),
}
"""Measurements of public data and the file in their folder by which they are done, by part."""


# ---- report --------------------------------------------------------------------------------------


def tau_of(rows: pl.DataFrame) -> float:
    """Kendall's tau-b of the contenders' returns in the shop with those in the market."""
    return float(kendalltau(rows["true"].to_numpy(), rows["learned"].to_numpy()).statistic)


def errors_of(rows: pl.DataFrame) -> np.ndarray:
    """The return of each contender in the shop over that in the market, less 1."""
    return np.asarray(rows["learned"].to_numpy() / rows["true"].to_numpy() - 1)


def read_work(config: Config) -> pl.DataFrame:
    """All rows of contenders in markets that are finished.

    Raises:
        FileNotFoundError: If there are none.
    """
    folders = [path.parent for path in config.work.glob("world*/shop")]
    whole = [list(folder.glob("rows/[!.]*.parquet")) for folder in folders]
    paths = [path for found in whole if len(found) == len(FIXED) for path in found]
    return all_rows(paths, config.work, "benchmarks.shopper.own_log --parts market")


def verdicts_of(shop: Path) -> dict[str, Any]:
    """The verdicts of a fitted shop by topic, as `shop.json` keeps them."""
    found: dict[str, Any] = read_object(shop / SHOP_FILE)["verdicts"]
    return found


def with_verdicts(rows: pl.DataFrame, work: Path) -> pl.DataFrame:
    """Add the verdict on levels of each case: True, False, or null where the log cannot tell."""
    keys = rows.select("world", "case").unique(maintain_order=True)
    levels = [
        verdicts_of(work / f"world{world}-{case}" / "shop")["levels"]["holds"]
        for world, case in keys.iter_rows()
    ]
    return rows.join(
        keys.with_columns(pl.Series("levels", levels, dtype=pl.Boolean)), on=["world", "case"]
    )


def report(rows: pl.DataFrame, public: Mapping[str, Any] | None = None) -> Report:
    """Make table, summary and figure.

    Args:
        rows: One row a contender, world and case, as `with_verdicts` returns.
        public: What was found in public data, as `public_of` returns.
    """
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    for case, of_case in rows.sort("case", descending=True).group_by("case", maintain_order=True):
        name, worlds = REACHED[str(case[0])], of_case.partition_by("world")
        tau = estimate_mean([tau_of(world) for world in worlds]).within(-1, 1)
        worst = estimate_mean([float(np.abs(errors_of(world)).max()) for world in worlds])
        worst = worst.within(0, math.inf)
        greedy = estimate_mean(
            [
                float(errors_of(world.filter(pl.col("contender") == "greedy_ctr"))[0])
                for world in worlds
            ]
        )
        summary |= {
            f"{name}_tau": tau,
            f"{name}_worst_error": worst,
            f"{name}_greedy_error": greedy,
        }
        trusted = [world["levels"][0] for world in worlds]
        lines.append(
            {
                "log": f"market, {case[0]}",
                "worlds": len(worlds),
                "tau": tau,
                "worst": worst,
                "greedy": greedy,
                "levels": f"{sum(one is True for one in trusted)} of {len(trusted)}",
            }
        )

    # The verdict on levels must be yes for every known case and no for every hidden one.
    known, hidden = (rows.filter(pl.col("case") == case) for case in ("known", "hidden"))
    if len(known) and len(hidden):
        right = (
            known["levels"].fill_null(False).all() and not hidden["levels"].fill_null(True).any()
        )
        summary["market_csv_hidden_flagged"] = Estimate(float(right))

    # The table, and below it that of public data.
    text = markdown(
        lines,
        {
            "log": "log",
            "worlds": "worlds",
            "tau": "Kendall's tau",
            "worst": "worst error of a return",
            "greedy": "error of greedy CTR's",
            "levels": "levels trusted",
        },
    )
    if public:
        text += "\n" + str(public["table"])
        summary |= public["summary"]
    return Report(text, summary, draw(rows))


def public_of(work: Path) -> dict[str, Any]:
    """What was found in the public data sets so far: a table and figures."""
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    films = work / "movielens" / "shop"
    if (films / SHOP_FILE).exists():
        content = read_object(films / SHOP_FILE)
        lead = next(
            one["lead"]
            for one in content["findings"]["clicks"]
            if one["metric"] == "auc" and one["model"] == "item and user mean"
        )
        refused = content["verdicts"]["clicks"]["holds"] is False
        summary["ml100k_auc_minus_item_user_mean"] = Estimate(**lead)
        summary["ml100k_refused"] = Estimate(float(refused))
        lines += [
            {"data": "MovieLens-100k", "what": topic, "found": one["sentence"]}
            for topic, one in content["verdicts"].items()
        ]

    # Bandit rows: what check_log says, and the value of a policy.
    bandit = work / "open_bandit" / FOUND
    if bandit.exists():
        found = read_object(bandit)
        topics: dict[str, list[str]] = {}  # often one sentence is the answer to all questions
        for one in found["findings"]:
            topics.setdefault(one["sentence"], []).append(one["topic"])
        lines += [
            {"data": "Open Bandit", "what": ", ".join(asked), "found": sentence}
            for sentence, asked in topics.items()
        ]
        for name, one in found["values"].items():
            estimate = Estimate(**one)
            summary[f"open_bandit_bts_{name}"] = estimate
            told = f"click rate of BTS from Random's rows {estimate}, seen {found['seen']:.4g}"
            lines.append({"data": "Open Bandit", "what": name.upper(), "found": told})
    table = markdown(lines, {"data": "data", "what": "question", "found": "answer"})
    return {"table": table, "summary": summary} if lines else {}


def read_public(folder: Path) -> dict[str, Any]:
    """What a finished run found in public data sets, as `public_of` returns it."""
    summary = read_summary("own_log", results=folder.parent)
    table = (folder / PUBLIC_FILE).read_text(encoding="utf-8")
    found = {name: one for name, one in summary.items() if not name.startswith("market")}
    return {"table": table, "summary": found}


def draw(rows: pl.DataFrame) -> Figure:
    """Draw the errors of the contenders' returns, worlds averaged; a hidden log is red."""
    values = []
    for contender_name, of_one in rows.group_by("contender", maintain_order=True):
        for case, of_case in of_one.group_by("case", maintain_order=True):
            error = estimate_mean(errors_of(of_case))
            colour = BLUE if case[0] == "known" else RED
            values.append((f"{contender_name[0]}, {case[0]}", error, colour))
    return level_intervals(values, "return in the fitted shop over that in the market, less 1")


def main(config: Config) -> None:
    """Measure what is missing, then report on all there is."""
    use_threads(config.threads)
    share_settings(config.work, settings_of(config, free=("parts", "worlds", "cases")))
    run = Run("own_log", config, results=config.results)
    failed = play_cells(tasks_of(config), config, "own_log")
    rows = with_verdicts(read_work(config).sort("world", "case", "contender"), config.work)
    public = public_of(config.work)
    found = report(rows, public)
    run.publish(rows, found)
    write_text(config.results / "own_log" / PUBLIC_FILE, public.get("table", ""))
    end(failed)


if __name__ == "__main__":
    run_command(main, Config)
