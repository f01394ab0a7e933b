"""The registry of reward terms, and how one is asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.registry import Registry
from recsim_env.rewards.inputs import RewardInputs

Term = Callable[[RewardInputs], Tensor]
"""A reward term: (B,) float values of a slate and what followed it."""

REWARD_TERMS: Registry[Term] = Registry("reward term")
"""Every term that a `Reward` can name."""
SHIPPED: list[Term] = []
"""Terms that tests hold against writing into their inputs: they are handed the step's tensors."""
NEEDED = (
    "category_share",
    "discount",
    "outside_reward",
    "popularity",
    "price",
    "purchases",
    "whole",
)
"""What a term may say that it needs: fields of `RewardInputs` that not every environment fills."""
Bounds = Callable[[int], tuple[float, float]]
"""The least and the largest value of a term for slates of K positions."""


def zero_to_one(size: int) -> tuple[float, float]:
    """Return the bounds of a term that is a share: 0 and 1."""
    return 0.0, 1.0


def zero_to_size(size: int) -> tuple[float, float]:
    """Return the bounds of a term that counts positions: 0 and K."""
    return 0.0, float(size)


def zero_or_more(size: int) -> tuple[float, float]:
    """Return the bounds of a term that is 0 or more."""
    return 0.0, math.inf


def any_number(size: int) -> tuple[float, float]:
    """Return the bounds of a term that says nothing of them: any number."""
    return -math.inf, math.inf


@dataclass(frozen=True)
class _Facts:
    """What a term says of itself."""

    linear: bool = False
    needs: tuple[str, ...] = ()
    bounds: Bounds = any_number


_FACTS: dict[str, _Facts] = {}


def reward_term(
    name: str, *, linear: bool = False, needs: Iterable[str] = (), bounds: Bounds = any_number
) -> Callable[[Term], Term]:
    """Register a term under a name: `@reward_term("margin")` above a function of `RewardInputs`.

    A cell of a notebook that runs again replaces its term, with a warning.

    Args:
        name: The name of the term.
        linear: Whether the term is linear in responses: in `clicks`, `purchases`, `left` and
            `whole`. Then its expected value is its value at their chances, from which agents may
            learn with less noise; it must take float numbers from 0 to 1 there.
        needs: The fields of `RewardInputs` out of `NEEDED` without which the term cannot be
            computed; an environment that lacks one refuses the term before anything runs.
        bounds: Gives the least and the largest value that the term can take; a limit outside of
            them is refused (`agents.ppo.constraint`).

    Raises:
        ValueError: If the name is no text or is taken by another function, if the term is no
            function, or if `linear`, `needs` or `bounds` is not as said.
    """
    checks.text("name", name)
    if not callable(bounds):
        raise ValueError(
            f"bounds is {checks.told(bounds)}, but it must be a function of the slate size."
        )
    facts = _Facts(
        checks.flag("linear", linear),
        tuple(checks.choice("a field of needs", field, NEEDED) for field in needs),
        bounds,
    )

    def add(term: Term) -> Term:
        if not callable(term):
            raise ValueError(
                f"term is {checks.told(term)}, but it must be a function of RewardInputs."
            )
        REWARD_TERMS.add(name, term, term)
        _FACTS[name] = facts
        return term

    return add


def is_linear(name: str) -> bool:
    """Tell whether a registered term is linear in responses."""
    return _FACTS.get(name, _Facts()).linear


def needs_of(name: str) -> tuple[str, ...]:
    """Return the fields of `RewardInputs` without which a registered term cannot be computed."""
    return _FACTS.get(name, _Facts()).needs


def bounds_of(name: str, slate_size: int) -> tuple[float, float]:
    """Return the least and the largest value that a registered term can take."""
    return _FACTS.get(name, _Facts()).bounds(slate_size)


class Served(Protocol):
    """What is known of shoppers before any of them comes; `recsim_env.shoppers.base.Shopper`."""

    catalog: Catalog
    tells_purchases: bool
    tells_outside_reward: bool
    discounts: tuple[float, ...]


def check_served(argument: str, names: Iterable[str], shopper: Served) -> None:
    """Check that shoppers fill what terms need.

    Args:
        argument: What messages call the terms: `reward` or `objectives`.
        names: The names of the terms.
        shopper: The shoppers, whose class messages name.

    Raises:
        ValueError: If a term needs what is not there.
    """
    who, catalog, lacking = type(shopper).__name__, shopper.catalog, {}
    if not shopper.tells_purchases:
        lacking["purchases"] = f"{who} does not tell purchases from clicks"
    if not shopper.tells_outside_reward:
        lacking["outside_reward"] = (
            f"{who} does not tell what an outside environment pays (`tells_outside_reward`)"
        )
    if not shopper.discounts:
        said = f"{who} is offered no bundles (`discounts`)"
        lacking |= {"discount": said, "whole": said}
    if catalog.known_price is None:
        lacking["price"] = f"the catalogue of {who} does not know the price of every item"
    if catalog.popularity is None:
        lacking["popularity"] = f"the catalogue of {who} has no popularity (`Catalog.popularity`)"
    for name in names:
        for field in needs_of(name):
            if field in lacking:
                raise ValueError(f"{argument} has the term {name!r}, but {lacking[field]}.")


def _of_copies(name: str, term: Term, inputs: RewardInputs) -> object:
    """Return what a term makes of copies of its inputs; the tables of the catalogue are not copied.

    Raises:
        ValueError: If it wrote into a copy or a table. Torch counts what is written into a tensor,
            though not in inference mode, which is left for so long.
    """
    learning = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(learning):
        copies: dict[str, Any] = {name: value.clone() for name, value in inputs.rows().items()}
        own = replace(inputs, **copies)
        before = _writes(own)
        value = term(own)
        written = sorted(key for key, count in _writes(own).items() if count != before[key])
    if written:
        raise ValueError(
            f"The reward term {name!r} wrote into inputs.{written[0]}, but it must leave its "
            "inputs as they are: a clone of them may be changed."
        )
    return value


def _writes(inputs: RewardInputs) -> dict[str, int]:
    """Return how often each tensor was written into, for those of which torch counts it."""
    return {
        key: value._version
        for key, value in vars(inputs).items()
        if isinstance(value, Tensor) and not value.is_inference()
    }


def term_value(name: str, inputs: RewardInputs) -> Tensor:
    """Return the value of a registered term: (B,) real numbers.

    Raises:
        ValueError: If it is no real tensor of shape (B,) on the device of the slates, or the term
            wrote into its inputs.
    """
    term = REWARD_TERMS[name]
    shipped = any(term is known for known in SHIPPED)
    value: object = term(inputs) if shipped else _of_copies(name, term, inputs)
    slates = inputs.slates
    if (
        isinstance(value, Tensor)
        and value.ndim == 1
        and len(value) == len(slates)
        and value.device == slates.device
        and value.layout == torch.strided
        and not value.is_complex()
    ):
        return value
    raise ValueError(
        f"The reward term {name!r} is {checks.told(value)}, but it must be a tensor of real "
        "numbers of shape "
        f"({len(slates)},), one a shopper, on {slates.device}."
    )
