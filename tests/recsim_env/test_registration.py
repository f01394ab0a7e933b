"""`register` makes an environment of one's own; every registered id holds what an id must hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import recsim_env
from recsim_env.env import SlateEnv
from recsim_env.registration import PRESETS, EnvConfig, make_simulator, preset
from recsim_env.rewards import Reward
from recsim_env.shoppers.household import population
from recsim_env.types import best_device
from recsim_env.vector import SlateVectorEnv
from tests.support.toys import ToyShopper, make_toy_shopper


@pytest.fixture
def own_id() -> Iterator[str]:
    """An id that nobody else uses, and that is gone afterwards."""
    yield "toys/Own-v3"
    PRESETS.pop("toys/Own-v3", None)
    gymnasium.registry.pop("toys/Own-v3", None)


def inside(env: gymnasium.Env[Any, Any]) -> SlateEnv:
    assert isinstance(env.unwrapped, SlateEnv)
    return env.unwrapped


# --- every registered id ---


def loads_a_model(id: str) -> list[pytest.MarkDecorator]:
    return [] if callable(PRESETS[id].shopper) else [pytest.mark.slow]


@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=loads_a_model(id)) for id in sorted(PRESETS)]
)
def test_every_id_plays(id: str) -> None:
    shopper = PRESETS[id].shopper
    if not callable(shopper) and not Path(shopper).is_dir():
        with pytest.raises(FileNotFoundError, match="there is no such folder"):
            gymnasium.make(id)
        pytest.skip(f"{os.fspath(shopper)} is not here")
    check_env(gymnasium.make(id, device="cpu").unwrapped)
    env = gymnasium.make_vec(id, num_envs=3, device="cpu")
    assert isinstance(env, SlateVectorEnv)
    seen, _ = env.reset(seed=0)
    for _ in range(3):
        assert seen in env.observation_space
        seen, *_ = env.step(env.action_space.sample())


def test_the_complete_journey_is_registered_as_it_is_described() -> None:
    config = preset("recsim_env/CompleteJourney-v0")
    assert (config.slate_size, config.horizon_days, config.strict) == (10, 182.0, False)
    assert isinstance(config.reward, Reward)
    assert config.reward.weights.keys() == {"clicks", "intra_list_distance"}


# --- an environment of one's own ---


def test_one_call_registers_an_environment(own_id: str) -> None:
    recsim_env.register(
        own_id,
        make_toy_shopper,
        reward={"clicks": 1.0, "category_coverage": 0.5},
        slate_size=3,
        horizon_days=12,
        history=2,
        strict=True,
        shopper_options={"items": 40},
    )
    env = inside(gymnasium.make(own_id))
    assert env.action_space.nvec.tolist() == [40] * 3
    assert env.observation_space["recent_slates"].shape == (2, 3)
    assert env.simulator.horizon_days == 12
    assert env.simulator.strict
    assert env.simulator.reward == Reward({"clicks": 1.0, "category_coverage": 0.5})
    assert isinstance(gymnasium.make_vec(own_id, num_envs=2), SlateVectorEnv)
    assert make_simulator(own_id).slate_size == 3


def test_a_folder_is_loaded_when_the_environment_is_made(
    own_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def load(
        folder: Path, device: torch.device, slate_size: int, *, population: str = "train"
    ) -> ToyShopper:
        calls.append((folder, device.type, slate_size, population))
        return ToyShopper(slate_size=slate_size, device=device)

    monkeypatch.setattr(population, "load_shopper", load)
    (tmp_path / "config.json").write_text("{}")
    recsim_env.register(
        own_id, tmp_path, slate_size=4, shopper_options={"population": "evaluation"}
    )
    assert calls == []
    gymnasium.make(own_id, device="cpu")
    gymnasium.make(own_id, device="cpu", population="train")
    assert calls == [(tmp_path, "cpu", 4, "evaluation"), (tmp_path, "cpu", 4, "train")]


def test_an_environment_can_be_made_from_a_configuration_alone() -> None:
    config = EnvConfig(make_toy_shopper, slate_size=4)
    assert SlateEnv(config, horizon_days=3).simulator.horizon_days == 3
    assert SlateVectorEnv(config, 2, items=40).single_action_space.nvec.tolist() == [40] * 4


def test_registered_environments_share_nothing_that_changes(own_id: str) -> None:
    weights, options = {"clicks": 1.0}, {"items": 40}
    recsim_env.register(own_id, make_toy_shopper, reward=weights, shopper_options=options)
    weights["clicks"] = 9.0
    options["items"] = 50
    first, second = make_simulator(own_id), make_simulator(own_id)
    assert len(first.catalog) == 40
    assert first.reward.weights == {"clicks": 1.0}
    assert first.reward.weights is not second.reward.weights
    assert first.shopper is not second.shopper
    first.reset(torch.arange(2))
    assert second.num_envs == 0


def test_options_of_make_override_the_configuration_and_leave_it(own_id: str) -> None:
    recsim_env.register(own_id, make_toy_shopper, horizon_days=12)
    env = inside(
        gymnasium.make(
            own_id, horizon_days=5, reward={"clicks": 2.0}, slate_size=2, history=1, lapse=0.0
        )
    )
    assert env.simulator.horizon_days == 5
    assert env.simulator.reward.weights == {"clicks": 2.0}
    assert env.observation_space["recent_slates"].shape == (1, 2)
    again = inside(gymnasium.make(own_id))
    assert again.simulator.horizon_days == 12
    assert again.simulator.slate_size == 10
    assert again.simulator.reward == Reward()


def test_the_spec_makes_the_environment_again(own_id: str) -> None:
    recsim_env.register(own_id, make_toy_shopper)
    env = gymnasium.make(own_id, horizon_days=5, items=40)
    assert env.spec is not None
    again = inside(
        gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    )
    assert again.simulator.horizon_days == 5
    assert len(again.simulator.catalog) == 40


def test_whole_numbers_of_numpy_are_settings(own_id: str) -> None:
    settings: dict[str, Any] = {
        "slate_size": np.int64(3),
        "history": np.uint8(2),
        "horizon_days": np.int32(9),
    }
    recsim_env.register(own_id, make_toy_shopper, **settings)
    simulator = make_simulator(own_id)
    assert (simulator.slate_size, simulator.history, simulator.horizon_days) == (3, 2, 9.0)
    assert [
        type(value) for value in (simulator.slate_size, simulator.history, simulator.horizon_days)
    ] == [
        int,
        int,
        float,
    ]
    assert make_simulator(own_id, strict=np.bool_(True)).strict is True


def test_a_module_before_the_id_is_imported_first(
    own_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_of_mine.py").write_text(
        "import recsim_env\nfrom tests.support.toys import make_toy_shopper\n"
        f"recsim_env.register({own_id!r}, make_toy_shopper, slate_size=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        gymnasium.error.NameNotFound, match=f"id is '{own_id}', but the registered ids are"
    ):
        make_simulator(own_id)
    assert make_simulator(f"shop_of_mine:{own_id}").slate_size == 3
    assert inside(gymnasium.make(f"shop_of_mine:{own_id}")).simulator.slate_size == 3
    assert SlateVectorEnv(f"shop_of_mine:{own_id}", 2).simulator.slate_size == 3
    with pytest.raises(
        ModuleNotFoundError, match="id is 'no_shop:x-v0', but its module cannot be imported"
    ):
        make_simulator("no_shop:x-v0")
    with pytest.raises(
        gymnasium.error.NameNotFound,
        match=f"id is 'shop_of_mine:{own_id}x', but the registered|id is",
    ):
        make_simulator(f"shop_of_mine:{own_id}x")


# --- errors ---


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"shopper": dict},
            TypeError,
            r"shopper is the class dict, but a function must take \(device, slate_size",
        ),
        (
            {"shopper": lambda: 1},
            TypeError,
            r"shopper is .*, but a function must take \(device, slate_size, \*\*options\)",
        ),
        ({"shopper": 3}, TypeError, "shopper is 3, but it must be a function or a folder"),
        (
            {"shopper": "/no/such/folder"},
            FileNotFoundError,
            "shopper is '/no/such/folder', but there is no such folder",
        ),
        (
            {"reward": {"click": 1.0}},
            ValueError,
            "a term of reward is 'click', but it must be one of",
        ),
        (
            {"slate_size": 0},
            ValueError,
            "slate_size is 0, but it must be a whole number from 1 to 1000",
        ),
        ({"slate_size": 2.5}, ValueError, "slate_size is 2.5"),
        (
            {"horizon_days": -1.0},
            ValueError,
            "horizon_days is -1.0, but it must be a number above 0",
        ),
        ({"history": 0}, ValueError, "history is 0, but it must be a whole number from 1 to 1000"),
    ],
)
def test_bad_settings_raise_and_register_nothing(
    own_id: str, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        recsim_env.register(own_id, **{"shopper": make_toy_shopper, **settings})
    assert own_id not in PRESETS
    assert own_id not in gymnasium.registry


@pytest.mark.parametrize("id", ["toys/unversioned", "unversioned", "unversioned-v0"])
def test_an_id_may_leave_out_what_gymnasium_lets_it(id: str) -> None:
    try:
        recsim_env.register(id, make_toy_shopper, slate_size=3)
        assert gymnasium.make(id).action_space.shape == (3,)
        assert make_simulator(id).slate_size == 3
    finally:
        PRESETS.pop(id, None)
        gymnasium.registry.pop(id, None)


def test_an_id_of_this_package_is_never_replaced() -> None:
    before = PRESETS["recsim_env/Market-v0"]
    sentence = r"^id is 'recsim_env/Market-v0', but .* choose another, such as 'shop/Market-v0'\.$"
    with pytest.raises(ValueError, match=sentence):
        recsim_env.register("recsim_env/Market-v0", make_toy_shopper)
    assert PRESETS["recsim_env/Market-v0"] is before


def test_a_bad_id_raises_and_registers_nothing() -> None:
    with pytest.raises(gymnasium.error.Error):
        recsim_env.register("two words-v0", make_toy_shopper)
    assert "two words-v0" not in PRESETS


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec, make_simulator])
def test_unknown_options_raise(own_id: str, make: Any) -> None:
    recsim_env.register(own_id, make_toy_shopper)
    with pytest.raises(
        TypeError,
        match=r"unexpected keyword argument 'populaton', but the options are \['belief', 'categories', 'dev",
    ):
        make(own_id, populaton="train")
    with pytest.raises(TypeError, match=r"'horizon', but .*\. Did you mean 'horizon_days'\?"):
        make(own_id, horizon=3)


def test_unknown_ids_raise() -> None:
    with pytest.raises(
        gymnasium.error.NameNotFound, match="id is 'toys/None-v0', but the registered ids are"
    ):
        make_simulator("toys/None-v0")


def test_a_shopper_of_another_slate_size_raises() -> None:
    config = EnvConfig(
        lambda device, slate_size: ToyShopper(slate_size=slate_size + 1, device=device),
        slate_size=4,
    )
    with pytest.raises(
        ValueError, match="shopper answers slates of 5 positions, but slate_size is 4"
    ):
        make_simulator(config)


@pytest.mark.parametrize(
    "device",
    [
        "warp",
        "",
        "mps",
        "xpu",
        "meta",
        "cpu:x",
        f"cuda:{torch.cuda.device_count()}",
        3.5,
        0,
        True,
        torch.device("meta"),
    ],
)
def test_an_unknown_or_missing_device_raises(own_id: str, device: Any) -> None:
    recsim_env.register(own_id, make_toy_shopper)
    with pytest.raises(ValueError, match=re.escape(f"device is {device!r}, but")):
        gymnasium.make(own_id, device=device)


def test_the_default_device_is_the_best_there_is() -> None:
    assert best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert best_device("cpu") == torch.device("cpu")
