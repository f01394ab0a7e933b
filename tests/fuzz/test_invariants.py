"""Invariants of scores, policies, rewards and files, each against a plain count or a second
computation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import strategies as st
from torch import Tensor

from agents.evaluate import evaluate
from benchmarks.lab import heldout
from policies import POLICIES
from policies.inputs import PolicyInputs
from recsim_env.catalog import Catalog
from recsim_env.logs.record import record
from recsim_env.logs.schema import BASKETS, IMPRESSIONS, check_table
from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs
from recsim_env.types import Observation
from tests.fuzz import ground, plan
from tests.support.policy_toys import TableRanker, toy_inputs
from tests.support.toys import toy_simulator

pytestmark = pytest.mark.slow

ITEMS = 31


class Fixed:
    """A policy that shows the same items to everybody, candidates or not."""

    draws = 0

    def __init__(self, slate: list[int]) -> None:
        self.slate = torch.tensor(slate)

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        return self.slate.expand(len(observation["candidates"]), -1).clone()


@plan.examples(
    30, st.lists(st.integers(0, ITEMS - 1), min_size=4, max_size=4), st.integers(0, 10**6)
)
def test_exposures_are_positions_that_were_shown(slate: list[int], seed: int) -> None:
    simulator = toy_simulator()
    found = evaluate(Fixed(slate), simulator, torch.arange(seed, seed + 5))
    positions = int(found.rows["visits"].sum()) * 4 - int(found.rows["invalid_items"].sum())
    assert int(found.exposures.sum()) == positions
    assert int(found.exposures[[item for item in range(ITEMS) if item not in slate]].sum()) == 0


@plan.examples(
    20, st.lists(st.integers(0, ITEMS - 1), min_size=4, max_size=4), st.integers(0, 10**6)
)
def test_a_recorded_log_is_what_its_schema_says(slate: list[int], seed: int) -> None:
    simulator = toy_simulator()
    slates, baskets = record(simulator, Fixed(slate), torch.arange(seed, seed + 3))
    check_table(IMPRESSIONS, slates, "slates", ITEMS)
    check_table(BASKETS, baskets, "baskets", ITEMS)
    assert all(set(held) <= set(slate) for held in slates["slate"].to_list())
    assert all(len(held) == len(set(held)) for held in slates["slate"].to_list())


# ---- policies ------------------------------------------------------------------------------------


def vectors() -> Any:
    """Unit vectors of the plane, twins and opposites among them."""
    angles = st.lists(
        st.sampled_from([0.0, 0.0, 0.5, 0.5, 1.0, 2.0, 3.0, math.pi]), min_size=3, max_size=6
    )
    return angles.map(
        lambda held: torch.tensor([[math.cos(angle), math.sin(angle), 0.0] for angle in held])
    )


def exact_greedy(
    logits: list[float], points: Tensor, alpha: float, size: int
) -> tuple[list[int], bool]:
    """Greedy MAP by determinants in float64, and whether two choices are so close that rounding may
    decide.

    An item that adds no volume comes after all that do.
    """
    kernel = (points.double() @ points.double().T).clamp(-1, 1)
    chosen: list[int] = []
    close = False
    for _ in range(size):
        scores = []
        for item in range(len(logits)):
            if item in chosen:
                continue
            held = [*chosen, item]
            volume = float(torch.linalg.det(kernel[held][:, held]))
            before = float(torch.linalg.det(kernel[chosen][:, chosen])) if chosen else 1.0
            gain = volume / before if before > 1e-9 else 0.0
            score = alpha * logits[item] + math.log(gain) if gain > 1e-9 else -math.inf
            scores.append((score, item))
            close |= 1e-12 < gain < 1e-3
        ranked = sorted(scores, reverse=True)
        if ranked[0][0] == -math.inf:
            return chosen, close
        close |= len(ranked) > 1 and ranked[0][0] - ranked[1][0] < 1e-3
        chosen.append(ranked[0][1])
    return chosen, close


@plan.examples(80, vectors(), st.integers(0, 999), st.floats(0.1, 10), st.integers(1, 3))
def test_the_determinantal_process_is_exact(
    points: Tensor, seed: int, alpha: float, size: int
) -> None:
    items = len(points)
    logits = torch.randn(items, generator=torch.Generator().manual_seed(seed)) * 2
    catalog = Catalog(("x",) * items, ("a/b/c",) * items, torch.ones(items), points)
    space = spaces.Dict({"candidates": spaces.Box(-1, items - 1, (items,), np.int64)})
    inputs = PolicyInputs(catalog, space, size, TableRanker(logits), pool=items)
    right, close = exact_greedy(logits.tolist(), points, alpha, size)
    if close:
        return
    policy = POLICIES["dpp"].build(inputs, {"alpha": alpha})
    slate = policy({"candidates": torch.arange(items).unsqueeze(0)}, torch.zeros(1, 0))[0].tolist()
    assert slate[: len(right)] == right, (
        f"logits {logits.tolist()}, vectors {points.tolist()}: right is {right}"
    )


@plan.examples(
    80, st.sampled_from(list(POLICIES)), st.integers(0, 10**6), st.integers(1, 5), st.booleans()
)
def test_policies_show_distinct_candidates(name: str, seed: int, batch: int, tied: bool) -> None:
    simulator = toy_simulator()
    generator = torch.Generator().manual_seed(seed)
    table = torch.zeros(ITEMS) if tied else torch.randn(ITEMS, generator=generator) * 3
    policy = POLICIES[name].build(toy_inputs(simulator, TableRanker(table)))
    observation = simulator.reset(torch.arange(seed, seed + batch))
    for _ in range(2):
        slates = policy(observation, torch.rand(batch, policy.draws, generator=generator))
        assert tuple(slates.shape) == (batch, 4)
        for slate, candidates in zip(slates.tolist(), simulator.candidates.tolist(), strict=True):
            assert len(set(slate)) == 4
            assert set(slate) <= set(candidates) - {-1}
        step = simulator.step(slates)
        assert int(step.info["invalid_items"].sum()) == 0
        if bool(step.ended.any()):
            return
        observation = step.observation


# ---- rewards and catalogues ----------------------------------------------------------------------


def weights() -> Any:
    """Weights of some of the registered terms."""
    return st.dictionaries(st.sampled_from(sorted(REWARD_TERMS)), st.floats(-1e3, 1e3), min_size=1)


@plan.examples(60, weights(), st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))
def test_a_reward_is_one_finite_number_a_shopper(
    held: dict[str, float], batch: int, size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    catalog = ground.simulator(ground.TOY_ID).catalog
    slates = torch.randint(ITEMS, (batch, size), generator=generator)
    shown = torch.rand(batch, size, generator=generator) < 0.7
    inputs = RewardInputs(
        slates,
        shown,
        shown & (slates % 2 == 0),
        catalog.embedding,
        catalog.category,
        catalog.cosines,
        purchases=shown & (slates % 4 == 0),
        outside_reward=torch.randn(batch, generator=generator),
        price=catalog.price,
        popularity=1 / (2 + torch.arange(float(len(catalog)))),
        category_share=catalog.category_share,
        left=slates[:, 0] % 2 == 0,
    )
    total, terms = Reward(held)(inputs)
    assert tuple(total.shape) == (batch,)
    assert total.dtype == torch.float32
    assert bool(total.isfinite().all())
    again = sum(weight * terms[name].double() for name, weight in held.items())
    assert torch.allclose(total.double(), torch.as_tensor(again), rtol=1e-4, atol=1e-3)


@plan.examples(30, st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_a_catalogue_comes_back_from_disk(items: int, groups: int, width: int, seed: int) -> None:
    made = Catalog.synthetic(items, min(groups, items), width, torch.Generator().manual_seed(seed))
    folder = ground.scratch() / "round trip"
    made.save(folder)
    again = Catalog.load(folder)
    assert (again.text, again.path, again.categories) == (made.text, made.path, made.categories)
    assert torch.equal(again.price.nan_to_num(-1), made.price.nan_to_num(-1))
    assert torch.allclose(again.embedding, made.embedding, atol=1e-3)
    assert torch.allclose(again.embedding.norm(dim=1), torch.ones(items), atol=1e-6)
    again.save(folder)
    assert torch.allclose(Catalog.load(folder).embedding, again.embedding, atol=1e-3)


# ---- held-out scores -----------------------------------------------------------------------------

CHANCES = st.sampled_from([0.1, 0.1, 0.2, 0.5, 0.5, 0.9])


def scored(least: int, most: int) -> Any:
    """Chances with ties and labels, as many of both."""
    pairs = st.lists(st.tuples(CHANCES, st.booleans()), min_size=least, max_size=most)
    return pairs.map(
        lambda held: ([chance for chance, _ in held], [int(label) for _, label in held])
    )


def score(
    metric: str, chances: list[float], labels: list[int], weights: list[float] | None = None
) -> float:
    """A held-out score of the rows of one slate."""
    weight = np.array(weights or [1.0] * len(labels))
    nothing = np.zeros(len(labels), dtype=np.int64)
    rows = heldout.Rows(
        np.array(labels, dtype=np.float64), weight, np.array(chances), nothing, nothing
    )
    with np.errstate(all="ignore"):
        return float(heldout.METRICS[metric](rows, weight))


def ndcg(chances: list[float], labels: list[int], cut: int) -> float:
    """The mean over all orders of what is tied, one position at a time."""
    best = sorted(labels, reverse=True)
    ideal = sum(label / math.log2(place + 2) for place, label in enumerate(best[:cut]))
    found = []
    for order in itertools.permutations(range(len(chances))):
        if all(chances[one] >= chances[other] for one, other in itertools.pairwise(order)):
            found.append(
                sum(labels[at] / math.log2(place + 2) for place, at in enumerate(order[:cut]))
            )
    return sum(found) / len(found) / ideal


@plan.examples(60, scored(2, 6).filter(lambda held: any(held[1])))
def test_ndcg_is_the_mean_over_the_orders_of_ties(held: tuple[list[float], list[int]]) -> None:
    assert score("ndcg10", *held) == pytest.approx(ndcg(*held, 10), abs=1e-9)


@plan.examples(20, st.integers(2, 30), st.integers(1, 30))
def test_ndcg_cuts_at_ten(size: int, place: int) -> None:
    place = min(place, size)
    chances = [1 - row / 100 for row in range(size)]
    right = 1 / math.log2(place + 1) if place <= 10 else 0.0
    assert score(
        "ndcg10", chances, [int(row == place - 1) for row in range(size)]
    ) == pytest.approx(right, abs=1e-12)


@plan.examples(40, scored(2, 8).filter(lambda held: 0 < sum(held[1]) < len(held[1])))
def test_auc_counts_pairs(held: tuple[list[float], list[int]]) -> None:
    good = [chance for chance, label in zip(*held, strict=True) if label]
    bad = [chance for chance, label in zip(*held, strict=True) if not label]
    pairs = [(one > other) + 0.5 * (one == other) for one in good for other in bad]
    assert score("auc", *held) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@plan.examples(
    40, scored(2, 12), st.randoms(use_true_random=False), st.sampled_from(sorted(heldout.METRICS))
)
def test_scores_do_not_depend_on_the_order_of_rows(held: Any, shuffler: Any, metric: str) -> None:
    order = list(range(len(held[0])))
    shuffler.shuffle(order)
    one = score(metric, *held)
    other = score(metric, *([column[at] for at in order] for column in held))
    assert one == pytest.approx(other, abs=1e-12, nan_ok=True)


@plan.examples(40, st.lists(st.booleans(), min_size=20, max_size=20), st.integers(0, 10**6))
def test_the_calibration_error_of_a_bin_a_row_is_the_mean_distance(
    labels: list[bool], seed: int
) -> None:
    chances = np.random.default_rng(seed).permutation(np.linspace(0.02, 0.97, 20)).tolist()
    right = sum(abs(chance - label) for chance, label in zip(chances, labels, strict=True)) / 20
    assert score("ece", chances, [int(label) for label in labels]) == pytest.approx(right, abs=1e-9)


@plan.examples(30, CHANCES, st.lists(st.booleans(), min_size=1, max_size=50))
def test_the_calibration_error_of_a_constant_is_its_distance_from_the_rate(
    chance: float, labels: list[bool]
) -> None:
    found = score("ece", [chance] * len(labels), [int(label) for label in labels])
    assert found == pytest.approx(abs(chance - sum(labels) / len(labels)), abs=1e-9)


@plan.examples(
    30,
    scored(2, 10).filter(lambda held: any(held[1])),
    st.lists(st.integers(1, 3), min_size=10, max_size=10),
)
def test_a_weight_of_two_is_the_row_twice(
    held: tuple[list[float], list[int]], times: list[int]
) -> None:
    often = times[: len(held[0])]
    twice = tuple(
        [value for value, count in zip(column, often, strict=True) for _ in range(count)]
        for column in held
    )
    for metric in ("auc", "ne", "log_loss", "ratio"):
        weighted = score(metric, *held, [float(count) for count in often])
        assert weighted == pytest.approx(score(metric, *twice), rel=1e-9, nan_ok=True)  # type: ignore[arg-type]
