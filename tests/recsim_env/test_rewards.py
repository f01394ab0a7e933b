"""Reward terms: their range, their values worked out by hand, and what they must never do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsim_env.env import SlateEnv
from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs, as_reward, reward_term
from recsim_env.simulator import SlateSimulator
from tests.support.toys import ToyShopper, toy_catalog

NO_WEIGHTS: list[Any] = [
    float("nan"),
    float("inf"),
    -float("inf"),
    1e308,
    2**70,
    "1",
    None,
    [],
    True,
    np.bool_(True),
]
DIVERSITY = ["intra_list_distance", "category_coverage"]
each_term = pytest.mark.parametrize("name", sorted(REWARD_TERMS))
each_diversity = pytest.mark.parametrize("name", DIVERSITY)


def first_copies(slates: Tensor) -> Tensor:
    """(B, K) bool, False where the item stands higher up already."""
    return ~(slates.unsqueeze(2) == slates.unsqueeze(1)).tril(-1).any(dim=2)


def inputs_of(slates: Tensor, embedding: Tensor, category: Tensor | None = None) -> RewardInputs:
    nothing = torch.zeros_like(slates, dtype=torch.bool)
    category = torch.arange(len(embedding)) if category is None else category
    return RewardInputs(
        slates,
        first_copies(slates),
        nothing,
        embedding,
        category,
        purchases=nothing.clone(),
        outside_reward=torch.zeros(len(slates)),
        left=nothing[:, 0].clone(),
    )


def random_inputs(batch: int = 50, size: int = 6, seed: int = 0) -> RewardInputs:
    generator = torch.Generator().manual_seed(seed)
    catalog = toy_catalog()
    slates = torch.randint(len(catalog), (batch, size), generator=generator)
    clicks = torch.rand(batch, size, generator=generator) < 0.5
    shown = first_copies(slates) & (torch.rand(batch, size, generator=generator) < 0.8)
    clicks &= shown
    return RewardInputs(
        slates,
        shown,
        clicks,
        catalog.embedding,
        catalog.category,
        purchases=clicks & (torch.rand(batch, size, generator=generator) < 0.5),
        outside_reward=torch.randn(batch, generator=generator),
        price=catalog.price,
        popularity=1 / (2 + torch.arange(float(len(catalog)))),
        category_share=catalog.category_share,
        left=torch.rand(batch, generator=generator) < 0.5,
    )


def row_of(inputs: RewardInputs, row: int) -> RewardInputs:
    """The inputs of one shopper alone."""
    own: dict[str, Any] = {name: told[row : row + 1] for name, told in inputs.rows().items()}
    return replace(inputs, **own)


def test_what_an_outsider_pays_is_the_term_and_our_own_shoppers_pay_nothing() -> None:
    inputs = replace(random_inputs(3), outside_reward=torch.tensor([1.5, -2.0, 0.0]))
    total, terms = Reward({"outside_reward": 2.0})(inputs)
    assert terms["outside_reward"].tolist() == [1.5, -2.0, 0.0]
    assert total.tolist() == [3.0, -4.0, 0.0]
    with pytest.raises(ValueError, match="'outside_reward' is what an outside environment pays"):
        Reward({"outside_reward": 2.0})(replace(inputs, outside_reward=None))


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
    hidden = replace(
        inputs_of(torch.tensor([[0, 1, 2]]), torch.eye(4)),
        shown=torch.zeros(1, 3, dtype=torch.bool),
    )
    assert REWARD_TERMS[name](one).tolist() == REWARD_TERMS[name](hidden).tolist() == [0.0]


def test_intra_list_distance_by_hand() -> None:
    embedding = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    slates = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 0, 2]])
    values = REWARD_TERMS["intra_list_distance"](inputs_of(slates, embedding))
    by_hand = [
        ((1 - 0.6) + (1 - 0.0) + (1 - 0.8)) / 3,
        ((1 - 0.0) + (1 - 0.6) + (1 - 0.0))
        / 3,  # opposite items are as far apart as unrelated ones
        (0.0 + (1 - 0.0) + 0.0) / 3,  # the second copy is at distance 0 from everything
    ]
    assert values.tolist() == pytest.approx(by_hand, abs=1e-6)


def test_purchases_by_hand() -> None:
    inputs = inputs_of(torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.eye(3))
    clicks = torch.tensor([[True, True, False], [False, False, True]])
    bought = torch.tensor([[True, True, False], [False, False, False]])
    inputs = replace(inputs, clicks=clicks, purchases=bought)
    total, terms = Reward({"clicks": 1.0, "purchases": 10.0})(inputs)
    assert terms["purchases"].tolist() == [2.0, 0.0]
    assert total.tolist() == [2 * 1.0 + 2 * 10.0, 1 * 1.0 + 0 * 10.0]
    with pytest.raises(ValueError, match="'purchases' counts what was bought, but these shoppers"):
        Reward({"purchases": 1.0})(replace(inputs, purchases=None))


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
    slates = torch.stack(
        [
            torch.randperm(31, generator=torch.Generator().manual_seed(seed))[:6]
            for seed in range(20)
        ]
    )
    catalog = toy_catalog()
    turned = slates.flip(1)
    values = [
        REWARD_TERMS[name](inputs_of(s, catalog.embedding, catalog.category))
        for s in (slates, turned)
    ]
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
    rows = [row_of(inputs, row) for row in range(len(inputs.slates))]
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
    with pytest.raises(
        ValueError, match="'top_position', but a reward term of that name is registered"
    ):
        reward_term(own_term)(lambda inputs: inputs.clicks[:, 1])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "reward has no term, but it needs at least one of"),
        (
            {"click": 1.0},
            "a term of reward is 'click', but it must be one of 'category_coverage', 'category_",
        ),
        *(
            (
                {"clicks": weight},
                r"reward\['clicks'\] is .*, but it must be a finite number from -1000000000",
            )
            for weight in NO_WEIGHTS
        ),
        ({"clicks": torch.tensor(1.0)}, r"reward\['clicks'\] is a float32 tensor"),
        ({"clicks": 1j}, r"reward\['clicks'\] is 1j"),
    ],
)
def test_bad_weights_raise(weights: Any, message: str) -> None:
    for build in (Reward, as_reward):
        with pytest.raises(ValueError, match=message):
            build(weights)


@pytest.mark.parametrize(
    "reward", [5, 1.0, "clicks", ["clicks"], lambda inputs: 0, Reward, {5: 1.0}, {"clicks"}]
)
def test_what_is_no_mapping_of_names_is_no_reward(reward: Any) -> None:
    for build in (Reward, as_reward):
        with pytest.raises(
            TypeError, match=r"reward is .*, but it must be a mapping with strings as keys"
        ):
            build(reward)


@pytest.mark.parametrize("weight", [np.float32(2), np.float64(2), np.int8(2), 2, 2.0])
def test_a_weight_is_a_number_of_pythons_or_numpys(weight: Any) -> None:
    assert Reward({"clicks": weight}).weights == {"clicks": 2.0}
    assert type(Reward({"clicks": weight}).weights["clicks"]) is float


def test_the_heaviest_weights_leave_a_finite_reward() -> None:
    inputs = random_inputs()
    total, _ = Reward(dict.fromkeys(sorted(REWARD_TERMS), 1e9))(inputs)
    assert torch.isfinite(total).all()


def gives(term: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The reward of a term that gives this for three shoppers."""
    REWARD_TERMS["given"] = lambda inputs: term
    try:
        return Reward({"given": 2.0})(random_inputs(batch=3))
    finally:
        del REWARD_TERMS["given"]


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.float16, torch.float32, torch.float64]
)
def test_a_term_may_give_any_real_type(dtype: torch.dtype) -> None:
    total, terms = gives(torch.tensor([0, 1, 1]).to(dtype))
    assert (total.dtype, total.tolist()) == (torch.float32, [0.0, 2.0, 2.0])
    assert (terms["given"].dtype, terms["given"].tolist()) == (torch.float32, [0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "term",
    [
        torch.zeros(3, 1),  # would make the reward (3, 3)
        torch.zeros(1, 3),
        torch.zeros(1),
        torch.zeros(()),
        torch.zeros(2),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, device="meta"),
        torch.zeros(3).to_sparse(),
        np.zeros(3),
        [0.0, 0.0, 0.0],
        1.0,
        None,
    ],
)
def test_a_term_gives_one_real_number_a_shopper(term: Any) -> None:
    with pytest.raises(
        ValueError, match=r"The reward term 'given' is .*, but it must be .* of shape \(3,\)"
    ):
        gives(term)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_a_reward_is_finite(bad: float) -> None:
    with pytest.raises(
        ValueError, match=r"The reward of row 1 is .*\(given .*\), but it must be finite"
    ):
        gives(torch.tensor([0.0, bad, 0.0], dtype=torch.float64))


