"""Agents of other libraries learn on the faces, by the code that the page shows."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents.evaluate import evaluate
from agents.faces import Face, IntentFace, MaskedFace
from policies.inputs import PolicyInputs
from recsim_env import make_simulator
from recsim_env.shoppers.market import MARKET
from recsim_env.shoppers.outside import OutsideSpec, outside_simulator
from recsim_env.shoppers.outside_catalog import clustered_catalog
from recsim_env.simulator import SlateSimulator
from tests.support.policy_toys import TableRanker, made_up_ranker

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "others-agents.md").read_text(encoding="utf-8")
SCRIPTS = ("sb3_ppo", "maskable_ppo", "torchrl_ppo", "rllib_ppo", "d3rlpy_iql")


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


class Hits(gymnasium.Env[dict[str, Any], Any]):
    """Twelve songs, of which everybody clicks every third one, for six visits."""

    action_space = gymnasium.spaces.MultiDiscrete([12] * 3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        self.visit = 0
        return {}, {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.visit += 1
        return {}, 0.0, self.visit == 6, False, {"clicks": (action % 3 == 0).astype(int)}


class HitSite:
    """The ranker puts the hits last: places 8 to 11 are right, and greedy CTR gets no click."""

    def simulator(self, population: str = "evaluation") -> SlateSimulator:
        songs = torch.eye(12) + 0.1
        return outside_simulator(OutsideSpec(Hits, clustered_catalog(songs, 4), visits=6))

    def inputs_for(self, simulator: SlateSimulator) -> PolicyInputs:
        wrong = torch.arange(12.0) - 100.0 * (torch.arange(12) % 3 == 0)
        space, size = simulator.observation_space, simulator.slate_size
        return PolicyInputs(simulator.catalog, space, size, TableRanker(wrong))


def mean_return(site: Any, face: Callable[..., Face[Any]], predict: Callable[..., Any]) -> float:
    simulator = site.simulator()
    policy = face(simulator, site.inputs_for(simulator)).policy(predict)
    return float(evaluate(policy, simulator, torch.arange(256)).rows["return"].to_numpy().mean())


@pytest.mark.slow
def test_intents_are_learned_by_stable_baselines3() -> None:
    train = importlib.import_module("examples.interop.sb3_ppo").train
    site = SmallSite()
    little, more = (mean_return(site, IntentFace, train(site, steps)) for steps in (2_560, 51_200))
    assert more > little + 1


@pytest.mark.slow
def test_places_are_learned_by_sb3_contrib() -> None:
    pytest.importorskip("sb3_contrib", reason="needs the extra `interop`")
    train = importlib.import_module("examples.interop.maskable_ppo").train
    site = HitSite()
    greedy = mean_return(site, MaskedFace, lambda seen, masks: np.tile(range(3), (len(seen), 1)))
    assert greedy == 0.0
    learned = mean_return(site, MaskedFace, train(site, 102_400))
    assert learned > 15, "by chance it is 6, at most 18"


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_page_shows_the_code_of_the_example(name: str) -> None:
    script = (ROOT / "examples" / "interop" / f"{name}.py").read_text(encoding="utf-8")
    body = script[script.index("def train(") : script.index("\n\n\ndef main(")]
    (block,) = [
        code for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S) if body in code
    ]
    imports = block[: block.index("def train(")].strip()
    assert all(part in script for part in re.split(r"\n+(?=from |import )", imports))
