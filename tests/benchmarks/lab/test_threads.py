"""One file decides how many threads benchmarks use, and `crowded` measures what is right."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch

from benchmarks.lab.ppo.config import Config as TrainConfig
from benchmarks.lab.ppo.model import Training, make_model
from benchmarks.lab.threads import FITTING_THREADS, THREADS, use_threads
from benchmarks.speed import crowded
from benchmarks.speed.crowded import WAYS, Config, crowd, lines, summarise, variables
from tests.benchmarks.agents.test_compare import make_world
from tests.test_layout import ROOT, relative, sources

COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if "def main(config" in path.read_text()
)
FITTING = {
    "benchmarks.shopper.ablation",
    "benchmarks.shopper.fidelity",
    "benchmarks.shopper.history",
    "benchmarks.shopper.teacher",
    "benchmarks.data.finetune",
    "benchmarks.data.shrink",
}
OWN = {
    "benchmarks/lab/threads.py",
    "benchmarks/speed/throughput.py",
    "benchmarks/speed/latency.py",
    "benchmarks/speed/ppo_turns.py",
}
"""The one place, two benchmarks whose rows are measured at numbers of threads of their own, and
what runs beside an earlier commit, which may lack the place."""


def test_a_number_of_threads_is_set() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        use_threads(before)
    with pytest.raises(
        ValueError, match=r"threads is 0, but it must be a whole number of 1 or more\."
    ):
        use_threads(0)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_default_of_the_one_place(command: str) -> None:
    config = importlib.import_module(command).Config
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    if "threads" in defaults:
        assert defaults["threads"] == (FITTING_THREADS if command in FITTING else THREADS)


def test_nobody_else_sets_a_number() -> None:
    setters = {
        relative(path) for path in sources("benchmarks") if "set_num_threads" in path.read_text()
    }
    assert setters == OWN
    users = {
        path.stem for path in sources("benchmarks") if "use_threads(config." in path.read_text()
    }
    assert users >= {
        "ablation", "behaviour", "compare", "crowded", "fidelity", "finetune", "fit_market",
        "league", "learning_curves", "market_log", "measuring", "ppo_speed", "train", "train_ranker",
        "transfer", "tune", "tune_agents",
    }  # fmt: skip


def test_bars_in_a_file_are_refreshed_twice_a_minute() -> None:
    code = "import benchmarks, io; from tqdm.auto import tqdm; "
    code += "print(tqdm(range(3), file=io.StringIO()).mininterval)"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TQDM_")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "30.0"


# ---- benchmarks.speed.crowded --------------------------------------------------------------------


def test_busy_processes_end_with_the_block_and_by_themselves() -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def noted(*args: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(real(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", noted)
        with crowd(3, 60.0):
            assert [process.poll() for process in started] == [None] * 3
    assert all(process.poll() is not None for process in started)
    assert len(started) == 3
    began = time.monotonic()
    assert (
        subprocess.run([sys.executable, "-c", crowded.COUNTING, "0.2"], timeout=60).returncode == 0
    )
    assert time.monotonic() - began >= 0.2


def test_variables_are_put_back() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "ACTIVE")
        patch.delenv("GOMP_SPINCOUNT", raising=False)
        with variables({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}):
            assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "7")
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
        assert "GOMP_SPINCOUNT" not in os.environ


def test_the_figures_are_those_of_the_rows() -> None:
    """One thread makes 100 visits a second alone, and 100 a CPU second; beside four, 40 and 90."""
    rows = pl.DataFrame(
        [
            {
                "way": way,
                "round": number,
                "busy": busy,
                "visits": visits,
                "wall_s": 10.0,
                "cpu_s": cpu,
            }
            for number in range(3)
            for way, busy, visits, cpu in (
                ("one", 0, 1000, 10.0),
                ("one", 4, 400, 400 / 90),
                ("two", 0, 1500, 20.0),
                ("two", 4, 300, 10.0),
            )
        ]
    )
    summary = summarise(rows)
    value = {name: estimate.value for name, estimate in summary.items()}
    assert value["share_of_visits_per_s/one/beside"] == pytest.approx(0.4)
    assert value["share_of_visits_per_cpu_s/one/beside"] == pytest.approx(0.9)
    assert value["visits_per_s/two/alone"] == pytest.approx(150)
    assert value["share_of_visits_per_s/two/alone"] == pytest.approx(1.5)
    assert value["share_of_visits_per_cpu_s/two/beside"] == pytest.approx(0.3)
    assert [line["way"] for line in lines(summary, ("one", "two"))] == [
        WAYS["one"].label,
        WAYS["two"].label,
    ]


def test_a_training_goes_on_until_the_time_is_up_and_counts_its_visits(tmp_path: Path) -> None:
    config = TrainConfig(place=make_world(tmp_path), shoppers=16)
    model = make_model(Training.of(config, 0))
    first = crowded.train_for(model, 0.0)
    assert first["visits"] == 16  # one batch, then the time was up
    more = crowded.train_for(model, 0.5)
    assert more["visits"] == model.num_timesteps - 16
    assert more["wall_s"] >= 0.5
    assert 0 < more["cpu_s"] <= 1.1 * more["wall_s"] * torch.get_num_threads()


def test_ways_without_one_thread_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ways is \('two',\), but it must be some of"):
        crowded.main(Config(ways=("two",)))
