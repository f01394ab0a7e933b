"""The best slate under each click model against all slates, and examination by hand."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from agents.slateq.choices import (
    BELIEVED_CLICKS,
    Choice,
    PositionBased,
    top_k,
)
from agents.slateq.values import Visits
from tests.support.single_choice import SingleChoice, greedy


def random_pool(rows: int, pool: int) -> tuple[Tensor, Tensor]:
    """Logits and gains (rows, pool), some gains below 0."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, pool, generator=generator), 0.5 + torch.randn(
        rows, pool, generator=generator
    )


def worth_of(choice: Choice, logits: Tensor, gains: Tensor, places: Tensor) -> Tensor:
    return (choice.chances(logits.gather(1, places)) * gains.gather(1, places)).sum(dim=1)


def best_worth(choice: Choice, logits: Tensor, gains: Tensor, size: int) -> Tensor:
    """Of all ordered slates."""
    orders = [
        torch.tensor(order).expand(len(logits), -1)
        for order in permutations(range(logits.shape[1]), size)
    ]
    return (
        torch.stack([worth_of(choice, logits, gains, places) for places in orders])
        .max(dim=0)
        .values
    )


def fading_choice() -> PositionBased:
    """Positions looked at less and less."""
    choice = PositionBased(3)
    logits = torch.zeros(1000, 3)
    clicks = torch.arange(1000).unsqueeze(1) < torch.tensor([450, 300, 100])
    choice.learn(logits, clicks, torch.ones_like(clicks))
    return choice


def test_under_position_based_clicks_top_k_is_exact() -> None:
    logits, gains = random_pool(200, 6)
    choice = fading_choice()
    found = worth_of(choice, logits, gains, choice.best(logits, gains, 3))
    torch.testing.assert_close(found, best_worth(choice, logits, gains, 3))


def test_under_a_single_choice_greedy_is_nearly_exact_and_beats_top_k() -> None:
    logits, gains = random_pool(200, 6)
    choice = SingleChoice(1.0)
    best = best_worth(choice, logits, gains, 3)
    by_greedy = worth_of(choice, logits, gains, greedy(logits.exp(), gains, 1.0, 3))
    by_top_k = worth_of(choice, logits, gains, top_k(logits.exp(), gains, 3))
    assert (torch.maximum(by_greedy, by_top_k) <= best + 1e-6).all()
    assert (by_greedy > best - 1e-6).float().mean() > 0.9
    assert by_greedy.mean() > by_top_k.mean()
    one = worth_of(choice, logits, gains, greedy(logits.exp(), gains, 1.0, 1))
    torch.testing.assert_close(one, best_worth(choice, logits, gains, 1))


def test_a_case_by_hand_where_greedy_beats_top_k() -> None:
    appeal, gains = torch.tensor([[10.0, 1.0, 1.0]]), torch.tensor([[0.2, 1.0, 0.9]])
    assert top_k(appeal, gains, 2).tolist() == [[0, 1]]  # appeal * gain: 2, 1, .9
    assert greedy(appeal, gains, 1.0, 2).tolist() == [
        [1, 2]
    ]  # 1 / 2 > 2 / 11; then 1.9 / 3 > 3 / 12


def test_a_missing_item_is_never_preferred_to_a_harmful_one() -> None:
    logits, gains = torch.tensor([[0.0, -torch.inf, 1.0]]), torch.tensor([[-1.0, 9.0, -2.0]])
    for choice in (SingleChoice(1.0), SingleChoice(1.0, quick=True), PositionBased(2)):
        assert set(choice.best(logits, gains, 2)[0].tolist()) == {0, 2}
    visits = Visits(torch.zeros(1, 1), torch.zeros(1, 3, 1), logits, torch.tensor([[7, -1, 4]]))
    assert visits.slates(PositionBased(3).best(logits, gains, 3), 4).tolist() == [[7, 4, 7, 7]]


def test_examination_is_clicks_by_what_was_promised() -> None:
    choice = PositionBased(2)
    assert choice.examination.tolist() == [1.0, 1.0]
    logits, shown = torch.zeros(40, 2), torch.ones(40, 2, dtype=torch.bool)
    shown[:10, 1] = False
    choice.learn(logits, (torch.arange(40) >= 22).unsqueeze(1).expand(-1, 2), shown)
    believed = BELIEVED_CLICKS
    assert choice.examination.tolist() == pytest.approx(
        [(believed + 18) / (believed + 20), (believed + 18) / (believed + 15)]
    )
