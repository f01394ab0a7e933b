"""A small shopper with known probabilities, on a made-up catalogue: what the tests shop with.

At visit v (0, 1, ...) the candidates are the items with (item + v) % 3 != 0. A shown item is bought
with probability 0.6 in the shopper's favourite category and 0.1 in any other, times 0.9 for each
position above it. Whoever bought nothing lapses with probability 0.2; the next visit comes after 1
to 13 days, each as likely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import registry
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.registration import PRESETS, register
from recsim_env.rewards import Reward
from recsim_env.shoppers.base import Shopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Outcome, Response

LIKED, OTHER, FADE, LAPSE, LONGEST_GAP = 0.6, 0.1, 0.9, 0.2, 13
MEMORY = 6
NEVER = 1000.0


@dataclass
class ToyState:
    """B toy shoppers."""

    favourite: Tensor  # (B,) int64, a category: hidden
    visit: Tensor  # (B,) int64
    day: Tensor  # (B,) float32
    bought: Tensor  # (B, N) float32, purchases of each item
    bought_day: Tensor  # (B, N) float32, day of the last purchase


class ToyShopper(Shopper[ToyState]):
    """With the observation keys of the Complete Journey."""

    tells_leaving = True

    def __init__(
        self,
        items: int = 31,
        categories: int = 5,
        slate_size: int = 4,
        width: int = 8,
        device: torch.device | str = "cpu",
        lapse: float = LAPSE,
    ) -> None:
        self._offers = _offer_table(items).to(device)
        super().__init__(
            toy_catalog(items, categories, width),
            slate_size,
            device=torch.device(device),
            visit_draws=slate_size + 3,
            max_candidates=self._offers.shape[1],
        )
        self.category = self.catalog.category
        self.lapse = lapse
        self.responses: list[
            Response
        ] = []  # what was answered, newest last: for the tests to look at

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        items, candidates, categories = (
            len(self.catalog),
            self.max_candidates,
            len(self.catalog.categories),
        )
        return {
            "context": spaces.Box(0, 1e6, (8,), np.float32),
            "bought_items": spaces.Box(-1, items - 1, (MEMORY,), np.int64),
            "bought_counts": spaces.Box(0, 1e6, (MEMORY,), np.float32),
            "bought_days": spaces.Box(0, 1e6, (MEMORY,), np.float32),
            "category_counts": spaces.Box(0, 1e6, (categories,), np.float32),
            "category_days": spaces.Box(0, 1e6, (categories,), np.float32),
            "placement": spaces.Box(0, 2, (candidates,), np.int64),
            "popularity": spaces.Box(0, 1, (candidates,), np.float32),
        }

    def start(self, draws: Tensor) -> ToyState:
        batch, items = len(draws), len(self.catalog)
        return ToyState(
            favourite=(draws[:, 0] * len(self.catalog.categories)).long(),
            visit=torch.zeros(batch, dtype=torch.int64, device=self.device),
            day=torch.zeros(batch, device=self.device),
            bought=torch.zeros(batch, items, device=self.device),
            bought_day=torch.zeros(batch, items, device=self.device),
        )

    def candidates(self, state: ToyState) -> Tensor:
        return self._offers[state.visit % 3]

    def observe(self, state: ToyState) -> dict[str, Tensor]:
        counts, items = state.bought.topk(MEMORY, dim=1)
        since = state.day.unsqueeze(1) - state.bought_day
        known = counts > 0
        candidates = self.candidates(state)
        context = torch.zeros(len(state.day), 8, device=self.device)
        context[:, 0], context[:, 1] = state.visit, state.day
        category_counts, category_days = self._by_category(state, since)
        return {
            "context": context,
            "bought_items": items.where(known, -1),
            "bought_counts": counts,
            "bought_days": since.gather(1, items).where(known, 0),
            "category_counts": category_counts,
            "category_days": category_days,
            "placement": candidates.clamp(min=0) % 3,
            "popularity": ((candidates * 7 % 10).float() / 10).where(candidates >= 0, 0),
        }

    def _by_category(self, state: ToyState, since: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(state.day), len(self.catalog.categories))
        index = self.category.expand_as(state.bought)
        counts = torch.zeros(shape, device=self.device).scatter_add_(1, index, state.bought)
        days = torch.full(shape, NEVER, device=self.device)
        days.scatter_reduce_(1, index, since.where(state.bought > 0, NEVER), "amin")
        return counts, days

    def probability(self, state: ToyState, slates: Tensor, shown: Tensor) -> Tensor:
        """(B, K) the closed form of the docstring above."""
        liked = self.category[slates] == state.favourite.unsqueeze(1)
        fade = FADE ** torch.arange(self.slate_size, device=self.device)
        return (torch.where(liked, LIKED, OTHER) * fade).where(shown, 0)

    def respond(self, state: ToyState, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        probability = self.probability(state, slates, shown)
        clicks = draws[:, : self.slate_size] < probability
        leave, gap, elsewhere = draws[:, self.slate_size :].unbind(dim=1)
        leaving = self.lapse * (~clicks.any(dim=1)).float()
        response = Response(
            clicks=clicks,
            probability=probability,
            left=(leave < leaving) & (not self.never_leave),
            days=1 + (gap * LONGEST_GAP).floor(),
            elsewhere=(elsewhere * 4).floor(),
            leaving=leaving,
        )
        state.bought.scatter_add_(1, slates, clicks.float())
        touched = torch.zeros_like(state.bought).scatter_add_(1, slates, clicks.float()) > 0
        state.bought_day.copy_(
            state.day.unsqueeze(1).expand_as(touched).where(touched, state.bought_day)
        )
        state.visit += 1
        state.day += response.days
        self.responses.append(response)
        return response

    def describe(self, state: ToyState, row: int) -> dict[str, str | list[str]]:
        bought = state.bought[row].topk(MEMORY)
        lines = [
            f"{int(n)}x {self.catalog.text[i]}"
            for n, i in zip(*map(Tensor.tolist, bought), strict=True)
            if n > 0
        ]
        return {
            "shopper": f"toy shopper {row}",
            "date": f"day {int(state.day[row])}",
            "store": "toy store",
            "history": lines,
        }


def _offer_table(items: int) -> Tensor:
    """(3, C) the candidates of a visit by its number modulo 3."""
    item = torch.arange(items)
    rows = [item[(item + visit) % 3 != 0] for visit in range(3)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


@dataclass(frozen=True)
class FunctionPolicy:
    """A policy made of a function of observation and draws."""

    choose: Callable[[Observation, Tensor], Any]
    draws: int = 0

    def __call__(self, observation: Observation, draws: Tensor) -> Any:
        return self.choose(observation, draws)


def responses_of(simulator: SlateSimulator) -> list[Response]:
    """What the shoppers of a simulator answer from now on, newest last."""
    answers: list[Response] = []
    advance = simulator.advance

    def watched(slates: Tensor) -> Outcome:
        outcome = advance(slates)
        answers.append(outcome.response)
        return outcome

    simulator.advance = watched  # type: ignore[method-assign]
    return answers


def leaves(tree: Any) -> list[Any]:
    """Everything that stands in nested dictionaries, sequences and arrays of objects."""
    if isinstance(tree, np.ndarray) and tree.dtype == object:
        tree = tree.tolist()
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree]


def toy_catalog(items: int = 31, categories: int = 5, width: int = 8) -> Catalog:
    """The same made-up catalogue every time."""
    return Catalog.synthetic(items, categories, width, torch.Generator().manual_seed(0))


def toy_simulator(
    *,
    items: int = 31,
    categories: int = 5,
    slate_size: int = 4,
    lapse: float = LAPSE,
    reward: Reward | None = None,
    horizon_days: float = 182.0,
    history: int = 10,
    strict: bool = False,
    objectives: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> SlateSimulator:
    """A simulator of toy shoppers."""
    shopper = ToyShopper(items, categories, slate_size, device=device, lapse=lapse)
    return SlateSimulator(
        shopper,
        reward,
        horizon_days=horizon_days,
        history=history,
        strict=strict,
        objectives=objectives,
    )


def make_toy_shopper(
    device: torch.device,
    slate_size: int,
    *,
    items: int = 31,
    categories: int = 5,
    lapse: float = LAPSE,
) -> ToyShopper:
    """A shopper factory as `recsim_env.register` takes it."""
    return ToyShopper(items, categories, slate_size, device=device, lapse=lapse)


@contextmanager
def registered_toys(name: str) -> Iterator[None]:
    """An id of toy shoppers who see slates of four, as long as the context is open."""
    register(name, make_toy_shopper, reward={"clicks": 1.0}, slate_size=4)
    yield
    PRESETS.pop(name)
    registry.pop(name)
