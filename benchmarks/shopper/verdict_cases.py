"""Simulators that are right, and simulators whose log hid what its policies knew.

    python -m benchmarks.shopper.verdict_cases
    python -m benchmarks.shopper.verdict_cases --ray auto   # on the machines of a Ray cluster

The limit of `recsim_env.verdicts.verdict.levels` was fixed on these cases. A case is the log of a
market, a session model that is fitted to it, and a ranker. In the cases `hidden` the log lacks what
shoppers declared, which its policies had used. The market is the truth, so the error of the
simulator's returns is measured and not guessed. Files of a case, which are not made again where
they are there:

    runs/verdict_cases/<market>-<case>/model/          the fitted model
    runs/verdict_cases/<market>-<case>/rows.parquet    predictions for every shown item
    runs/verdict_cases/<market>-<case>/returns.json    returns of policies in the market and in the
                                                       simulator
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, Site, seeds
from agents.places.exploring import policy_inputs
from agents.places.mixture import Mixture
from benchmarks.lab.cells import json_at, rows_at
from benchmarks.lab.command import run_command
from benchmarks.lab.contenders import Case, MarketCase, contender
from benchmarks.lab.markets import MARKETS
from benchmarks.lab.measuring import UNFINISHED, measure
from benchmarks.lab.options import Cells, Results
from benchmarks.lab.playing import Task, there
from benchmarks.lab.plots import BLUE, GREY, RED, panels
from benchmarks.lab.run import Report, Run
from benchmarks.lab.session_markets import fitted_session, market_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from policies.rankers.two_tower_fit import fit_two_tower
from recsim_env import metrics
from recsim_env.estimates import Estimate
from recsim_env.files import read_json
from recsim_env.logs.sessions import Sessions
from recsim_env.settings import POSITIVE, Within
from recsim_env.shoppers.session.fit import SessionFitConfig, learn_and_check
from recsim_env.shoppers.session.population import SessionPopulation
from recsim_env.shoppers.session.scores import predict
from recsim_env.shoppers.session.visits import Visits
from recsim_env.verdicts.assess import MODEL
from recsim_env.verdicts.ratios import by_policy
from recsim_env.verdicts.rows import Rows, item_rows, shown_of
from recsim_env.verdicts.verdict import EXPLAINED_SHARE, levels, policy_levels

PLAYED = ("uniform", "popular", "greedy_ctr", "mmr 1", "cap 1", "constant b")
"""Contenders whose returns are measured in the market and in the simulator."""


@dataclass(frozen=True)
class Config(Cells, Results):
    """Fit simulators to logs that are complete and to logs that are not."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"epochs": POSITIVE}

    worlds: tuple[int, ...] = (10, 11, 12)
    """Seeds of the markets' catalogues. Those of reported results (0 to 2) stay unseen."""
    cases: tuple[Case, ...] = ("known", "hidden")
    """What the log holds: `known`, all that its policies used; `hidden`, without what shoppers
    declared."""
    slates: int = 50_000
    """Number of logged slates of a market, about."""
    mixtures: tuple[Mixture, ...] = ("broad",)
    """Who serves the log; each mixture makes a case of every world."""
    epochs: float = 6.0
    """Passes over the log: about 500 steps, the least of a fit."""
    episodes: int = 512
    """Number of episodes by which a policy's return is measured."""
    markets: Path = MARKETS
    """Folder of the markets' logs and rankers; those that are missing are built."""
    work: Path = Path("runs/verdict_cases")
    """Folder of what was measured so far, which is not measured again."""


@dataclass(frozen=True)
class VerdictCase(MarketCase[Config]):
    """A market, and a simulator that is fitted to its log."""

    @property
    def folder(self) -> Path:
        """Where everything of the case lies."""
        return self.config.work / f"{self.world.name}-{self.case}"

    @property
    def task(self) -> Task:
        """The case, as it is played."""
        files = self.folder / "rows.parquet", self.folder / "returns.json"
        return Task(
            self.folder.name,
            self.config.work / UNFINISHED / self.folder.name,
            self.world.name,
            partial(self.world.open, self.config.markets, "cpu"),
            self.make,
            partial(there, *files),
        )

    def make(self, site: Site) -> None:
        """Fit the simulator, predict the log, and play the contenders in both markets."""
        log = site.logged if self.case == "known" else without_declared(site.logged)
        fit = SessionFitConfig(epochs=self.config.epochs)
        shopper = fitted_session(self.folder / "model", log, site.simulator(), fit)
        rows_at(self.folder / "rows.parquet", lambda: predictions(shopper, log))
        json_at(self.folder / "returns.json", lambda: returns(self, site, log, shopper))


