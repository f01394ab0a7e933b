"""Reward terms: their range, their values worked out by hand, and what they must never do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs, as_reward, reward_term
from tests.toys import toy_catalog

DIVERSITY = ["intra_list_distance", "category_coverage"]
each_term = pytest.mark.parametrize("name", sorted(REWARD_TERMS))
each_diversity = pytest.mark.parametrize("name", DIVERSITY)


def first_copies(slates: Tensor) -> Tensor:
    """(B, K) bool, False where the item stands higher up already."""
    return ~(slates.unsqueeze(2) == slates.unsqueeze(1)).tril(-1).any(dim=2)


def inputs_of(slates: Tensor, embedding: Tensor, category: Tensor | None = None) -> RewardInputs:
    nothing = torch.zeros_like(slates, dtype=torch.bool)
    category = torch.arange(len(embedding)) if category is None else category
    return RewardInputs(slates, first_copies(slates), nothing, embedding, category)


def random_inputs(batch: int = 50, size: int = 6, seed: int = 0) -> RewardInputs:
    generator = torch.Generator().manual_seed(seed)
    catalog = toy_catalog()
    slates = torch.randint(len(catalog), (batch, size), generator=generator)
    clicks = torch.rand(batch, size, generator=generator) < 0.5
    shown = first_copies(slates) & (torch.rand(batch, size, generator=generator) < 0.8)
    return RewardInputs(slates, shown, clicks & shown, catalog.embedding, catalog.category)


def test_diversity_first_asked_for_in_inference_can_be_learnt_with() -> None:
    inputs = random_inputs(size=13)
    with torch.inference_mode():
        REWARD_TERMS["intra_list_distance"](inputs)
    embedding = inputs.embedding.clone().requires_grad_()
    REWARD_TERMS["intra_list_distance"](replace(inputs, embedding=embedding)).sum().backward()
    assert embedding.grad is not None
    assert embedding.grad.abs().sum() > 0


@each_diversity
def test_ten_copies_of_one_item_score_0(name: str) -> None:
    slates = torch.full((1, 10), 3)
    assert REWARD_TERMS[name](inputs_of(slates, torch.eye(12))).tolist() == [0.0]


@each_diversity
def test_ten_unrelated_items_score_1(name: str) -> None:
    slates = torch.arange(10).unsqueeze(0)
    assert REWARD_TERMS[name](inputs_of(slates, torch.eye(12))).tolist() == [1.0]


@each_diversity
def test_a_slate_of_one_position_or_with_nothing_shown_scores_0(name: str) -> None:
    one = inputs_of(torch.tensor([[2]]), torch.eye(4))
    hidden = replace(inputs_of(torch.tensor([[0, 1, 2]]), torch.eye(4)), shown=torch.zeros(1, 3, dtype=torch.bool))
    assert REWARD_TERMS[name](one).tolist() == REWARD_TERMS[name](hidden).tolist() == [0.0]


def test_intra_list_distance_by_hand() -> None:
    embedding = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    slates = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 0, 2]])
    values = REWARD_TERMS["intra_list_distance"](inputs_of(slates, embedding))
    by_hand = [
        ((1 - 0.6) + (1 - 0.0) + (1 - 0.8)) / 3,
        ((1 - 0.0) + (1 - 0.6) + (1 - 0.0)) / 3,  # opposite items are as far apart as unrelated ones
        (0.0 + (1 - 0.0) + 0.0) / 3,  # the second copy is at distance 0 from everything
    ]
    assert values.tolist() == pytest.approx(by_hand, abs=1e-6)


def test_category_coverage_by_hand() -> None:
    category = torch.tensor([0, 0, 1, 2])
    slates = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 1], [2, 2, 3, 3]])
    values = REWARD_TERMS["category_coverage"](inputs_of(slates, torch.eye(4), category))
    assert values.tolist() == pytest.approx([(3 - 1) / 3, 0.0, (2 - 1) / 3])


def test_clicks_counts_responses() -> None:
    inputs = random_inputs()
    assert REWARD_TERMS["clicks"](inputs).tolist() == [sum(row) for row in inputs.clicks.tolist()]


@each_diversity
def test_diversity_does_not_depend_on_the_order(name: str) -> None:
    slates = torch.stack([torch.randperm(31, generator=torch.Generator().manual_seed(seed))[:6] for seed in range(20)])
    catalog = toy_catalog()
    turned = slates.flip(1)
    values = [REWARD_TERMS[name](inputs_of(s, catalog.embedding, catalog.category)) for s in (slates, turned)]
    assert values[0].tolist() == pytest.approx(values[1].tolist(), abs=1e-12)


@each_diversity
def test_diversity_stays_in_0_to_1_and_hiding_an_item_never_pays(name: str) -> None:
    inputs = random_inputs()
    whole = REWARD_TERMS[name](inputs)
    assert (whole >= 0).all()
    assert (whole <= 1).all()
    for position in range(inputs.slates.shape[1]):
        shown = inputs.shown.clone()
        shown[:, position] = False
        assert (REWARD_TERMS[name](replace(inputs, shown=shown)) <= whole).all()


@each_term
def test_rows_do_not_depend_on_the_batch(name: str) -> None:
    inputs = random_inputs()
    rows = [
        replace(inputs, slates=inputs.slates[i : i + 1], shown=inputs.shown[i : i + 1], clicks=inputs.clicks[i : i + 1])
        for i in range(len(inputs.slates))
    ]
    reward = Reward({name: 1.0})
    assert torch.equal(reward(inputs)[0], torch.cat([reward(row)[0] for row in rows]))


@each_term
def test_every_term_is_documented_and_finite(name: str) -> None:
    values = REWARD_TERMS[name](random_inputs())
    assert REWARD_TERMS[name].__doc__
    assert values.shape == (50,)
    assert torch.isfinite(values.double()).all()


def test_the_reward_is_the_weighted_sum_and_the_terms_come_unweighted() -> None:
    inputs = random_inputs()
    total, terms = Reward({"clicks": 2.0, "category_coverage": -0.5})(inputs)
    assert terms.keys() == {"clicks", "category_coverage"}
    assert torch.equal(terms["clicks"], inputs.clicks.sum(1).float())
    assert torch.allclose(total, 2.0 * terms["clicks"] - 0.5 * terms["category_coverage"])


def test_the_default_reward() -> None:
    assert dict(Reward().weights) == {"clicks": 1.0, "intra_list_distance": 1.0}


@pytest.fixture
def own_term() -> Iterator[str]:
    @reward_term("top_position")
    def top_position(inputs: RewardInputs) -> Tensor:
        return inputs.clicks[:, 0]

    yield "top_position"
    del REWARD_TERMS["top_position"]


def test_a_term_of_ones_own(own_term: str) -> None:
    inputs = random_inputs()
    assert torch.equal(Reward({own_term: 3.0})(inputs)[0], 3.0 * inputs.clicks[:, 0])
    with pytest.raises(ValueError, match="'top_position', but a reward term of that name is registered"):
        reward_term(own_term)(lambda inputs: inputs.clicks[:, 1])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "reward has no term, but it needs at least one of"),
        ({"click": 1.0}, "reward names the term 'click', but the registered terms are"),
        ({"clicks": float("nan")}, "the weight nan, but a weight must be a finite number"),
        ({"clicks": float("inf")}, "the weight inf"),
        ({"clicks": "1"}, "the weight '1'"),
        ({"clicks": True}, "the weight True"),
    ],
)
def test_bad_weights_raise(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reward(weights)


def test_a_reward_keeps_its_own_weights() -> None:
    weights = {"clicks": 1.0}
    reward = as_reward(weights)
    weights["clicks"] = 5.0
    assert reward.weights == {"clicks": 1.0}
    assert as_reward(reward).weights is not reward.weights
