"""What a policy is, and what all policies share: candidates in, distinct items out, and the registry.

Dimensions used in this package: B shoppers, K slate positions, C candidates (padded with -1), N
catalogue items, P items of the pool that a re-ranker looks at, H remembered slates, G categories, E
embedding width, A intent width.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import GRAM_LIMIT, Catalog
from recsim_env.registry import Registry
from recsim_env.settings import LARGEST, MOST, WIDEST, Within, put
from recsim_env.tensors import looked_up, shared
from recsim_env.types import Observation, Policy

CACHED = 256
"""Shoppers ranked at once on a CPU: what is worked out about every candidate stays in its cache."""

UNRANKED = -1e6
"""Logit of a candidate to which a ranker gave NaN or inf: it comes after every candidate with a
number."""

LOG_STD = Within(-20.0, 20.0)
"""Log of a standard deviation: what lies outside is no number in float32, or as good as none."""

MAILERS = 11
"""A placement code is display * MAILERS + mailer, each 0 where there is none."""


class Ranker(Protocol):
    """Scores candidates, each on its own."""

    def logits(self, observation: Observation) -> Tensor:
        """Log-odds of a response, (B, C) float32 aligned with the candidates; -inf at padding.

        A candidate at -inf is not shown. One at NaN or inf is shown only where nothing else is
        left: see `logits_of`.
        """


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
    """(N,) float32 responses per visit in the log, for environments whose observation has no
    `popularity`."""
    pool: int = 64
    """P, how many of the best candidates by CTR re-rankers and composers look at: the same for all
    of them."""
    per_category: int = 0
    """How many of the best candidates of each category join the pool that re-rankers and composers
    look at, so that there is variety to choose from; 0 = the pool is the best candidates whatever
    their category."""

    def __post_init__(self) -> None:
        """Errors: TypeError where a part is of another kind, ValueError where a number is out of its range."""
        of_kind("catalog", self.catalog, Catalog)
        of_kind("observation_space", self.observation_space, gymnasium.spaces.Dict)
        if self.ranker is not None and not callable(getattr(self.ranker, "logits", None)):
            raise TypeError(
                f"ranker is {checks.told(self.ranker)}, but it must have a method `logits`."
            )
        if self.popularity is not None:
            checks.tensor("popularity", self.popularity, (len(self.catalog),), torch.float32)
        put(
            self,
            slate_size=checks.whole("slate_size", self.slate_size, 1, MOST),
            pool=checks.whole("pool", self.pool, 1, MOST),
            per_category=checks.whole("per_category", self.per_category, 0, MOST),
        )

    def need_ranker(self, name: str) -> Ranker:
        """The ranker.

        Raises:
            ValueError: If there is none.
        """
        if self.ranker is None:
            raise ValueError(
                f"The policy {name!r} re-ranks a CTR model, but PolicyInputs.ranker is None."
            )
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


def tuned(
    default: float,
    low: float,
    high: float,
    *,
    integer: bool = False,
    log: bool = False,
    least: float = -LARGEST,
    most: float = LARGEST,
) -> Any:
    """A dataclass field of a policy's parameters that `benchmarks.agents.tune` looks for in [low, high].

    `recsim_env.settings.settle` accepts it in [least, most].
    """
    searched = Range(low, high, integer, log)
    return dataclasses.field(
        default=default, metadata={"range": searched, "legal": Within(least, most)}
    )


def of_kind(name: str, value: object, kind: type) -> None:
    """Errors: TypeError where `value` is no `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {checks.told(value)}, but it must be a {kind.__name__}.")


def widths(name: str, value: object) -> tuple[int, ...]:
    """Widths of layers, as a tuple.

    Raises:
        ValueError: If they are none.
    """
    return tuple(
        checks.whole(f"{name}[{at}]", width, 1, WIDEST)
        for at, width in enumerate(checks.several(name, value))
    )


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


def altered(parameters: T, values: Mapping[str, Any], owner: str = "") -> T:
    """A copy with some fields, as `ranges` names them, of another value.

    Args:
        owner: what the parameters belong to, for messages: "the policy 'mmr'"

    Raises:
        TypeError: At an unknown field and where `values` is no mapping; what the dataclass says of
            a wrong value.
    """
    values = checks.mapping("parameters", values)
    known = list(_names(parameters))
    for name in values:
        if name not in known:
            has = ", ".join(map(repr, known)) or "no parameters"
            raise TypeError(
                f"parameters names {name!r}, but {owner or type(parameters).__name__} has {has}."
            )
    return _altered(parameters, values)


def _altered(parameters: T, values: Mapping[str, Any]) -> T:
    changed = {name: value for name, value in values.items() if "." not in name}
    for part in {name.partition(".")[0] for name in values if "." in name}:
        inner = {
            name.removeprefix(f"{part}."): value
            for name, value in values.items()
            if name.startswith(f"{part}.")
        }
        changed[part] = _altered(changed.get(part, getattr(parameters, part)), inner)
    return dataclasses.replace(parameters, **changed)  # type: ignore[type-var]


def _names(parameters: Any) -> Iterator[str]:
    """Every field, and those of dataclasses inside it as `ranges` names them."""
    for field in dataclasses.fields(parameters):
        yield field.name
        value = getattr(parameters, field.name)
        if dataclasses.is_dataclass(value):
            yield from (f"{field.name}.{name}" for name in _names(value))


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
    name: str = "unregistered"
    """In the registry, for messages."""

    def search(self) -> dict[str, Range]:
        """The range of every tuned parameter; empty where nothing is tuned."""
        return ranges(self.parameters())

    def build(self, inputs: PolicyInputs, parameters: Mapping[str, float] | None = None) -> Policy:
        """The policy with some parameters, defaults for the rest.

        Raises:
            TypeError: At an unknown parameter.
            ValueError: If a parameter is out of its range and where `inputs` lacks what the policy
                needs.
        """
        of_kind("inputs", inputs, PolicyInputs)
        given = {} if parameters is None else parameters
        return self.builder(inputs, altered(self.parameters(), given, f"the policy {self.name!r}"))


POLICIES: Registry[PolicySpec] = Registry("policy")
"""Every policy that needs no training of its own, by name. `import policies` fills it."""


def register_policy(
    name: str, parameters: type[T], *, needs_ranker: bool = True
) -> Callable[[Builder[T]], Builder[T]]:
    """Register a builder: `@register_policy("mmr", MMRParameters)` above `def mmr(inputs, parameters) -> Policy`.

    The same code may register again, as a cell of a notebook does that is run once more: the new
    policy replaces the old one, with a warning.

    Raises:
        ValueError: If other code took the name.
        TypeError: If `parameters` is no dataclass.
    """
    if not isinstance(parameters, type) or not dataclasses.is_dataclass(parameters):
        raise TypeError(
            f"parameters is {checks.told(parameters)}, but it must be a dataclass with defaults."
        )
    checks.flag("needs_ranker", needs_ranker)

    def add(builder: Builder[T]) -> Builder[T]:
        POLICIES.add(name, PolicySpec(parameters, builder, needs_ranker, name), builder)
        return builder

    return add


# ---- candidates ------------------------------------------------------------------------------------------------------


class ObservationCheck:
    """Refuses what is no observation of the space that a policy was built for.

    Every call looks at keys, types, shapes and devices, which needs no wait for a device. The first
    call also looks at the numbers: whole numbers lie within the bounds of the space, others are
    finite.

    `candidates` may be left out where the space has a place for every item: then every item may be
    shown.

    Args:
        space: of one shopper
        catalog: the items, on the device that the policy works on
    """

    def __init__(self, space: gymnasium.spaces.Dict, catalog: Catalog) -> None:
        self._bounds = {
            name: (int(box.low.min()), int(box.high.max()))
            for name, box in space.items()
            if isinstance(box, gymnasium.spaces.Box)
            and np.issubdtype(box.dtype, np.integer)
            and box.low.size
        }
        self._expected = {
            name: (tuple(of_key.shape or ()), dtype_of(of_key)) for name, of_key in space.items()
        }
        self._all = max_candidates(space, len(catalog)) == len(catalog)
        self._device = catalog.device
        self._shapes: dict[
            int, list[tuple[str, torch.dtype, tuple[int, ...]]]
        ] = {}  # by how many shoppers
        self._seen = False

    def __call__(self, observation: Observation) -> bool:
        """Whether this was the first call.

        Raises:
            TypeError: If the observation is no mapping and where a value is no tensor of the
                space's type on the policy's device.
            ValueError: If a key is missing, has another shape, or holds a number that cannot be.
        """
        if not isinstance(observation, dict):
            observation = checks.mapping("observation", observation)
        first = not self._seen
        if not self._fits(observation):
            self._raise(observation)
        if first:
            self.check_numbers(observation)
            self._seen = True
        return first

    def _fits(self, observation: Observation) -> bool:
        """A quick look. Nothing here waits for a device."""
        seen = observation.get(next(reversed(self._expected)), None)
        if not isinstance(seen, Tensor) or seen.ndim == 0 or len(seen) == 0:
            return False
        rows = len(seen)
        if rows not in self._shapes:
            self._shapes = {
                rows: [
                    (name, dtype, (rows, *shape)) for name, (shape, dtype) in self._expected.items()
                ]
            }
        for name, dtype, shape in self._shapes[rows]:
            value = observation.get(name)
            if value is None and self._all and name == "candidates":
                continue
            if not isinstance(value, Tensor) or value.dtype is not dtype or value.shape != shape:
                return False
            if value.layout is not torch.strided or value.device.type != self._device.type:
                return False
        return True

    def check_numbers(self, observation: Observation) -> None:
        """Errors: ValueError where a whole number lies outside of the space, or another one is not finite."""
        self.check_whole(observation)
        for name, (_, dtype) in self._expected.items():
            if dtype.is_floating_point and not bool(observation[name].isfinite().all()):
                raise ValueError(
                    f"observation[{name!r}] holds a number that is not finite, but it must hold finite ones."
                )

    def check_whole(self, observation: Observation) -> None:
        """Errors: ValueError where a whole number lies outside of the space."""
        for name, (least, most) in self._bounds.items():
            value = observation.get(name)
            if value is None or not value.numel():
                continue
            low, high = (int(bound) for bound in value.aminmax())
            if low < least or high > most:
                found = low if low < least else high
                raise ValueError(
                    f"observation[{name!r}] holds {found}, but it must be from {least} to {most}."
                )

    def _raise(self, observation: Observation) -> None:
        """Say what is wrong with an observation that does not fit."""
        first = ""
        for name, (shape, dtype) in self._expected.items():
            if name not in observation and self._all and name == "candidates":
                continue
            if name not in observation:
                raise ValueError(
                    f"observation has the keys {sorted(observation)}, but it must have {name!r}: the policy was built "
                    f"for {sorted(self._expected)}."
                )
            value = observation[name]
            checks.tensor(f"observation[{name!r}]", value, ("B", *shape), dtype, finite=False)
            if value.layout is not torch.strided:
                raise TypeError(
                    f"observation[{name!r}] is a sparse tensor, but it must be a dense one."
                )
            if value.device.type != self._device.type:
                raise TypeError(
                    f"observation[{name!r}] is on {value.device}, but the policy works on {self._device}."
                )
            if len(value) != (len(observation[first]) if first else max(len(value), 1)):
                _raise_shoppers(name, value, first, observation)
            first = first or name


def check_keys(
    observation: Observation, needed: Collection[str], optional: tuple[str, ...] = ()
) -> None:
    """For what looks at observations without knowing their space, such as a ranker. Optional keys may be missing.

    Raises:
        TypeError: If the observation is no mapping or a value no tensor.
        ValueError: If a key is missing or the values are not of the same shoppers.
    """
    if not isinstance(observation, dict):
        observation = checks.mapping("observation", observation)
    first = ""
    for name in (*needed, *(name for name in optional if name in observation)):
        if name not in observation:
            raise ValueError(
                f"observation has the keys {sorted(observation)}, but it must have {name!r} too."
            )
        value = observation[name]
        of_kind(f"observation[{name!r}]", value, Tensor)
        if value.ndim == 0 or (first and len(value) != len(observation[first])):
            _raise_shoppers(name, value, first, observation)
        first = first or name


def _raise_shoppers(name: str, value: Tensor, first: str, observation: Observation) -> None:
    """Raise where a key is not of as many shoppers as the first one that was looked at."""
    shoppers = (
        f"{len(observation[first])} shoppers, as {first!r} is" if first else "one shopper or more"
    )
    raise ValueError(
        f"observation[{name!r}] is {checks.told(value)}, but it must be of {shoppers}."
    )


def dtype_of(space: gymnasium.Space[Any]) -> torch.dtype:
    """The type of a space's values as tensors."""
    return torch.from_numpy(np.zeros(1, space.dtype)).dtype


def check_draws(draws: Tensor, batch: int, number: int) -> None:
    """Errors: TypeError or ValueError where draws are no (batch, number) numbers."""
    dtype = (
        draws.dtype if isinstance(draws, Tensor) and draws.is_floating_point() else torch.float32
    )
    checks.tensor("draws", draws, (batch, number), dtype, finite=False)


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


def logits_of(ranker: Ranker, observation: Observation, candidates: Tensor) -> Tensor:
    """The ranker's logits (B, C) float32, NaN and inf made `UNRANKED`: the one door through which logits come in.

    So a candidate without a number is shown only where nothing else is left, whatever the policy,
    and no step waits for a GPU to look for it. That a shopper has no candidate with a number is an
    error on a CPU: see `Pool.check`.

    Raises:
        TypeError: If they are no floating-point tensor.
        ValueError: If they are of another shape.
    """
    logits = ranker.logits(observation)
    if (
        not isinstance(logits, Tensor)
        or not logits.is_floating_point()
        or logits.shape != candidates.shape
    ):
        checks.tensor(
            "ranker.logits(observation)",
            logits,
            tuple(candidates.shape),
            torch.float32,
            finite=False,
        )
    return logits.float().nan_to_num(nan=UNRANKED, posinf=UNRANKED, neginf=-math.inf)


def top_slates(scores: Tensor, candidates: Tensor, size: int) -> Tensor:
    """The best candidates, best first; one whose score is no finite number comes after all others.

    Shapes: scores (B, C), candidates (B, C) int64 -1 padded; returns slates (B, size) int64.
    """
    scores = scores.nan_to_num(nan=UNRANKED, posinf=UNRANKED, neginf=UNRANKED).masked_fill_(
        candidates < 0, -math.inf
    )
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
        """The best `size` of logits (B, C), no NaN, and candidates (B, C)."""
        logits, columns = logits.topk(min(size, logits.shape[1]), dim=1)
        return cls(
            candidates.gather(1, columns).masked_fill(logits == -math.inf, -1), logits, columns
        )

    def check(self, candidates: Tensor, *, whole: bool = True) -> None:
        """Look at the pool of candidates (B, C) where that needs no wait for a device: on a CPU.

        Args:
            whole: whether padding is looked at too

        Raises:
            ValueError: If the ranker gave padding a number, or a shopper's candidates none.
        """
        if self.logits.device.type != "cpu":
            return
        if whole and bool(((self.items < 0) & (self.logits > -math.inf)).any()):
            raise ValueError(
                "ranker.logits(observation) holds a number at padding, but it must hold -inf there."
            )
        if float(self.logits[:, 0].min()) <= UNRANKED:
            _raise_unranked((self.logits[:, 0] <= UNRANKED) & (candidates >= 0).any(dim=1))

    @property
    def ids(self) -> Tensor:
        """`items` with 0 instead of -1, to look things up with; (B, P)."""
        return self.items.clamp(min=0)


def _raise_unranked(bare: Tensor) -> None:
    for row in bare.nonzero()[:1, 0].tolist():
        raise ValueError(
            f"ranker.logits(observation) holds no finite number in row {row}, but it must rank the candidates there."
        )


class Pooling:
    """Which candidates re-rankers and composers look at: the best `PolicyInputs.pool`, or with
    `per_category` the K best and the best of each category. The K best are always among them:
    nothing that greedy shows is left out.

    Args:
        best: in place of `inputs.pool`

    `size` is P.

    Raises:
        TypeError: If `inputs` are none.
        ValueError: If `best` is no number of 1 or more.
    """

    def __init__(self, inputs: PolicyInputs, best: int | None = None) -> None:
        of_kind("inputs", inputs, PolicyInputs)
        best = None if best is None else checks.whole("best", best, 1, MOST)
        most = max_candidates(inputs.observation_space, len(inputs.catalog))
        self._best = min(max(inputs.pool if best is None else best, inputs.slate_size), most)
        self._slate_size = inputs.slate_size
        self._per_category = inputs.per_category
        self._category = inputs.catalog.category
        self._groups = torch.arange(len(inputs.catalog.categories), device=inputs.catalog.device)
        self._items = len(inputs.catalog)
        self._check = ObservationCheck(inputs.observation_space, inputs.catalog)
        self.size = self._best
        if inputs.per_category:
            self._by_category = _items_by_category(inputs.catalog)
            width = min(inputs.per_category, self._by_category.shape[1])
            self.size = min(len(self._by_category) * width + inputs.slate_size, most)

    def __call__(self, logits: Tensor, candidates: Tensor) -> Pool:
        """The pool of logits (B, C), no NaN, and candidates (B, C), best first."""
        if not self._per_category:
            return Pool.best(logits, candidates, self._best)
        standing = self._standing(candidates)
        keys = _keys(
            _columns_of(torch.nn.functional.pad(logits, (1, 0), value=-math.inf), standing)
        )
        places = keys.shape[1]
        groups, largest = self._by_category.shape
        best = []
        for _ in range(
            min(self._per_category, largest)
        ):  # a few maxima cost a fraction of topk by category
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

        Shapes: logits (B, C), items (B, C) int64, distinct in a row, -1 where there is none.
        `Pool.columns` are the items' ids, as where the candidates are the catalogue in its order.
        """
        logits = logits.masked_fill(items < 0, -math.inf)
        width = logits.shape[1]
        if self._per_category:
            other = self._category[items.clamp(min=0)].unsqueeze(1) != self._groups.view(
                1, -1, 1
            )  # (B, G, C)
            best = (
                logits.unsqueeze(1)
                .masked_fill(other, -math.inf)
                .topk(min(self._per_category, width), dim=2)
            )
            places = best.indices.where(best.values > -math.inf, width).flatten(
                1
            )  # no item there: past the last one
            chosen = torch.zeros(len(items), width + 1, dtype=torch.bool, device=items.device)
            chosen = chosen.scatter_(1, places, True)[:, :width]
            chosen = chosen.scatter(
                1, logits.topk(min(self._slate_size, width), dim=1).indices, True
            )
            logits = logits.masked_fill(~chosen, -math.inf)
        values, at = logits.topk(min(self.size, width), dim=1)
        items = items.gather(1, at).where(values > -math.inf, -1)
        return Pool(items, values, items.clamp(min=0))

    def of(self, ranker: Ranker, observation: Observation) -> Pool:
        """Rank and take the pool, on a CPU `CACHED` shoppers at a time.

        Errors: what `ObservationCheck`, `logits_of` and `Pool.check` say.
        """
        first = self._check(observation)
        candidates = candidates_of(observation, self._items)
        most = CACHED if candidates.device.type == "cpu" else max(len(candidates), 1)
        parts = []
        for start in range(0, len(candidates), most):
            part = {name: value[start : start + most] for name, value in observation.items()}
            own = candidates[start : start + most]
            parts.append(self(logits_of(ranker, part, own), own))
            parts[-1].check(own, whole=first)
        if len(parts) == 1:
            return parts[0]
        return Pool(
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in ("items", "logits", "columns")
            )
        )

    def _standing(self, candidates: Tensor) -> Tensor:
        """(B, G * largest) int64, or (1, ..) for everybody: where each item of each category stands
        among the candidates, counted from 1; 0 = nowhere.
        """
        rows = candidates[:1] if shared(candidates) else candidates
        column = torch.zeros(len(rows), self._items + 1, dtype=torch.int64, device=rows.device)
        column.scatter_(
            1, rows + 1, torch.arange(1, rows.shape[1] + 1, device=rows.device).expand_as(rows)
        )
        column[:, 0] = 0  # padding went there
        return column.index_select(1, self._by_category.flatten() + 1)


# A logit and its place as one whole number: the largest is the best, the first place among equals.
# On a CPU maxima of whole numbers cost a small part of what maxima with their places do.

_PLACES = 2**32
NOTHING = int(np.float32(-math.inf).view(np.int32) ^ 0x7FFFFFFF) * _PLACES
"""Key of a logit of -inf at the last place."""


def _keys(logits: Tensor) -> Tensor:
    """Of logits (B, S) float32: (B, S) int64."""
    bits = logits.view(torch.int32)
    ascending = (
        (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)
    )  # floats are ordered as their bits, but for signs
    return (
        ascending.long()
        .mul_(_PLACES)
        .add_(torch.arange(logits.shape[1] - 1, -1, -1, device=logits.device))
    )


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
    return torch.nn.utils.rnn.pad_sequence(
        order.split(counts.tolist()), batch_first=True, padding_value=-1
    )


FARTHEST = 1e30
"""Score of what is better than all others; below 0 of what is worse, but not taken yet."""


class Adjust(Protocol):
    """What a re-ranker makes of the logits as the slate fills."""

    def scores(self) -> Tensor:
        """(B, P) score of each pool item as the next one."""

    def add(self, chosen: Tensor) -> None:
        """Put pool positions (B,) into the slates."""


def pick(pool: Pool, size: int, adjust: Adjust) -> Tensor:
    """Fill a slate greedily: at each position the pool item with the best score. Returns (B, size) item ids.

    Distinct items as long as the pool has some, whatever the scores: NaN and -inf come after all
    others, and among equals comes the better logit.
    """
    taken = pool.items < 0
    there = taken.shape[1] - taken.sum(dim=1, keepdim=True)
    chosen = []
    for _ in range(min(size, pool.items.shape[1])):
        scores = (
            adjust.scores()
            .nan_to_num(nan=-FARTHEST, posinf=FARTHEST, neginf=-FARTHEST)
            .masked_fill_(taken, -math.inf)
        )
        best = scores.max(dim=1).indices  # the first of the largest; on a CPU faster than argmax
        taken.scatter_(1, best.unsqueeze(1), True)
        adjust.add(best)
        chosen.append(best)
    places = torch.stack(chosen, dim=1)
    gone = torch.arange(places.shape[1], device=places.device) >= there
    return filled(pool.items.gather(1, places).masked_fill(gone, -1), size)


class Cosines:
    """Cosine similarities between items of a catalogue, from its table where it is small.

    Args:
        exact: in float64, for differences of nearly equal cosines; in float32 on a device that has
            nothing finer

    `dtype` is what they come in.
    """

    def __init__(self, catalog: Catalog, *, exact: bool = False) -> None:
        self._embedding, self._table = (
            catalog.embedding,
            exact_cosines(catalog) if exact else catalog.cosines,
        )
        self._exact = exact
        self.dtype = finest(catalog.device) if exact else torch.float32

    def between(self, one: Tensor, many: Tensor) -> Tensor:
        """Cosines of items one (B,) with items many (B, P): (B, P)."""
        if self._table is not None:
            places = one.unsqueeze(1) * len(self._table) + many
            return looked_up(self._table.view(-1), places)
        own, others = self._embedding[one], looked_up(self._embedding, many)
        if self._exact:
            own, others = _unit(own.to(self.dtype)), _unit(others.to(self.dtype))
        return torch.einsum("be,bpe->bp", own, others)


def finest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def exact_cosines(catalog: Catalog) -> Tensor | None:
    """(N, N) cosines of all pairs of items as exact as the device has them; None above `GRAM_LIMIT` items.

    Made when first asked for, and kept as long as the catalogue is.
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
