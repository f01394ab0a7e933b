"""Bots and shilling in the log: what they do to a ranker, a fitted shopper, and agents.

    python -m benchmarks.shopper.stress
    python -m benchmarks.shopper.stress --ray auto   # on the machines of a Ray cluster

Some accounts of a market's log are not shoppers. They are shown what shoppers were shown, but

    bots      click each item with the same chance
    shilling  click every item of one category, and nothing else

A ranker and a shopper are fitted to the log as it is, scored on shoppers of whom no account was
stressed, and agents are chosen with them: `greedy_ctr` by that ranker, and a constant re-ranker
whose knobs earn most in the fitted simulator. Then both serve the true market, always the same
shoppers, so that differences from the clean log are paired. `shilled` is the share of positions
that show the category that is pushed. Everything is fitted once: the intervals hold for other
shoppers, not for other fits, whose spread on small logs may be as large as what is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, Site, seeds
from agents.places.exploring import fit_ranker, policy_inputs
from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.command import run_command
from benchmarks.lab.contenders import HAND, TUNED, contender
from benchmarks.lab.markets import MARKETS, MarketWorld
from benchmarks.lab.measuring import RowCell, measure_and_report
from benchmarks.lab.options import Cells, Results
from benchmarks.lab.plots import BLUE, GREY, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.session_markets import market_of
from benchmarks.lab.settings import settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.tuning import policy_search, trials_of
from policies import POLICIES, PolicyInputs
from policies.inputs import Ranker
from recsim_env import SlateSimulator
from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.metrics import auc, log_loss
from recsim_env.noise import Stream, episode_key, uniform
from recsim_env.settings import NONE_OR_MORE, SHARE, Within
from recsim_env.shoppers.session.fit import SessionFitConfig, fit_session
from recsim_env.shoppers.session.population import SessionPopulation
from recsim_env.shoppers.session.scores import score
from recsim_env.shoppers.session.starts import Logged
from recsim_env.shoppers.session.visits import Visits

CLEAN, BOTS, SHILLING = "clean", "bots", "shilling"
ACCOUNTS = 1_919
"""The seed that draws the accounts: not one by which a fit draws its validation episodes."""
AGENTS = ("greedy_ctr", TUNED)
SCORES = {
    "ranker_auc": "ranker: AUC",
    "ranker_log_loss": "log-loss",
    "shopper_auc": "fitted shopper: AUC",
    "shopper_nll": "NLL of a visit",
}
"""Scores on accounts of which all are shoppers, and how the table names them."""


@dataclass(frozen=True)
class Config(Cells, Results):
    """Fit to logs in which some accounts are no shoppers, and serve the true market."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "shares": SHARE,
        "rate": SHARE,
        "category": NONE_OR_MORE,
    }

    market: MarketWorld = field(default_factory=lambda: MarketWorld(mixture="broad"))
    """The market, its log and its ranker, which are built where they are missing."""
    markets: Path = MARKETS
    """Folder of the markets' logs and rankers."""
    episodes: int = 4_000
    """Number of accounts of the log that are learned from, drawn at random."""
    held_out: int = 1_000
    """Number of other accounts, all of them shoppers, that scores are made on."""
    shares: tuple[float, ...] = (0.05, 0.2)
    """Shares of the accounts that are no shoppers; the clean log is measured besides."""
    rate: float = 0.3
    """Chance with which a bot clicks an item; shoppers click one of ten."""
    category: int = 0
    """Number of the category that is pushed."""
    model: SessionFitConfig = field(default_factory=SessionFitConfig)
    """How the shopper is fitted."""
    trials: int = 12
    """Settings of the constant re-ranker that are tried in the fitted simulator, those set by hand
    among them."""
    tuning_episodes: int = 128
    """Number of episodes of a trial."""
    served: int = 512
    """Number of shoppers of the true market that agents serve."""
    work: Path = Path("runs/stress")
    """Folder of what was measured so far, which is not measured again; delete it to start anew."""


# ---- the log -------------------------------------------------------------------------------------


