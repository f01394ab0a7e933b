"""The examples run, and print what they say they do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "any_weights": [],
    "bundles": [],
    "constrained": [],
    "household_visits": [],
    "many_goals": [],
    "own_log": [],
    "own_shopper": [],
    "random_slates": ["--shoppers", "4", "--visits", "5"],
    "whole_visits": [],
    "train_ppo_and_look": [
        *("--logged", "60", "--steps", "4000", "--shoppers", "64", "--episodes", "8"),
        *("--output", "runs"),
    ],
}
"""The arguments of each example, so that it takes seconds."""


def run(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}", *SMALL[name]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_arguments_here() -> None:
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__"}
    assert scripts == SMALL.keys()


def test_random_slates_are_served(tmp_path: Path) -> None:
    assert "20 visits" in run("random_slates", tmp_path)


def test_a_bundle_is_offered_at_a_discount(tmp_path: Path) -> None:
    told = run("bundles", tmp_path)
    assert ", 20% off " in told
    assert " goes with " in told
    price = float(told.split("the bundle costs ")[1].split(",")[0])
    revenue = float(told.rsplit("revenue ", 1)[1])
    assert revenue == price if "whole: True" in told else revenue < price / 0.8


def test_many_goals_are_told_side_by_side(tmp_path: Path) -> None:
    told = run("many_goals", tmp_path)
    assert [goal for goal in ("clicks", "revenue", "kept") if f"'{goal}': " in told] == [
        "clicks",
        "revenue",
        "kept",
    ]
    assert 0 < float(told.split("'intra_list_distance': ")[1].split(",")[0]) <= 1


def test_pages_of_a_household_show_search_and_cart(tmp_path: Path) -> None:
    told = run("household_visits", tmp_path)
    pages = re.findall(r", page (\d+)  store", told)
    assert len(pages) == 6
    assert "2" in pages
    assert "scenario: search" in told
    assert "query: " in told
    assert "cart: " in told


@pytest.mark.slow
def test_one_agent_serves_any_weights(tmp_path: Path) -> None:
    lines = run("any_weights", tmp_path).splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["0.0", "0.5", "1.0"]
    assert all("('clicks', 'intra_list_distance') [" in line for line in lines)
    told = [[float(value) for value in line.split("[")[1].rstrip("]").split(",")] for line in lines]
    assert told[0] != told[2]  # weights change what is shown


def test_whole_visits_are_paid_for_at_their_end(tmp_path: Path) -> None:
    lines = run("whole_visits", tmp_path).splitlines()
    assert [sum(map(int, re.findall(r"\d+", line)[1:])) for line in lines[::2]] == [64] * 8
    assert lines[0].endswith(", 0]")  # nobody begins with a cart
    paid = [float(line.split()[-3]) for line in lines[1::2]]
    assert sum(paid) > 0


def test_a_shopper_of_ones_own_answers(tmp_path: Path) -> None:
    assert "back in 7 days" in run("own_shopper", tmp_path)


@pytest.mark.slow
def test_a_limit_on_clicks_is_held(tmp_path: Path) -> None:
    told = run("constrained", tmp_path).splitlines()[-1]
    found = {name: float(value) for name, value in re.findall(r"'(\w+)': (-?[\d.]+)", told)}
    assert found.keys() == {"limit", "mean", "margin", "kept"}
    assert found["mean"] > 0.9 * found["limit"] > 0


@pytest.mark.slow
def test_an_own_log_becomes_a_simulator(tmp_path: Path) -> None:
    """The notebook in percent format, which runs as a script."""
    told = run("own_log", tmp_path)
    assert "clicks     can be learned" in told
    assert "Clicks: the model ranks held-out clicks better than two means" in told
    assert "agent above greedy CTR: " in told.splitlines()[-1]
    assert (tmp_path / "runs" / "own_log" / "shop" / "report.html").is_file()


def test_the_notebook_has_cells_of_both_kinds() -> None:
    text = (ROOT / "examples" / "own_log.py").read_text(encoding="utf-8")
    cells = [line for line in text.splitlines() if line.startswith("# %%")]
    assert {"# %%", "# %% [markdown]"} == set(cells)
    assert text.startswith("# %% [markdown]\n")


@pytest.mark.slow
def test_ppo_is_trained_watched_and_compared(tmp_path: Path) -> None:
    lines = run("train_ppo_and_look", tmp_path).splitlines()
    returns = [line for line in lines if "return" in line]
    assert returns[0].lstrip().startswith("0 visits")  # the watch sees the untrained policy first
    assert [line.split(":")[0] for line in returns[-2:]] == ["greedy CTR", "PPO"]
    before, after = (returns[0].rpartition(" ")[2], returns[-2].split("return ")[1].split()[0])
    assert before == after  # PPO starts as greedy CTR
    assert list((tmp_path / "runs").glob("events.out.tfevents.*"))
