"""Who answers a slate: the protocol between the simulator and a shopper model."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import gymnasium
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.types import Observation, Response

S = TypeVar("S")
Description = dict[str, str | list[str]]
"""How a shopper and a visit read to a person, for rendering. Keys that the pictures know:
`shopper`, `date`, `store` (strings) and `history` (a list of lines, newest first; what stands
before the last " · " of a line is its heading); any further string is shown under the header. All
of these say what the shop knows and nothing else; what agents must not see, such as a hidden trait,
belongs under the key `hidden`, which is shown on request only."""
HIDDEN = "hidden"
"""The key of a `Description` under which stands what agents must not see."""


class Shopper(Protocol[S]):
    """A population of shoppers who come, answer a slate, and come back later or never.

    `S` is the hidden state of B shoppers; only the shopper model looks inside. Everything random
    comes from `draws`, uniform numbers in [0, 1) that the simulator hands in, so equal draws give
    equal shoppers. Row b of a result depends on row b of the arguments alone. Tensors that are
    returned are new: no later call changes them. The simulator holds the first answer of each
    method against these promises and says which one is broken; `recsim_env.testing.check_shopper`
    tries all of them.

    A shopper whose `Response.leaving` says how likely it is to lapse may have an attribute
    `never_leave`, False at first. Where it is True nobody lapses, and everything else is as it is
    for those who come back: training that weights by survival (`agents.ppo.vec_env.TrainingReward`)
    needs it. One that knows without a list of candidates what may be shown may have a method
    `on_offer(state, items)`: which items (B, K) int64, -1 padded, are among `candidates`, (B, K)
    bool, and anything for the padding. The simulator then asks it instead of looking through the
    list, and hands on what `candidates` returns: a new tensor at every call, or one row for all.

    Dimensions: B shoppers, K slate positions, C candidates, R rows that start again.
    """

    @property
    def catalog(self) -> Catalog:
        """The items, on any device."""

    @property
    def device(self) -> torch.device:
        """Where the states and the tensors that come and go live."""

    @property
    def slate_size(self) -> int:
        """K, the number of positions in a slate."""

    @property
    def max_candidates(self) -> int:
        """C, the most candidates that any visit has."""

    @property
    def start_draws(self) -> int:
        """How many uniform numbers a new shopper takes."""

    @property
    def visit_draws(self) -> int:
        """How many uniform numbers a visit takes."""

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """The space of each key of `observe`, for one shopper."""

    def start(self, draws: Tensor) -> S:
        """New shoppers at their first visit: who comes, when, where. draws: (B, start_draws)."""

    def candidates(self, state: S) -> Tensor:
        """(B, C) int64 distinct item ids that may be shown at this visit, padded at the end with -1."""

    def observe(self, state: S) -> Observation:
        """What the shop knows at this visit, (B, ...) each, and never the hidden state."""

    def respond(self, state: S, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        """Answer a slate and move `state` in place to the next visit.

        A row whose episode is over may be asked once more: its answer is thrown away, so any will
        do.

        Shapes:
            slates: (B, K) int64 item ids, top position first
            shown:  (B, K) bool, False = a repeated item or no candidate: it was not seen and gets
                no response
            draws:  (B, visit_draws)
        """

    def replace(self, state: S, rows: Tensor, fresh: S) -> None:
        """Put the R shoppers of `fresh` into `rows` (R,) int64 of `state`, in place."""

    def select(self, state: S, rows: Tensor) -> S:
        """A new state of the shoppers in `rows` (R,) int64 only."""

    def when_and_where(self, state: S) -> dict[str, Tensor]:
        """`day`, `week` and `store` of this visit and number of the `shopper`, (B,) int64 each, for a log."""

    def describe(self, state: S, row: int) -> Description:
        """How one shopper and their visit read to a person; what agents must not see stands under `hidden`."""


def counted(number: int, word: str) -> str:
    """A number with its noun: `1 day`, `2 days`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def ago(days: int) -> str:
    """How long ago something was: `today`, `1 day ago`, `2 days ago`."""
    return f"{counted(days, 'day')} ago" if days > 0 else "today"


def name_of(shopper: object) -> str:
    """The class of a shopper, as messages name it."""
    return type(shopper).__name__
