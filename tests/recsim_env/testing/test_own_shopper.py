"""The example of an own shopper keeps its promises, is short, and is what the guide shows."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

import recsim_env
from recsim_env.testing import check_shopper

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "own_shopper.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("own_shopper", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_keeps_its_promises(example: Any) -> None:
    check_shopper(example.Regulars(torch.device("cpu"), slate_size=4))


def test_its_author_thinks_about_twenty_lines() -> None:
    (own,) = (
        part for part in ast.parse(EXAMPLE.read_text()).body if isinstance(part, ast.ClassDef)
    )
    assert own.end_lineno is not None
    assert own.end_lineno - own.lineno < 20


def test_its_environment_buys_what_the_shopper_likes(example: Any) -> None:
    env = gymnasium.make("shop/Regulars-v0", disable_env_checker=True)
    env.reset(seed=0)
    simulator = recsim_env.make_simulator("shop/Regulars-v0", device="cpu")
    simulator.reset(torch.tensor([0]))
    liked = (simulator.catalog.category == simulator.hidden).nonzero().flatten()
    other = (simulator.catalog.category != simulator.hidden).nonzero().flatten()
    clicks = {"liked": 0, "other": 0}
    for kind, items in (("liked", liked), ("other", other)):
        for _ in range(12):
            *_, info = env.step(items[:4].numpy())
            clicks[kind] += info["clicks"]
            assert info["gap_days"] == 7
    assert 4 <= clicks["liked"] <= 26  # 48 items with chance 0.3: 14.4, give or take 3.2
    assert clicks["other"] == 0


def test_the_guide_shows_it() -> None:
    guide = (ROOT / "docs" / "guides" / "shopper.md").read_text(encoding="utf-8")
    assert "```{literalinclude} ../../examples/own_shopper.py\n" in guide
