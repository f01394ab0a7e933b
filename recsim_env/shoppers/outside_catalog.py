"""A catalogue made of item embeddings alone, for environments that name no categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog


def topical_catalog(
    embedding: Tensor, topics: Sequence[str | int] | Tensor | NDArray[Any] | None = None
) -> Catalog:
    """Make a catalogue of embeddings; the categories are topics.

    Where the topic of each item is known, name it. Where it is not, the dimensions of the embedding
    are the topics, and each item has that in which it is largest. This needs dimensions that mean
    something and are never negative: shares of topics, tags, the factors of a non-negative
    matrix factorisation. For other embeddings there is `clustered_catalog`.

    Args:
        embedding: (N, E) float; it is brought to unit length.
        topics: (N,) names or numbers of the topics; None takes the dimensions of the embedding.

    Raises:
        ValueError: If `embedding` is no matrix of finite rows above zero, or holds a negative
            number though no topics are named, or `topics` does not name one for each item.
    """
    unit = _unit_rows(embedding)
    if topics is None:
        for row in (embedding < 0).any(dim=1).nonzero().flatten()[:1].tolist():
            raise ValueError(
                f"embedding has the number {float(embedding[row].min())} in row {row}, but its "
                "dimensions are topics only where no number is negative: name the topics, or use "
                "clustered_catalog."
            )
        return _catalog_of(unit, "topic", embedding.argmax(dim=1).tolist())
    found = topics.tolist() if isinstance(topics, np.ndarray) or _dense(topics) else topics
    if not isinstance(found, (list, tuple)) or len(found) != len(unit):
        raise ValueError(
            f"topics is {checks.told(topics)}, but it must be a list of {len(unit)}, one an item."
        )
    for row, topic in enumerate(found):
        named = isinstance(topic, str) and topic and "/" not in topic
        if not named and (not isinstance(topic, int) or isinstance(topic, bool)):
            raise ValueError(
                f"topics has {checks.told(topic)} in row {row}, but it must have a whole number or "
                "a name without a slash."
            )
    return _catalog_of(unit, "topic", found)


def clustered_catalog(embedding: Tensor, clusters: int, seed: int = 0) -> Catalog:
    """Make a catalogue of embeddings alone; the categories are clusters of them.

    Args:
        embedding: (N, E) float; it is brought to unit length.
        clusters: How many categories.
        seed: The seed of the clusters.

    Raises:
        ValueError: If `embedding` is no matrix of finite rows above zero, or has fewer rows than
            clusters.
    """
    unit = _unit_rows(embedding)
    clusters = checks.whole("clusters", clusters, 1, len(embedding))
    seed = checks.whole("seed", seed, 0, checks.LARGEST_SEED)
    group = spherical_k_means(unit, clusters, torch.Generator().manual_seed(seed)).tolist()
    return _catalog_of(unit, "cluster", group)


def _unit_rows(embedding: Tensor) -> Tensor:
    """Return embeddings at unit length: (N, E) float32.

    Raises:
        ValueError: If they are no matrix of finite rows above zero.
    """
    if not _dense(embedding) or embedding.ndim != 2 or not embedding.is_floating_point():
        raise ValueError(
            f"embedding is {checks.told(embedding)}, but it must be a float tensor of shape (N, E)."
        )
    length = embedding.float().norm(dim=1)
    for row in (~(length.isfinite() & (length > 0))).nonzero().flatten()[:1].tolist():
        raise ValueError(
            f"embedding has the length {float(length[row])} in row {row}, but it must be finite, "
            "above 0."
        )
    return torch.nn.functional.normalize(embedding.float(), dim=1)


def _dense(value: object) -> TypeGuard[Tensor]:
    """Tell whether a value is a tensor whose numbers can be read one by one."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _catalog_of(unit: Tensor, kind: str, groups: Sequence[str | int]) -> Catalog:
    """Make a catalogue of embeddings (N, E) and the name or number of each item's group."""
    numbers = [group for group in groups if isinstance(group, int)]
    width = max((len(str(number)) for number in numbers), default=0)  # so that 2 comes before 10
    names = [f"{group:0{width}d}" if isinstance(group, int) else group for group in groups]
    return Catalog(
        text=tuple(f"item {item}" for item in range(len(unit))),
        path=tuple(f"outside/{kind} {name}/any" for name in names),
        price=torch.full((len(unit),), torch.nan, dtype=torch.float32),
        embedding=unit,
    )


def spherical_k_means(
    points: Tensor, clusters: int, generator: torch.Generator, *, starts: int = 32, rounds: int = 50
) -> Tensor:
    """Return the cluster of each point, from the best of some starts: (N,) int64.

    It maximises the sum of cosines of points and centres (Dhillon & Modha 2001, "Concept
    decompositions for large sparse text data using clustering", section 3.1): every point is
    assigned to the nearest centre, and every centre moves to the direction of its points' sum. A
    cluster left without points keeps its centre.

    Args:
        points: (N, E) of unit length, on the CPU.
        clusters: How many clusters.
        generator: A CPU generator.
        starts: How many starts are tried.
        rounds: How often the points of a start are assigned.
    """
    best, groups = -torch.inf, torch.zeros(len(points), dtype=torch.int64)
    for _ in range(starts):
        centres = _spread_centres(points, clusters, generator)
        for _ in range(rounds):
            group = (points @ centres.T).argmax(dim=1)
            total = torch.zeros_like(centres).index_add_(0, group, points)
            moved = torch.nn.functional.normalize(total, dim=1)
            centres = moved.where(total.norm(dim=1, keepdim=True) > 0, centres)
        cosine, group = (points @ centres.T).max(dim=1)
        if float(cosine.sum()) > best:
            best, groups = float(cosine.sum()), group
    return groups


def _spread_centres(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Return points to start from, each drawn by its squared distance to those before: (G, E).

    The distance is 2 (1 - cosine). Arthur & Vassilvitskii 2007, "k-means++: the advantages of
    careful seeding", section 2.2.
    """
    chosen = torch.randint(len(points), (1,), generator=generator)
    while len(chosen) < clusters:
        distance = (1 - (points @ points[chosen].T).amax(dim=1)).clamp(min=1e-9)
        chosen = torch.cat([chosen, torch.multinomial(distance, 1, generator=generator)])
    return points[chosen]
