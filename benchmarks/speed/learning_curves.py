"""What a minute of training brings.

    python -m benchmarks.speed.learning_curves

Return against wall minutes for PPO here and for stock SB3 (see `benchmarks.speed.ppo_loops`) in
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
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, seeds
from agents.statistics import estimate_mean
from benchmarks.lab.command import run_command
from benchmarks.lab.logs import Log, ReadsLog, ready
from benchmarks.lab.options import Markets, Results, Threads
from benchmarks.lab.places import MARKET, PLACES, Place
from benchmarks.lab.plots import BLUE, GREEN, GREY, RED, log_numbers, panels, seed_curves
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.speed.ppo_loops import Trainings, with_minutes
from benchmarks.speed.ppo_loops import measure as measure_ppo
from benchmarks.speed.recsim_agent import RecSimTraining
from policies import POLICIES
from recsim_env.estimates import Estimate
from recsim_env.settings import POSITIVE, Within
from recsim_env.shoppers.household.examples import Collator
from recsim_env.shoppers.household.fit import FinetuneConfig, Packs, fit, new_shopper

LEARNERS = {"device": "PPO here", "stock": "stock SB3's PPO", "recsim": "RecSim's Q-learning"}
"""What is trained: the first two in `Market-v0`, the last in RecSim's environment."""
COLOURS = {"device": RED, "stock": BLUE, "recsim": GREEN}
"""Colours of the learners."""
NAME = "learning_curves"
"""Name of the benchmark, and of the folder of its results."""
FINETUNE = "finetune"
"""Name of fine-tuning in the column `learner`."""
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
class Config(ReadsLog, Markets, Threads, Results):
    """Train for some minutes, and evaluate now and then."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"finetune_epochs": POSITIVE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"place": PLACES}

    place: str = Place(MARKET, 0).name
    """Name of the market in which PPO learns, which is one of the league's places."""
    updates: int = 24
    """Number of PPO's rollouts and updates."""
    evaluate_every: int = 4
    """Number of updates between two evaluations, which are not timed."""
    shoppers: int = 1024
    """Number of shoppers that are served at once in a training."""
    episodes: int = 256
    """Number of episodes of an evaluation, the same for all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, over which intervals are taken."""
    peer_episodes: int = 50
    """Number of training episodes of RecSim's agent between two evaluations."""
    peer_evaluations: int = 12
    """Number of evaluations of RecSim's agent after the one before training."""
    peer_judged: int = 100
    """Number of episodes of each evaluation of RecSim's agent."""
    finetune_epochs: float = 0.15
    """Number of passes over the shopper's log that are timed. A part of one pass is enough, because
    all steps take equally long."""
    repetitions: int = 3
    """Number of times that fine-tuning is timed, over which intervals are taken."""


# ---- rows ----------------------------------------------------------------------------------------


def of_ppo(config: Config) -> list[dict[str, Any]]:
    """Train PPO here and stock SB3: a row an evaluation."""
    trainings = Trainings(
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
    spent = with_minutes(measure_ppo(trainings)).drop_nulls("return")
    ends = dict(zip(("random", "greedy"), references(config), strict=True))
    return [
        {"learner": row["loop"], "step": row["update"] // config.evaluate_every, **ends}
        | {name: row[name] for name in ("seed", "steps", "minutes", "return")}
        for row in spent.iter_rows(named=True)
    ]


def references(config: Config) -> tuple[float, float]:
    """The mean returns of a random policy and of greedy CTR on the evaluation's shoppers."""
    site = PLACES[config.place].open(config.markets, config.slates, config.device)
    episodes = seeds(REPORTED_SEED, config.episodes)
    policies = (POLICIES[name].build(site.inputs) for name in ("uniform", "greedy_ctr"))
    random, greedy = (
        float(evaluate(one, site.judging(), episodes).rows["return"].to_numpy().mean())
        for one in policies
    )
    return random, greedy


def of_recsim(config: Config) -> list[dict[str, Any]]:
    """Train RecSim's agent: a row an evaluation."""
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
    """Time fine-tuning and the machine: a row a repetition."""
    log = Log.load(ready(config.log, Console(), {"results": config.results / NAME}))
    examples = log.examples(cold_hidden=True)
    settings = FinetuneConfig(epochs=config.finetune_epochs)

    # the packs that an epoch trains on, and how many visits the steps come to
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

    # operations a visit, counted on a few packs
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
    """Count the operations of the matrix products of some batches, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            loss: torch.Tensor = model(**batch)["loss"]
            loss.backward()
    model.zero_grad()
    return float(counter.get_total_flops())


def matrix_product_rate() -> float:
    """Operations a second of a float32 product of square matrices, in the best of some rounds."""
    size, spent = 1024, []
    one, other = torch.ones(size, size), torch.ones(size, size)
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(one, other)
        spent.append(time.perf_counter() - began)
    return 2 * size**3 / min(spent)


def measure(config: Config) -> pl.DataFrame:
    """Train and time everything: all rows, see `SCHEMA`."""
    return pl.DataFrame(of_ppo(config) + of_recsim(config) + of_finetuning(config), schema=SCHEMA)


# ---- report --------------------------------------------------------------------------------------


def normalised(rows: pl.DataFrame) -> pl.DataFrame:
    """Add `score` to the rows of trainings: 0 is as random, 1 as greedy."""
    score = (pl.col("return") - pl.col("random")) / (pl.col("greedy") - pl.col("random"))
    return (
        rows.filter(pl.col("learner") != FINETUNE)
        .with_columns(score=score)
        .sort("learner", "seed", "step")
    )


def summarise(rows: pl.DataFrame) -> dict[str, Estimate]:
    """Summarise score, minutes and speed of every learner, and the minutes until it passes greedy.

    Intervals are over training seeds; of fine-tuning, over repetitions. A learner whose score does
    not pass 1 in every training has no `minutes_past_greedy`.
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
    """The minutes until the first evaluation from which on the score stays above 1, or None."""
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
    """Make the table of the learners, and the one of fine-tuning."""
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
    """Draw scores against wall minutes on a logarithmic scale, a line a seed and their mean."""
    figure, (axes,) = panels(8, 4.5)
    trainings = normalised(rows).filter(pl.col("step") > 0)
    for learner, label in LEARNERS.items():
        own = trainings.filter(pl.col("learner") == learner)
        parts = own.partition_by("seed", maintain_order=True)
        curves = [(part["minutes"].to_numpy(), part["score"].to_numpy()) for part in parts]
        seed_curves(axes, curves, colour=COLOURS[learner], label=label)
    for level in (0, 1):
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle="--")
    log_numbers(axes)
    axes.set_xlabel("wall minutes of training")
    axes.set_ylabel("return: 0 = random, 1 = greedy")
    axes.legend(frameon=False, fontsize=9)
    return figure


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows."""
    summary = summarise(rows)
    return Report(tables(summary), summary, draw(rows))


def main(config: Config) -> None:
    """Train and time everything, then report."""
    use_threads(config.threads)
    run = Run(NAME, config, results=config.results)
    rows = measure(config)
    run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
