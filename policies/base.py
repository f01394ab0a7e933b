"""What a policy is, and what all policies share: candidates in, distinct items out, and the registry.

Dimensions used in this package: B shoppers, K slate positions, C candidates (padded with -1), N catalogue items,
P items of the pool that a re-ranker looks at, H remembered slates, G categories, E embedding width, A intent width.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.tensors import looked_up, shared
from recsim_env.types import Observation

CACHED = 256
"""Shoppers ranked at once on a CPU: what is worked out about every candidate stays in its cache."""

MAILERS = 11
"""A placement code is display * MAILERS + mailer, each 0 where there is none."""


class Policy(Protocol):
    """Turns what the shop knows about B shoppers into a slate for each."""

    @property
    def draws(self) -> int:
        """How many uniform numbers a slate takes; 0 = deterministic."""

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K) int64, top position first; draws (B, draws) uniform in [0, 1).

        Distinct candidates wherever there are K of them; else the first one again at the positions left over.
        """


class Ranker(Protocol):
    """Scores candidates, each on its own."""

    def logits(self, observation: Observation) -> Tensor:
        """Log-odds of a response, (B, C) float32 aligned with the candidates; -inf at padding."""


@dataclass(frozen=True)
class PolicyInputs:
    """What a policy may be built from: nothing here comes from the shopper model's weights."""

    catalog: Catalog
    """The items; its tensors on the device that the policy will run on."""
    observation_space: gymnasium.spaces.Dict
    """Of one shopper."""
    slate_size: int
    """K."""
    ranker: Ranker | None = None
    """Learned from a log's training weeks; only the policies that rank need it."""
    popularity: Tensor | None = None
    """(N,) float32 responses per visit in the log, for environments whose observation has no `popularity`."""
    pool: int = 64
    """P, how many of the best candidates by CTR re-rankers and composers look at: the same for all of them."""
    per_category: int = 0
    """How many of the best candidates of each category join the pool that re-rankers and composers look at, so that
    there is variety to choose from; 0 = the pool is the best candidates whatever their category."""

    def need_ranker(self, name: str) -> Ranker:
        """The ranker. Errors: ValueError where there is none."""
        if self.ranker is None:
            raise ValueError(f"The policy {name!r} re-ranks a CTR model, but PolicyInputs.ranker is None.")
        return self.ranker


T = TypeVar("T")


# ---- registry --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """Where a tuned parameter is looked for."""

    low: float
    high: float
    integer: bool = False
    log: bool = False
    """Whether it is looked for by its order of magnitude."""


def tuned(default: float, low: float, high: float, *, integer: bool = False, log: bool = False) -> Any:
    """A dataclass field of a policy's parameters that `benchmarks.tune` looks for in [low, high]."""
    return dataclasses.field(default=default, metadata={"range": Range(low, high, integer, log)})


def ranges(parameters: Any) -> dict[str, Range]:
    """The range of every field made by `tuned`, those of dataclasses inside it by `<field>.<their field>`."""
    found: dict[str, Range] = {}
    for field in dataclasses.fields(parameters):
        if "range" in field.metadata:
            found[field.name] = field.metadata["range"]
        elif dataclasses.is_dataclass(getattr(parameters, field.name)):
            inner = ranges(getattr(parameters, field.name))
            found |= {f"{field.name}.{name}": allowed for name, allowed in inner.items()}
    return found


def value_of(parameters: Any, name: str) -> Any:
    """The value of a field as `ranges` names it."""
    return functools.reduce(getattr, name.split("."), parameters)


def altered(parameters: T, values: Mapping[str, Any]) -> T:
    """A copy with some fields, as `ranges` names them, of another value. Errors: TypeError at an unknown field."""
    changed = {name: value for name, value in values.items() if "." not in name}
    for part in {name.partition(".")[0] for name in values if "." in name}:
        inner = {name.removeprefix(f"{part}."): value for name, value in values.items() if name.startswith(f"{part}.")}
        changed[part] = altered(getattr(parameters, part, None), inner)
    return dataclasses.replace(parameters, **changed)  # type: ignore[type-var]


@dataclass(frozen=True)
class Untuned:
    """Parameters of a policy that has none."""