def cases_of(config: Config) -> list[VerdictCase]:
    """Every case of every market."""
    return VerdictCase.every(config, config.mixtures)


def main(config: Config) -> None:
    """Make what is missing of every case, and report on all that are there."""
    use_threads(config.threads)
    run = Run("verdict_cases", config, results=config.results)
    cases = cases_of(config)
    measure(cases, config, "verdict_cases")
    table = pl.DataFrame(
        {"world": one.world.world, "mixture": one.world.mixture, "case": one.case}
        | row_of(one.folder)
        for one in cases
    )
    run.save(table, **vars(report(table)))


def without_declared(log: Sessions) -> Sessions:
    """The same log of a shop that did not write down what shoppers declared."""
    return replace(log, declared=log.declared[:, :0])


def predictions(shopper: SessionPopulation, log: Sessions) -> pl.DataFrame:
    """One row for each shown item of the whole log, with the model's prediction."""
    learn, check = learn_and_check(log)
    parts = []
    for held_out, sessions in ((False, learn), (True, check)):
        rows = item_rows(sessions, shopper.catalog)
        found = predict(shopper.members[0], Visits.of(sessions, shopper.catalog), temperaments=64)
        chance = found.clicks[shown_of(sessions)].double().clamp(0, 1).numpy()
        parts.append(
            pl.DataFrame(
                {
                    "held_out": np.full(len(rows), held_out),
                    "user": rows.user.astype(np.int32),
                    "visit": rows.visit.astype(np.int16),
                    "policy": np.array([*rows.policies, "unknown"])[rows.policy],
                    "activity": rows.activity.astype(np.int32),
                    "position": rows.position.astype(np.int16),
                    "item": rows.item.astype(np.int32),
                    "category": rows.category.astype(np.int16),
                    "clicked": rows.label,
                    "predicted": chance.astype(np.float32),
                }
            )
        )
    return pl.concat(parts)


def returns(
    case: VerdictCase, site: Site, log: Sessions, shopper: SessionPopulation
) -> dict[str, dict[str, float]]:
    """What each contender earns in the market and in the simulator, built from the log alone."""
    true = case.world.simulator("cpu")
    learned = market_of(shopper, true)
    inputs = site.inputs
    if case.case == "hidden":
        ranker = fit_two_tower(log, true.catalog, true.slate_size)
        inputs = policy_inputs(learned, ranker, log)
    episodes = seeds(REPORTED_SEED, case.config.episodes)
    found: dict[str, dict[str, float]] = {}
    for name in PLAYED:
        policy = case.seen(contender(name, inputs, {}))
        found[name] = {
            where: float(evaluate(policy, simulator, episodes).rows["return"].mean())  # type: ignore[arg-type]
            for where, simulator in (("true", true), ("learned", learned))
        }
    return found


