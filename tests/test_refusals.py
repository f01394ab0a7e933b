"""Odd values through every door of the faces: each refusal names its argument, and a refused input
changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import Error
from torch import Tensor

from recsim_env import make_simulator, register
from recsim_env.env import SlateEnv
from recsim_env.registration import PRESETS
from recsim_env.shoppers.promises import tensors_of
from recsim_env.simulator import SlateSimulator
from recsim_env.vector import SlateVectorEnv
from tests.support.toys import make_toy_shopper, registered_toys, toy_simulator

ID = "toys/Odd-v0"
REFUSALS = (ValueError, TypeError, IndexError, FileNotFoundError, Error)
"""What a refusal may be; anything else is a failure of the code."""


class Mute:
    """Says nothing of itself, is equal to nothing, and is no array."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no array")


SPARSE, META = (
    torch.eye(3, dtype=torch.int64).to_sparse(),
    torch.ones(3, 4, dtype=torch.int64, device="meta"),
)
NESTED = torch.nested.nested_tensor([torch.tensor([1, 2]), torch.tensor([1])])
ODD: list[Any] = [
    "3", "", "no", b"abc", [], (), {1: 2}, {"a": 1}, {3}, [3.5], [[3]], object(), Mute(), lambda: 3, int, slice(3),
    Exception("x"), 3 + 1j, math.nan, -math.inf, -2, 2**70, -(2**70), np.float64("nan"), np.datetime64("2020"),
    np.array(3), np.array([1.5]), np.zeros((2, 3)), np.array(["a"]), np.array([None]), torch.tensor(3),
    torch.tensor(3.0), torch.tensor([1j]), SPARSE, META, NESTED, "x" * 10**5,
]  # fmt: skip
FINITE = [
    value for value in ODD if type(value) is not int or value < 0
]  # a horizon may be as far as one likes
NUMBERS: list[Any] = [None, True, np.bool_(True), 2.5, np.float64(3)]  # no whole numbers


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    with registered_toys(ID):
        yield


def refused(name: str, call: Callable[[], object]) -> None:
    with pytest.raises(REFUSALS) as raised:
        call()
    assert name in str(raised.value)
    assert len(str(raised.value)) < 4000  # an unknown id is told which are known


# --- options: of make, make_vec, make_simulator, register ---