def stressed(
    log: Sessions, catalog: Catalog, kind: str, share: float, *, rate: float, category: int
) -> Sessions:
    """Replace the clicks of a share of the accounts; slates and lengths stay.

    Args:
        log: The log.
        catalog: Its items.
        kind: `clean`, `bots` or `shilling`.
        share: The share of the accounts.
        rate: The chance with which bots click.
        category: What is pushed.
    """
    if kind == CLEAN:
        return log
    chosen = log.held_out(share, seed=ACCOUNTS)
    shown = log.slates >= 0
    if kind == BOTS:
        accounts = torch.arange(len(log))
        keys = episode_key(accounts, torch.zeros_like(accounts), stream=Stream.CHECKS)
        draws = uniform(keys, 0, log.slates[0].numel()).view(log.slates.shape)
        clicks = draws < rate
    else:
        clicks = catalog.category[log.slates.clamp(min=0)] == category
    clicks = torch.where(chosen.view(-1, 1, 1), clicks & shown, log.clicks)
    return dataclasses.replace(log, clicks=clicks)


# ---- one condition -------------------------------------------------------------------------------


def ranker_scores(ranker: Ranker, log: Sessions, catalog: Catalog) -> dict[str, float]:
    """Score a ranker on a log: AUC, and log-loss with its own doubt about positions."""
    chances, labels = [], []
    for moment in replay(log, catalog):
        logits = ranker.logits(moment.observation)
        shown = moment.slates >= 0
        chance = logits.gather(1, moment.slates.clamp(min=0)).sigmoid()
        chance = chance * ranker.looks(moment.observation)  # type: ignore[attr-defined]
        chances.append(chance[shown])
        labels.append(moment.clicks[shown])
    chance, label = torch.cat(chances).double(), torch.cat(labels)
    return {
        "ranker_auc": auc(chance, label),
        "ranker_log_loss": log_loss(chance, label),
    }


def fitted_simulator(
    config: Config, log: Sessions, true: SlateSimulator
) -> tuple[SlateSimulator, SessionPopulation]:
    """Fit a shopper to a log, and return the simulator that it makes."""
    model = fit_session(log, true.catalog, config.model, held_out=0.0)
    shopper = SessionPopulation(true.catalog, [model], Logged.newcomers(log.declared), true.device)
    return market_of(shopper, true), shopper


def tuned(
    config: Config, folder: Path, inputs: PolicyInputs, simulator: SlateSimulator
) -> dict[str, float]:
    """Search for the knobs of the constant re-ranker that earn most in a fitted simulator."""
    spec = POLICIES["constant_log_odds"]
    first = [dict.fromkeys(spec.search(), 0.0) | knobs for knobs in HAND]
    told = (first, config.trials, config.tuning_episodes)
    search = policy_search(TUNED, inputs, simulator, *told, spec=spec)
    return dict(trials_of(folder / "trials.json", search).best_params)


@dataclass(frozen=True)
class Ground:
    """The market, and the parts of its log."""

    site: Site
    """The market with its log and its ranker."""
    learn: Sessions
    """The accounts that are learned from, before some are replaced."""
    check: Sessions
    """Those that scores are made on."""


def ground_of(config: Config) -> Ground:
    """Open the market, and draw the accounts."""
    site = config.market.open(config.markets, "cpu")
    order = torch.randperm(len(site.logged), generator=torch.Generator().manual_seed(0))
    learn = site.logged.take(order[: config.episodes])
    check = site.logged.take(order[config.episodes : config.episodes + config.held_out])
    return Ground(site, learn, check)


def condition(config: Config, kind: str, share: float, ground: Ground) -> pl.DataFrame:
    """Measure one kind and share: a row for each score, and for each shopper and agent."""
    learn, check = ground.learn, ground.check
    true = ground.site.simulator()
    catalog = true.catalog
    log = stressed(learn, catalog, kind, share, rate=config.rate, category=config.category)
    ranker = fit_ranker(log, true)
    simulator, shopper = fitted_simulator(config, log, true)
    found = score(shopper.members[0], Visits.of(check, catalog))
    scores = ranker_scores(ranker, check, catalog) | {
        "shopper_auc": found.click_auc,
        "shopper_nll": found.nll,
    }
    rows: list[dict[str, Any]] = [
        {"agent": "", "episode": -1, "what": name, "value": value} for name, value in scores.items()
    ]
    inputs = policy_inputs(true, ranker, log)
    there = policy_inputs(simulator, ranker, log)
    knobs = tuned(config, folder_of(config, kind, share), there, simulator)
    for agent in AGENTS:
        policy = contender(agent, inputs, knobs)
        played = evaluate(policy, true, seeds(REPORTED_SEED, config.served), batch=256)
        shilled = played.exposures[catalog.category == config.category].sum()
        shown = float(shilled / played.exposures.sum())
        rows.append({"agent": agent, "episode": -1, "what": "shilled", "value": shown})
        rows += [
            {"agent": agent, "episode": at, "what": "return", "value": value}
            for at, value in enumerate(played.rows["return"].to_list())
        ]
    return pl.DataFrame(rows).select(
        pl.lit(kind).alias("kind"), pl.lit(share).alias("share"), pl.all()
    )


