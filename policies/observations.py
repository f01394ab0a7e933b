"""Checks of the observations and random numbers that policies are handed, and their candidates."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.types import Observation


class ObservationCheck:
    """Refuses observations that do not belong to the space that a policy was built for.

    Every call looks at keys, types, shapes and devices, which needs no synchronisation. The first
    call also looks at the numbers: whole numbers must lie within the bounds of the space, others
    must be finite.

    `candidates` may be left out where the space has a place for every item: then every item may be
    shown.

    Args:
        space: observation space of one shopper
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
        """Check an observation; returns whether this was the first call.

        Raises:
            TypeError: If the observation is no mapping, or a value is no tensor of the space's type
                on the policy's device.
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
        """Whether keys, types, shapes and devices fit, without a synchronisation."""
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
        """Check every number of an observation.

        Raises:
            ValueError: If a whole number lies outside of the space, or another one is not finite.
        """
        self.check_whole(observation)
        for name, (_, dtype) in self._expected.items():
            if dtype.is_floating_point and not bool(observation[name].isfinite().all()):
                raise ValueError(
                    f"observation[{name!r}] holds a number that is not finite, but it must hold "
                    "finite ones."
                )

    def check_whole(self, observation: Observation) -> None:
        """Check the whole numbers of an observation.

        Raises:
            ValueError: If one lies outside of the space.
        """
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
                    f"observation has the keys {sorted(observation)}, but it must have {name!r}: "
                    "the policy was built "
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
                    f"observation[{name!r}] is on {value.device}, but the policy works on "
                    f"{self._device}."
                )
            if len(value) != (len(observation[first]) if first else max(len(value), 1)):
                _raise_shoppers(name, value, first, observation)
            first = first or name


def check_keys(
    observation: Observation, needed: Collection[str], optional: tuple[str, ...] = ()
) -> None:
    """Check keys for a part that does not know the space of observations, such as a ranker.

    Args:
        observation: what the part is handed
        needed: keys that must be there
        optional: keys that may be missing

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
        checks.instance(f"observation[{name!r}]", value, Tensor)
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
    """The type that the values of a space have as tensors."""
    return torch.from_numpy(np.zeros(1, space.dtype)).dtype


def check_draws(draws: Tensor, batch: int, number: int) -> None:
    """Check that draws are a tensor (batch, number) of uniform numbers.

    Raises:
        TypeError: If they are no floating-point tensor.
        ValueError: If they have another shape.
    """
    dtype = (
        draws.dtype if isinstance(draws, Tensor) and draws.is_floating_point() else torch.float32
    )
    checks.tensor("draws", draws, (batch, number), dtype, finite=False)


def candidates_of(observation: Observation, items: int) -> Tensor:
    """Candidates (B, C) int64, -1 padded; all N = `items` where the observation names none."""
    if "candidates" in observation:
        return observation["candidates"]
    any_key = next(iter(observation.values()))
    return torch.arange(items, device=any_key.device).expand(len(any_key), -1)


def max_candidates(space: gymnasium.spaces.Dict, items: int) -> int:
    """Largest number of candidates C of a visit; N = `items` where the observation names none."""
    shape = space["candidates"].shape if "candidates" in space.spaces else (items,)
    assert shape is not None
    return int(shape[0])
