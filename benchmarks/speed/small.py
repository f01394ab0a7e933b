"""What a smaller household shopper costs and saves: `python -m benchmarks.speed.small`.

The shipped shopper, the same at other precisions and with a shorter window, and shoppers that
`benchmarks.data.shrink` made of it, in one run: scores on the test weeks of the log; the returns of
several policies, which meet the same shoppers with the same noise in each; and the speed of a step
on one thread, in turns, so that whatever else the machine does strikes all of them.

    speedup    steps a processor second of the small shopper over those of the shipped one
    auc_loss   AUC of all promoted items (test weeks), shipped less small, paired by household
    tau        rank correlation (Kendall) of the policies' returns with both

These are the figures of the shopper of the option `--small`; those of the other variants have their
names in front.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch
from rich.console import Console

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, open_place, seeds
from benchmarks.lab.command import run_command
from benchmarks.lab.heldout import bootstrap_mean, numbered, with_samples
from benchmarks.lab.logs import (
    DEFAULT_LOG,
    SHIPPED_SHOPPER,
    Log,
    need_cold_items,
    ready,
    sorted_rows,
)
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.places import JOURNEY
from benchmarks.lab.run import Run
from benchmarks.lab.stopwatch import Clock
from benchmarks.lab.threads import use_threads
from benchmarks.shopper.gap_baselines import gap_chances, gap_log_loss
from benchmarks.speed.int8 import quantised, saved_bytes
from benchmarks.speed.players import Crowd
from benchmarks.speed.small_report import ROW, SHIPPED, report
from benchmarks.speed.small_report import SMALL as SMALL_ONE
from policies import POLICIES
from recsim_env.logs.schema import SPLITS
from recsim_env.registration import PRESETS, EnvConfig
from recsim_env.settings import POSITIVE, Within
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.fit import score
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.peaks import SHOP_TABLES, SMALL
from recsim_env.shoppers.household.population import LearnedShopper, load_shopper
from recsim_env.shoppers.members import mixed
from recsim_env.shoppers.weights import MODEL_FILES, load_model, save_model

OPTIONAL = ("bf16", "int8", "window", "small_int8")
"""Variants that may be left out."""


@dataclass(frozen=True)
class Config(Threads, Results):
    """Measure the small shopper beside the shipped one."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"seconds": POSITIVE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        "policies": POLICIES,
        "left_out": OPTIONAL,
    }
    EMPTY: ClassVar[Collection[str]] = ("others", "left_out")

    shopper: Path = SHIPPED_SHOPPER
    """Folder of the fitted shopper that the others are compared with."""
    small: Path = SHIPPED_SHOPPER / SMALL
    """Folder of the small shopper, by `benchmarks.data.shrink` from that one. The default is the
    one that the package ships."""
    others: tuple[Path, ...] = ()
    """Folders of further shoppers, by `benchmarks.data.shrink` with other sizes; each is called as
    the folder that it was written to."""
    left_out: tuple[str, ...] = ()
    """Names of variants that are left out to save time: bf16, int8, window (the shorter one), or
    small_int8."""
    window: int = 32
    """Window of the variant that is the fitted shopper with a shorter window, and nothing else."""
    log: Path = DEFAULT_LOG
    """Folder of the log. It is read only; the default one is built first where it does not
    exist."""
    policies: tuple[str, ...] = (
        "uniform",
        "popular",
        "greedy_ctr",
        "mmr",
        "cap",
        "dpp",
        "reward_greedy",
        "constant",
    )
    """Policies whose order is compared, each with its default parameters."""
    episodes: int = 256
    """Number of episodes of each policy and variant."""
    shoppers: int = 1024
    """Number of shoppers that take a step together where steps are timed."""
    rounds: int = 6
    """Number of times that every variant is timed, in turns."""
    seconds: float = 0.5
    """Least length of a turn in seconds."""
    samples: int = 50
    """Number of bootstrap samples of households behind the width of every interval."""