def test_a_reward_is_looked_at_at_every_call_on_a_cpu() -> None:
    values = iter([torch.zeros(3), torch.tensor([0.0, 0.0, torch.nan])])
    REWARD_TERMS["given"] = lambda inputs: next(values)
    try:
        reward = Reward({"given": 1.0})
        reward(random_inputs(batch=3))
        with pytest.raises(ValueError, match="row 2 is nan"):
            reward(random_inputs(batch=3))
    finally:
        del REWARD_TERMS["given"]


@pytest.mark.parametrize("name", [None, 3, "", [], {}, object(), True, lambda inputs: 0])
def test_a_term_has_a_text_as_its_name(name: Any) -> None:
    before = dict(REWARD_TERMS)
    with pytest.raises(ValueError, match=r"name is .*, but it must be a text"):
        reward_term(name)
    assert before == REWARD_TERMS


@pytest.mark.parametrize("term", [None, 3, "clicks", torch.zeros(3)])
def test_a_term_is_a_function(term: Any) -> None:
    with pytest.raises(ValueError, match=r"term is .*, but it must be a function of RewardInputs"):
        reward_term("mine")(term)
    assert "mine" not in REWARD_TERMS


def test_a_term_that_is_defined_again_at_the_same_place_replaces_the_first(own_term: str) -> None:
    inputs = random_inputs()
    reward = Reward({own_term: 1.0})

    def define(position: int) -> None:
        def bottom_position(inputs: RewardInputs) -> Tensor:
            return inputs.clicks[:, position]

        reward_term("bottom_position")(bottom_position)

    try:
        define(-1)
        reward = Reward({"bottom_position": 1.0})
        with pytest.warns(UserWarning, match="The reward term 'bottom_position' is replaced"):
            define(-2)
        assert torch.equal(reward(inputs)[0], inputs.clicks[:, -2].float())
    finally:
        del REWARD_TERMS["bottom_position"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 5),
    size=st.integers(1, 12),
    weights=st.dictionaries(
        st.sampled_from(sorted(REWARD_TERMS)), st.floats(-1e9, 1e9), min_size=1
    ),
)
def test_a_reward_is_its_weighted_sum_row_by_row(
    seed: int, batch: int, size: int, weights: dict[str, float]
) -> None:
    """Diversity lies in [0, 1], clicks in [0, K]; rows are independent, whatever the cosines."""
    inputs = random_inputs(batch, size, seed)
    total, terms = Reward(weights)(inputs)
    exact = sum(weight * terms[name].double() for name, weight in weights.items())
    torch.testing.assert_close(
        total,
        torch.as_tensor(exact).float(),
        rtol=1e-5,
        atol=1e-5 * sum(map(abs, weights.values())),
    )
    dear = float(toy_catalog().price.max())
    ranges = {"outside_reward": (-math.inf, math.inf), "exposure": (-1, 0), "kept": (0, 1)}
    ranges |= dict.fromkeys([*DIVERSITY, "category_entropy"], (0, 1))
    ranges |= {"revenue": (0, size * dear), "novelty": (0, math.log2(len(toy_catalog()) + 1))}
    for name, value in terms.items():
        least, most = ranges.get(name, (0, size))
        assert bool(((value >= least - 1e-6) & (value <= most + 1e-6)).all())
    for row in range(batch):
        assert torch.equal(Reward(weights)(row_of(inputs, row))[0], total[row : row + 1])


