"""Who answers a slate: what the simulator asks of a shopper model."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import gymnasium
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import MOST_ITEMS, Catalog
from recsim_env.noise import MOST_DRAWS
from recsim_env.trees import length
from recsim_env.types import Observation, Response

if TYPE_CHECKING:  # reading logs is heavy, and playing needs none of it
    from recsim_env.logs.facts import LogFacts

S = TypeVar("S")
Description = dict[str, str | list[str]]
"""How a shopper and a visit read to a person, for rendering. Keys that the pictures know:
`shopper`, `date`, `store` (strings) and `history` (a list of lines, newest first; what stands
before the last " · " of a line is its heading); any further string is shown under the header. All
of these say what the shop knows and nothing else; what agents must not see, such as a hidden trait,
belongs under the key `hidden`, which is shown on request only."""
FEWEST = 2
"""Items of the smallest bundle that can be taken whole: one item is no combination."""
HIDDEN = "hidden"
"""The key of a `Description` under which stands what agents must not see."""


@dataclass(frozen=True)
class Past:
    """Visits of B shoppers before an episode, newest first.

    Shapes: B shoppers, V visits, K slate positions.
    """

    slates: Tensor
    """(B, V, K) int64 items as they were shown, top position first; -1 where nothing was."""
    clicks: Tensor
    """(B, V, K) bool, what was responded to."""
    days: Tensor
    """(B, V) float32, days from that visit to the first of the episode; 0 where there is none."""


class Shopper(ABC, Generic[S]):
    """A population of shoppers who come, answer a slate, and come back later or never.

    An author writes `start` and `respond`, and an `__init__` that calls this one; everything else
    has a default. `S` is the hidden state of B shoppers: a tensor with a row a shopper, or a
    dataclass, mapping, list or tuple of such (`recsim_env.trees` says what else). The simulator
    takes and puts rows of it; beyond that only the shopper looks inside.

    Everything random comes from `draws`, uniform numbers in [0, 1) that the simulator hands in, so
    equal draws give equal shoppers. Row b of a result depends on row b of the arguments alone.
    Tensors that are returned are new: no later call changes them. The simulator holds every answer
    against these promises, as far as that costs little (`recsim_env.shoppers.promises`), and says
    which one is broken; `recsim_env.testing.check_shopper` tries all of them.

    Dimensions: B shoppers, K slate positions, C candidates, N catalogue items.

    Args:
        catalog: The items; they are brought to `device`.
        slate_size: K.
        device: Where the states and the tensors that come and go live.
        start_draws: How many uniform numbers a new shopper takes, `MOST_DRAWS` at most.
        visit_draws: How many uniform numbers a visit takes, as many at most; None means K.
        max_candidates: C, the most candidates that any visit has; None means N. Another number
            needs a method `candidates`.
        never_leave: Whether nobody lapses; see `staying`.

    Raises:
        ValueError: If an argument is out of its range, or if `never_leave` is asked of shoppers who
            do not tell how likely they leave.
    """

    tells_leaving: ClassVar[bool] = False
    """Whether `Response.leaving` is there and `never_leave` is heeded. Where it is True, nobody
    lapses under `never_leave`, and everything else is as it is for those who come back; training
    that is weighted by survival needs it."""
    trusted: ClassVar[bool] = False
    """Whether the simulator checks the first answer of each method instead of every one, because
    tests hold the class against its promises. It counts for the class that says so, and not for
    those that are made from it."""
    tells_purchases: bool = False
    """Whether `Response.purchases` is there, beside the clicks."""
    tells_outside_reward: bool = False
    """Whether `Response.outside_reward` is there, what somebody else's environment pays."""
    replayable: bool = True
    """Whether a step asks no tensor for its numbers, so that a GPU can replay it
    (`recsim_env.graphs`)."""
    discounts: tuple[float, ...] = ()
    """Levels of discount at which a slate can be offered, the first of which is 0. Where there are
    some, a slate is a bundle: the action has a level behind the items, `respond_to_offer` is asked
    in place of `respond`, and `Response.whole` is there."""
    serves_newcomers: bool = False
    """Whether `start_new` is there: shoppers who have a history can come without one."""
    new_items: Tensor | None = None
    """(N,) bool, the items that no past holds, of shoppers that were made with some
    (`recsim_env.shoppers.cold`); None where there are none. They are on the device of the
    shoppers."""
    facts: LogFacts | None = None
    """Facts of the log that the shoppers were fitted to, such as its first day and the sizes of its
    promotion codes; None where there was no such log."""

    def __init__(
        self,
        catalog: Catalog,
        slate_size: int,
        *,
        device: torch.device,
        start_draws: int = 1,
        visit_draws: int | None = None,
        max_candidates: int | None = None,
        never_leave: bool = False,
    ) -> None:
        if not isinstance(catalog, Catalog):
            raise ValueError(f"catalog is {checks.told(catalog)}, but it must be a Catalog.")
        self.device = torch.device(device)
        self.catalog = catalog if catalog.device == self.device else catalog.to(self.device)
        self.slate_size = checks.whole("slate_size", slate_size, 1)
        self.start_draws = checks.whole("start_draws", start_draws, 0, MOST_DRAWS)
        self.visit_draws = (
            self.slate_size
            if visit_draws is None
            else checks.whole("visit_draws", visit_draws, 0, MOST_DRAWS)
        )
        self.max_candidates = (
            len(catalog)
            if max_candidates is None
            else checks.whole("max_candidates", max_candidates, 1, MOST_ITEMS)
        )
        self.never_leave = checks.flag("never_leave", never_leave)
        if self.never_leave:
            self._check_can_stay()
        self._everything = torch.arange(len(catalog), device=self.device)

    @abstractmethod
    def start(self, draws: Tensor) -> S:
        """Make new shoppers at their first visit: who comes, when, where.

        Args:
            draws: (B, start_draws) float32, uniform in [0, 1).
        """

    def start_new(self, draws: Tensor) -> S:
        """Make the shoppers that `start` makes of these draws, as if they came for the first time.

        It is asked of shoppers with `serves_newcomers` alone, which must have it. Their `past` is
        not asked for.

        Args:
            draws: (B, start_draws) float32, uniform in [0, 1).
        """
        raise NotImplementedError(f"{name_of(self)} serves newcomers, but has no method start_new.")

    @abstractmethod
    def respond(self, state: S, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        """Answer the slates, and move `state` in place to the next visit.

        A row whose episode is over may be asked once more: its answer is thrown away, so any will
        do.

        Args:
            state: The hidden state.
            slates: (B, K) int64 item ids, top position first.
            shown: (B, K) bool, False for a repeated item and for what is no candidate: it was not
                seen and gets no response.
            draws: (B, visit_draws) float32, uniform in [0, 1).
        """

    def respond_to_offer(
        self, state: S, slates: Tensor, shown: Tensor, draws: Tensor, discount: Tensor
    ) -> Response:
        """Answer slates that are bundles at a discount; else it is as `respond`.

        It is asked of shoppers with `discounts` alone, which must have it.

        Args:
            state: The hidden state.
            slates: (B, K) int64 item ids.
            shown: (B, K) bool.
            draws: (B, visit_draws) float32, uniform in [0, 1).
            discount: (B,) float32, one of `discounts` for each shopper: the share of its price that
                is off a bundle which is taken whole.
        """
        raise NotImplementedError(f"{name_of(self)} has discounts, but no method respond_to_offer.")

    def goes_together(self, items: list[int]) -> list[str]:
        """Tell a person why the items of a bundle go together, or do not: one reason a line."""
        return []

    def candidates(self, state: S) -> Tensor:
        """Return the distinct items that may be shown at this visit: (B, C) int64.

        Rows are padded at the end with -1. By default every item of the catalogue may be shown.
        """
        if self.max_candidates != len(self.catalog):
            raise ValueError(
                f"max_candidates is {self.max_candidates}, but without a method candidates of its "
                "own "
                f"{name_of(self)} offers all {len(self.catalog)} items."
            )
        return self._everything.expand(length(state), -1)

    def on_offer(self, state: S, items: Tensor) -> Tensor | None:
        """Tell which items may be shown, without a list of candidates; None means: use the list.

        A simulator that is told so asks `candidates` for the observation only, and hands on what
        comes: a new tensor at every call, or one row for everybody.

        Args:
            state: The hidden state.
            items: (B, K) int64, padded with -1.

        Returns:
            (B, K) bool, whether each item is among `candidates`, and anything for the padding.
        """
        return None

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the space of each key of `observe`, for one shopper."""
        return {}

    def observe(self, state: S) -> Observation:
        """Return what the shop knows at this visit, (B, ...) each, and never the hidden state."""
        return {}

    def past(self, state: S, visits: int) -> Past | None:
        """Tell what new shoppers were shown before, and did; None means they are new to the shop.

        It fills the remembered slates of an observation.

        Args:
            state: The hidden state that `start` made.
            visits: V, how many visits are asked for at most; fewer may come back.
        """
        return None

    def when_and_where(self, state: S) -> dict[str, Tensor]:
        """Return `day`, `week` and `store` of this visit for a log, (B,) int64 each.

        The simulator fills in what is missing: the days since the episode began, its weeks, counted
        from 1, and one store.
        """
        return {}

    def describe(self, state: S, row: int) -> Description:
        """Tell how one shopper and their visit read to a person; see `Description`."""
        return {}

    def staying(self) -> Self:
        """Return the same shoppers with `never_leave`; this object stays as it is.

        Raises:
            ValueError: If these shoppers do not tell how likely they leave.
        """
        self._check_can_stay()
        stays = copy.copy(self)
        stays.never_leave = True
        return stays

    def _check_can_stay(self) -> None:
        if not self.tells_leaving:
            raise ValueError(
                f"never_leave is True, but {name_of(self)} does not tell how likely shoppers leave "
                "(`tells_leaving`)."
            )


def checked_discounts(name: str, discounts: Any) -> tuple[float, ...]:
    """Check the levels of discount at which bundles are offered.

    Raises:
        ValueError: If they are no ascending shares of a price from 0 to below 1, the first 0, or if
            two of them are the same float32 number.
    """
    expected = "it must be ascending shares of a price below 1, the first of which is 0"
    if not isinstance(discounts, Sequence) or isinstance(discounts, (str, bytes)) or not discounts:
        raise ValueError(f"{name} is {checks.told(discounts)}, but {expected}.")
    levels = tuple(
        checks.number(f"{name}[{at}]", level, 0, 1) for at, level in enumerate(discounts)
    )
    single = torch.tensor([*levels, 1.0], dtype=torch.float32).tolist()  # as shoppers are told them
    rising = all(low < high for low, high in itertools.pairwise(single))
    if levels[0] != 0 or not rising:
        raise ValueError(f"{name} is {checks.told(discounts)}, but {expected}.")
    return levels


def is_bundle(shown: Tensor) -> Tensor:
    """Tell where enough is shown (B, K) to be taken as a whole: (B,) bool."""
    return shown.sum(dim=1) >= FEWEST


def counted(number: int, word: str) -> str:
    """Return a number with its noun: `1 day`, `2 days`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def ago(days: int) -> str:
    """Say how long ago something was: `today`, `1 day ago`, `2 days ago`."""
    return f"{counted(days, 'day')} ago" if days > 0 else "today"


def name_of(shopper: object) -> str:
    """Return the class of a shopper, as messages name it."""
    return type(shopper).__name__
