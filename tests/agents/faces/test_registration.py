"""Faces have ids of their own, and open the place behind them when one is made."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import registry

from agents.faces import IntentEnv, IntentVectorEnv, MaskedSlateEnv, MaskedSlateVectorEnv
from agents.faces.registration import _opened, register_faces
from policies.inputs import PolicyInputs
from recsim_env.registration import PRESETS
from recsim_env.simulator import SlateSimulator
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator


class ToySite:
    """What of a `Site` the faces use."""

    def simulator(self, population: str = "evaluation", **options: Any) -> SlateSimulator:
        self.population = population
        return toy_simulator(items=40, horizon_days=40.0)

    def inputs_for(self, simulator: SlateSimulator) -> PolicyInputs:
        return toy_inputs(simulator)


class Places:
    """`agents.places` with a toy behind every id; it writes down what was opened."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, dict[str, Any]]] = []
        self.site = ToySite()

    def open_place(self, env: str, **options: Any) -> ToySite:
        self.opened.append((env, options))
        return self.site


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    made = Places()
    module = ModuleType("agents.places")
    module.open_place = made.open_place  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "agents.places", module)
    _opened.cache_clear()
    return made


def test_every_shipped_environment_has_both_faces() -> None:
    shipped = [id for id in PRESETS if id.startswith("recsim_env/")]
    assert len(shipped) >= 6
    for id in shipped:
        name = id.removeprefix("recsim_env/").removesuffix("-v0")
        for face in ("Intent", "Masked"):
            assert registry[f"agents/{name}{face}-v0"].kwargs == {"face": face, "place": id}


def test_make_opens_the_place_once_with_what_it_is_told(places: Places) -> None:
    env: Any = gymnasium.make("agents:agents/MarketIntent-v0", cache="somewhere", limit=2.0)
    assert isinstance(env.unwrapped, IntentEnv)
    assert places.opened == [("recsim_env/Market-v0", {"cache": Path("somewhere")})]
    assert places.site.population == "train"
    space: Any = env.unwrapped.action_space
    assert space.high.max() == 2.0
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape or (), np.float32))

    masked = gymnasium.make("agents/MarketMasked-v0", cache="somewhere", population="evaluation")
    assert isinstance(masked.unwrapped, MaskedSlateEnv)
    assert places.site.population == "evaluation"
    assert len(places.opened) == 1, "the place is open already"
    gymnasium.make("agents/MarketMasked-v0", reward={"clicks": 1.0})
    assert places.opened[-1] == ("recsim_env/Market-v0", {"reward": {"clicks": 1.0}})


def test_make_vec_makes_one_batch(places: Places) -> None:
    intents = gymnasium.make_vec("agents/MarketIntent-v0", num_envs=3, autoreset_mode="SameStep")
    assert isinstance(intents.unwrapped, IntentVectorEnv)
    masked: Any = gymnasium.make_vec("agents/MarketMasked-v0", num_envs=3)
    assert isinstance(masked.unwrapped, MaskedSlateVectorEnv)
    assert masked.reset(seed=1)[0].shape[0] == 3
    assert masked.unwrapped.action_masks().shape[0] == 3


def test_a_place_of_ones_own(places: Places) -> None:
    try:
        made = register_faces("shop/Mine-v3", "my-shop")
        assert made == ["shop/MineIntent-v3", "shop/MineMasked-v3"]
        gymnasium.make("shop/MineIntent-v3")
        assert places.opened == [("my-shop", {})]
        assert register_faces("Bare") == ["BareIntent", "BareMasked"]
        gymnasium.make("BareMasked")
        assert places.opened[-1] == ("Bare", {})
    finally:
        for id in ("shop/MineIntent-v3", "shop/MineMasked-v3", "BareIntent", "BareMasked"):
            registry.pop(id, None)


@pytest.mark.parametrize("id", [None, 3, ""])
def test_an_id_is_text(id: Any) -> None:
    with pytest.raises(ValueError, match="id is"):
        register_faces(id)


def test_seeds_reach_the_shoppers(places: Places) -> None:
    env: Any = gymnasium.make("agents/MarketIntent-v0")
    env.reset(seed=12)
    assert torch.equal(env.unwrapped.simulator.episodes.seed, torch.tensor([12]))
