"""A state is written down without pickle and comes back bit for bit, or the sentence says where it does not fit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from recsim_env.trees import Flat, flat, restored


@dataclass(frozen=True)
class Leaf:
    places: slice
    table: Tensor


@dataclass
class State:
    day: Tensor
    leaves: list[Leaf]
    numbers: tuple[int, float, bool, str, None] = (3, 0.1, True, "a", None)
    visits: np.ndarray = field(default_factory=lambda: np.arange(4))
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    found: dict[str, Tensor] = field(default_factory=dict)


def state(rows: int = 4, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, 3, generator=generator)
    leaves = [Leaf(slice(1, 2), table.t()), Leaf(slice(None), table[:, :1].expand(-1, 5))]
    return State(torch.full((rows,), -torch.inf), leaves, generator=generator)


def test_a_state_comes_back_bit_for_bit_through_json() -> None:
    before = state()
    before.found["late"] = torch.tensor([True, False])
    torch.randn(7, generator=before.generator)
    written = flat(before)
    through_json = Flat(written.tensors, json.loads(json.dumps(written.outline)))
    after = restored(state(seed=1), through_json)
    assert isinstance(after, State)
    assert isinstance(after.leaves[0], Leaf)
    assert torch.equal(after.day, before.day)
    assert [leaf.places for leaf in after.leaves] == [slice(1, 2), slice(None)]
    assert all(
        torch.equal(a.table, b.table) for a, b in zip(after.leaves, before.leaves, strict=True)
    )
    assert after.numbers == before.numbers
    assert after.visits.tolist() == [0, 1, 2, 3]
    assert after.found["late"].tolist() == [True, False]
    assert torch.equal(
        torch.rand(3, generator=after.generator), torch.rand(3, generator=before.generator)
    )


def test_what_was_written_down_does_not_change_with_the_state() -> None:
    before = state()
    written = flat(before)
    before.day.zero_()
    after = restored(state(), written)
    after.day.add_(1)
    assert written.tensors["day"].tolist() == [-torch.inf] * 4


def test_a_tree_that_was_written_down_may_be_part_of_another() -> None:
    inner = flat(state(), "inner")
    outer = flat({"inner": inner, "count": 2})
    assert "inner/leaves/0/table" in outer.tensors
    found = restored(None, outer)
    assert found["count"] == 2
    assert torch.equal(restored(state(), found["inner"]).day, state().day)


def test_what_cannot_be_written_down_is_named() -> None:
    with pytest.raises(
        TypeError, match=r"^state/list/1 is <object.*, which cannot be written down\.$"
    ):
        flat({"list": [1, object()]})
    with pytest.raises(
        TypeError, match=r"^shopper/a is an array of <U1, which cannot be written down\.$"
    ):
        flat({"a": np.array(["a"])}, "shopper")


def test_a_tree_that_does_not_fit_is_refused_with_its_place() -> None:
    written = flat(state())
    with pytest.raises(
        ValueError,
        match=r"^'day' is a float32 tensor of shape \(4,\), but it must be .* of shape \(5,\)",
    ):
        restored(state(rows=5), written)
    with pytest.raises(ValueError, match=r"^'leaves' has 2 parts, but it must have 1"):
        restored(State(torch.zeros(4), state().leaves[:1]), written)
    with pytest.raises(ValueError, match=r"^'the whole' differs in \['day', 'days'\]"):
        restored({"days": torch.zeros(1)}, flat({"day": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"^The tensor 'day' is missing\.$"):
        restored(state(), Flat({}, written.outline))
    with pytest.raises(
        ValueError,
        match=r"^The outline of 'the whole' is None, but it must say what stands there\.$",
    ):
        restored(state(), Flat({}, None))
    with pytest.raises(ValueError, match="but it must be None"):
        restored(None, written)
    with pytest.raises(ValueError, match=r"^Two tensors are called 'a/b'"):
        flat({"a/b": torch.zeros(1), "a": {"b": torch.zeros(1)}})


def test_a_number_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^'count' is '3', but it must be a int\.$"):
        restored({"count": 3}, flat({"count": "3"}))
    with pytest.raises(
        ValueError,
        match=r"^'seed' is a uint8 tensor .*, but it must be the state of a generator\.$",
    ):
        restored(
            None,
            Flat(
                {"seed": torch.zeros(3, dtype=torch.uint8)},
                {"dict": {"seed": {"generator": "seed"}}},
            ),
        )
    with pytest.raises(ValueError, match=r"^'day' is a tensor, but it must be a generator\.$"):
        restored({"day": torch.Generator()}, flat({"day": torch.zeros(1)}))
