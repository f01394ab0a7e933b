"""What closed-form markets share: checked parameters, a catalogue, and first interests."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.noise import normal
from recsim_env.settings import put

P = TypeVar("P")
MOST = 1e4
"""Largest size of a number of a market: a log-odds beyond is as good as certain, and float32 holds
all that follows."""


class World(Protocol):
    """The parameters that every closed-form market has; their classes say what they mean."""

    @property
    def items(self) -> int:
        """Number of items in the catalogue."""

    @property
    def categories(self) -> int:
        """Number of categories that the items are of."""

    @property
    def width(self) -> int:
        """Number of dimensions of interests."""

    @property
    def favourites(self) -> int:
        """Number of categories of a first interest."""

    @property
    def interest_noise(self) -> float:
        """Length of the noise of a first interest."""

    @property
    def declared_noise(self) -> float:
        """Length of the noise in what is declared."""

    @property
    def quality_spread(self) -> float:
        """Standard deviation of the quality of items."""


def of_kind(name: str, value: Any, kind: type[P]) -> P:
    """Check that parameters are of the class of a market, and return them.

    Raises:
        ValueError: If they are of another class.
    """
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {checks.told(value)}, but it must be a {kind.__name__}.")
    return value


def check_numbers(
    config: Any,
    counts: Mapping[str, int],
    ranges: Mapping[str, tuple[float, float]],
    *,
    parts: Collection[str] = (),
) -> None:
    """Check the numbers in a frozen dataclass of parameters, and make them plain ones.

    Args:
        config: The parameters.
        counts: The largest value of each whole number, which is 1 or more.
        ranges: The lowest and highest value of the others; from -`MOST` to `MOST` by default.
        parts: Fields that are no numbers.

    Raises:
        ValueError: If a number is none, or is out of its range.
    """
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if name in parts:
            continue
        if name in counts:
            checked: float = checks.whole(name, value, 1, counts[name])
        else:
            low, high = ranges.get(name, (-MOST, MOST))
            checked = checks.number(name, value, low, high, infinite=name == "leave_base")
        put(config, **{name: checked})


def check_parameters(
    config: World, counts: Mapping[str, int], ranges: Mapping[str, tuple[float, float]]
) -> None:
    """Check the numbers of a market, as `check_numbers`, and that its sizes go together.

    Raises:
        ValueError: As `check_numbers`, or if there are too few categories or items.
    """
    check_numbers(config, counts, ranges)
    if not config.favourites <= config.categories <= config.items:
        raise ValueError(
            f"categories is {config.categories!r}, but it must be from {config.favourites} "
            f"(favourites) to {config.items} (items)."
        )


def world_of(config: World, world: int) -> tuple[Catalog, Tensor]:
    """Make the catalogue of a world, and the quality (N,) of its items, on the CPU."""
    generator = torch.Generator().manual_seed(world)
    catalog = Catalog.synthetic(config.items, config.categories, config.width, generator)
    quality = torch.randn(config.items, generator=generator, dtype=torch.float32)
    return catalog, config.quality_spread * quality


def category_centres(catalog: Catalog) -> Tensor:
    """Return the mean of each category's items: (G, E), of unit length."""
    groups, width = len(catalog.categories), catalog.embedding.shape[1]
    total = torch.zeros(groups, width, dtype=torch.float32, device=catalog.device)
    total.index_add_(0, catalog.category, catalog.embedding)
    return torch.nn.functional.normalize(total, dim=1)


def interest_draws(config: World) -> int:
    """Count the uniform numbers that `first_interests` takes for a shopper."""
    return 2 * config.favourites + 2 * config.width


def first_interests(config: World, centres: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Draw interests near the centres of some categories, and what shoppers declare of them.

    Args:
        config: The parameters.
        centres: (G, D) of `category_centres`.
        draws: (B, `interest_draws`) float32, uniform in [0, 1).

    Returns:
        (B, D) interests and (B, D) what is declared, of unit length.
    """
    d, f = config.width, config.favourites
    which, weight, noise, said = draws.split([f, f, d, d], dim=1)
    favourite = (which * config.categories).long().clamp(max=config.categories - 1)
    mixed = torch.einsum("bf,bfd->bd", 0.5 + weight, centres[favourite])
    interest = torch.nn.functional.normalize(
        mixed + config.interest_noise * normal(noise) / math.sqrt(d), dim=1
    )
    declared = interest + config.declared_noise * normal(said) / math.sqrt(d)
    declared = torch.nn.functional.normalize(declared, dim=1)
    return interest, declared.clamp(-1, 1)  # rounding may go beyond


def share_moved(median: float, moved: Tensor) -> Tensor:
    """Move a share by log-odds (B,); 0 and 1 have none and stay."""
    if not 0 < median < 1:
        return torch.full_like(moved, median)
    return torch.sigmoid(math.log(median / (1 - median)) + moved)


def positions_examined(chance: Tensor, size: int) -> Tensor:
    """Return the chance (B, K) to look at each position, from that (B,) to look one further."""
    return chance.unsqueeze(1) ** torch.arange(size, device=chance.device)
