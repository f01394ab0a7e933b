"""A state is written down and comes back bit for bit; its rows are taken and put."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from recsim_env.trees import Flat, flat, length, moved, pick, put, restored


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


# --- rows ---


class Named(NamedTuple):
    first: Tensor
    second: Tensor | None


@dataclass
class Shoppers:
    day: Tensor
    parts: list[Tensor]
    by_name: dict[str, Tensor | None]
    pair: Named


@dataclass
class Layers:
    """Rows in the second dimension, so that it takes and puts them itself."""

    values: Tensor

    def __len__(self) -> int:
        return self.values.shape[1]

    def pick(self, rows: Tensor) -> Layers:
        return Layers(self.values[:, rows])

    def put(self, rows: Tensor, fresh: Layers) -> None:
        self.values[:, rows] = fresh.values


def shoppers(rows: int, start: int = 0) -> Shoppers:
    day = torch.arange(start, start + rows)
    table = (day * 10).unsqueeze(1).repeat(1, 2)
    return Shoppers(day, [day + 0.5], {"table": table, "none": None}, Named(day * 2, None))


def days(state: Shoppers) -> list[list[float]]:
    assert state.by_name["table"] is not None
    parts = (state.day, state.parts[0], state.by_name["table"][:, 1], state.pair.first)
    return [part.tolist() for part in parts]


def test_rows_are_picked_in_the_order_in_which_they_are_named() -> None:
    state = shoppers(4)
    part = pick(state, torch.tensor([2, 0, 2]))
    assert days(part) == [[2, 0, 2], [2.5, 0.5, 2.5], [20, 0, 20], [4, 0, 4]]
    assert isinstance(part.pair, Named)
    assert part.by_name["none"] is None
    part.day.zero_()
    assert state.day.tolist() == [0, 1, 2, 3]
    assert length(pick(state, torch.zeros(0, dtype=torch.int64))) == 0


def test_rows_are_put_in_place() -> None:
    state = shoppers(4)
    memory = state.day
    put(state, torch.tensor([3, 1]), shoppers(2, start=7))
    assert days(state) == [[0, 8, 2, 7], [0.5, 8.5, 2.5, 7.5], [0, 80, 20, 70], [0, 16, 4, 14]]
    assert state.day is memory


def test_a_tensor_alone_is_a_tree() -> None:
    state = torch.arange(5)
    put(state, torch.tensor([1]), torch.tensor([9]))
    assert pick(state, torch.tensor([1, 4])).tolist() == [9, 4]
    assert length(state) == 5


def test_a_part_with_rows_of_its_own_is_asked() -> None:
    state: dict[str, Any] = {"layers": [Layers(torch.arange(6).view(2, 3))], "day": torch.arange(3)}
    part = pick(state, torch.tensor([2]))
    assert part["layers"][0].values.tolist() == [[2], [5]]
    put(
        state,
        torch.tensor([0]),
        {"layers": [Layers(torch.tensor([[8], [9]]))], "day": torch.tensor([7])},
    )
    assert state["layers"][0].values.tolist() == [[8, 1, 2], [9, 4, 5]]
    assert length(state["layers"]) == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"day": 3}, r"state/day is 3, but it must be a tensor with a row a shopper, None"),
        ({"day": "new"}, r"state/day is 'new', but it must be a tensor"),
        ({"day": np.arange(4)}, r"state/day is a int64 array of shape \(4,\), but it must be"),
        (
            {"day": torch.tensor(3)},
            r"state/day is a int64 tensor of shape \(\), but it must have a",
        ),
        (
            {"parts": [torch.zeros(3)]},
            r"state/parts/0 has 3 rows, but it must have 4, one a shopper",
        ),
        ({"by_name": {"table": torch.tensor(1.0)}}, r"state/by_name/table is a float32 tensor of"),
        ({"pair": Named(2.0, None)}, r"state/pair/0 is 2.0"),  # type: ignore[arg-type]
        ({"parts": [Layers(torch.zeros(2, 5))]}, r"state/parts/0 has 5 rows, but it must have 4"),
    ],
)
def test_what_has_no_row_a_shopper_is_named(change: dict[str, Any], sentence: str) -> None:
    state = replace(shoppers(4), **change)
    with pytest.raises(TypeError, match=f"^{sentence}"):
        pick(state, torch.tensor([0]))
    with pytest.raises(TypeError, match=f"^{sentence}"):
        put(state, torch.tensor([0]), replace(shoppers(1), **change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"day": None}, "state/day is a int64 tensor of shape .*, but the fresh rows have None"),
        ({"day": torch.zeros(3)}, "state/day has 3 rows, but it must have 2"),
        ({"parts": []}, r"state/parts has the parts \['0'\], but the fresh rows have \[\]"),
        ({"by_name": {}}, r"state/by_name has the parts \['none', 'table'\], but the fresh rows"),
    ],
)
def test_fresh_rows_must_be_made_alike(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=f"^{sentence}"):
        put(shoppers(4), torch.tensor([0, 1]), replace(shoppers(2), **change))


@pytest.mark.parametrize("tree", [None, [], {}, {"a": None}])
def test_a_tree_without_a_tensor_has_no_rows(tree: Any) -> None:
    with pytest.raises(TypeError, match=r"^state is .*, but it must hold a tensor with a row"):
        length(tree)


def test_a_tree_moves_to_a_device() -> None:
    state = shoppers(2)
    there = moved((state, Layers(torch.zeros(1, 2)), slice(1, 2), 3), torch.device("meta"))
    assert there[0].day.is_meta
    assert there[0].pair.first.is_meta
    assert there[1].values.is_meta
    assert there[2:] == (slice(1, 2), 3)
    assert moved(state, torch.device("cpu")).day is state.day
