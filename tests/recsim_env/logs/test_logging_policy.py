"""The policy that wrote the log: by hand, and the same in the log and in a simulation."""

import itertools
import math

import numpy as np
import pytest
import torch

from recsim_env.catalog import Catalog
from recsim_env.logs.complete_journey import Recipe
from recsim_env.logs.complete_journey.logging_policy import (
    LoggingPolicy,
    past_counts,
    policy_score,
)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog.synthetic(6, 2, 4, torch.Generator().manual_seed(0))


def test_the_logging_policy_scores_own_counts_and_popularity(catalog: Catalog) -> None:
    policy = LoggingPolicy(catalog, 100.0, draws=3, slate_size=2)
    observation = {
        "candidates": torch.tensor([[4, 1, -1]]),
        "bought_items": torch.tensor([[1, -1]]),
        "bought_counts": torch.tensor([[3.0, 0.0]]),
        "category_counts": torch.tensor([[5.0, 7.0]]),
        "popularity": torch.tensor([[0.2, 0.1, 0.0]]),
    }
    r = policy.recipe
    by_hand = [
        r.category_weight * math.log1p(5)
        + r.popularity_weight * math.log1p(20),  # item 4: category 0
        r.item_weight * math.log1p(3)
        + r.category_weight * math.log1p(7)
        + r.popularity_weight * math.log1p(10),
        -math.inf,
    ]
    assert policy.scores(observation)[0].tolist() == pytest.approx(by_hand)


def test_a_simulation_scores_as_the_log_did(catalog: Catalog) -> None:
    """The scores of the arrays that wrote the log are those of the observation of that moment."""
    random = np.random.default_rng(0)
    n, visits = len(catalog), 5
    bought = np.append(random.random((visits, n)) < 0.4, np.zeros((visits, 1), bool), axis=1)
    category = np.append(catalog.category.numpy(), len(catalog.categories))
    items = np.array([[0, 2, 3, 5]], dtype=np.int32)
    weekly = random.integers(0, 50, items.shape).astype(np.float64)
    at = np.array([visits - 1])
    logged = policy_score(bought, at, items, category, weekly, Recipe())

    own, in_category = (counts[at] for counts in past_counts(bought, category))
    observation = {
        "candidates": torch.from_numpy(items.astype(np.int64)),
        "bought_items": torch.arange(n).unsqueeze(0),
        "bought_counts": torch.from_numpy(own[:, :n]).float(),
        "category_counts": torch.from_numpy(in_category[:, :-1]).float(),
        "popularity": torch.from_numpy(weekly).float() / 50,
    }
    policy = LoggingPolicy(catalog, 50.0, draws=4, slate_size=2)
    assert own.any()
    assert in_category.any()
    assert policy.scores(observation)[0].tolist() == pytest.approx(logged[0].tolist(), rel=1e-5)


def test_slates_are_drawn_in_proportion_to_what_is_left(catalog: Catalog) -> None:
    """With own counts alone, exp(score) is (1 + count) to the power of the item's weight."""
    shoppers, counts = 20_000, [0.0, 1.0, 3.0]
    policy = LoggingPolicy(
        catalog, 1.0, draws=3, slate_size=2, recipe=Recipe(category_weight=0.0, item_weight=1.0)
    )
    observation = {
        "candidates": torch.tensor([[0, 1, 2]]).expand(shoppers, -1),
        "bought_items": torch.tensor([[0, 1, 2]]).expand(shoppers, -1),
        "bought_counts": torch.tensor([counts]).expand(shoppers, -1),
        "category_counts": torch.zeros(shoppers, 2),
        "popularity": torch.zeros(shoppers, 3),
    }
    draws = torch.rand(shoppers, 3, generator=torch.Generator().manual_seed(0))
    slates = policy(observation, draws)
    weight = [1 + count for count in counts]
    for first, second in itertools.permutations(range(3), 2):
        chance = weight[first] / 7 * weight[second] / (7 - weight[first])
        share = float((slates == torch.tensor([first, second])).all(dim=1).float().mean())
        assert share == pytest.approx(chance, abs=4 * math.sqrt(chance / shoppers))


def test_too_few_candidates_repeat_the_first_item_and_none_show_nothing(catalog: Catalog) -> None:
    """A slate holds items: a simulator refuses anything else."""
    policy = LoggingPolicy(catalog, 1.0, draws=2, slate_size=2)
    observation = {
        "candidates": torch.tensor([[4, 5], [3, -1], [-1, -1]]),
        "bought_items": torch.full((3, 1), -1),
        "bought_counts": torch.zeros(3, 1),
        "category_counts": torch.zeros(3, 2),
        "popularity": torch.zeros(3, 2),
    }
    slates = policy(observation, torch.full((3, 2), 0.5))
    assert sorted(slates[0].tolist()) == [4, 5]
    assert slates[1].tolist() == [3, 3]
    assert slates[2].tolist() == [0, 0]
