"""What a minute of training brings: python -m benchmarks.speed.learning_curves

Return against wall minutes for PPO here and for stock SB3 (see `benchmarks.speed.ppo_speed`) in
`Market-v0`, and for RecSim's own agent in RecSim's own environment
(`benchmarks.speed.recsim_agent`). Returns of different environments cannot be laid side by side, so
every one is told in units of its own: 0 is a random policy there, 1 the greedy one, which shows
what is most likely to please at once. Fine-tuning the shopper has no such curve: its speed is told
in visits a second, and as the share that its matrix products, forward and backward, have of what
the machine's own matrix product does meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from agents.evaluate import evaluate
from benchmarks.lab.logs import DEFAULT_LOG, Log, ready
from benchmarks.lab.places import MARKET, PLACES, Place
from benchmarks.lab.run import RESULTS, Report, Run
from benchmarks.lab.statistics import Estimate, estimate_mean
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import THREADS, use_threads
from benchmarks.lab.world import REPORTED_SEED, seeds
from benchmarks.speed import ppo_speed
from benchmarks.speed.recsim_agent import RecSimTraining
from policies import POLICIES
from recsim_env.shoppers.household.examples import Collator
from recsim_env.shoppers.household.fit import FinetuneConfig, Packs, fit, new_shopper

LEARNERS = {"device": "PPO here", "stock": "stock SB3's PPO", "recsim": "RecSim's Q-learning"}
"""What is trained; the first two in `Market-v0`, the last in RecSim's environment."""
COLOURS = {"device": "#c23b3b", "stock": "#3b6ea5", "recsim": "#3f8f55"}
FINETUNE = "finetune"
SCHEMA = {
    "learner": pl.String,
    "seed": pl.Int64,
    "step": pl.Int64,
    "steps": pl.Int64,
    "minutes": pl.Float64,
    "return": pl.Float64,
    "random": pl.Float64,
    "greedy": pl.Float64,
    "flops": pl.Float64,
    "machine_flops_per_s": pl.Float64,
}
"""`step` counts the evaluations of a training, or the repetitions of a timing; `steps` are
shopper-steps, documents shown, or visits; the last two columns belong to fine-tuning alone, the
three before them to the others."""


@dataclass(frozen=True)
class Config:
    """Train for some minutes, and look at the return now and then."""

    place: str = Place(MARKET, 0).name
    """Where PPO learns, a place of the league."""
    updates: int = 24
    """Of PPO."""
    evaluate_every: int = 4
    """Updates between two evaluations, which are not timed."""
    shoppers: int = 1024
    """Shoppers served at once in a training."""
    episodes: int = 256
    """Episodes of an evaluation."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    peer_episodes: int = 50
    """Episodes of RecSim's agent between two evaluations."""
    peer_evaluations: int = 12
    """Evaluations of RecSim's agent after the one before training."""
    peer_judged: int = 100
    """Episodes of each of them."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Of the shopper whose fine-tuning is timed."""
    finetune_epochs: float = 0.15
    """Passes over its log that are timed."""
    repetitions: int = 3
    """Times that fine-tuning is timed."""
    log: Path = DEFAULT_LOG
    """Folder of the log, by `benchmarks.data.build_log` or your own tables. It is read only; the
    default one is built first where it does not exist."""
    markets: Path = Path("runs/market")
    """Folder of the markets' logs and rankers."""
    slates: int = 300_000
    """Logged slates of the market."""
    device: str | None = None
    """cpu or cuda, for PPO; None for the best there is."""
    threads: int = THREADS
    """CPU threads."""
    results: Path = RESULTS
    """Folder of the results."""


# ---- rows ----------------------------------------------------------------------------------------


