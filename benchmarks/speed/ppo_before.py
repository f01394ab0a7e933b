"""The same training in the code of an earlier commit, beside that of today.

A temporary git work tree of the commit is made, and removed at the end. In each of the two trees a
process builds the registered `ppo_composer` of a place (`benchmarks.speed.ppo_turns`); they take
turns, update by update, and what is compared is the processor time of the same number of
shopper-steps in minibatches of the same size. The agent is the one that its commit registers: up to
commit aaf0a23 its composer was greedy in log-odds, which is less to compute than the reward's
units. Both play in the same world, whose log and ranker the earlier commit makes by its own code
where they are missing, in a folder of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.places import JOURNEY, MARKET, PLACES, Place
from benchmarks.lab.provenance import ROOT
from benchmarks.speed.ppo_loops import Trainings
from recsim_env.estimates import Estimate

TURNS = Path(__file__).with_name("ppo_turns.py")
"""The program of a training that takes turns with another one."""
PROGRAM = "import runpy, sys; runpy.run_path(sys.argv[1])['answer']()"
"""What its process runs: the current folder is that of the work tree."""
NOW, BEFORE = "now", "before"
"""The code of this work tree, and that of the earlier commit."""


@dataclass(frozen=True)
class Ground:
    """Where both trainings are compared."""

    place: str
    """Name of the place."""
    believing: bool = False
    """Whether today's training has a belief, which that of the earlier commit never has."""


GROUNDS = {
    "journey": Ground(Place(JOURNEY).name),
    "market": Ground(Place(MARKET, 0).name),
    "market_belief": Ground(Place(MARKET, 0).name, believing=True),
}
"""Where they are compared, by the name of the figures; with a belief where one is told."""
KEPT = ("update", "steps", "wall_s", "cpu_s", "simulate_s", "act_s", "learn_s", "return")
"""What is kept of a row of a training."""


@contextlib.contextmanager
def work_tree(commit: str) -> Iterator[Path]:
    """A work tree of a commit of this repository, for as long as it is needed.

    Raises:
        ValueError: If the repository has no such commit.
    """
    known = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", check=False)
    if known.returncode:
        raise ValueError(f"before is {commit!r}, but it must be a commit of this repository.")
    with tempfile.TemporaryDirectory(prefix="recsim-before-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", str(tree), known.stdout.strip())
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree), check=False)


def _git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=check, capture_output=True, text=True
    )


class Turns:
    """A training in the code of a work tree, which makes an update when it is asked for."""

    def __init__(self, tree: Path, told: Mapping[str, Any]) -> None:
        threads = str(told["threads"])
        variables = {
            "PYTHONPATH": str(tree),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(TURNS), json.dumps(dict(told))],
            cwd=tree,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def update(self, number: int) -> dict[str, Any]:
        """Make an update, and return its row; number 0 only evaluates.

        Raises:
            RuntimeError: If the training ended in an error, which stands on the standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"The training ended at update {number}; its error stands above.")
        row = json.loads(answer)
        return {name: row[name] for name in KEPT}

    def close(self) -> None:
        """End the training, wherever it stands, and wait for its process."""
        self._process.kill()
        self._process.communicate()


def compare(
    config: Trainings, commit: str, grounds: tuple[str, ...], belief: Path | None, threads: int
) -> pl.DataFrame:
    """Train in both trees on every ground: a row a ground, tree, seed and update.

    Args:
        config: Shoppers, updates, seeds, episodes and markets; the last update is evaluated.
        commit: The earlier commit.
        grounds: Names in `GROUNDS`; those with a belief are left out where none is told.
        belief: The folder of fitted shoppers that gives the belief.
        threads: Number of threads of each training.
    """
    rows: list[dict[str, Any]] = []
    with work_tree(commit) as earlier:
        for name in grounds:
            ground = GROUNDS[name]
            if ground.believing and belief is None:
                continue
            for seed in config.seeds:
                told = _told(config, PLACES[ground.place].name, seed, threads)
                own = {"belief": str(belief.resolve())} if ground.believing and belief else {}
                markets = config.markets.resolve()
                rows += _turns(
                    config,
                    {"ground": name, "seed": seed},
                    {
                        NOW: (ROOT, {**told, **own, "markets": str(markets)}),
                        BEFORE: (earlier, {**told, "markets": str(markets / f"before-{commit}")}),
                    },
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def _told(config: Trainings, place: str, seed: int, threads: int) -> dict[str, Any]:
    """The options of a training."""
    return {
        "place": place,
        "shoppers": config.shoppers,
        "updates": config.updates,
        "seeds": [seed],
        "evaluate_every": config.updates,
        "episodes": config.episodes,
        "slates": config.slates,
        "device": config.device,
        "threads": threads,
    }


def _turns(
    config: Trainings, named: Mapping[str, Any], trees: Mapping[str, tuple[Path, dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Two trainings in turns; which one begins changes from update to update."""
    with contextlib.ExitStack() as open_ones:
        trainings = {}
        for code, (tree, told) in trees.items():
            trainings[code] = Turns(tree, told)
            open_ones.callback(trainings[code].close)
        for number in range(1, config.updates + 1):
            order = list(trainings) if number % 2 else list(trainings)[::-1]
            for code in order:
                yield {**named, "code": code, **trainings[code].update(number)}


def summarise(rows: pl.DataFrame) -> dict[str, Estimate]:
    """Steps a processor second over those of the earlier commit, and returns less theirs.

    The first update of each training warms up and is left out. Returns are those after the last
    update, paired by training seed.
    """
    summary: dict[str, Estimate] = {}
    for name in rows["ground"].unique(maintain_order=True).to_list():
        own = rows.filter(pl.col("ground") == name).sort("seed", "update")
        now, before = (own.filter(pl.col("code") == code) for code in (NOW, BEFORE))
        if now["steps"].to_list() != before["steps"].to_list():
            raise ValueError(f"{name}: both trainings must make the same number of steps.")
        timed = pl.col("update") > 1
        ours, theirs = (part.filter(timed)["cpu_s"].to_numpy() for part in (now, before))
        summary[f"{name}_over_before"] = estimate_mean(theirs / ours, weights=ours)
        ends = [part.drop_nulls("return")["return"].to_numpy() for part in (now, before)]
        for code, end in zip((NOW, BEFORE), ends, strict=True):
            summary[f"{name}_return_{code}"] = estimate_mean(end)
        summary[f"{name}_return_minus_before"] = paired_difference(*ends)
    return summary


def lines(summary: Mapping[str, Estimate]) -> list[dict[str, object]]:
    """A line of the table for each ground."""
    return [
        {
            "ground": name.replace("_", ", "),
            "ratio": summary[f"{name}_over_before"],
            "now": summary[f"{name}_return_now"],
            "before": summary[f"{name}_return_before"],
        }
        for name in GROUNDS
        if f"{name}_over_before" in summary
    ]


HEADERS = {
    "ground": "place",
    "ratio": "steps per CPU second, over before",
    "now": "return now",
    "before": "return before",
}