@dataclass(frozen=True)
class Variant:
    """A shopper that takes part, and how it is run."""

    name: str
    """The value in the column `variant`."""
    folder: Path
    """A folder with its model and the tables of the shop."""
    precision: str = "fp32"
    """Number format of the networks."""
    int8: bool = False
    """Whether encoder and heads multiply in int8."""

    def model(self) -> SlateShopper:
        """Load the model, as it is scored."""
        found = load_model(SlateShopper, self.folder)
        return quantised(found) if self.int8 else found

    def env(self) -> EnvConfig:
        """The environment of these shoppers, with the households that nobody is trained on."""

        def open_shopper(device: torch.device, slate_size: int) -> LearnedShopper:
            found = load_shopper(
                self.folder,
                device,
                slate_size,
                population="evaluation",
                precision=self.precision,
            )
            if not self.int8:
                return found
            members = tuple(replace(one, model=quantised(one.model)) for one in found.shop.members)
            return LearnedShopper(replace(found.shop, members=members), slate_size, found.options)

        return replace(PRESETS[JOURNEY], shopper=open_shopper, shopper_options={})

    def megabytes(self) -> float:
        """Size of the model's file; that of a quantised one is worked out."""
        size = (self.folder / MODEL_FILES[1]).stat().st_size
        less = saved_bytes(load_model(SlateShopper, self.folder)) if self.int8 else 0
        return (size - less) / 1e6


def assembled(model: Path, tables: Path, target: Path, window: int | None = None) -> Path:
    """Write a folder with the model of one folder and the tables of another, and return it.

    Args:
        model: The folder of the model.
        tables: The folder of the shop's tables.
        target: The folder that is written.
        window: The window that the model gets in place of its own.
    """
    found = load_model(SlateShopper, model)
    if window is not None:
        found.config.window = min(window, found.config.window)
    target.mkdir(parents=True)
    save_model(found, target)
    for name in SHOP_TABLES:
        shutil.copy(tables / name, target / name)
    return target


def variants(config: Config, work: Path) -> list[Variant]:
    """All that take part; the folders of some are made in `work`."""
    shopper = assembled(config.shopper, config.shopper, work / "shopper")
    short = assembled(config.shopper, config.shopper, work / "window", config.window)
    small = assembled(config.small, config.shopper, work / "small")
    others = {
        (path.parent.name if path.name == "shopper" else path.name): assembled(
            path, config.shopper, work / f"other{number}"
        )
        for number, path in enumerate(config.others)
    }
    optional = {
        "bf16": Variant("bf16", shopper, precision="bf16"),
        "int8": Variant("int8", shopper, int8=True),
        "window": Variant(f"window {config.window}", short),
        "small_int8": Variant("small, int8", small, int8=True),
    }
    kept = {name: one for name, one in optional.items() if name not in config.left_out}
    last = [kept.pop("small_int8")] if "small_int8" in kept else []
    return [
        Variant(SHIPPED, shopper),
        *kept.values(),
        *(Variant(name.replace("_", " "), folder) for name, folder in others.items()),
        Variant(SMALL_ONE, small),
        *last,
    ]


def main(config: Config) -> None:
    """Score, play and time every variant, and write the results.

    Raises:
        FileNotFoundError: If a file of log or shopper is missing.
        ValueError: If the log has no cold items.
    """
    use_threads(config.threads)
    run, console = Run("small", config, results=config.results), Console()
    log = Log.load(ready(config.log, console, {"results": run.folder}))
    cold = need_cold_items(log, config.log)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chosen = variants(config, work)
        rows = sizes(chosen) + timed(config, chosen) + played(config, chosen, console)
        with console.status("replaying the log, with and without cold items"):
            full = log.examples(cold_hidden=False)
            hidden = log.examples(cold_hidden=True)
        rows += scored(config, chosen, full, hidden, cold, console)
    found = pl.DataFrame(rows, schema=ROW)
    run.publish(found, report(found))


# ---- rows ----------------------------------------------------------------------------------------


def _row(variant: Variant, what: str, value: float, n: int = 0, policy: str = "") -> dict[str, Any]:
    return {"variant": variant.name, "what": what, "policy": policy, "n": n, "value": value}


