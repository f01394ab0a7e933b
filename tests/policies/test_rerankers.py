"""Hand-worked slates of every re-ranker, and what must hold for every registered policy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from policies import POLICIES
from policies.inputs import PolicyInputs
from recsim_env.catalog import Catalog
from tests.support.policy_toys import TableRanker, made_up_ranker, toy_inputs
from tests.support.toys import toy_simulator

NO_DRAWS = torch.zeros(1, 0)


def small_shop(
    logits: list[float], embedding: Tensor, categories: list[str], slate_size: int
) -> PolicyInputs:
    """A catalogue of a few items, all of them candidates."""
    paths = tuple(f"d/{category}/t" for category in categories)
    embedding = torch.nn.functional.normalize(embedding, dim=1)
    catalog = Catalog(tuple(paths), paths, torch.ones(len(paths)), embedding)
    return PolicyInputs(
        catalog, space_of(len(paths), slate_size), slate_size, TableRanker(torch.tensor(logits))
    )


def space_of(items: int, slate_size: int) -> spaces.Dict:
    """The space of `observation`."""
    size = (3, slate_size)
    return spaces.Dict(
        {
            "candidates": spaces.Box(-1, items - 1, (items,), np.int64),
            "recent_slates": spaces.Box(-1, items - 1, size, np.int64),
            "recent_clicks": spaces.MultiBinary(size),
            "recent_days": spaces.Box(0, 1e6, (3,), np.float32),
        }
    )


def at(angle: float) -> list[float]:
    """A unit vector at so many degrees."""
    return [math.cos(math.radians(angle)), math.sin(math.radians(angle))]


def observation(items: int, slate_size: int = 2) -> dict[str, Tensor]:
    return {
        "candidates": torch.arange(items).unsqueeze(0),
        "recent_slates": torch.full((1, 3, slate_size), -1),
        "recent_clicks": torch.zeros(1, 3, slate_size, dtype=torch.int8),
        "recent_days": torch.zeros(1, 3),
    }


def test_mmr_takes_the_less_similar_item_when_the_weight_makes_up_for_its_logit() -> None:
    # cosines to item 0: item 1 cos 10 = .985, item 2 cos 60 = .5; logits .4 apart
    inputs = small_shop([2.0, 1.9, 1.5], torch.tensor([at(0), at(10), at(60)]), ["a", "a", "a"], 2)
    tip = 0.4 / (math.cos(math.radians(10)) - 0.5)  # 1.9 - w .985 = 1.5 - w .5
    below = POLICIES["mmr"].build(inputs, {"weight": tip - 0.01})
    above = POLICIES["mmr"].build(inputs, {"weight": tip + 0.01})
    assert below(observation(3), NO_DRAWS).tolist() == [[0, 1]]
    assert above(observation(3), NO_DRAWS).tolist() == [[0, 2]]


def test_cap_takes_so_many_of_a_category_and_then_the_best_of_the_rest() -> None:
    inputs = small_shop([5.0, 4.0, 3.0, 2.0, 1.0], torch.eye(5), ["a", "a", "a", "b", "a"], 4)
    seen = observation(5, 4)
    assert POLICIES["cap"].build(inputs, {"limit": 1})(seen, NO_DRAWS).tolist() == [[0, 3, 1, 2]]
    assert POLICIES["cap"].build(inputs, {"limit": 2})(seen, NO_DRAWS).tolist() == [[0, 1, 3, 2]]
    assert POLICIES["cap"].build(inputs, {"limit": 4})(seen, NO_DRAWS).tolist() == [[0, 1, 2, 3]]


def greedy_map(vectors: Tensor, logits: Tensor, alpha: float, size: int) -> list[int]:
    """Brute force over the determinants of all next slates; where all are 0, the best logit."""
    cosines = vectors.double() @ vectors.double().T
    slate: list[int] = []

    def value(item: int) -> tuple[bool, float]:
        chosen = [*slate, item]
        if int(torch.linalg.matrix_rank(cosines[chosen][:, chosen], atol=1e-9, rtol=0.0)) < len(
            chosen
        ):
            return False, float(logits[item])
        return True, alpha * float(logits[item]) + float(torch.logdet(cosines[chosen][:, chosen]))

    while len(slate) < size:
        slate.append(max((item for item in range(len(logits)) if item not in slate), key=value))
    return slate


def dpp_slate(embedding: Tensor, logits: Tensor, alpha: float, size: int) -> list[int]:
    inputs = small_shop(logits.tolist(), embedding, ["a"] * len(logits), size)
    slates = POLICIES["dpp"].build(inputs, {"alpha": alpha})(
        observation(len(logits), size), NO_DRAWS
    )
    return [int(item) for item in slates[0]]


@pytest.mark.parametrize(
    ("logits", "alpha"),
    [
        ([3.0, 2.9, 0.0], 1.0),
        ([2.0, 1.9, 0.4], 10.0),
        ([8.0, 7.9, 0.5], 2.0),
        ([9.0, 8.0, -9.0], 1e3),
    ],
)
def test_dpp_takes_no_twin_while_anything_else_is_left(logits: list[float], alpha: float) -> None:
    vectors = torch.tensor([at(0), at(0), at(90)])
    assert dpp_slate(vectors, torch.tensor(logits), alpha, 2) == [0, 2]
    assert dpp_slate(vectors, torch.tensor(logits), alpha, 3) == [0, 2, 1]


def test_dpp_takes_the_best_twins_where_nothing_else_is_left() -> None:
    logits = torch.tensor([0.1, 3.0, 2.0, 1.0, 0.4])
    assert dpp_slate(torch.tensor([at(90), at(0), at(0), at(0), at(90)]), logits, 5.0, 5) == [
        1,
        4,
        2,
        3,
        0,
    ]


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5, 2.0, 10.0])
@pytest.mark.parametrize("near", [1e-1, 1e-2, 1e-3])
def test_dpp_is_the_greedy_maximum_of_the_determinant(alpha: float, near: float) -> None:
    """Random vectors, some equal and some nearly so, at times fewer dimensions than positions."""
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        items, width, size = 9, 2 + seed % 6, 4
        vectors = torch.randn(5, width, generator=generator)[
            torch.randint(0, 5, (items,), generator=generator)
        ]
        moved = torch.rand(items, 1, generator=generator) < 0.5
        vectors = torch.nn.functional.normalize(
            vectors + near * moved * torch.randn(items, width, generator=generator), dim=1
        )
        logits = torch.randn(items, generator=generator)
        assert dpp_slate(vectors, logits, alpha, size) == greedy_map(
            vectors, logits, alpha, size
        ), seed


def test_dpp_without_logits_starts_with_the_best_all_the_same() -> None:
    vectors = torch.nn.functional.normalize(
        torch.randn(8, 5, generator=torch.Generator().manual_seed(2)), dim=1
    )
    assert dpp_slate(vectors, torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 0]), 0.0, 1) == [3]


def test_dpp_in_a_catalogue_without_a_table_of_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)[
        torch.arange(12) % 6
    ]
    logits = torch.randn(12, generator=generator)
    monkeypatch.setattr("policies.cosines.GRAM_LIMIT", 11)
    assert dpp_slate(vectors, logits, 5.0, 4) == greedy_map(vectors, logits, 5.0, 4)


def test_twins_of_a_shop_like_the_complete_journey_are_kept_apart() -> None:
    """Two thirds of its items share their vector with another; vectors are wide, from float16."""
    generator = torch.Generator().manual_seed(5)
    distinct = torch.randn(60, 384, generator=generator).half().float()
    vectors = torch.nn.functional.normalize(
        distinct[torch.randint(0, 60, (100,), generator=generator)], dim=1
    )
    for alpha in (2.0, 8.9, 10.0):
        slate = dpp_slate(vectors, torch.randn(100, generator=generator), alpha, 10)
        assert len({tuple(vectors[item].tolist()) for item in slate}) == 10


def test_constant_counts_categories_as_it_says() -> None:
    # item 1 loses 1.5 for the item of its category in the slate, so item 2 at 1.0 stands before it
    inputs = small_shop([3.0, 2.0, 1.0], torch.eye(3), ["a", "a", "b"], 2)
    zero = dict.fromkeys(POLICIES["constant_log_odds"].search(), 0.0)
    assert POLICIES["constant_log_odds"].build(inputs, zero)(observation(3), NO_DRAWS).tolist() == [
        [0, 1]
    ]
    assert POLICIES["constant_log_odds"].build(inputs, {**zero, "count": -0.9})(
        observation(3), NO_DRAWS
    ).tolist() == [[0, 1]]
    assert POLICIES["constant_log_odds"].build(inputs, {**zero, "count": -1.5})(
        observation(3), NO_DRAWS
    ).tolist() == [[0, 2]]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_shows_distinct_candidates(name: str) -> None:
    simulator = toy_simulator(items=40, slate_size=5)
    policy = POLICIES[name].build(toy_inputs(simulator))
    seen = simulator.reset(torch.arange(32))
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        slates = policy(seen, torch.rand(32, policy.draws, generator=generator))
        assert slates.shape == (32, 5)
        assert slates.dtype == torch.int64
        assert all(len(set(slate)) == 5 for slate in slates.tolist())
        assert bool((slates.unsqueeze(2) == seen["candidates"].unsqueeze(1)).any(dim=2).all())
        step = simulator.step(slates)
        assert int(step.info["invalid_items"].sum()) == 0
        done = (step.terminated | step.truncated).nonzero().squeeze(1)
        seen = simulator.reset_rows(done) if len(done) else step.observation


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_fills_the_slate_when_candidates_run_out(name: str) -> None:
    simulator = toy_simulator(items=40, slate_size=5)
    policy = POLICIES[name].build(toy_inputs(simulator))
    seen = simulator.reset(torch.arange(3))
    seen["candidates"][:, 2:] = -1
    slates = policy(seen, torch.rand(3, policy.draws, generator=torch.Generator().manual_seed(0)))
    assert slates.shape == (3, 5)
    for slate, candidates in zip(slates.tolist(), seen["candidates"][:, :2].tolist(), strict=True):
        assert set(slate) == set(candidates)
        assert slate[2:] == [slate[0]] * 3


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_treats_each_shopper_alone(name: str) -> None:
    simulator = toy_simulator(items=40, slate_size=5)
    policy = POLICIES[name].build(toy_inputs(simulator))
    seen = simulator.reset(torch.arange(6))
    for _ in range(3):
        seen = simulator.step(seen["candidates"][:, :5], validate=False).observation
    draws = torch.rand(6, policy.draws, generator=torch.Generator().manual_seed(0))
    together = policy(seen, draws)
    alone = torch.cat(
        [policy({k: v[i : i + 1] for k, v in seen.items()}, draws[i : i + 1]) for i in range(6)]
    )
    assert torch.equal(together, alone)


@pytest.mark.parametrize(
    "name", sorted(name for name, spec in POLICIES.items() if spec.needs_ranker)
)
def test_a_policy_without_its_ranker_says_so(name: str) -> None:
    simulator = toy_simulator()
    inputs = PolicyInputs(simulator.catalog, simulator.observation_space, simulator.slate_size)
    with pytest.raises(ValueError, match="ranker is None"):
        POLICIES[name].build(inputs)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_tuned_parameters_start_inside_their_range_and_unknown_ones_are_errors(name: str) -> None:
    spec = POLICIES[name]
    defaults = spec.parameters()
    for field, allowed in spec.search().items():
        assert allowed.low <= getattr(defaults, field) <= allowed.high
    with pytest.raises(TypeError, match="surprise"):
        spec.build(toy_inputs(toy_simulator()), {"surprise": 1.0})


def test_every_pair_of_rerankers_can_differ() -> None:
    """Each re-ranker at a strong setting differs from greedy CTR and from the others."""
    simulator = toy_simulator(items=200, slate_size=8)
    inputs = toy_inputs(simulator, made_up_ranker(200))
    seen = simulator.reset(torch.arange(16))
    strong: dict[str, dict[str, float]] = {
        "mmr": {"weight": 5.0},
        "cap": {"limit": 1},
        "dpp": {"alpha": 0.1},
        "constant": {"count": -4.0},
        "constant_log_odds": {"count": -2.0},
        "reward_greedy": {"factor": 8.0},
    }
    slates = {name: POLICIES[name].build(inputs, strong[name])(seen, NO_DRAWS) for name in strong}
    slates["greedy_ctr"] = POLICIES["greedy_ctr"].build(inputs)(seen, NO_DRAWS)
    for one, other in itertools.combinations(slates, 2):
        assert not torch.equal(slates[one], slates[other]), (one, other)