def test_rewards_are_the_same_bits_whatever_the_default_type() -> None:
    inputs = random_inputs()
    reward = Reward(dict.fromkeys(sorted(REWARD_TERMS), 0.7))
    total, _ = reward(inputs)
    torch.set_default_dtype(torch.float64)
    try:
        again, terms = reward(inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(total, again)
    assert {value.dtype for value in [again, *terms.values()]} == {torch.float32}


@pytest.mark.parametrize("inferring", [False, True])
@pytest.mark.parametrize(
    "key", ["slates", "shown", "clicks", "carried", "embedding", "category", "cosines"]
)
def test_a_term_that_writes_into_its_inputs_is_named(
    own_term: str, key: str, inferring: bool
) -> None:
    def writes(inputs: RewardInputs) -> Tensor:
        getattr(inputs, key)[1:] = 0
        return inputs.clicks.sum(dim=1)

    with torch.inference_mode(inferring):
        made = random_inputs()
        made = replace(made, carried=made.slates[:, :3].clone())
    tables = {"embedding": torch.rand(31, 8), "category": torch.arange(31)}
    inputs = replace(made, **tables, cosines=torch.rand(31, 31))
    before = {name: value.clone() for name, value in vars(inputs).items() if value is not None}
    REWARD_TERMS[own_term] = writes
    sentence = f"^The reward term '{own_term}' wrote into inputs.{key}, but it must leave its"
    for weights in ({"clicks": 1.0, own_term: 1.0}, {own_term: 1.0, "clicks": 1.0}):
        with torch.inference_mode(inferring), pytest.raises(ValueError, match=sentence):
            Reward(weights)(inputs)
    for name in ("slates", "shown", "clicks", "carried"):
        assert torch.equal(getattr(inputs, name), before[name])


def test_a_term_may_change_a_copy_and_its_order_does_not_matter(own_term: str) -> None:
    def top(inputs: RewardInputs) -> Tensor:
        clicks = inputs.clicks.clone()
        clicks[:, 2:] = False
        return clicks.sum(dim=1)

    REWARD_TERMS[own_term] = top
    inputs = random_inputs()
    first, _ = Reward({own_term: 1.0, "clicks": 1.0})(inputs)
    second, terms = Reward({"clicks": 1.0, own_term: 1.0})(inputs)
    assert torch.equal(first, second)
    assert torch.equal(terms[own_term], inputs.clicks[:, :2].sum(dim=1).float())


def test_a_step_with_a_term_that_writes_is_refused_in_gymnasium_too(own_term: str) -> None:
    def writes(inputs: RewardInputs) -> Tensor:
        inputs.clicks[:, 1:] = False
        return inputs.clicks.sum(dim=1)

    REWARD_TERMS[own_term] = writes
    env = SlateEnv(SlateSimulator(ToyShopper(), {own_term: 1.0, "clicks": 1.0}))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"wrote into inputs\.clicks"):
        env.step(np.array([1, 2, 4, 5]))


def test_the_terms_that_are_shipped_write_into_nothing() -> None:
    inputs = random_inputs()
    for name in sorted(REWARD_TERMS):
        before = {key: value.clone() for key, value in vars(inputs).items() if value is not None}
        REWARD_TERMS[name](inputs)
        assert all(torch.equal(getattr(inputs, key), value) for key, value in before.items())


def test_a_reward_keeps_its_own_weights() -> None:
    weights = {"clicks": 1.0}
    reward = as_reward(weights)
    weights["clicks"] = 5.0
    assert reward.weights == {"clicks": 1.0}
    assert as_reward(reward).weights is not reward.weights
