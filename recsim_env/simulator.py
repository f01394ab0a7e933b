"""The batched core: B shoppers, one slate each, one visit a step.

`SlateEnv` and `SlateVectorEnv` are two thin faces of it; an agent that lives in torch uses it
directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from torch import Tensor

from recsim_env import checks, noise, trees
from recsim_env.rewards import Reward, RewardInputs, as_reward
from recsim_env.shoppers import promises
from recsim_env.shoppers.base import HIDDEN, Description, Shopper
from recsim_env.tensors import among, first_places, shared
from recsim_env.trees import Flat
from recsim_env.types import MAX_DAYS, Observation, Outcome, Response, Step

MOST_POSITIONS = 1000
"""Positions of the longest slate: an observation holds `history` slates, so that both are
bounded."""
LONGEST_HISTORY = 1000
"""Slates that a shop can remember at most."""


@dataclass(frozen=True)
class Episodes:
    """Where B episodes stand. Every tensor is replaced, never written into, so what was handed out stays as it was."""

    seed: Tensor
    """(B,) int64."""
    number: Tensor
    """(B,) int64, 0 for the first episode under a seed."""
    key: Tensor
    """(B,) int64, seed and number in one: what the noise of the episode is made of."""
    visit: Tensor
    """(B,) int64, visits so far."""
    day: Tensor
    """(B,) float32, days since the episode began."""
    ended: Tensor
    """(B,) bool, the shopper lapsed or the horizon ended, and the row was not reset since."""
    recent_slates: Tensor
    """(B, H, K) int64, newest first; -1 where nothing was shown."""
    recent_clicks: Tensor
    """(B, H, K) bool."""
    recent_days: Tensor
    """(B, H) float32, days since that visit; 0 where there is none."""


class SlateSimulator:
    """B shoppers who each meet one slate a step.

    Args:
        shopper: who answers; its catalogue, slate size and device are the simulator's. The first
            answer of each of its methods is held against what a `Shopper` promises.
        reward: the weighted reward terms, or the weight of each term by name.
        horizon_days: an episode is truncated at the first visit this many days or more after its
            first.
        history: H, how many slates the shop remembers.
        strict: raise on a repeated item or one that is no candidate, where otherwise it goes unseen
            and is counted.

    Dimensions: B shoppers, H remembered slates, K positions, C candidates, N items.

    Observation (`observation_space` is that of one shopper; tensors have B in front):
        recent_slates: (H, K) int64, items as they were shown, newest slate and top position first;
            -1 = nothing shown
        recent_clicks: (H, K) int8, 1 = responded to
        recent_days:   (H,) float32, days since that visit, 0 where there is none
        candidates:    (C,) int64, the items that may be shown now, padded at the end with -1
        and the shopper's own keys.
    Action (`action_space`): (K,) item ids 0..N-1, top position first.

    Randomness comes from (seed, episode number, visit) by `recsim_env.noise`; no generator is kept
    or touched.

    Raises:
        ValueError: If an argument is not as said, or a shopper breaks a promise; what `as_reward`
            says.
    """

    def __init__(
        self,
        shopper: Shopper[Any],
        reward: Reward | Mapping[str, float] | None = None,
        *,
        horizon_days: float = 182.0,
        history: int = 10,
        strict: bool = False,
    ) -> None:
        self.horizon_days = checked_horizon(horizon_days)
        self.history = checked_history(history)
        self.strict = checks.flag("strict", strict)
        promises.check_parts(shopper)
        self._lent = shopper
        self._shopper = shopper  # the one who answers: `shopper`, or the same where nobody leaves
        self._lists = type(shopper).on_offer is Shopper.on_offer  # whether the list is looked at
        self.catalog = shopper.catalog
        self.device = shopper.device
        self.slate_size = checked_slate_size(shopper.slate_size)
        self.reward = as_reward(reward)
        self._their_spaces = shopper.spaces()
        promises.check_spaces(shopper, self._their_spaces)
        self.observation_space = self._observation_space()
        self.action_space = spaces.MultiDiscrete(
            np.full(self.slate_size, len(self.catalog), dtype=np.int64)
        )
        self._embedding = self.catalog.embedding.to(self.device)
        self._category = self.catalog.category.to(self.device)
        self._episodes: Episodes | None = None
        self._shoppers: Any = None
        self._candidates: Tensor | None = None
        self._kept: set[str] = set()  # methods of the shopper whose first answer kept its promises

    # What an agent calls: reset, reset_rows, step.

    def reset(self, seeds: Tensor, *, staying: bool = False) -> Observation:
        """Start the first episode of every seed, and set `num_envs` to B.

        Args:
            seeds: (B,) int64, at least one.
            staying: Whether nobody leaves until the next `reset`: for training that weights by the
                chance of leaving (`Shopper.staying`).

        Raises:
            ValueError: If `seeds` is no (B,) int64 tensor with at least one seed, or if `staying`
                is asked of shoppers who do not tell how likely they leave.
        """
        seeds = self._checked(
            "seeds", seeds, "it must be an int64 tensor of shape (B,), one seed a shopper"
        )
        if len(seeds) == 0:
            raise ValueError(
                "seeds is empty, but it must be an int64 tensor of shape (B,), one seed a shopper."
            )
        acting = self._acting(checks.flag("staying", staying))
        episodes = self._new_episodes(seeds.clone(), torch.zeros_like(seeds))
        with torch.no_grad():
            shoppers = self._new_shoppers(episodes)
        self._episodes, self._shoppers, self._candidates = episodes, shoppers, None
        self._shopper = acting
        try:
            return self.observe()
        except Exception:  # a shopper that breaks a promise cannot be stepped
            self._episodes = None
            raise

    def reset_rows(self, rows: Tensor, seeds: Tensor | None = None) -> Observation:
        """Start again in some rows, leaving the others as they are; the observation is that of all B rows.

        Args and errors as `restart`.
        """
        self.restart(rows, seeds)
        return self.observe()

    def step(self, slates: Tensor, *, validate: bool = True) -> Step:
        """Show every shopper a slate and let them react. slates: (B, K) int64 item ids, top position first.

        A repeated item or one that is no candidate is not shown: no response, no diversity, and it
        is counted in `info["invalid_items"]`. `validate=False` skips the checks, and with them the
        wait for the device.

        Errors, before anything changes: ResetNeeded before `reset` and where a row's episode is
        over; TypeError and ValueError where `slates` is not as said; with `strict`, ValueError on
        an item that would not be shown.
        """
        if checks.flag("validate", validate):
            self.check(slates)
        outcome = self.advance(slates)
        return Step(**vars(outcome), observation=self.observe())

    @property
    def shopper(self) -> Shopper[Any]:
        """Who answers, as it was handed in."""
        return self._lent

    # What the faces are built from: check, advance, restart, observe.

    @property
    def num_envs(self) -> int:
        """B, the number of shoppers; 0 before `reset`."""
        return 0 if self._episodes is None else len(self._episodes.seed)

    @property
    def episodes(self) -> Episodes:
        """Where the episodes stand. Errors: ResetNeeded before `reset`."""
        if self._episodes is None:
            raise ResetNeeded(
                "The simulator was not reset, but it needs reset before anything else is asked of it."
            )
        return self._episodes

    @property
    def hidden(self) -> Any:
        """The shoppers' own state, which agents never see: for oracles and for reports. Errors: ResetNeeded."""
        _ = self.episodes
        return self._shoppers

    @property
    def candidates(self) -> Tensor:
        """(B, C) int64, the candidates of this visit, padded at the end with -1; not to be written into.

        Errors: ResetNeeded before `reset`.
        """
        _ = self.episodes
        if self._candidates is None:
            with torch.no_grad():
                self._candidates = self._asked_candidates()
        return self._candidates

    def check(self, slates: Tensor, *, ignore: Tensor | None = None, name: str = "slates") -> None:
        """Raise what `step` says unless these slates can be shown.

        Shapes: slates (B, K); ignore (B,) bool, rows whose slate and ended episode do not matter.
        """
        episodes = self.episodes
        shape = (self.num_envs, self.slate_size)
        if not is_dense(slates, torch.int64) or slates.device.type != self.device.type:
            found = (
                f"{slates.dtype} on {slates.device}" if is_dense(slates) else checks.told(slates)
            )
            raise TypeError(f"{name} is {found}, but it must be an int64 tensor on {self.device}.")
        if tuple(slates.shape) != shape:
            raise ValueError(
                f"{name} has the shape {tuple(slates.shape)}, but it must be {shape}: a slate a shopper."
            )
        if self.num_envs == 0:
            raise ResetNeeded(
                "The simulator has no shoppers left, but a step needs some: reset it first."
            )
        watched = torch.ones_like(episodes.ended) if ignore is None else ~ignore
        outside = ((slates < 0) | (slates >= len(self.catalog))) & watched.unsqueeze(1)
        over = episodes.ended & watched
        if bool((outside.any() | over.any()).item()):
            _raise_outside(name, slates, outside, len(self.catalog))
            row = int(over.nonzero()[0, 0])
            raise ResetNeeded(
                f"The episode of row {row} is over, but a step needs a running one: reset it first."
            )
        if self.strict:
            _raise_hidden(name, slates, ~self._shown(slates) & watched.unsqueeze(1))

    @torch.no_grad()
    def advance(self, slates: Tensor) -> Outcome:
        """`step` without checks and without looking at the next visit; -1 leaves a position empty.

        A row whose episode is over is moved as well; what comes out of it means nothing until it is
        restarted.
        """
        episodes = self.episodes
        shown, slates = self._shown(slates), slates.clamp(min=0)
        draws = noise.uniform(episodes.key, episodes.visit + 1, self.shopper.visit_draws)
        response = self._shopper.respond(self._shoppers, slates, shown, draws)
        if "respond" not in self._kept:
            promises.check_response(self.shopper, response, shown)
            self._kept.add("respond")
        reward, terms = self._reward(slates, shown, response.clicks)
        day = episodes.day + response.days
        truncated = (day >= self.horizon_days) & ~response.left
        info = {
            "clicks": response.clicks.sum(dim=1),
            "invalid_items": (~shown).sum(dim=1),
            "gap_days": response.days.clone(),
            "elsewhere": response.elsewhere.clone(),
            "day": day.clone(),
            **{f"reward_terms/{name}": value for name, value in terms.items()},
        }
        self._episodes = self._remember(
            episodes, slates, shown, response, day, response.left | truncated
        )
        self._candidates = None
        return Outcome(reward, response.left.clone(), truncated, info, response)

    @torch.no_grad()
    def restart(self, rows: Tensor, seeds: Tensor | None = None) -> None:
        """Start again in some rows: the next episode under the same seed, or the first under a new one.

        Shapes: rows (R,) int64 distinct row numbers, R may be 0; seeds (R,) int64, or None to keep
        the rows' seeds. Errors, before anything changes: ResetNeeded before `reset`; ValueError
        where `rows` or `seeds` is not as said. The numbers in `rows` are looked at on a CPU only:
        elsewhere that would wait for the device.
        """
        old = self.episodes
        rows = self._checked_rows(rows, distinct=True)
        if seeds is not None:
            seeds = self._checked(
                "seeds", seeds, "it must be an int64 tensor of shape (R,), one seed a row"
            )
            if len(seeds) != len(rows):
                raise ValueError(
                    f"seeds has {len(seeds)} numbers, but it must have {len(rows)}, one for each of rows."
                )
        if len(rows) == 0:
            return
        seed = old.seed[rows] if seeds is None else seeds
        number = old.number[rows] + 1 if seeds is None else torch.zeros_like(rows)
        fresh = self._new_episodes(seed, number)
        trees.put(self._shoppers, rows, self._new_shoppers(fresh))
        episodes = {
            name: value.index_copy(0, rows, vars(fresh)[name]) for name, value in vars(old).items()
        }
        self._episodes = Episodes(**episodes)
        self._candidates = None

    @torch.no_grad()
    def observe(self) -> Observation:
        """What the shop knows about every shopper at this visit.

        The tensors are the caller's to keep and change; only `candidates` may be one row that all
        shoppers share.
        """
        episodes = self.episodes
        candidates = self._own_candidates()
        theirs = self._shopper.observe(self._shoppers)
        if "observe" not in self._kept:
            promises.check_observation(
                self.shopper, self._their_spaces, theirs, self.num_envs, self._shoppers
            )
            self._kept.add("observe")
        return {
            "recent_slates": episodes.recent_slates.clone(),
            "recent_clicks": episodes.recent_clicks.to(torch.int8),
            "recent_days": episodes.recent_days.clone(),
            "candidates": candidates,
            **theirs,
        }

    def describe(self, row: int, *, hidden: bool = False) -> Description:
        """How one shopper and their visit read to a person.

        Args:
            hidden: whether to tell what agents must not see too, under the key `hidden`

        Errors: ResetNeeded before `reset`; IndexError where there is no such row; ValueError where
        `row` is no whole number or `hidden` no flag.
        """
        rows = len(self.episodes.seed)
        if not 0 <= checks.whole("row", row) < rows:
            raise IndexError(f"row is {row}, but the simulator has the rows 0 to {rows - 1}.")
        with_hidden = checks.flag("hidden", hidden)
        told = self._shopper.describe(self._shoppers, row)
        if "describe" not in self._kept:
            promises.check_description(self.shopper, told)
            self._kept.add("describe")
        return {key: value for key, value in told.items() if with_hidden or key != HIDDEN}

    @torch.no_grad()
    def keep(self, rows: Tensor) -> None:
        """Go on with the shoppers in `rows` (R,) int64 only, in that order; `num_envs` becomes R, which may be 0.

        Errors, before anything changes: ResetNeeded before `reset`; ValueError where `rows` is not
        as said (see `restart`).
        """
        old, rows = self.episodes, self._checked_rows(rows, distinct=False)
        self._shoppers = trees.pick(self._shoppers, rows)
        self._episodes = Episodes(**{name: value[rows] for name, value in vars(old).items()})
        self._candidates = None

    def end(self, over: Tensor) -> None:
        """Let the episodes of some rows be over, so that they wait for a restart. over: (B,) bool."""
        self._episodes = replace(self.episodes, ended=self.episodes.ended | over)

    def state(self) -> Flat:
        """A copy of where the episodes and their shoppers stand, which `restore` takes and a file can hold.

        Errors: ResetNeeded before `reset`; TypeError where the shoppers' state is more than
        `recsim_env.trees` can write down, an outside environment for example.
        """
        return trees.flat(
            {
                "episodes": self.episodes,
                "shoppers": self._shoppers,
                "staying": self._shopper is not self._lent,
            }
        )

    @torch.no_grad()
    def restore(self, state: Flat) -> None:
        """Go on from a `state` of a simulator that was built alike, bit for bit; `num_envs` becomes that of the state.

        Errors, before anything changes: ValueError where the state does not fit, with the place
        where it does not.
        """
        seed = state.tensors.get("episodes/seed")
        if seed is None or seed.ndim != 1 or seed.dtype != torch.int64:
            raise ValueError(
                f"state has {checks.told(seed)} as 'episodes/seed', but it must be an int64 tensor of shape (B,)."
            )
        like = self._new_episodes(
            torch.zeros_like(seed, device=self.device), torch.zeros_like(seed, device=self.device)
        )
        template = {"episodes": like, "shoppers": self._new_shoppers(like), "staying": False}
        found = trees.restored(template, state)
        self._shopper = self._acting(found["staying"])
        self._episodes, self._shoppers, self._candidates = (
            found["episodes"],
            found["shoppers"],
            None,
        )

    def when_and_where(self) -> dict[str, Tensor]:
        """Return `day`, `week` and `store` of this visit for a log, (B,) int64 each.

        Where the shopper does not say, the days since the episode began are counted, weeks from 1,
        and there is one store.

        Raises:
            ResetNeeded: Before `reset`.
        """
        day = self.episodes.day.long()
        found = self._shopper.when_and_where(self._shoppers)
        if "when_and_where" not in self._kept:
            promises.check_place(self.shopper, found, len(day))
            self._kept.add("when_and_where")
        return {"day": day, "week": day // 7 + 1, "store": torch.zeros_like(day), **found}

    # Inside.

    def _acting(self, staying: bool) -> Shopper[Any]:
        return self._lent.staying() if staying else self._lent

    def _observation_space(self) -> spaces.Dict:
        size = (self.history, self.slate_size)
        items = len(self.catalog)
        own: dict[str, gymnasium.Space[Any]] = {
            "recent_slates": spaces.Box(-1, items - 1, size, np.int64),
            "recent_clicks": spaces.Box(
                0, 1, size, np.int8
            ),  # a MultiBinary of two dimensions is not known everywhere
            "recent_days": spaces.Box(0, MAX_DAYS, (self.history,), np.float32),
            "candidates": spaces.Box(-1, items - 1, (self.shopper.max_candidates,), np.int64),
        }
        return spaces.Dict({**own, **self._their_spaces})

    def _checked(self, name: str, numbers: Any, expected: str) -> Tensor:
        """A (R,) int64 tensor on the device. Errors: ValueError that names it and says what was expected."""
        if not is_dense(numbers, torch.int64) or numbers.ndim != 1:
            raise ValueError(f"{name} is {checks.told(numbers)}, but {expected}.")
        if numbers.is_meta and self.device.type != "meta":
            raise ValueError(f"{name} is a tensor on meta, which has no numbers, but {expected}.")
        moved: Tensor = numbers.to(self.device)
        return moved

    def _checked_rows(self, rows: Any, *, distinct: bool) -> Tensor:
        """Row numbers (R,) on the device. Their numbers are looked at on a CPU only, see `restart`."""
        expected = (
            f"it must be an int64 tensor of shape (R,) with rows from 0 to {self.num_envs - 1}"
        )
        found = self._checked("rows", rows, expected)
        if rows.device.type != "cpu" or len(rows) == 0:
            return found
        least, most = int(rows.min()), int(rows.max())
        if least < 0 or most >= self.num_envs:
            raise ValueError(f"rows holds {least if least < 0 else most}, but {expected}.")
        if distinct and len(rows) > 1 and len(torch.unique(rows)) < len(rows):
            twice = int(rows.bincount().argmax())
            raise ValueError(f"rows holds {twice} twice, but each row can start again only once.")
        return found

    def _new_episodes(self, seeds: Tensor, numbers: Tensor) -> Episodes:
        batch, size = len(seeds), (self.history, self.slate_size)
        return Episodes(
            seed=seeds,
            number=numbers,
            key=noise.episode_key(seeds, numbers),
            visit=torch.zeros_like(seeds),
            day=torch.zeros(batch, dtype=torch.float32, device=self.device),
            ended=torch.zeros(batch, dtype=torch.bool, device=self.device),
            recent_slates=torch.full((batch, *size), -1, dtype=torch.int64, device=self.device),
            recent_clicks=torch.zeros((batch, *size), dtype=torch.bool, device=self.device),
            recent_days=torch.zeros((batch, self.history), dtype=torch.float32, device=self.device),
        )

    def _new_shoppers(self, episodes: Episodes) -> Any:
        found = self.shopper.start(noise.uniform(episodes.key, 0, self.shopper.start_draws))
        if "start" not in self._kept:
            promises.check_state(self.shopper, found, len(episodes.seed))
            self._kept.add("start")
        return found

    def _asked_candidates(self) -> Tensor:
        candidates = self._shopper.candidates(self._shoppers)
        if "candidates" not in self._kept:
            promises.check_candidates(self.shopper, candidates, self.num_envs)
            self._kept.add("candidates")
        return candidates

    def _own_candidates(self) -> Tensor:
        """The caller's to change; a copy of one list for everybody is again one list, not B of them."""
        fresh = self._candidates is None and not self._lists  # nobody else needs the list
        candidates = self._asked_candidates() if fresh else self.candidates
        if shared(candidates):
            return candidates[:1].clone().expand(candidates.shape)
        return candidates if fresh else candidates.clone()

    def _shown(self, slates: Tensor) -> Tensor:
        """(B, K) bool: the item is a candidate, and stands at no position above."""
        slates = slates.clamp(min=-1)
        candidate = self._shopper.on_offer(self._shoppers, slates)
        if candidate is None:
            candidate = _among(slates, self.candidates, len(self.catalog))
        return candidate & first_places(slates)

    def _reward(
        self, slates: Tensor, shown: Tensor, clicks: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.reward(
            RewardInputs(
                slates, shown, clicks, self._embedding, self._category, self.catalog.cosines
            )
        )

    def _remember(
        self,
        episodes: Episodes,
        slates: Tensor,
        shown: Tensor,
        response: Response,
        day: Tensor,
        ended: Tensor,
    ) -> Episodes:
        """The episodes after this visit: the slate joins the history, and the days have passed."""
        had_visit = torch.arange(self.history, device=self.device) < episodes.visit.unsqueeze(1)
        aged = (episodes.recent_days + response.days.unsqueeze(1)).where(had_visit, 0)
        return replace(
            episodes,
            visit=episodes.visit + 1,
            day=day,
            ended=ended,
            recent_slates=_push(episodes.recent_slates, slates.where(shown, -1)),
            recent_clicks=_push(episodes.recent_clicks, response.clicks),
            recent_days=_push(aged, response.days),
        )


def checked_horizon(horizon_days: Any) -> float:
    """The days after which an episode is truncated; infinity = never. Errors: ValueError."""
    return checks.number("horizon_days", horizon_days, 0, above=True, infinite=True)


def checked_history(history: Any) -> int:
    """How many slates a shop remembers. Errors: ValueError."""
    return checks.whole("history", history, 1, LONGEST_HISTORY)


def checked_slate_size(slate_size: Any) -> int:
    """How many positions a slate has. Errors: ValueError."""
    return checks.whole("slate_size", slate_size, 1, MOST_POSITIONS)


def is_dense(value: Any, dtype: torch.dtype | None = None) -> bool:
    """Whether this is a tensor with its numbers in rows and columns, of a type where one is given."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    return dense and (dtype is None or value.dtype == dtype)


def _among(slates: Tensor, candidates: Tensor, items: int) -> Tensor:
    """(B, K) bool, which items of slates (B, K) are candidates (B, C) of their row."""
    if shared(candidates):
        return among(slates.view(1, -1), candidates[:1], items).view(slates.shape)
    return among(slates, candidates, items)


def _push(history: Tensor, newest: Tensor) -> Tensor:
    """Put the newest entry (B, ...) in front of (B, H, ...) and drop the oldest."""
    return torch.cat([newest.unsqueeze(1), history[:, :-1]], dim=1)


def _raise_outside(name: str, slates: Tensor, outside: Tensor, items: int) -> None:
    for row, position in outside.nonzero()[:1].tolist():
        found = int(slates[row, position])
        raise ValueError(
            f"{name} holds {found} at [{row}, {position}], but an item is a number from 0 to {items - 1}."
        )


def _raise_hidden(name: str, slates: Tensor, hidden: Tensor) -> None:
    for row, position in hidden.nonzero()[:1].tolist():
        found = int(slates[row, position])
        raise ValueError(
            f"{name} holds {found} at [{row}, {position}], which stands higher up too or is no candidate, "
            "but with strict=True a slate must hold distinct candidates."
        )