def of_ppo(config: Config) -> list[dict[str, Any]]:
    """A row an evaluation of PPO here and of stock SB3."""
    speed = ppo_speed.Config(
        place=config.place,
        shoppers=config.shoppers,
        updates=config.updates,
        loops=("device", "stock"),
        seeds=config.seeds,
        evaluate_every=config.evaluate_every,
        episodes=config.episodes,
        markets=config.markets,
        slates=config.slates,
        device=config.device,
    )
    spent = ppo_speed.with_minutes(ppo_speed.measure(speed)).drop_nulls("return")
    ends = dict(zip(("random", "greedy"), references(config), strict=True))
    return [
        {"learner": row["loop"], "step": row["update"] // config.evaluate_every, **ends}
        | {name: row[name] for name in ("seed", "steps", "minutes", "return")}
        for row in spent.iter_rows(named=True)
    ]


def references(config: Config) -> tuple[float, float]:
    """Mean returns of a random policy and of greedy CTR on the shoppers that PPO is evaluated with."""
    site = PLACES[config.place].open(config.markets, config.slates, config.device)
    episodes = seeds(REPORTED_SEED, config.episodes)
    policies = (POLICIES[name].build(site.inputs) for name in ("uniform", "greedy_ctr"))
    random, greedy = (
        float(evaluate(one, site.judging(), episodes).rows["return"].to_numpy().mean())
        for one in policies
    )
    return random, greedy


def of_recsim(config: Config) -> list[dict[str, Any]]:
    """A row an evaluation of RecSim's agent."""
    rows = []
    for seed in config.seeds:
        training = RecSimTraining(seed)
        ends = {
            who: float(np.mean(training.returns(who, config.peer_judged)))
            for who in ("random", "greedy")
        }
        for number in range(config.peer_evaluations + 1):
            if number:
                training.learn(config.peer_episodes)
            found = float(np.mean(training.returns("agent", config.peer_judged)))
            place = {"learner": "recsim", "seed": seed, "step": number, "steps": training.steps}
            rows.append(place | {"minutes": training.seconds / 60, "return": found} | ends)
    return rows


def of_finetuning(config: Config) -> list[dict[str, Any]]:
    """A row a repetition: visits learned from, minutes, operations, and what the machine does in a second."""
    log = Log.load(ready(config.log, Console()))
    examples = log.examples(cold_hidden=True)
    settings = replace(config.finetune, epochs=config.finetune_epochs)
    lengths = torch.stack(
        [
            (part == 0).sum()
            for part in examples.split.split(examples.shopper_starts.diff().tolist())
        ]
    )
    packs = Packs(lengths, settings.batch_visits, torch.Generator().manual_seed(settings.seed))
    collator = Collator(examples)
    steps = max(int(settings.epochs * len(packs)), 1)
    visits = round(steps / len(packs) * int(lengths.sum()))
    some = packs.packs[:: max(len(packs) // 8, 1)]
    model = new_shopper(log.catalog, settings, log.facts)
    per_visit = operations(model, [collator(pack) for pack in some]) / sum(
        int(lengths[pack].sum()) for pack in some
    )
    rows = []
    for number in range(config.repetitions):
        machine = matrix_product_rate()
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            fit(model, examples, settings, Path(folder), stage=FINETUNE, resume=False)
            minutes = (time.perf_counter() - began) / 60
        place = {
            "learner": FINETUNE,
            "seed": settings.seed,
            "step": number,
            "steps": visits,
            "minutes": minutes,
        }
        rows.append(place | {"flops": per_visit * visits, "machine_flops_per_s": machine})
    return rows


def operations(model: torch.nn.Module, batches: Iterable[dict[str, torch.Tensor]]) -> float:
    """Multiplications and additions of the matrix products, forward and backward, of some batches."""
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            loss: torch.Tensor = model(**batch)["loss"]
            loss.backward()
    model.zero_grad()
    return float(counter.get_total_flops())


def matrix_product_rate(size: int = 1024, rounds: int = 8) -> float:
    """Operations a second of a float32 product of square matrices, the best of some rounds, on the wall clock."""
    one, other = torch.ones(size, size), torch.ones(size, size)
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        torch.mm(one, other)
        spent.append(time.perf_counter() - began)
    return 2 * size**3 / min(spent)


def measure(config: Config) -> pl.DataFrame:
    """All rows; see `SCHEMA`."""
    return pl.DataFrame(of_ppo(config) + of_recsim(config) + of_finetuning(config), schema=SCHEMA)


# ---- report --------------------------------------------------------------------------------------


def normalised(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of trainings, with `score`: 0 as random, 1 as greedy."""
    score = (pl.col("return") - pl.col("random")) / (pl.col("greedy") - pl.col("random"))
    return (
        rows.filter(pl.col("learner") != FINETUNE)
        .with_columns(score=score)
        .sort("learner", "seed", "step")
    )


def summarise(rows: pl.DataFrame) -> dict[str, Estimate]:
    """By learner: score, minutes and thousand steps a minute at the end, and the minutes until a score above 1 stays.

    Intervals are over training seeds; of fine-tuning, over repetitions. A learner that does not
    pass 1 in every training has no `minutes_past_greedy`.
    """
    summary: dict[str, Estimate] = {}
    trainings = normalised(rows)
    for learner in LEARNERS:
        own = trainings.filter(pl.col("learner") == learner)
        last = own.group_by("seed", maintain_order=True).last()
        minutes = last["minutes"].to_numpy()
        summary[f"score_{learner}"] = estimate_mean(last["score"].to_numpy())
        summary[f"minutes_{learner}"] = estimate_mean(minutes)
        speed = last["steps"].to_numpy() / minutes / 1000
        summary[f"thousand_steps_per_minute_{learner}"] = estimate_mean(speed, weights=minutes)
        passed = [
            minutes_past_greedy(part) for _, part in own.group_by("seed", maintain_order=True)
        ]
        if None not in passed:
            summary[f"minutes_past_greedy_{learner}"] = estimate_mean(
                [float(x or 0) for x in passed]
            )
    tuning = rows.filter(pl.col("learner") == FINETUNE)
    seconds = tuning["minutes"].to_numpy() * 60
    flops, machine = tuning["flops"].to_numpy(), tuning["machine_flops_per_s"].to_numpy()
    summary["finetune_visits_per_s"] = estimate_mean(tuning["steps"].to_numpy() / seconds)
    summary["finetune_gflops_per_s"] = estimate_mean(flops / seconds / 1e9)
    summary["machine_gflops_per_s"] = estimate_mean(machine / 1e9)
    summary["finetune_roofline_share"] = estimate_mean(flops / seconds / machine)
    return summary


def minutes_past_greedy(training: pl.DataFrame) -> float | None:
    """Minutes at the first evaluation from which on the score stays above 1; None where it does not in the end."""
    below = training.filter(pl.col("score") <= 1)["step"].max()
    after = training if below is None else training.filter(pl.col("step") > below)
    return None if after.is_empty() else float(after["minutes"].to_list()[0])


HEADERS = {
    "learner": "learner",
    "score": "score at the end",
    "minutes": "wall minutes",
    "thousand_steps_per_minute": "thousand steps a minute",
    "minutes_past_greedy": "minutes until above greedy",
}
TUNING = {
    "finetune_visits_per_s": "fine-tuning, visits/s",
    "finetune_gflops_per_s": "its matrix products, GFLOP/s",
    "machine_gflops_per_s": "the machine's, GFLOP/s",
    "finetune_roofline_share": "share",
}


def tables(summary: dict[str, Estimate]) -> str:
    """Of the learners, and of fine-tuning."""
    lines = [
        {
            "learner": label,
            **{name: summary.get(f"{name}_{learner}") for name in HEADERS if name != "learner"},
        }
        for learner, label in LEARNERS.items()
    ]
    return (
        markdown(lines, HEADERS)
        + "\n"
        + markdown([{name: summary[name] for name in TUNING}], TUNING)
    )


def draw(rows: pl.DataFrame) -> Figure:
    """Score against wall minutes, on a scale of logarithms: one thin line a seed, and the mean over seeds."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    trainings = normalised(rows)
    for learner, label in LEARNERS.items():
        own, colour = (
            trainings.filter((pl.col("learner") == learner) & (pl.col("step") > 0)),
            COLOURS[learner],
        )
        for _, part in own.group_by("seed", maintain_order=True):
            axes.plot(
                part["minutes"].to_numpy(),
                part["score"].to_numpy(),
                color=colour,
                alpha=0.3,
                linewidth=0.8,
            )
        mean = own.group_by("step").agg(pl.col("minutes", "score").mean()).sort("step")
        line = mean["minutes"].to_numpy(), mean["score"].to_numpy()
        axes.plot(*line, "-o", color=colour, markersize=4, label=label)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle="--")
    axes.axhline(0, color="#999999", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_xlabel("wall minutes of training")
    axes.set_ylabel("return: 0 = random, 1 = greedy")
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def report(rows: pl.DataFrame) -> Report:
    """What the rows say."""
    summary = summarise(rows)
    return Report(tables(summary), summary, draw(rows))


def main(config: Config) -> None:
    """Train, then report."""
    use_threads(config.threads)
    run = Run("learning_curves", config, results=config.results)
    rows = measure(config)
    found = report(rows)
    print(found.table)
    run.save(rows, **vars(found))


if __name__ == "__main__":
    main(tyro.cli(Config))
