"""What policies are built from, and the ranker whose scores most of them start from.

Dimensions used in this package: B shoppers, K slate positions, C candidates (padded with -1), N
catalogue items, P items of the pool that a re-ranker looks at, H remembered slates, G categories, E
embedding width, A intent width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import gymnasium
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.facts import LogFacts
from recsim_env.rewards import Reward, as_reward
from recsim_env.settings import MOST, put
from recsim_env.types import Observation

UNRANKED = -1e6
"""Logit of a candidate to which a ranker gave NaN or inf: it comes after every candidate with a
number."""


class Ranker(Protocol):
    """Scores candidates, each on its own."""

    def logits(self, observation: Observation) -> Tensor:
        """Log-odds of a response, (B, C) float32 aligned with the candidates; -inf at padding.

        A candidate at -inf is not shown. One at NaN or inf is shown only where nothing else is
        left: see `logits_of`.
        """


@runtime_checkable
class PositionRanker(Ranker, Protocol):
    """A ranker that also knows how far down a slate is looked at."""

    def looks(self, observation: Observation) -> Tensor:
        """The chance that each position is looked at: (B, K), or (1, K) for all shoppers alike."""


@runtime_checkable
class TwoStageRanker(Ranker, Protocol):
    """A ranker that finds the few candidates worth ranking by a cheaper look at all of them."""

    def leading(self, observation: Observation, size: int) -> tuple[Tensor, Tensor | None]:
        """Rank the candidates that may be among the `size` best.

        Returns:
            Their logits (B, S), -inf at padding, and their columns (B, S) int64 among the
            candidates, S = `size` or more; `logits(observation)` and None where all are ranked.
        """


def _check_device(name: str, value: Tensor, like: Tensor) -> None:
    """Check that a tensor lies where another one does."""
    if value.device != like.device:
        raise ValueError(f"{name} is on {value.device}, but it must be on {like.device}.")


def looks_of(ranker: Ranker, observation: Observation, size: int) -> Tensor:
    """The chance that each of `size` positions is looked at: (B, size) or (1, size) float32.

    It is 1 where the ranker does not know it. A ranker that was fitted to shorter slates knows
    nothing of the positions behind, which are taken to be looked at as its last one.
    """
    if not isinstance(ranker, PositionRanker):
        device = next(iter(observation.values())).device
        return torch.ones(1, size, dtype=torch.float32, device=device)
    known = ranker.looks(observation)
    checks.tensor("ranker.looks(observation)", known, ("B or 1", "K"), torch.float32, finite=False)
    _check_device("ranker.looks(observation)", known, next(iter(observation.values())))
    return torch.cat([known, known[:, -1:].expand(-1, max(size - known.shape[1], 0))], dim=1)[
        :, :size
    ]


@dataclass(frozen=True)
class PolicyInputs:
    """What a policy may be built from.

    Nothing in it comes from the weights of a shopper model, unless a belief was told, whose source
    is the fitted model.
    """

    catalog: Catalog
    """The items; its tensors lie on the device that the policy will run on."""
    observation_space: gymnasium.spaces.Dict
    """Space of the observation of one shopper."""
    slate_size: int
    """Number of slate positions K."""
    ranker: Ranker | None = None
    """Ranker learned from a log's training weeks; only the policies that rank need it."""
    popularity: Tensor | None = None
    """(N,) float32 responses per visit in the log, for environments whose observation has no
    `popularity`."""
    pool: int = 64
    """Number P of the best candidates by CTR that re-rankers and composers look at: the same for
    all of them."""
    per_category: int = 0
    """Number of the best candidates of each category that join the pool, so that there is variety
    to choose from; 0 = the pool is the best candidates whatever their category."""
    facts: LogFacts | None = None
    """Facts about the shop; needed where the observation has a `placement`."""
    reward: Reward | Mapping[str, float] | None = None
    """What the shop pays for, which composers and `reward_greedy` fill their slates by; None means
    the default `Reward`, as in an environment."""
    lasting: Tensor | None = None
    """(N,) float32, what a click on each item brings later (`policies.lasting.lasting_value`); None
    leaves out the cue that reads it."""
    lift: Tensor | None = None
    """(G, G) float32, log lift of each pair of categories, where a log tells what goes together: in
    one bundle (`policies.lift.category_lift`) or in one visit (`policies.visits.together_lift`);
    None leaves out what reads it."""
    levels: int = 0
    """Number of levels of discount where slates are bundles, which composers choose from; 0 = there
    are none."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            TypeError: If a part is of another class.
            ValueError: If a number is out of its range.
        """
        checks.instance("catalog", self.catalog, Catalog)
        checks.instance("observation_space", self.observation_space, gymnasium.spaces.Dict)
        if self.ranker is not None and not callable(getattr(self.ranker, "logits", None)):
            raise TypeError(
                f"ranker is {checks.told(self.ranker)}, but it must have a method `logits`."
            )
        if self.popularity is not None:
            checks.tensor("popularity", self.popularity, (len(self.catalog),), torch.float32)
        if self.lasting is not None:
            checks.tensor("lasting", self.lasting, (len(self.catalog),), torch.float32)
        if self.lift is not None:
            groups = len(self.catalog.categories)
            checks.tensor("lift", self.lift, (groups, groups), torch.float32)
        if self.facts is not None:
            checks.instance("facts", self.facts, LogFacts)
        put(
            self,
            reward=as_reward(self.reward),
            slate_size=checks.whole("slate_size", self.slate_size, 1, MOST),
            pool=checks.whole("pool", self.pool, 1, MOST),
            levels=checks.whole("levels", self.levels, 0, MOST),
            per_category=checks.whole("per_category", self.per_category, 0, MOST),
        )

    def need_ranker(self, name: str) -> Ranker:
        """The ranker, for the policy of that name.

        Raises:
            ValueError: If there is none.
        """
        if self.ranker is None:
            raise ValueError(
                f"The policy {name!r} re-ranks a CTR model, but PolicyInputs.ranker is None."
            )
        return self.ranker

    def need_facts(self, reader: str) -> LogFacts:
        """The facts about the shop, for a part that reads them: "cue 'promoted'".

        Raises:
            ValueError: If there are none.
        """
        if self.facts is None:
            raise ValueError(
                f"The {reader} needs facts about the shop, but PolicyInputs.facts is None."
            )
        return self.facts


