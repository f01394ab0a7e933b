"""Categories of items that have embeddings alone: topics and clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsim_env.shoppers.outside_catalog import (
    clustered_catalog,
    spherical_k_means,
    topical_catalog,
)
from tests.support.outside_toys import items_around_axes


def test_clusters_are_the_axes() -> None:
    catalog = clustered_catalog(5 * items_around_axes(30), 3)
    by_axis = [{int(group) for group in catalog.category[axis::3]} for axis in range(3)]
    assert all(len(groups) == 1 for groups in by_axis)
    assert set().union(*by_axis) == {0, 1, 2}
    torch.testing.assert_close(catalog.embedding.norm(dim=1), torch.ones(30))


def test_topics_are_the_largest_dimensions_where_none_are_named() -> None:
    shares = torch.tensor([[0.9, 0.1, 0.0], [0.0, 3.0, 2.9], [0.2, 0.2, 0.3], [0.5, 0.0, 0.1]])
    catalog = topical_catalog(shares)
    assert catalog.category.tolist() == [0, 1, 2, 0]
    assert catalog.categories == ("outside/topic 0", "outside/topic 1", "outside/topic 2")
    torch.testing.assert_close(catalog.embedding, shares / shares.norm(dim=1, keepdim=True))


def test_the_tenth_topic_comes_after_the_second() -> None:
    catalog = topical_catalog(torch.eye(12))
    assert catalog.category.tolist() == list(range(12))
    assert catalog.categories[2] == "outside/topic 02"


@pytest.mark.parametrize(
    "topics", [["b", "a", "b"], ("b", "a", "b"), np.array(["b", "a", "b"]), torch.tensor([7, 2, 7])]
)
def test_topics_may_be_named(topics: Any) -> None:
    assert topical_catalog(torch.randn(3, 2), topics).category.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("topics", "says"),
    [
        (None, r"^embedding has the number -1.0 in row 1, .* use clustered_catalog"),
        (["a"], r"^topics is .* must be a list of 2, one an item"),
        (5, r"^topics is 5"),
        (["a", "b/c"], r"^topics has 'b/c' in row 1"),
        (["", "b"], r"^topics has '' in row 0"),
        ([True, 1], r"^topics has True in row 0"),
        (torch.rand(2), r"^topics has 0\..* in row 0"),
    ],
)
def test_topics_that_are_none_are_refused(topics: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        topical_catalog(torch.tensor([[1.0, 0.5], [0.0, -1.0]]), topics)


def test_as_many_clusters_as_points_are_the_points() -> None:
    points = torch.nn.functional.normalize(torch.eye(5) + 0.1, dim=1)
    groups = spherical_k_means(points, 5, torch.Generator().manual_seed(0))
    assert sorted(groups.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("embedding", "clusters", "says"),
    [
        (torch.zeros(4, 2), 2, "above 0"),
        (torch.full((4, 2), torch.nan), 2, "above 0"),
        (torch.ones(4), 2, r"\(N, E\)"),
        (torch.ones(4, 2), 5, "clusters is 5"),
        (torch.ones(4, 2), 0, "clusters is 0"),
        (torch.ones(4, 2), True, "clusters is True"),
        (torch.ones(4, 2), "2", "clusters is '2'"),
        (torch.ones(4, 2), None, "clusters is None"),
        (torch.ones(4, 2, dtype=torch.int64), 2, "embedding is a int64 tensor"),
        (torch.full((4, 2), torch.inf), 2, "above 0"),
        ([[1.0, 0.0]], 1, "embedding is"),
        (None, 1, "embedding is None"),
    ],
)
def test_bad_embeddings_are_refused(embedding: Any, clusters: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        clustered_catalog(embedding, clusters)
