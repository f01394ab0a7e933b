"""Agents of other libraries learn on the faces, by the code that the page shows."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.evaluate import evaluate
from agents.faces import Face, IntentFace, MaskedFace
from policies.inputs import PolicyInputs
from recsim_env import make_simulator
from recsim_env.shoppers.market import MARKET
from recsim_env.simulator import SlateSimulator
from tests.support.policy_toys import made_up_ranker

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "others-agents.md").read_text(encoding="utf-8")
SCRIPTS = ("sb3_ppo", "maskable_ppo", "torchrl_ppo", "rllib_ppo")


class SmallSite:
    """A market of 60 items, whose ranker knows nothing: the best of each category is arbitrary."""

    def simulator(self, population: str = "evaluation") -> SlateSimulator:
        config = replace(MARKET, items=60, categories=6, favourites=2)
        return make_simulator("recsim_env/Market-v0", device="cpu", world=0, config=config)

    def inputs_for(self, simulator: SlateSimulator) -> PolicyInputs:
        return PolicyInputs(
            simulator.catalog,
            simulator.observation_space,
            simulator.slate_size,
            made_up_ranker(len(simulator.catalog)),
        )


def mean_return(face: type[Face[Any]], predict: Callable[..., Any]) -> float:
    site = SmallSite()
    simulator = site.simulator()
    policy = face(simulator, site.inputs_for(simulator)).policy(predict)
    return float(evaluate(policy, simulator, torch.arange(256)).rows["return"].to_numpy().mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "library", "face"),
    [
        ("sb3_ppo", "stable_baselines3", IntentFace),
        ("maskable_ppo", "sb3_contrib", MaskedFace),
    ],
)
def test_training_raises_the_return(script: str, library: str, face: type[Face[Any]]) -> None:
    pytest.importorskip(library, reason="needs the extra `interop`")
    train = importlib.import_module(f"examples.interop.{script}").train
    little, more = (mean_return(face, train(SmallSite(), steps)) for steps in (2_560, 51_200))
    assert more > little + 1


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_page_shows_the_code_of_the_example(name: str) -> None:
    script = (ROOT / "examples" / "interop" / f"{name}.py").read_text(encoding="utf-8")
    body = script[script.index("def train(") : script.index("\n\n\ndef main(")]
    (block,) = [
        code for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S) if body in code
    ]
    imports = block[: block.index("def train(")].strip()
    assert all(part in script for part in re.split(r"\n+(?=from |import )", imports))