class Doubts:
    """Warns where a ranker gives NaN or inf to some candidates: once, and on a CPU only.

    On a GPU a look would force a synchronisation.
    """

    def __init__(self) -> None:
        self._told = False

    def look(self, ranker: Ranker, logits: Tensor, candidates: Tensor) -> None:
        """Look at the logits (B, C) that a ranker gave to candidates (B, C)."""
        if self._told or not logits.is_cpu or not _holds_no_number(logits):
            return
        there = candidates >= 0
        missing = int(((logits.isnan() | (logits == math.inf)) & there).sum())
        count = int(there.sum())
        if 0 < missing < count:  # that none has a number is an error, see `Pool.check`
            self._told = True
            warnings.warn(
                f"The ranker {type(ranker).__name__} gave NaN or inf to {missing:,} of {count:,} "
                "candidates: they are shown only where nothing else is left.",
                stacklevel=3,
            )


def _holds_no_number(logits: Tensor) -> bool:
    """Tell whether there may be NaN or inf among logits; a sum of -inf comes from padding."""
    total = logits.sum().item()
    return math.isnan(total) or total == math.inf


def logits_of(
    ranker: Ranker, observation: Observation, candidates: Tensor, doubts: Doubts
) -> Tensor:
    """The ranker's logits (B, C) float32, with `UNRANKED` in place of NaN and inf.

    Every policy takes its logits from here, so that a candidate without a number is shown only
    where nothing else is left, and no step waits for a GPU to look for one. On a CPU `doubts` warns
    of it, and that a shopper has no candidate with a number is an error: see `Pool.check`.

    Raises:
        TypeError: If they are no floating-point tensor.
        ValueError: If they are of another shape or on another device.
    """
    return _numbers("logits(observation)", ranker, ranker.logits(observation), candidates, doubts)


def leading_of(
    ranker: TwoStageRanker, observation: Observation, candidates: Tensor, size: int, doubts: Doubts
) -> tuple[Tensor, Tensor | None]:
    """As `logits_of`, for the candidates that may be among the `size` best, and their columns."""
    logits, columns = ranker.leading(observation, size)
    own = candidates if columns is None else candidates.gather(1, columns)
    return _numbers("leading(observation)", ranker, logits, own, doubts), columns


def _numbers(
    method: str, ranker: Ranker, logits: Tensor, candidates: Tensor, doubts: Doubts
) -> Tensor:
    """The logits (B, C) that a method of a ranker gave, checked, each of them a number or -inf."""
    if (
        not isinstance(logits, Tensor)
        or not logits.is_floating_point()
        or logits.shape != candidates.shape
    ):
        checks.tensor(
            f"ranker.{method}",
            logits,
            tuple(candidates.shape),
            torch.float32,
            finite=False,
        )
    _check_device(f"ranker.{method}", logits, candidates)
    doubts.look(ranker, logits, candidates)
    return logits.float().nan_to_num(nan=UNRANKED, posinf=UNRANKED, neginf=-math.inf)