def errors(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return in the simulator over that in the market, less 1, of each contender."""
    return {name: one["learned"] / one["true"] - 1 for name, one in found.items()}


# ---- what the cases say --------------------------------------------------------------------------


def row_of(folder: Path) -> dict[str, Any]:
    """The figures of a case: held-out scores, candidates for the verdict on levels, and errors."""
    table = pl.read_parquet(folder / "rows.parquet")
    held = table.filter("held_out")
    chance, label = (held[name].to_numpy() for name in ("predicted", "clicked"))
    first = rows_of(table.filter(pl.col("visit") == 0))
    found = policy_levels(first, MODEL)
    by_name = {one.group: one.ratio.value for one in by_policy(first, MODEL)}
    wrong = errors(read_json(folder / "returns.json"))
    return {
        "auc": metrics.auc(chance, label),
        "ratio": metrics.ratio(chance, label),
        "explained": found.explained.value,
        "explained_low": found.explained.low,
        "explained_high": found.explained.high,
        "explained_held_out": policy_levels(
            rows_of(held.filter(pl.col("visit") == 0)), MODEL
        ).explained.value,
        "misjudged": found.misjudged.value,
        "uniform_first": by_name["uniform"],
        "trusted": levels(first, MODEL, by_policy(first, MODEL)).holds,
        "worst_error": max(map(abs, wrong.values())),
        **{f"error {name}": error for name, error in wrong.items()},
    }


def rows_of(table: pl.DataFrame) -> Rows:
    """Rows of a table that `predictions` made."""
    names = sorted(table["policy"].unique())
    code = table["policy"].replace_strict(
        {name: at for at, name in enumerate(names)}, return_dtype=pl.Int64
    )
    user = table["user"].cast(pl.Int64) * 2 + table["held_out"].cast(pl.Int64)
    whole = {
        name: table[name].cast(pl.Int64).to_numpy()
        for name in ("visit", "activity", "position", "item", "category")
    }
    return Rows(
        user=user.to_numpy(),
        policy=code.to_numpy(),
        label=table["clicked"].to_numpy(),
        policies=tuple(names),
        predicted={MODEL: table["predicted"].cast(pl.Float64).to_numpy()},
        **whole,
    )


def report(rows: pl.DataFrame) -> Report:
    """Say how well each figure tells logs that hold everything from those that do not."""
    cells = [
        {
            "case": f"{one['mixture']}, world {one['world']}, {one['case']}",
            "AUC": one["auc"],
            "ratio": one["ratio"],
            "uniform": one["uniform_first"],
            "misjudged": one["misjudged"],
            "explained": "{explained:.2f} [{explained_low:.2f}, {explained_high:.2f}]".format(
                **one
            ),
            "trusted": one["trusted"],
            "greedy": f"{one['error greedy_ctr']:+.0%}",
            "worst": f"{one['worst_error']:.0%}",
        }
        for one in rows.iter_rows(named=True)
    ]

    # False alarms, misses, and how far the two kinds of logs lie apart.
    hidden = rows.filter(pl.col("case") == "hidden")
    known = rows.filter(pl.col("case") == "known")
    summary = {
        "false_alarms": Estimate(float((~known["trusted"]).sum()), n=len(known)),
        "misses": Estimate(float(hidden["trusted"].sum()), n=len(hidden)),
    }
    for name, part in (("known", known), ("hidden", hidden)):
        if len(part):
            summary[f"{name}_explained_lowest"] = Estimate(min(part["explained"]), n=len(part))
            summary[f"{name}_explained_highest"] = Estimate(max(part["explained"]), n=len(part))
            summary[f"{name}_greedy_error"] = Estimate(
                float(part["error greedy_ctr"].mean()),  # type: ignore[arg-type]
                n=len(part),
            )
    note = (
        "AUC and ratio on held-out users; uniform: predicted over observed clicks of uniform "
        "slates at the first visit; misjudged and explained: see `recsim_env.verdicts.verdict`; "
        "trusted: the verdict on levels; greedy and worst: return in the simulator over that in "
        "the market, less 1."
    )
    return Report(f"{markdown(cells, digits=3)}\n{note}", summary, drawn(rows))


def drawn(rows: pl.DataFrame) -> Figure:
    """The explained share against the error of greedy CTR's return."""
    figure, (axes,) = panels(5.2, 3.4)
    for case, colour in (("known", BLUE), ("hidden", RED)):
        part = rows.filter(pl.col("case") == case)
        axes.plot(part["explained"], 100 * part["error greedy_ctr"], "o", color=colour, label=case)
    axes.axvline(EXPLAINED_SHARE, color=GREY, linewidth=1, linestyle="--")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("share of the policies' differences at first slates that is explained")
    axes.set_ylabel("error of greedy CTR's return, %")
    axes.legend(frameon=False, title="what policies knew")
    return figure


if __name__ == "__main__":
    run_command(main, Config)