def sizes(chosen: list[Variant]) -> list[dict[str, Any]]:
    """A row a variant with the megabytes of its model."""
    return [_row(variant, "mb", variant.megabytes()) for variant in chosen]


def timed(config: Config, chosen: list[Variant]) -> list[dict[str, Any]]:
    """Time a step of every variant in turns: many shoppers together, and one alone."""
    device, rows = torch.device("cpu"), []
    crowds = {
        variant: (Crowd(variant.env(), config.shoppers, device), Crowd(variant.env(), 1, device))
        for variant in chosen
    }
    for several in crowds.values():
        for crowd in several:
            crowd.play(Clock(device), 0.2)  # warm-up
    for number in range(config.rounds):
        for variant, several in crowds.items():
            for what, crowd in zip(("us", "alone_us"), several, strict=True):
                clock = Clock(device)
                steps = crowd.play(clock, config.seconds)
                rows.append(_row(variant, what, 1e6 * clock.cpu / steps, number))
    return rows


def played(config: Config, chosen: list[Variant], console: Console) -> list[dict[str, Any]]:
    """Play the policies in every variant: a row an episode with its return."""
    site, rows = open_place(JOURNEY, device="cpu"), []
    episodes = seeds(REPORTED_SEED, config.episodes)
    for variant in chosen:
        crowd = Crowd(variant.env(), 1, torch.device("cpu"))
        inputs = site.inputs_for(crowd.simulator)
        for name in config.policies:
            with console.status(f"{name} plays for {variant.name}"):
                policy = POLICIES[name].build(inputs)
                found = evaluate(policy, crowd.simulator, episodes).rows.sort("seed")
            returns = found["return"].to_list()
            rows += [_row(variant, "return", value, n, name) for n, value in enumerate(returns)]
    return rows


def scored(
    config: Config,
    chosen: list[Variant],
    full: Examples,
    hidden: Examples,
    cold: torch.Tensor,
    console: Console,
) -> list[dict[str, Any]]:
    """Score every variant on the test weeks: a row a figure and bootstrap sample of households."""
    tested = (full.split == SPLITS.index("test")).nonzero().flatten()
    gap, follow_up = full.visits.gap[tested], full.visits.follow_up[tested]
    shopper = full.visits.shopper[tested].numpy()
    rows: list[dict[str, Any]] = []
    warm_tables, cold_tables = {}, {}

    # Responses to items that are known and to those that are not, and returns.
    for variant in chosen:
        model = variant.model()
        with console.status(f"scoring {variant.name}"), mixed(model.device, variant.precision):
            seen = score(model, full, "test", kinds=("case_control",))
            new = score(model, hidden, "test", kinds=("case_control",), cold=cold)
        warm, unknown = ~cold[full.row_item[seen.row]], cold[hidden.row_item[new.row]]
        warm_tables[variant.name] = sorted_rows(full, seen.row[warm], seen.logit[warm].float())
        cold_tables[variant.name] = sorted_rows(
            hidden, new.row[unknown], new.logit[unknown].float()
        )
        chances = gap_chances(seen.gap_logits.float(), model.config.gap_edges)
        loss = gap_log_loss(chances, gap, follow_up).double().numpy()
        value, samples, households = bootstrap_mean(loss, shopper, config.samples)
        told = {"gap_nll": [value, *samples.tolist()], "households": [float(households)]}
        rows += numbered(told, variant=variant.name, policy="")

    # Scores of responses, with the same households in the samples of every variant.
    for tables, names in (
        (warm_tables, {"auc": "auc", "ne": "ne"}),
        (cold_tables, {"auc": "cold_auc"}),
    ):
        for variant in chosen:
            found = with_samples(tables[variant.name], tuple(names), samples=config.samples)
            told = {names[metric]: values for metric, values in found.items()}
            rows += numbered(told, variant=variant.name, policy="")
    return rows


if __name__ == "__main__":
    run_command(main, Config)
