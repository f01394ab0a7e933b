"""What is among what, and constants that are made once."""

from __future__ import annotations

import math

import pytest
import torch

from recsim_env.tensors import (
    among,
    constant,
    copied,
    copy_into,
    first_places,
    large_zeros,
    listed,
    looked_up,
    looked_up_by_number,
    places,
    repeated,
    running_sums,
    summed_by_product,
    widened,
    widest,
)


def test_items_are_among_others_of_their_own_row() -> None:
    items = torch.tensor([[3, 0, -1, 2], [3, 0, 1, 2]])
    others = torch.tensor([[0, 3, 3], [4, -1, 2]])
    assert among(items, others, 5).tolist() == [
        [True, True, False, False],
        [False, False, False, True],
    ]
    assert (
        among(items, others, 5).tolist()
        == (items.unsqueeze(2) == others.unsqueeze(1)).any(2).tolist()
    )


def test_padding_is_among_padding() -> None:
    padding = torch.tensor([[-1]])
    assert among(padding, torch.tensor([[2, -1]]), 3).item()
    assert not among(padding, torch.tensor([[2, 0]]), 3).item()


def test_a_constant_is_made_once_for_each_type() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    made = constant((0.5, 2.0), like)
    assert made.dtype == torch.float64
    assert made.tolist() == [0.5, 2.0]
    assert constant((0.5, 2.0), like) is made
    assert constant((0.5, 2.0), like.float()).dtype == torch.float32


def test_places_of_a_mask_by_hand() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    rows, columns, held = places(mask)
    assert (rows.tolist(), columns.tolist(), held) == ([0, 0, 2], [0, 2, 1], None)


@pytest.mark.parametrize("room", [5, 9, 20])
def test_a_list_of_fixed_length_is_filled_up(room: int) -> None:
    mask = torch.tensor([[False, True, True], [False, False, False], [False, True, False]])
    found = listed(mask, room)
    assert [part[:3].tolist() for part in found.places[:2]] == [[0, 0, 2], [1, 2, 1]]
    assert {len(part) for part in found.places if part is not None} == {min(room, 9)}
    assert found.places.held is not None
    assert found.places.held.tolist() == [True] * 3 + [False] * (min(room, 9) - 3)
    assert bool(found.fits)
    short = listed(mask, 2)
    assert [part.tolist() for part in short.places[:2]] == [[0, 0], [1, 2]]
    assert not bool(short.fits)


@pytest.mark.parametrize("shape", [(7, 3), (5, 2, 4), (4, 1)])
def test_rows_are_looked_up_number_by_number_as_well(shape: tuple[int, ...]) -> None:
    table = torch.arange(math.prod(shape)).view(shape).float()
    ids = torch.tensor([[3, 0, 3], [1, 2, 0]])
    assert torch.equal(looked_up_by_number(table, ids), looked_up(table, ids))


def test_running_sums_by_a_product() -> None:
    rows = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 0.0]])
    assert summed_by_product(rows).tolist() == [[1.0, 3.0, 7.0], [0.5, -0.5, -0.5]]
    assert torch.equal(summed_by_product(rows), running_sums(rows))


def test_one_row_for_everybody_is_copied_once() -> None:
    row = torch.arange(3.0).expand(4, 3)
    assert copied(row).stride() == (0, 1)
    assert copied(row).data_ptr() != row.data_ptr()
    target = torch.zeros(1, 3).expand(4, 3)
    copy_into(target, row)
    assert torch.equal(target, row)
    own = torch.zeros(4, 3)
    copy_into(own, row)
    assert torch.equal(own, row)


def test_a_constant_first_asked_for_in_inference_can_be_learnt_with() -> None:
    with torch.inference_mode():
        made = constant((0.25, 4.0, 7.0), torch.zeros(1))
    weight = torch.ones(3, requires_grad=True)
    (weight * made).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.25, 4.0, 7.0]


def test_only_the_first_place_of_an_item_is_shown() -> None:
    assert first_places(torch.tensor([[4, 4, 2], [-1, 3, -1]])).tolist() == [
        [True, False, True],
        [False, True, False],
    ]


def test_what_is_repeated_stands_further_to_the_front() -> None:
    items = torch.tensor([[[4, 4, 2, 4], [-1, 3, -1, 3]]])
    assert repeated(items).tolist() == [[[False, True, False, True], [False, False, True, True]]]


def test_no_device_is_asked_for_floats_that_it_has_not() -> None:
    found = {name: widest(torch.device(name)) for name in ("cpu", "cuda", "mps", "xpu")}
    assert found == {
        "cpu": torch.float64,
        "cuda": torch.float64,
        "mps": torch.float32,
        "xpu": torch.float32,
    }
    assert widened(torch.tensor([0.1])).tolist() == [torch.tensor(0.1).item()]
    assert widened(torch.tensor([True, False])).dtype == torch.float64


def test_large_zeros_are_zeros_that_may_be_written_to() -> None:
    zeros = large_zeros((3, 5), torch.device("cpu"))
    assert torch.equal(zeros, torch.zeros(3, 5))
    zeros[1] += 2
    assert zeros.sum() == 10
