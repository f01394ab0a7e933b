"""The shop's counters against a history counted by hand."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.shoppers.profile import DECAYS, TASTE_DECAYS, Profile, profile_spaces
from recsim_env.trees import pick, put

CPU = torch.device("cpu")
VECTORS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])


def catalog() -> Catalog:
    """Four items; 0 and 2 are of category 0."""
    made = replace(Catalog.synthetic(4, 2, 2, torch.Generator().manual_seed(0)), embedding=VECTORS)
    assert made.category.tolist() == [0, 1, 0, 1]
    return made


def record(
    profile: Profile, slates: list[list[int]], clicks: list[list[int]], shown: Tensor | None = None
) -> None:
    items = torch.tensor(slates)
    shown = torch.ones_like(items, dtype=torch.bool) if shown is None else shown
    profile.record(items, shown, torch.tensor(clicks).bool(), catalog().category, VECTORS)


def some_profile(batch: int = 3, visits: int = 4) -> Profile:
    profile = Profile.empty(batch, catalog(), 3, CPU)
    generator = torch.Generator().manual_seed(1)
    for _ in range(visits):
        slates = torch.rand(batch, 4, generator=generator).argsort(dim=1)[:, :3]
        record(
            profile, slates.tolist(), torch.randint(0, 2, (batch, 3), generator=generator).tolist()
        )
    return profile


def test_a_history_of_three_visits() -> None:
    profile = Profile.empty(1, catalog(), 3, CPU)
    record(profile, [[0, 2, 1]], [[1, 0, 1]])
    record(profile, [[3, 0, 2]], [[0, 1, 1]])
    record(profile, [[2, 1, 3]], [[0, 1, 0]])
    seen = profile.observe()
    for at, d in enumerate((0.7, 0.9, 1.0)):
        assert DECAYS[at] == d
        assert seen["category_shown"][0, :, at].tolist() == pytest.approx(
            [2 * d**2 + 2 * d + 1, 1 * d**2 + 1 * d + 2]
        )
        assert seen["category_clicked"][0, :, at].tolist() == pytest.approx(
            [1 * d**2 + 2 * d, 1 * d**2 + 1]
        )
    assert TASTE_DECAYS == (0.9, 1.0)
    first, second, third = VECTORS[0] + VECTORS[1], VECTORS[0] + VECTORS[2], VECTORS[1]
    for at, d in enumerate(TASTE_DECAYS):
        torch.testing.assert_close(seen["taste"][0, at], d**2 * first + d * second + third)
    assert seen["position_clicks"].tolist() == [[1.0, 2.0, 2.0]]
    assert seen["visits"].tolist() == [[3.0]]


def test_lower_positions_are_exposed_less() -> None:
    profile = Profile.empty(1, catalog(), 3, CPU)
    record(profile, [[3, 1, 0]], [[0, 0, 0]])
    once = VECTORS[3] + VECTORS[1] / math.log2(3) + VECTORS[0] / math.log2(4)
    torch.testing.assert_close(profile.exposed[0], torch.stack([once, once]))
    record(profile, [[0, 1, 2]], [[0, 0, 0]])
    again = VECTORS[0] + VECTORS[1] / math.log2(3) + VECTORS[2] / 2
    torch.testing.assert_close(profile.exposed[0], torch.stack([0.9 * once + again, once + again]))


def test_a_category_is_familiar_from_one_recent_response_on() -> None:
    profile = Profile.empty(1, catalog(), 3, CPU)
    record(
        profile, [[0, 2, 1]], [[1, 0, 0]]
    )  # all new when shown: the response counts from the next visit on
    assert profile.familiarity.tolist() == [[0.0, 0.0, 3.0, 1.0]]
    record(profile, [[0, 1, 3]], [[0, 1, 0]])  # category 0 stands at 1, so item 0 is familiar
    assert profile.familiarity.tolist() == [[1.0, 0.0, 3.0 + 2, 1.0 + 1]]
    record(profile, [[2, 1, 3]], [[1, 1, 0]])  # category 0 at 0.9 no longer; category 1 at 1 now is
    assert profile.familiarity.tolist() == [[1.0 + 2, 0.0 + 1, 5.0 + 1, 2.0 + 1]]


def test_what_was_not_shown_counts_nowhere() -> None:
    profile, other = (Profile.empty(1, catalog(), 3, CPU) for _ in range(2))
    shown = torch.tensor([[True, False, True]])
    record(profile, [[0, 2, 1]], [[1, 0, 0]], shown)
    record(other, [[0, 3, 1]], [[1, 0, 0]], shown)
    for field in fields(profile):
        assert torch.equal(getattr(profile, field.name), getattr(other, field.name)), field.name
    assert profile.shown[0, :, 2].tolist() == [1.0, 1.0]
    assert profile.familiarity.sum().item() == 2 + 1


def test_rows_are_selected_and_replaced() -> None:
    profile = some_profile()
    picked, before = pick(profile, torch.tensor([2, 0])), pick(profile, torch.arange(3))
    fresh = Profile.empty(1, catalog(), 3, CPU)
    put(profile, torch.tensor([1]), fresh)
    for field in fields(profile):
        now, then = getattr(profile, field.name), getattr(before, field.name)
        assert not now[1].any()
        assert torch.equal(now[[0, 2]], then[[0, 2]])
        assert torch.equal(getattr(picked, field.name), then[[2, 0]])
    record(picked, [[0, 1, 2]] * 2, [[1, 1, 1]] * 2)
    assert torch.equal(profile.taste[0], before.taste[0])  # a selection is a copy


def test_a_batch_is_its_shoppers_one_by_one() -> None:
    together = Profile.empty(2, catalog(), 3, CPU)
    record(together, [[0, 1, 2], [3, 2, 1]], [[0, 1, 0], [1, 1, 0]])
    for row, (slate, clicks) in enumerate((([0, 1, 2], [0, 1, 0]), ([3, 2, 1], [1, 1, 0]))):
        alone = Profile.empty(1, catalog(), 3, CPU)
        record(alone, [slate], [clicks])
        for field in fields(alone):
            torch.testing.assert_close(
                getattr(together, field.name)[row : row + 1], getattr(alone, field.name)
            )


def test_what_is_observed_is_a_copy_in_its_space() -> None:
    profile = some_profile()
    seen = profile.observe()
    spaces = profile_spaces(catalog(), 3)
    assert seen.keys() == spaces.keys()
    kept = {name: value.clone() for name, value in seen.items()}
    record(profile, [[0, 1, 2]] * 3, [[1, 1, 1]] * 3)
    for name, value in seen.items():
        assert torch.equal(value, kept[name]), name
        assert all(spaces[name].contains(row.numpy()) for row in value), name
