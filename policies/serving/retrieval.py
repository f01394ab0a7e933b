"""Approximate search: the best items of each category of a large catalogue, without scoring all.

A two-tower ranker's log-odds of item i of category c are q . v_i + bias_i plus a number that all
items of c share, except for the few items shown lately. Within a category the best items are
therefore those with the largest inner product of (q, 1) and (v_i, bias_i). The items of each
category are clustered, and a search looks into the clusters whose centres have the largest inner
product. This is an inverted file (Jégou, Douze & Schmid 2011, "Product quantization for nearest
neighbor search", section 4) with a coarse quantiser for each category, so that one call covers
every category. The extra `serve` installs faiss (Johnson, Douze & Jégou 2021, "Billion-scale
similarity search with GPUs"), which it needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from faiss.contrib.ivf_tools import add_preassigned, search_preassigned
from torch import Tensor

from policies.slates import FARTHEST
from recsim_env import checks
from recsim_env.settings import MOST, put

LANES = 8
"""Vectors are padded with zeros to a multiple of this, which makes faiss read int8 three times as
fast."""
TRAINED = 100_000
"""Number of items from which the ranges of the int8 numbers are taken."""
ITERATIONS, SAMPLE, SEED = 10, 64, 0
"""Iterations of k-means, number of items it looks at for each cluster, and its seed."""


@dataclass(frozen=True)
class IndexConfig:
    """How the items are stored and searched.

    Raises:
        ValueError: If a number is out of its range.
    """

    lists: int = 1
    """Number of clusters of each category; 1 = the category is not clustered."""
    probes: int = 1
    """Number of clusters of each category that a search looks into; with as many as there are, all
    items are compared."""
    int8: bool = False
    """Whether each number of an item is stored in one byte in place of four, by its range over the
    catalogue."""

    def __post_init__(self) -> None:
        lists = checks.whole("lists", self.lists, 1, MOST)
        put(self, lists=lists, probes=checks.whole("probes", self.probes, 1, lists))
        put(self, int8=checks.flag("int8", self.int8))


class CategoryIndex:
    """The items of a catalogue by category; building and searching are deterministic.

    Args:
        vectors: (N, D) float32 vectors of the items
        bias: (N,) float32 log-odds of the items
        category: (N,) int64, 0 .. G - 1, each with at least `config.lists` items
        config: how the items are stored and searched; None = the defaults

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If shapes differ, a category has fewer items than lists, or a number is not
            finite.
    """

    def __init__(
        self, vectors: Tensor, bias: Tensor, category: Tensor, config: IndexConfig | None = None
    ) -> None:
        self.config = IndexConfig() if config is None else config
        checks.instance("config", self.config, IndexConfig)
        points = _points(vectors, bias)
        category = checks.tensor("category", category, (len(points),), torch.int64).cpu()
        if int(category.min()) < 0:
            raise ValueError(
                f"category holds {int(category.min())}, but a category is a number of 0 or more."
            )
        counts = torch.bincount(category)
        if int(counts.min()) < self.config.lists:
            raise ValueError(
                f"lists is {self.config.lists}, but category {int(counts.argmin())} has "
                f"{int(counts.min())} items."
            )
        self.categories = len(counts)
        """Number of categories G."""
        self._width = vectors.shape[1]
        centres, clusters = self._cluster(points, category)
        self._centres = torch.from_numpy(centres)  # (G, lists, padded)
        self._faiss = self._fill(points, clusters + category.numpy() * self.config.lists)

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    @property
    def megabytes(self) -> float:
        """Size of the items' numbers and ids, in 10^6 bytes."""
        return len(self) * (self._faiss.code_size + 8) / 1e6

    def search(self, query: Tensor, count: int) -> Tensor:
        """Find the best `count` items of every category, best first.

        At least one item of every category is found.

        Shapes:
            query:   (B, D) float32
            returns: (B, G, count) int64, -1 where fewer were found

        Raises:
            TypeError: If an argument is of another type.
            ValueError: If the query has another shape or holds a number that is not finite, or
                `count` is below 1.
        """
        known = (
            isinstance(query, Tensor)
            and query.dtype == torch.float32
            and query.shape[1:] == (self._width,)
        )
        if not known or not math.isfinite(
            float(query.sum())
        ):  # a quick look; the whole check takes longer
            checks.tensor("query", query, ("B", self._width), torch.float32)
        count = checks.whole("count", count, 1, MOST)
        batch, padded = len(query), self._centres.shape[2]
        asked = torch.zeros(batch, padded, dtype=torch.float32)
        asked[:, : self._width] = query.detach().cpu()
        asked[:, self._width] = 1.0
        lists = self._probed(asked).flatten(0, 1).numpy()  # (B G, probes)
        repeated = asked.repeat_interleave(self.categories, dim=0).numpy()
        found: np.ndarray = search_preassigned(self._faiss, repeated, count, lists)[1]
        return torch.from_numpy(found).view(batch, self.categories, count).to(query.device)

    def _probed(self, asked: Tensor) -> Tensor:
        """Choose the lists to look into: (B, G, probes) int64."""
        affinity = torch.einsum("bd,gld->bgl", asked, self._centres)
        first = self.config.lists * torch.arange(self.categories).view(1, -1, 1)
        return affinity.topk(self.config.probes, dim=2).indices + first

    def _cluster(self, points: np.ndarray, category: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Centres (G, lists, padded), and the cluster of each item in its category (N,)."""
        lists, width = self.config.lists, points.shape[1]
        centres = np.zeros((self.categories, lists, width), np.float32)
        clusters = np.zeros(len(points), np.int64)
        if lists == 1:
            return centres, clusters
        for group in range(self.categories):
            rows = (category == group).nonzero().squeeze(1).numpy()
            own = np.ascontiguousarray(points[rows])
            limits = {"min_points_per_centroid": 1, "max_points_per_centroid": SAMPLE}
            means = faiss.Kmeans(width, lists, niter=ITERATIONS, seed=SEED, **limits)
            means.train(own)
            centres[group] = means.centroids
            clusters[rows] = means.index.search(own, 1)[1][:, 0]
            empty = (
                np.bincount(clusters[rows], minlength=lists) == 0
            )  # where several items are equal
            centres[group, empty] = self._nowhere()
        return centres, clusters

    def _nowhere(self) -> np.ndarray:
        """A centre (padded,) with the least inner product with every query, which ends in a 1."""
        centre = np.zeros(-(-(self._width + 1) // LANES) * LANES, np.float32)
        centre[self._width] = -FARTHEST
        return centre

    def _fill(self, points: np.ndarray, lists: np.ndarray) -> faiss.IndexIVF:
        """Build the inverted file of all items, with the list of each item as given by `lists`."""
        width, number, metric = (
            points.shape[1],
            self.categories * self.config.lists,
            faiss.METRIC_INNER_PRODUCT,
        )
        unused = faiss.IndexFlatIP(width)
        index: faiss.IndexIVF
        if self.config.int8:
            kind = faiss.ScalarQuantizer.QT_8bit
            index = faiss.IndexIVFScalarQuantizer(unused, width, number, kind, metric, False)
            unused.add(np.zeros((number, width), np.float32))
            index.train(points[:: max(1, len(points) // TRAINED)])
        else:
            index = faiss.IndexIVFFlat(unused, width, number, metric)
            index.is_trained = True
        index.nprobe = self.config.probes
        add_preassigned(index, points, lists)
        return index


def _points(vectors: Tensor, bias: Tensor) -> np.ndarray:
    """Points of the index, made of vector, bias and zeros: (N, padded) float32."""
    checks.tensor("vectors", vectors, ("N", "D"), torch.float32)
    if len(vectors) == 0:
        raise ValueError(f"vectors is {checks.told(vectors)}, but it must be of one item or more.")
    checks.tensor("bias", bias, (len(vectors),), torch.float32)
    width = vectors.shape[1] + 1
    points = np.zeros((len(vectors), -(-width // LANES) * LANES), np.float32)
    points[:, : width - 1] = vectors.detach().cpu().numpy()
    points[:, width - 1] = bias.detach().cpu().numpy()
    return points