Builder = Callable[[PolicyInputs, T], Policy]
"""Makes a policy from its inputs and its parameters."""


@dataclass(frozen=True)
class PolicySpec:
    """How to build a registered policy."""

    parameters: type[Any]
    """A frozen dataclass; fields made by `tuned` are searched."""
    builder: Builder[Any]
    needs_ranker: bool
    """Whether `PolicyInputs.ranker` must be there."""

    def search(self) -> dict[str, Range]:
        """The range of every tuned parameter; empty where nothing is tuned."""
        return ranges(self.parameters())

    def build(self, inputs: PolicyInputs, parameters: Mapping[str, float] | None = None) -> Policy:
        """The policy with some parameters, defaults for the rest.

        Errors: TypeError at an unknown parameter, ValueError where `inputs` lacks what the policy needs.
        """
        return self.builder(inputs, altered(self.parameters(), parameters or {}))


POLICIES: dict[str, PolicySpec] = {}
"""Every policy that needs no training of its own, by name. `import policies` fills it."""


def register_policy(name: str, parameters: type[T], *, needs_ranker: bool = True) -> Callable[[Builder[T]], Builder[T]]:
    """Register a builder: `@register_policy("mmr", MMRParameters)` above `def mmr(inputs, parameters) -> Policy`.

    Errors: ValueError where the name is taken.
    """

    def add(builder: Builder[T]) -> Builder[T]:
        if name in POLICIES:
            raise ValueError(f"name is {name!r}, but a policy of that name is registered already.")
        POLICIES[name] = PolicySpec(parameters, builder, needs_ranker)
        return builder

    return add


# ---- candidates ------------------------------------------------------------------------------------------------------


def candidates_of(observation: Observation, items: int) -> Tensor:
    """The candidates (B, C) int64, -1 padded; the whole catalogue of N = `items` where the observation has none."""
    if "candidates" in observation:
        return observation["candidates"]
    any_key = next(iter(observation.values()))
    return torch.arange(items, device=any_key.device).expand(len(any_key), -1)


def max_candidates(space: gymnasium.spaces.Dict, items: int) -> int:
    """C: the most candidates of a visit; N = `items` where the observation has none."""
    shape = space["candidates"].shape if "candidates" in space.spaces else (items,)
    assert shape is not None
    return int(shape[0])


def top_slates(scores: Tensor, candidates: Tensor, size: int) -> Tensor:
    """The best candidates, best first.

    Shapes: scores (B, C), candidates (B, C) int64 -1 padded; returns slates (B, size) int64.
    """
    scores = scores.masked_fill(candidates < 0, -math.inf)
    best = scores.topk(min(size, scores.shape[1]), dim=1).indices
    return filled(candidates.gather(1, best), size)


def filled(slates: Tensor, size: int) -> Tensor:
    """Slates (B, size) without holes: the first item again wherever there is none (item 0 in an empty slate).

    Shapes: slates (B, at most size) int64, -1 where there was no candidate left.
    """
    slates = torch.nn.functional.pad(slates, (0, size - slates.shape[1]), value=-1)
    return slates.where(slates >= 0, slates[:, :1].clamp(min=0))