WHOLE = [*ODD, *NUMBERS, 0, math.inf, 10**12]
DOORS: list[tuple[str, list[Any], Callable[..., object]]] = [
    ("slate_size", WHOLE, lambda **o: make_simulator(ID, **o)),
    ("history", WHOLE, lambda **o: make_simulator(ID, **o)),
    ("horizon_days", [*FINITE, None, True, 0], lambda **o: make_simulator(ID, **o)),
    ("strict", [*ODD, None, 0, 1, "True"], lambda **o: make_simulator(ID, **o)),
    ("device", [*ODD, 0, True, "mps", "xpu", "meta", "cuda:99"], lambda **o: make_simulator(ID, **o)),
    ("id", [*ODD, None, 5], make_simulator),
    ("slate_size", WHOLE, lambda **o: gymnasium.make(ID, **o)),
    ("strict", [*ODD, None, 0, 1], lambda **o: gymnasium.make(ID, **o)),
    ("render_mode", [*ODD, 5, True], lambda **o: gymnasium.make(ID, **o)),
    ("render_hidden", [*ODD, None, 0, 1], lambda **o: gymnasium.make(ID, **o)),
    ("render_explained", [*ODD, None, 0, 1], lambda **o: gymnasium.make(ID, **o)),
    ("simulator", [*ODD, None, 5], SlateEnv),
    ("num_envs", WHOLE, lambda **o: gymnasium.make_vec(ID, **o)),
    ("output", [*ODD, None, 0], lambda **o: gymnasium.make_vec(ID, **o)),
    ("autoreset_mode", [*ODD, None, 0], lambda **o: gymnasium.make_vec(ID, **o)),
    ("max_episode_steps", [*ODD, *NUMBERS[1:], 0], lambda **o: gymnasium.make_vec(ID, **o)),
    ("render_mode", [*ODD, 5, True], lambda **o: gymnasium.make_vec(ID, **o)),
    ("slate_size", [v for v in WHOLE if v is not None], lambda **o: register("toys/Refused-v0", make_toy_shopper, **o)),
    ("history", WHOLE, lambda **o: register("toys/Refused-v0", make_toy_shopper, **o)),
    ("horizon_days", [*FINITE, True, 0], lambda **o: register("toys/Refused-v0", make_toy_shopper, **o)),
    ("strict", [*ODD, None, 0, 1], lambda **o: register("toys/Refused-v0", make_toy_shopper, **o)),
    ("shopper_options", [v for v in ODD if not isinstance(v, dict) or 1 in v] + [0, False], 
     lambda **o: register("toys/Refused-v0", make_toy_shopper, **o)),
    ("shopper", [*(v for v in ODD if not callable(v)), None, 5, dict, lambda device: 3],
     lambda **o: register("toys/Refused-v0", **o)),
    ("id", [v for v in ODD if not isinstance(v, str) or not v] + [None, 5],
     lambda **o: register(shopper=make_toy_shopper, **o)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*render_mode.*")
@pytest.mark.parametrize(
    ("name", "values", "call"), DOORS, ids=[f"{n}-{name}" for n, (name, *_) in enumerate(DOORS)]
)
def test_every_odd_option_is_refused_by_name(
    name: str, values: list[Any], call: Callable[..., object]
) -> None:
    known = dict(PRESETS)
    for value in values:
        refused(name, lambda value=value: call(**{name: value}))  # type: ignore[misc]
    assert known == PRESETS


# --- a running environment: states before and after ---


def state_of(simulator: SlateSimulator, env: Any = None) -> list[Tensor]:
    """A copy of everything that a refused input must leave as it is."""
    kept = [
        value.clone()
        for value in (*vars(simulator.episodes).values(), *tensors_of(simulator.hidden))
    ]
    if env is not None and env._np_random is not None:
        state = env._np_random.bit_generator.state["state"]
        kept += [torch.tensor([int(word) % 2**62 for word in state.values()])]
    return kept


def assert_untouched(simulator: SlateSimulator, before: list[Tensor], env: Any = None) -> None:
    for old, new in zip(before, state_of(simulator, env), strict=True):
        assert torch.equal(old, new)


RUNNING: list[tuple[str, str, list[Any]]] = [
    (
        "action",
        "single",
        [*ODD, *NUMBERS, 3, [1, 2, 4, 99], [1, 2, 4, -1], [1, 2], [True] * 4, META[0]],
    ),
    ("seed", "single", [*ODD, *NUMBERS[1:], -1, 2**63, [1]]),
    ("options", "single", [*(v for v in ODD), 5, {"reset_mask": np.ones(1, dtype=bool)}]),
    ("actions", "vector", [*ODD, *NUMBERS, np.ones((3, 3), dtype=int), np.full((3, 4), 31), META]),
    (
        "actions",
        "torch",
        [*ODD, *NUMBERS, torch.ones(3, 3).long(), torch.full((3, 4), 31), META, META.float()],
    ),
    (
        "seed",
        "vector",
        [*ODD, *NUMBERS[1:], -1, 2**63 - 2, [1, 2], [1, True, 2], [1, None, 2], [1, -1, 2], b"abc"],
    ),
    ("options", "vector", [*ODD, 5]),
    (
        "reset_mask",
        "vector",
        [*ODD, 5, [True] * 3, np.ones(3), np.zeros(3, dtype=bool), META[:, 0].bool()],
    ),
    ("slates", "core", [*ODD, *NUMBERS, [[1, 2, 4, 5]] * 3, META, SPARSE, torch.full((3, 4), 31)]),
    (
        "seeds",
        "core",
        [*ODD, *NUMBERS, [1, 2, 3], torch.zeros(0, dtype=torch.int64), META[:, 0], torch.ones(3)],
    ),
    (
        "rows",
        "restart",
        [*ODD, *NUMBERS, 1, [1], torch.tensor([3]), torch.tensor([-1]), torch.tensor([1, 1])],
    ),
    (
        "rows",
        "reset_rows",
        [*ODD, *NUMBERS, 1, [1], torch.tensor([3]), torch.tensor([True]), torch.tensor([0, 2, 0])],
    ),
    (
        "rows",
        "keep",
        [*ODD, *NUMBERS, 1, [1], torch.tensor([3]), torch.tensor([-1]), torch.ones(3).bool()],
    ),
    (
        "seeds",
        "restart",
        [*ODD, True, 5, [5, 6], torch.tensor([5, 6, 7]), torch.tensor([1.0, 2.0]), META[:2, 0]],
    ),
    ("row", "describe", [*ODD, *NUMBERS, 3, -1]),
    ("hidden", "describe", [*ODD, None, 1]),
    ("validate", "core", [*ODD, None, 1]),
]


@pytest.mark.parametrize(
    ("name", "door", "values"), RUNNING, ids=[f"{door}-{name}" for name, door, _ in RUNNING]
)
def test_a_refused_input_changes_nothing(name: str, door: str, values: list[Any]) -> None:
    single = SlateEnv(toy_simulator())
    vector = SlateVectorEnv(toy_simulator(), 3, output="torch" if door == "torch" else "numpy")
    core = toy_simulator()
    single.reset(seed=1)
    vector.reset(seed=1)
    core.reset(torch.arange(3))
    good, two = torch.tensor([[1, 2, 4, 5]] * 3), torch.tensor([0, 2])
    single.step(good[0].numpy())
    vector.step(good if door == "torch" else good.numpy())
    core.step(good, validate=False)
    calls: dict[tuple[str, str], Callable[[Any], object]] = {
        ("action", "single"): single.step,
        ("seed", "single"): lambda value: single.reset(seed=value),
        ("options", "single"): lambda value: single.reset(seed=2, options=value),
        ("actions", "vector"): vector.step,
        ("actions", "torch"): vector.step,
        ("seed", "vector"): lambda value: vector.reset(seed=value),
        ("options", "vector"): lambda value: vector.reset(seed=2, options=value),
        ("reset_mask", "vector"): lambda value: vector.reset(seed=2, options={"reset_mask": value}),
        ("slates", "core"): core.step,
        ("seeds", "core"): core.reset,
        ("rows", "restart"): core.restart,
        ("rows", "reset_rows"): core.reset_rows,
        ("rows", "keep"): core.keep,
        ("seeds", "restart"): lambda value: core.restart(two, value),
        ("row", "describe"): core.describe,
        ("hidden", "describe"): lambda value: core.describe(0, hidden=value),
        ("validate", "core"): lambda value: core.step(good, validate=value),
    }
    before = [
        (single.simulator, state_of(single.simulator, single), single),
        (vector.simulator, state_of(vector.simulator, vector), vector),
        (core, state_of(core), None),
    ]
    for value in values:
        refused(name, lambda value=value: calls[name, door](value))  # type: ignore[misc]
    for simulator, state, env in before:
        assert_untouched(simulator, state, env)
