"""Cosine similarities between the items of a catalogue."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from recsim_env.catalog import GRAM_LIMIT, Catalog
from recsim_env.tensors import looked_up


class Cosines:
    """Cosine similarities between items, looked up in a table where the catalogue is small.

    They have the type `dtype`.

    Args:
        catalog: the items
        exact: whether to compute in float64, for differences of nearly equal cosines; a device
            without float64 computes in float32
    """

    def __init__(self, catalog: Catalog, *, exact: bool = False) -> None:
        self._embedding, self._table = (
            catalog.embedding,
            exact_cosines(catalog) if exact else catalog.cosines,
        )
        self._exact = exact
        self.dtype = finest(catalog.device) if exact else torch.float32

    def between(self, one: Tensor, many: Tensor) -> Tensor:
        """Cosines of one item of each shopper (B,) with many (B, P): (B, P)."""
        if self._table is not None:
            places = one.unsqueeze(1) * len(self._table) + many
            return looked_up(self._table.view(-1), places)
        own, others = self._embedding[one], looked_up(self._embedding, many)
        if self._exact:
            own, others = _unit(own.to(self.dtype)), _unit(others.to(self.dtype))
        return torch.einsum("be,bpe->bp", own, others)


def finest(device: torch.device) -> torch.dtype:
    """The finest floating-point type of a device: float64, or float32 where it has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def exact_cosines(catalog: Catalog) -> Tensor | None:
    """Exact cosines (N, N) of all pairs of items; None above `GRAM_LIMIT` items.

    They are computed at the first call, and kept as long as the catalogue is.
    """
    if len(catalog) > GRAM_LIMIT:
        return None
    if catalog not in _EXACT:
        exact = _unit(catalog.embedding.cpu().double())
        _EXACT[catalog] = (exact @ exact.T).to(catalog.device, finest(catalog.device))
    return _EXACT[catalog]


_EXACT: weakref.WeakKeyDictionary[Catalog, Tensor] = weakref.WeakKeyDictionary()


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
