"""The Gaussian of a shopper's interest: its steps by hand, and that it is as sure as it is right."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recsim_env.shoppers.session.interest import (
    BESIDE,
    MOST_DIRECTIONS,
    Interest,
    InterestFilter,
    directions_of,
)

D = 3
SIZE = D + BESIDE


def made(declared: int = 2) -> InterestFilter:
    """A filter with every parameter away from zero."""
    found = InterestFilter(declared, D)
    found.begin()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in found.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.2)
    return found.requires_grad_(False)


def told(batch: int, positions: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(batch, positions, SIZE, generator=generator)
    offsets = torch.randn(batch, positions, generator=generator)
    looks = torch.rand(batch, positions, generator=generator)
    return rows, offsets, looks, torch.rand(batch, positions, generator=generator) < 0.4


def test_an_answer_by_hand() -> None:
    """One position: a gain times the surprise, and the variance that is left."""
    one = made()
    known = one.newcomers(torch.tensor([[0.3, -0.4]]))
    rows, offsets, looks, clicks = told(1, 1)
    found = one.answered(known, rows, offsets, looks, clicks, torch.ones_like(clicks))
    h, look, prior = rows[0, 0], looks[0, 0], known.covariance[0]
    chance = torch.sigmoid(offsets[0, 0] + h @ known.mean[0])
    a = h * look * chance * (1 - chance)
    expected = look * chance
    s = a @ prior @ a + expected * (1 - expected) * one.log_noise.exp()
    gain = prior @ a / s
    torch.testing.assert_close(
        found.mean[0], known.mean[0] + gain * (clicks[0, 0].float() - expected)
    )
    torch.testing.assert_close(found.covariance[0], prior - torch.outer(gain, a @ prior))


def test_many_positions_are_the_textbooks_matrices() -> None:
    one, (rows, offsets, looks, clicks) = made(), told(4, 6)
    known = one.newcomers(torch.zeros(4, 2))
    found = one.answered(known, rows, offsets, looks, clicks, torch.ones_like(clicks))
    logits = offsets + torch.einsum("bkr,br->bk", rows, known.mean)
    p = looks * logits.sigmoid()
    a = rows * (p * (1 - logits.sigmoid())).unsqueeze(2)
    noise = torch.diag_embed(p * (1 - p) * one.log_noise.exp())
    gain = known.covariance @ a.mT @ torch.linalg.inv(a @ known.covariance @ a.mT + noise)
    moved = (gain @ (clicks.float() - p).unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(found.mean, known.mean + moved, rtol=1e-4, atol=1e-5)
    left = (torch.eye(SIZE) - gain @ a) @ known.covariance
    torch.testing.assert_close(found.covariance, left, rtol=1e-4, atol=1e-5)


def test_what_was_not_shown_changes_nothing() -> None:
    one, (rows, offsets, looks, clicks) = made(), told(2, 3)
    known, nothing = one.newcomers(torch.zeros(2, 2)), torch.zeros(2, 3, dtype=torch.bool)
    found = one.answered(known, rows, offsets, looks, clicks, nothing)
    torch.testing.assert_close(found.mean, known.mean)
    torch.testing.assert_close(found.covariance, known.covariance)
    some = torch.tensor([[True, False, True]] * 2)
    fewer = one.answered(
        known, rows[:, ::2], offsets[:, ::2], looks[:, ::2], clicks[:, ::2], some[:, ::2]
    )
    padded = one.answered(known, rows, offsets, looks, clicks, some)
    torch.testing.assert_close(fewer.mean, padded.mean)
    torch.testing.assert_close(fewer.covariance, padded.covariance)


def test_interests_return_home_and_grow_uncertain_with_the_days() -> None:
    one = made()
    home = one.home(torch.ones(1, 2))
    start = Interest(home + 1, torch.eye(SIZE).unsqueeze(0))
    same = one.waited(start, home, torch.zeros(1))
    torch.testing.assert_close(same.mean, start.mean)
    torch.testing.assert_close(same.covariance, start.covariance)
    kept = one.kept.sigmoid()
    later = one.waited(start, home, torch.tensor([3.0]))
    torch.testing.assert_close(later.mean, home + kept**3)
    drift = torch.diag(3 * (2 * one.log_drift).exp())
    torch.testing.assert_close(later.covariance[0], kept**6 * torch.eye(SIZE) + drift)


def test_what_is_declared_is_where_it_begins() -> None:
    one = made()
    assert one.of_declared is not None
    plain, moved = (one.newcomers(torch.tensor([row])).mean[0] for row in ([0.0, 0.0], [1.0, 0.0]))
    torch.testing.assert_close((moved - plain)[:D], one.of_declared[0])
    assert (moved == plain)[D:].all()
    silent = InterestFilter(0, D)
    assert silent.newcomers(torch.zeros(5, 0)).mean.shape == (5, SIZE)


@torch.no_grad()
def test_it_finds_a_drifting_interest_and_says_how_well() -> None:
    """Shoppers whose interest drifts as the filter assumes: it is tracked, far better than at home,
    and errors are as large as the covariance says."""
    number, visits, positions, drift = 600, 30, 6, 0.1
    one = InterestFilter(0, D)
    one.begin()
    one.log_scale.copy_(torch.tensor([0.0, 0.0, 0.0, -5.0, -5.0]))
    one.log_drift.copy_(torch.tensor([math.log(drift)] * 3 + [-9.0, -9.0]))
    one.kept.fill_(20.0)
    generator = torch.Generator().manual_seed(0)
    interest = torch.randn(number, D, generator=generator)
    known, home = one.newcomers(torch.zeros(number, 0)), one.home(torch.zeros(number, 0))
    one_day, shown = torch.ones(number), torch.ones(number, positions, dtype=torch.bool)
    for _ in range(visits):
        items = torch.randn(number, positions, D, generator=generator)
        offsets = torch.full((number, positions), -0.5)
        chance = torch.sigmoid(offsets + torch.einsum("bkd,bd->bk", items, interest))
        clicks = torch.rand(chance.shape, generator=generator) < chance
        rows = torch.nn.functional.pad(items, (0, BESIDE))
        answered = one.answered(known, rows, offsets, torch.ones_like(offsets), clicks, shown)
        known = one.waited(answered, home, one_day)
        interest = interest + drift * torch.randn(interest.shape, generator=generator)
    error = known.mean[:, :D] - interest
    assert error.square().mean() < 0.25 * interest.square().mean()
    inverse = torch.linalg.inv(known.covariance[:, :D, :D])
    scores = torch.einsum("bd,bde,be->b", error, inverse, error) / D
    assert scores.mean().item() == pytest.approx(1.0, abs=0.25)
    assert (torch.linalg.eigvalsh(known.covariance) > 0).all()


def test_directions_are_those_in_which_items_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(500, 3, generator=generator) @ torch.randn(3, 40, generator=generator)
    wide = wide + 0.01 * torch.randn(500, 40, generator=generator)
    found = directions_of(wide)
    assert found.shape == (40, MOST_DIRECTIONS)
    along = wide @ found
    assert along.square().sum(dim=1).mean().sqrt().item() == pytest.approx(1.0, rel=1e-4)
    assert along[:, :3].square().sum() > 0.99 * along.square().sum()
    assert directions_of(torch.zeros(5, 4)).isfinite().all()