def folder_of(config: Config, kind: str, share: float) -> Path:
    """The folder of one kind and share."""
    return config.work / f"{kind}-{share:g}"


def cells_of(config: Config) -> list[RowCell]:
    """Every kind and share."""
    return [
        RowCell(
            folder_of(config, kind, share) / "rows.parquet",
            config.market.name,
            partial(ground_of, config),
            partial(condition, config, kind, share),
        )
        for kind, share in conditions(config)
    ]


def conditions(config: Config) -> list[tuple[str, float]]:
    """The kinds and shares that are measured, the clean log first."""
    return [(CLEAN, 0.0)] + [(kind, share) for kind in (BOTS, SHILLING) for share in config.shares]


# ---- the report ----------------------------------------------------------------------------------


def report(rows: pl.DataFrame) -> Report:
    """Make the table, the figures and the picture."""
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    drawn: list[tuple[str, Estimate, str]] = []
    clean = rows.filter(pl.col("kind") == CLEAN)
    for (kind, share), own in rows.group_by("kind", "share", maintain_order=True):
        name = f"{kind}-{share:g}"
        line: dict[str, object] = {"accounts": "none" if kind == CLEAN else f"{share:.0%} {kind}"}

        # What was fitted to this log, on accounts that are all shoppers.
        for what in SCORES:
            score_of = one_value(own, what)
            summary[f"{name}/{what}"] = Estimate(score_of, n=1)
            line[what] = f"{score_of:.4f}"

        # What agents that were chosen with it earn from the same shoppers of the true market.
        for agent in AGENTS:
            key = key_of(agent)
            earned = estimate_mean(returns(own, agent).to_numpy())
            shilled = one_value(own, "shilled", agent)
            summary[f"{name}/{key}_return"] = earned
            summary[f"{name}/{key}_shilled"] = Estimate(shilled, n=1)
            line |= {key: earned, f"{key}_less": None, f"{key}_shilled": f"{shilled:.1%}"}
            if kind != CLEAN:
                less = paired_difference(returns(own, agent), returns(clean, agent))
                summary[f"{name}/{key}_less_clean"] = line[f"{key}_less"] = less
                colour = BLUE if agent == TUNED else GREY
                drawn.append((f"{share:.0%} {kind}: {agent}", less, colour))
        lines.append(line)
    label = "return in the true market, less that of a clean log"
    picture = level_intervals(drawn, label, mark=0, ink=GREY)
    return Report(markdown(lines, headers()), summary, picture)


def headers() -> dict[str, str]:
    """The columns of the table, and how it names them."""
    named = {"accounts": "accounts that are no shoppers"} | SCORES
    for agent in AGENTS:
        key = key_of(agent)
        named |= {
            key: f"`{agent}`: return",
            f"{key}_less": "less that of a clean log",
            f"{key}_shilled": "shows the pushed category",
        }
    return named


def key_of(agent: str) -> str:
    """How the summary names an agent."""
    return agent.replace(" ", "_")


def one_value(rows: pl.DataFrame, what: str, agent: str = "") -> float:
    """The figure of a name that a condition has one of."""
    found = rows.filter((pl.col("what") == what) & (pl.col("agent") == agent))
    return float(found["value"].item())


def returns(rows: pl.DataFrame, agent: str) -> pl.Series:
    """An agent's returns, shopper by shopper."""
    own = rows.filter((pl.col("what") == "return") & (pl.col("agent") == agent))
    return own.sort("episode")["value"]


def main(config: Config) -> None:
    """Measure what is missing, then report; raises as `measure_and_report`."""
    run = Run("stress", config, results=config.results)
    told = settings_of(config, free=("shares",))
    measure_and_report(run, config, cells_of(config), report, told, config.work)


if __name__ == "__main__":
    run_command(main, Config)