# ---- the pool and the greedy pick that all re-rankers share ----------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """The P candidates with the best logits, best first: all that a re-ranker looks at.

    Shapes:
        items:   (B, P) int64, -1 where there are fewer
        logits:  (B, P) float32, -inf there
        columns: (B, P) int64, where each stood among the candidates
    """

    items: Tensor
    logits: Tensor
    columns: Tensor

    @classmethod
    def best(cls, logits: Tensor, candidates: Tensor, size: int) -> Pool:
        """The best `size` of logits (B, C) and candidates (B, C)."""
        logits, columns = logits.topk(min(size, logits.shape[1]), dim=1)
        return cls(candidates.gather(1, columns), logits, columns)

    @property
    def ids(self) -> Tensor:
        """`items` with 0 instead of -1, to look things up with; (B, P)."""
        return self.items.clamp(min=0)


class Pooling:
    """Which candidates re-rankers and composers look at: the best `PolicyInputs.pool`, or with `per_category` the K
    best and the best of each category. The K best are always among them: nothing that greedy shows is left out.

    Args:
        best: in place of `inputs.pool`

    `size` is P. Errors: ValueError where `per_category` is below 0.
    """

    def __init__(self, inputs: PolicyInputs, best: int | None = None) -> None:
        if inputs.per_category < 0:
            raise ValueError(f"per_category is {inputs.per_category!r}, but it must be 0 or more.")
        most = max_candidates(inputs.observation_space, len(inputs.catalog))
        self._best = min(max(inputs.pool if best is None else best, inputs.slate_size), most)
        self._slate_size = inputs.slate_size
        self._per_category = inputs.per_category
        self._category = inputs.catalog.category
        self._groups = torch.arange(len(inputs.catalog.categories), device=inputs.catalog.device)
        self._items = len(inputs.catalog)
        self.size = self._best
        if inputs.per_category:
            self._by_category = _items_by_category(inputs.catalog)
            width = min(inputs.per_category, self._by_category.shape[1])
            self.size = min(len(self._by_category) * width + inputs.slate_size, most)

    def __call__(self, logits: Tensor, candidates: Tensor) -> Pool:
        """The pool of logits (B, C) and candidates (B, C), best first."""
        if not self._per_category:
            return Pool.best(logits, candidates, self._best)
        standing = self._standing(candidates)
        keys = _keys(_columns_of(torch.nn.functional.pad(logits, (1, 0), value=-math.inf), standing))
        places = keys.shape[1]
        groups, largest = self._by_category.shape
        best = []
        for _ in range(min(self._per_category, largest)):  # a few maxima cost a fraction of topk by category
            best.append(keys.unflatten(1, (groups, largest)).amax(dim=2))
            keys.scatter_(1, _place(best[-1], places), NOTHING)
        others = keys.topk(min(self._slate_size, places), dim=1).values
        found = torch.cat([*best, others], dim=1)
        least = found.topk(others.shape[1], dim=1).values[:, -1:]  # of the K best
        found[:, -others.shape[1] :].masked_fill_(others < least, NOTHING)
        found = found.sort(dim=1, descending=True).values[:, : self.size]
        columns = (_columns_of(standing, _place(found, places)) - 1).clamp(min=0)
        values = _logits(found)
        items = candidates.gather(1, columns).where(values > -math.inf, -1)
        return Pool(items, values, columns)

    def among(self, logits: Tensor, items: Tensor) -> Pool:
        """The pool where the whole catalogue may be shown and all items but these few rank too low to be in it.

        Takes time by how many are given, not by the size of the catalogue.

        Shapes: logits (B, C), items (B, C) int64, distinct in a row, -1 where there is none. `Pool.columns` are the
        items' ids, as where the candidates are the catalogue in its order.
        """
        logits = logits.masked_fill(items < 0, -math.inf)
        width = logits.shape[1]
        if self._per_category:
            other = self._category[items.clamp(min=0)].unsqueeze(1) != self._groups.view(1, -1, 1)  # (B, G, C)
            best = logits.unsqueeze(1).masked_fill(other, -math.inf).topk(min(self._per_category, width), dim=2)
            places = best.indices.where(best.values > -math.inf, width).flatten(1)  # no item there: past the last one
            chosen = torch.zeros(len(items), width + 1, dtype=torch.bool, device=items.device)
            chosen = chosen.scatter_(1, places, True)[:, :width]
            chosen = chosen.scatter(1, logits.topk(min(self._slate_size, width), dim=1).indices, True)
            logits = logits.masked_fill(~chosen, -math.inf)
        values, at = logits.topk(min(self.size, width), dim=1)
        items = items.gather(1, at).where(values > -math.inf, -1)
        return Pool(items, values, items.clamp(min=0))

    def of(self, ranker: Ranker, observation: Observation) -> Pool:
        """Rank and take the pool, on a CPU `CACHED` shoppers at a time."""
        candidates = candidates_of(observation, self._items)
        most = CACHED if candidates.device.type == "cpu" else max(len(candidates), 1)
        parts = []
        for start in range(0, len(candidates), most):
            part = {name: value[start : start + most] for name, value in observation.items()}
            parts.append(self(ranker.logits(part), candidates[start : start + most]))
        if len(parts) == 1:
            return parts[0]
        return Pool(*(torch.cat([getattr(part, name) for part in parts]) for name in ("items", "logits", "columns")))

    def _standing(self, candidates: Tensor) -> Tensor:
        """(B, G * largest) int64, or (1, ..) for everybody: where each item of each category stands among the
        candidates, counted from 1; 0 = nowhere."""
        rows = candidates[:1] if shared(candidates) else candidates
        column = torch.zeros(len(rows), self._items + 1, dtype=torch.int64, device=rows.device)
        column.scatter_(1, rows + 1, torch.arange(1, rows.shape[1] + 1, device=rows.device).expand_as(rows))
        column[:, 0] = 0  # padding went there
        return column.index_select(1, self._by_category.flatten() + 1)


# A logit and its place as one whole number: the largest is the best, the first place among equals. On a CPU maxima
# of whole numbers cost a small part of what maxima with their places do.

_PLACES = 2**32
NOTHING = int(np.float32(-math.inf).view(np.int32) ^ 0x7FFFFFFF) * _PLACES
"""Key of a logit of -inf at the last place."""


def _keys(logits: Tensor) -> Tensor:
    """Of logits (B, S) float32: (B, S) int64."""
    bits = logits.view(torch.int32)
    ascending = (
        (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)
    )  # floats are ordered as their bits, but for signs
    return ascending.long().mul_(_PLACES).add_(torch.arange(logits.shape[1] - 1, -1, -1, device=logits.device))


def _place(keys: Tensor, places: int) -> Tensor:
    """The place 0 .. S - 1 that a key was made at; places: S."""
    return places - 1 - (keys & (_PLACES - 1))


def _logits(keys: Tensor) -> Tensor:
    """The float32 that a key was made of."""
    ascending = (keys >> 32).int()
    return (ascending ^ ((ascending >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _columns_of(table: Tensor, columns: Tensor) -> Tensor:
    """`table.gather(1, columns)` where one of the two may have one row for everybody, (1, ..)."""
    if len(table) == len(columns):
        return table.gather(1, columns)
    return looked_up(table[0], columns) if len(table) == 1 else table.index_select(1, columns[0])


def _items_by_category(catalog: Catalog) -> Tensor:
    """(G, largest) int64 items of each category, -1 padded."""
    order = catalog.category.argsort(stable=True)
    counts = torch.bincount(catalog.category)
    return torch.nn.utils.rnn.pad_sequence(order.split(counts.tolist()), batch_first=True, padding_value=-1)


class Adjust(Protocol):
    """What a re-ranker makes of the logits as the slate fills."""

    def scores(self) -> Tensor:
        """(B, P) score of each pool item as the next one."""

    def add(self, chosen: Tensor) -> None:
        """Put pool positions (B,) into the slates."""


def pick(pool: Pool, size: int, adjust: Adjust) -> Tensor:
    """Fill a slate greedily: at each position the pool item with the best score. Returns (B, size) item ids."""
    open_ = torch.zeros_like(pool.logits).masked_fill_(pool.items < 0, -math.inf)  # 0, or -inf at what is taken
    slots = []
    for _ in range(min(size, pool.items.shape[1])):
        chosen = (adjust.scores() + open_).max(dim=1).indices  # on a CPU faster than argmax
        at = chosen.unsqueeze(1)
        free = open_.gather(1, at) == 0  # False where the pool ran out
        slots.append(pool.items.gather(1, at).where(free, -1))
        open_.scatter_(1, at, -math.inf)
        adjust.add(chosen)
    return filled(torch.cat(slots, dim=1), size)


class Cosines:
    """Cosine similarities between items of a catalogue, from its table where it is small."""

    def __init__(self, catalog: Catalog) -> None:
        self._embedding, self._table = catalog.embedding, catalog.cosines

    def between(self, one: Tensor, many: Tensor) -> Tensor:
        """Cosines of items one (B,) with items many (B, P): (B, P) float32."""
        if self._table is not None:
            places = one.unsqueeze(1) * len(self._table) + many
            return looked_up(self._table.view(-1), places)
        return torch.einsum("be,bpe->bp", self._embedding[one], looked_up(self._embedding, many))
