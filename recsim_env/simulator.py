"""The batched core: B shoppers, one slate each, one visit a step.

`SlateEnv` and `SlateVectorEnv` are two thin faces of it; an agent that lives in torch uses it
directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from torch import Tensor

from recsim_env import checks, noise, trees
from recsim_env.arguments import (
    checked_history,
    checked_horizon,
    checked_newcomers,
    checked_slate_size,
)
from recsim_env.belief.base import Belief, SeenVisit
from recsim_env.episodes import Episodes, Question, latest
from recsim_env.rewards import Objectives, Reward, RewardInputs, as_reward, check_served
from recsim_env.rewards.inputs import catalog_tables
from recsim_env.rewards.objectives import checked_objectives
from recsim_env.shoppers import cold, promises
from recsim_env.shoppers.base import HIDDEN, Description, Past, Shopper, is_bundle, name_of
from recsim_env.tensors import among, copied, first_places, is_dense, looked_up, shared
from recsim_env.trees import Flat
from recsim_env.types import MAX_DAYS, Observation, Outcome, Response, Step


class SlateSimulator:
    """A simulator of B shoppers who each meet one slate a step.

    Args:
        shopper: Who answers; its catalogue, slate size and device are the simulator's. Its answers
            are held against what a `Shopper` promises: `recsim_env.shoppers.promises` says when.
        reward: The weighted reward terms, or the weight of each term by name.
        horizon_days: An episode is truncated at the first visit this many days or more after its
            first.
        history: H, how many slates the shop remembers.
        strict: Whether a repeated item, or one that is no candidate, raises an error. Otherwise it
            is not shown, and is counted.
        belief: What the shop infers about each shopper from slates and responses; its keys join the
            observation. It changes nothing that happens. Of shoppers whom the shop knew before it
            follows their last visits (`Shopper.past`).
        objectives: Names of registered terms whose values every step tells side by side
            (`Outcome.objectives`), beside the reward; None means none.
        newcomers: The share of episodes whose shopper comes without a history, from 0 to 1, where
            the shoppers can (`Shopper.serves_newcomers`).
        withholds_new: Whether new items (`Shopper.new_items`) are not on offer yet: the shop as it
            was before they came, which is where logs come from.

    Shapes: B shoppers, H remembered slates, K positions, C candidates, N items.

    Observation (`observation_space` is that of one shopper; tensors have B in front):
        recent_slates: (H, K) int64, items as they were shown, newest slate and top position first;
            -1 = nothing shown
        recent_clicks: (H, K) int8, 1 = responded to
        recent_days:   (H,) float32, days since that visit, 0 where there is none
        candidates:    (C,) int64, the items that may be shown now, padded at the end with -1
        and the shopper's own keys, and those of the belief;
        newcomer:       (1,) float32, 1 = came without a history; only where `newcomers` is above 0
        new_candidates: (C,) int8, 1 = new; only where the shoppers have new items

    Action (`action_space`): (K,) item ids 0..N-1, top position first. Where the shoppers have
    `discounts`, a slate is a bundle, and one more number is the level of its discount, from 0,
    which is none; slates without that number are offered at none.

    Randomness comes from (seed, episode number, visit) by `recsim_env.noise`; no generator is kept
    or touched.

    Raises:
        ValueError: If an argument is out of its range, or if a shopper breaks a promise; what
            `as_reward` says.
    """

    def __init__(
        self,
        shopper: Shopper[Any],
        reward: Reward | Mapping[str, float] | None = None,
        *,
        horizon_days: float = 182.0,
        history: int = 10,
        strict: bool = False,
        belief: Belief[Any] | None = None,
        objectives: Sequence[str] | None = None,
        newcomers: float = 0.0,
        withholds_new: bool = False,
    ) -> None:
        self.horizon_days = checked_horizon(horizon_days)
        self.history = checked_history(history)
        self.strict = checks.flag("strict", strict)
        promises.check_parts(shopper)
        self._lent = shopper
        self._shopper = shopper  # the one who answers: `shopper`, or the same where nobody leaves
        self._lists = type(shopper).on_offer is Shopper.on_offer  # whether the list is looked at
        self._offers_all = type(shopper).candidates is Shopper.candidates
        self.catalog = shopper.catalog
        self.device = shopper.device
        self.newcomers = checked_newcomers(newcomers, shopper)
        self.withholds_new = checks.flag("withholds_new", withholds_new)
        if self.withholds_new:
            _check_withholding(shopper)
        self.slate_size = checked_slate_size(shopper.slate_size)
        self.reward = as_reward(reward)
        names = checked_objectives(objectives)
        self.objectives = None if names is None else Objectives(names, self.reward)
        for argument, terms in {"reward": self.reward.weights, "objectives": names or ()}.items():
            check_served(argument, terms, shopper)

        # What agents see and do.
        self._their_spaces = shopper.spaces()
        promises.check_spaces(shopper, self._their_spaces)
        self.belief = self._checked_belief(belief)
        self.observation_space = self._observation_space()
        self.discounts = shopper.discounts
        levels = [len(self.discounts)] if self.discounts else []
        self.action_space = spaces.MultiDiscrete(
            np.array([len(self.catalog)] * self.slate_size + levels, dtype=np.int64)
        )
        self._limits = torch.from_numpy(self.action_space.nvec).to(self.device)
        self._discounts = torch.tensor(self.discounts, dtype=torch.float32, device=self.device)
        self._tables: dict[str, Any] = catalog_tables(self.catalog)
        self._episodes: Episodes | None = None
        self._shoppers: Any = None
        self._beliefs: Any = None
        self._candidates: Tensor | None = None
        self._trusts = promises.trusted(shopper)
        self._watchful = self.device.type == "cpu" and not self._trusts
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
            shoppers = self.arrivals(episodes)
            past = self._past(shoppers, episodes.newcomer)
            beliefs = self._new_beliefs(shoppers, past)
            episodes = episodes.remembering(past)
        self._episodes, self._shoppers, self._candidates = episodes, shoppers, None
        self._beliefs = beliefs
        self._shopper = acting
        try:
            return self.observe()
        except Exception:  # a shopper that breaks a promise cannot be stepped
            self._episodes = None
            raise

    def reset_rows(self, rows: Tensor, seeds: Tensor | None = None) -> Observation:
        """Start again in some rows, and observe all B rows.

        The other rows stay as they are. Arguments and errors are those of `restart`.
        """
        self.restart(rows, seeds)
        return self.observe()

    def step(self, slates: Tensor, *, validate: bool = True) -> Step:
        """Show every shopper a slate and let them react.

        A repeated item, or one that is no candidate, is not shown: it gets no response and no
        credit for diversity, and is counted in `info["invalid_items"]`. Nothing changes where an
        error is raised.

        Args:
            slates: (B, K) int64 item ids, top position first; of bundles also (B, K + 1), with the
                level of the discount behind them.
            validate: Whether the slates are checked, which takes a synchronisation with a GPU.

        Raises:
            ResetNeeded: Before `reset`, or if the episode of a row is over.
            TypeError: If `slates` has the wrong type.
            ValueError: If `slates` has the wrong shape or holds what is no item, or, with `strict`,
                an item that would not be shown.
        """
        if checks.flag("validate", validate):
            self.check(slates)
        outcome = self.advance(slates)
        return Step(**vars(outcome), observation=self.observe())

    @property
    def shopper(self) -> Shopper[Any]:
        """The shopper as it was handed in."""
        return self._lent

    @property
    def acting(self) -> Shopper[Any]:
        """The shopper who answers: as it was handed in, or the same where nobody leaves."""
        return self._shopper

    # What the faces are built from: check, advance, restart, observe.

    @property
    def num_envs(self) -> int:
        """B, the number of shoppers; it is 0 before `reset`."""
        return 0 if self._episodes is None else len(self._episodes.seed)

    @property
    def widths(self) -> tuple[int, ...]:
        """The numbers that a slate may have: K, and K + 1 of a bundle with its discount's level."""
        size = self.slate_size
        return (size, size + 1) if self.discounts else (size,)

    def out_of_range(self, name: str, found: int, place: list[int]) -> str:
        """Say that a number of a slate is no item, or no level of discount.

        Args:
            name: What the message calls the slates.
            found: The number.
            place: Where it stands, the position last.
        """
        limit = int(self.action_space.nvec[place[-1]])
        what = "an item" if place[-1] < self.slate_size else "a level of discount"
        return f"{name} holds {found} at {place}, but {what} is a number from 0 to {limit - 1}."

    @property
    def episodes(self) -> Episodes:
        """The state of the episodes.

        Raises:
            ResetNeeded: Before `reset`.
        """
        if self._episodes is None:
            raise ResetNeeded(
                "The simulator was not reset, but it needs reset before anything else is asked of "
                "it."
            )
        return self._episodes

    @property
    def hidden(self) -> Any:
        """The shoppers' own state, for oracles and reports; agents never see it.

        Raises:
            ResetNeeded: Before `reset`.
        """
        _ = self.episodes
        return self._shoppers

    @property
    def beliefs(self) -> Any:
        """The state of the belief about every shopper, for `Belief.save`; None without a belief.

        Raises:
            ResetNeeded: Before `reset`.
        """
        _ = self.episodes
        return self._beliefs

    @property
    def candidates(self) -> Tensor:
        """The candidates of this visit: (B, C) int64, padded at the end with -1.

        They must not be written into.

        Raises:
            ResetNeeded: Before `reset`.
        """
        _ = self.episodes
        if self._candidates is None:
            with torch.no_grad():
                self._candidates = self._asked_candidates()
        return self._candidates

    def check(
        self,
        slates: Tensor,
        *,
        ignore: Tensor | None = None,
        name: str = "slates",
        single: bool = False,
    ) -> None:
        """Raise what `step` says unless these slates can be shown.

        Args:
            slates: (B, K), or (B, K + 1) of bundles.
            ignore: (B,) bool, rows whose slate and ended episode do not matter; None means none.
            name: What messages call the slates.
            single: Whether messages name places as in the slate (K,) of the only shopper.

        Raises:
            ResetNeeded: As `step`.
            TypeError: As `step`.
            ValueError: As `step`.
        """
        episodes = self.episodes
        if not is_dense(slates, torch.int64) or slates.device.type != self.device.type:
            found = (
                f"{slates.dtype} on {slates.device}" if is_dense(slates) else checks.told(slates)
            )
            raise TypeError(f"{name} is {found}, but it must be an int64 tensor on {self.device}.")
        shapes = [(self.num_envs, width) for width in self.widths]
        if tuple(slates.shape) not in shapes:
            raise ValueError(
                f"{name} has the shape {tuple(slates.shape)}, but it must be "
                f"{' or '.join(map(str, shapes))}: a slate a shopper."
            )
        if self.num_envs == 0:
            raise ResetNeeded(
                "The simulator has no shoppers left, but a step needs some: reset it first."
            )
        watched = torch.ones_like(episodes.ended) if ignore is None else ~ignore
        limits = self._limits[: slates.shape[1]]
        outside = ((slates < 0) | (slates >= limits)) & watched.unsqueeze(1)
        over = episodes.ended & watched
        if bool((outside.any() | over.any()).item()):
            for place in outside.nonzero()[:1].tolist():
                raise ValueError(self.out_of_range(name, int(slates[tuple(place)]), place))
            row = int(over.nonzero()[0, 0])
            raise ResetNeeded(
                f"The episode of row {row} is over, but a step needs a running one: reset it first."
            )
        if self.strict:
            items = slates[:, : self.slate_size]
            _raise_hidden(name, items, ~self._shown(items) & watched.unsqueeze(1), single)

    def question(self, slates: Tensor) -> Question:
        """Return what the shoppers are asked when they are shown slates at this visit.

        Args:
            slates: (B, K) int64, top position first, or (B, K + 1) of bundles, as for `advance`.

        Raises:
            ResetNeeded: Before `reset`.
        """
        episodes, levels = self.episodes, slates[:, self.slate_size :]
        slates = slates[:, : self.slate_size]
        shown, slates = self._shown(slates), slates.clamp(min=0)
        draws = noise.uniform(episodes.key, episodes.visit + 1, self.shopper.visit_draws)
        return Question(slates, shown, draws, self._offered(levels, shown))

    @torch.no_grad()
    def advance(self, slates: Tensor) -> Outcome:
        """Do what `step` does, without its checks and without an observation of the next visit.

        An item of -1 leaves a position empty. A row whose episode is over is moved as well; its
        outcome means nothing until it is restarted.

        Args:
            slates: (B, K) int64, top position first, or (B, K + 1) of bundles.
        """
        episodes, question = self.episodes, self.question(slates)
        slates, shown, discount = question.slates, question.shown, question.discount

        # the shoppers answer, and the shop learns from it
        response = question.answer(self._shopper, self._shoppers)
        if self._held("respond"):
            promises.check_response(
                self.shopper, response, shown, ~episodes.ended, numbers=self._looked_at("respond")
            )
            self._kept.add("respond")
        if self.belief is not None:
            seen = (response.clicks, response.days, response.purchases)
            self.belief.update(self._beliefs, SeenVisit(slates, shown, *seen))

        # what that is worth
        inputs = self._reward_inputs(episodes, slates, shown, response, discount)
        reward, terms = self.reward(inputs)
        objectives = None if self.objectives is None else self.objectives(inputs, terms)

        # what is told of it, and what is remembered
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
        if discount is not None and response.whole is not None:
            info |= {"discount": discount.clone(), "whole": response.whole.long()}
        if self.newcomers > 0:
            info["newcomer"] = episodes.newcomer.long()
        if self.shopper.new_items is not None:
            new = looked_up(self.shopper.new_items, slates) & shown
            info["new_shown"] = new.sum(dim=1)
            info["new_clicks"] = (new & response.clicks).sum(dim=1)
        if response.outside_reward is not None:
            info["outside_reward"] = response.outside_reward.clone()
        self._episodes = episodes.after(slates, shown, response, day, response.left | truncated)
        self._candidates = None
        left = response.left.clone()
        return Outcome(reward, left, truncated, info, response, inputs, objectives)

    @torch.no_grad()
    def restart(self, rows: Tensor, seeds: Tensor | None = None) -> None:
        """Start again in some rows: the next episode of their seeds, or the first of new ones.

        Nothing changes where an error is raised. The numbers in `rows` are checked on a CPU only:
        elsewhere that would force a synchronisation.

        Args:
            rows: (R,) int64, distinct row numbers; R may be 0.
            seeds: (R,) int64; None keeps the seeds of the rows.

        Raises:
            ResetNeeded: Before `reset`.
            ValueError: If `rows` or `seeds` has the wrong type or shape, or if a row is out of
                range or named twice.
        """
        old = self.episodes
        rows = self._checked_rows(rows, distinct=True)
        if seeds is not None:
            seeds = self._checked(
                "seeds", seeds, "it must be an int64 tensor of shape (R,), one seed a row"
            )
            if len(seeds) != len(rows):
                raise ValueError(
                    f"seeds has {len(seeds)} numbers, but it must have {len(rows)}, one for each "
                    "of rows."
                )
        if len(rows) == 0:
            return
        seed = old.seed[rows] if seeds is None else seeds
        number = old.number[rows] + 1 if seeds is None else torch.zeros_like(rows)
        fresh = self._new_episodes(seed, number)
        shoppers = self.arrivals(fresh)
        past = self._past(shoppers, fresh.newcomer)
        fresh = fresh.remembering(past)
        trees.put(self._shoppers, rows, shoppers)
        if self.belief is not None:
            trees.put(self._beliefs, rows, self._new_beliefs(shoppers, past))
        episodes = {
            name: value.index_copy(0, rows, vars(fresh)[name]) for name, value in vars(old).items()
        }
        self._episodes = Episodes(**episodes)
        self._candidates = None

    @torch.no_grad()
    def observe(self) -> Observation:
        """Return what the shop knows about every shopper at this visit.

        The tensors are the caller's to keep and change; only `candidates` may be one row that all
        shoppers share.
        """
        episodes = self.episodes
        candidates = self._own_candidates()
        theirs = self._shopper.observe(self._shoppers)
        if self._held("observe"):
            promises.check_observation(
                self.shopper,
                self._their_spaces,
                theirs,
                self.num_envs,
                None if "observe" in self._kept else self._shoppers,
                numbers=self._looked_at("observe"),
            )
            self._kept.add("observe")
        believed = {} if self.belief is None else self.belief.observe(self._beliefs, candidates)
        return {
            "recent_slates": episodes.recent_slates.clone(),
            "recent_clicks": episodes.recent_clicks.to(torch.int8),
            "recent_days": episodes.recent_days.clone(),
            "candidates": candidates,
            **theirs,
            **believed,
            **self._cold_keys(episodes, candidates),
        }

    def describe(self, row: int, *, hidden: bool = False) -> Description:
        """Tell how one shopper and their visit read to a person.

        Args:
            row: The row of the shopper.
            hidden: Whether to add what agents must not see, under the key `hidden`.

        Raises:
            ResetNeeded: Before `reset`.
            IndexError: If there is no such row.
            ValueError: If `row` is no whole number or `hidden` no flag.
        """
        rows = len(self.episodes.seed)
        if not 0 <= checks.whole("row", row) < rows:
            raise IndexError(f"row is {row}, but the simulator has the rows 0 to {rows - 1}.")
        with_hidden = checks.flag("hidden", hidden)
        told = self._shopper.describe(self._shoppers, row)
        promises.check_description(self.shopper, told)
        return {key: value for key, value in told.items() if with_hidden or key != HIDDEN}

    @torch.no_grad()
    def keep(self, rows: Tensor) -> None:
        """Go on with the shoppers of some rows only, in that order; `num_envs` becomes R.

        Nothing changes where an error is raised.

        Args:
            rows: (R,) int64; R may be 0.

        Raises:
            ResetNeeded: Before `reset`.
            ValueError: As `restart` says of `rows`.
        """
        old, rows = self.episodes, self._checked_rows(rows, distinct=False)
        self._shoppers = trees.pick(self._shoppers, rows)
        self._beliefs = None if self._beliefs is None else trees.pick(self._beliefs, rows)
        self._episodes = Episodes(**{name: value[rows] for name, value in vars(old).items()})
        self._candidates = None

    def end(self, over: Tensor) -> None:
        """Let the episodes of some rows be over, so that they wait for a restart.

        Args:
            over: (B,) bool.
        """
        self._episodes = replace(self.episodes, ended=self.episodes.ended | over)

    def state(self) -> Flat:
        """Copy the state of the episodes and their shoppers, for `restore` and for files.

        Raises:
            ResetNeeded: Before `reset`.
            TypeError: If the shoppers' state is more than `recsim_env.trees` can write down, an
                outside environment for example.
        """
        staying = self._shopper is not self._lent
        return trees.flat(
            self._whole(self.episodes, self._shoppers, self._beliefs) | {"staying": staying}
        )

    @torch.no_grad()
    def restore(self, state: Flat) -> None:
        """Go on from a `state` of a simulator that was built alike, bit for bit.

        `num_envs` becomes that of the state. Nothing changes where an error is raised.

        Raises:
            ValueError: If the state does not fit; the message names the place.
        """
        seed = state.tensors.get("episodes/seed")
        if seed is None or seed.ndim != 1 or seed.dtype != torch.int64:
            raise ValueError(
                f"state has {checks.told(seed)} as 'episodes/seed', but it must be an int64 tensor "
                "of shape (B,)."
            )
        like = self._new_episodes(
            torch.zeros_like(seed, device=self.device), torch.zeros_like(seed, device=self.device)
        )
        shoppers = self.arrivals(like)
        template = self._whole(like, shoppers, self._new_beliefs(shoppers, None)) | {
            "staying": False
        }
        found = trees.restored(template, state)
        self._shopper = self._acting(found["staying"])
        self._episodes, self._shoppers, self._candidates = (
            found["episodes"],
            found["shoppers"],
            None,
        )
        self._beliefs = found.get("beliefs")

    def when_and_where(self) -> dict[str, Tensor]:
        """Return `day`, `week` and `store` of this visit for a log, (B,) int64 each.

        Where the shopper does not say, the days since the episode began are counted, weeks from 1,
        and there is one store.

        Raises:
            ResetNeeded: Before `reset`.
        """
        day = self.episodes.day.long()
        found = self._shopper.when_and_where(self._shoppers)
        promises.check_place(self.shopper, found, len(day))
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
        own |= cold.spaces(
            self.newcomers > 0, self.shopper.new_items is not None, self.shopper.max_candidates
        )
        believed = {} if self.belief is None else self.belief.spaces(self.shopper.max_candidates)
        taken = sorted(believed.keys() & (own.keys() | self._their_spaces.keys()))
        if taken:
            raise ValueError(
                f"belief tells {taken}, but the observation of {name_of(self.shopper)} has keys of "
                "these names already."
            )
        return spaces.Dict({**own, **self._their_spaces, **believed})

    def _cold_keys(self, episodes: Episodes, candidates: Tensor) -> Observation:
        """Tell who came without a history, and which candidates are new, where that differs."""
        found: Observation = {}
        if self.newcomers > 0:
            found[cold.NEWCOMER] = episodes.newcomer.unsqueeze(1).float()
        if self.shopper.new_items is not None:
            new = looked_up(self.shopper.new_items, candidates.clamp(min=0)) & (candidates >= 0)
            found[cold.NEW_CANDIDATES] = new.to(torch.int8)
        return found

    def _checked_belief(self, belief: Any) -> Belief[Any] | None:
        """Check that a belief is one, and is about these shoppers.

        Raises:
            TypeError: If it is no belief.
            ValueError: If it is about other items, slates or observations, or lives elsewhere.
        """
        if belief is None:
            return None
        checks.instance("belief", belief, Belief)
        if belief.device.type != self.device.type:
            raise ValueError(
                f"belief lives on {belief.device}, but the shoppers live on {self.device}."
            )
        belief.check_fits(self.catalog, self.slate_size, self._their_spaces)
        checked: Belief[Any] = belief
        return checked

    def _checked(self, name: str, numbers: Any, expected: str) -> Tensor:
        """Return a (R,) int64 tensor on the device.

        Raises:
            ValueError: If it is none; the message names it and says what was expected.
        """
        if not is_dense(numbers, torch.int64) or numbers.ndim != 1:
            raise ValueError(f"{name} is {checks.told(numbers)}, but {expected}.")
        if numbers.is_meta and self.device.type != "meta":
            raise ValueError(f"{name} is a tensor on meta, which has no numbers, but {expected}.")
        moved: Tensor = numbers.to(self.device)
        return moved

    def _checked_rows(self, rows: Any, *, distinct: bool) -> Tensor:
        """Return row numbers (R,) on the device; they are checked on a CPU only, see `restart`."""
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
            newcomer=cold.newcomers(seeds, numbers, self.newcomers)
            if self.newcomers > 0
            else torch.zeros(batch, dtype=torch.bool, device=self.device),
        )

    def arrivals(self, episodes: Episodes) -> Any:
        """Return the shoppers of some episodes as they come, newcomers among them."""
        draws = noise.uniform(episodes.key, 0, self.shopper.start_draws)
        found = self.shopper.start(draws)
        if self.newcomers > 0 and len(rows := episodes.newcomer.nonzero().squeeze(1)):
            trees.put(found, rows, self.shopper.start_new(draws[rows]))
        if self._looked_at("start"):
            promises.check_state(self.shopper, found, len(episodes.seed))
            self._kept.add("start")
        return found

    def _past(self, shoppers: Any, newcomer: Tensor) -> Past | None:
        """Return as many visits of new shoppers before their episode as anybody asks for."""
        wanted = 0 if self.belief is None else self.belief.past_visits
        past = self.shopper.past(shoppers, max(self.history, wanted))
        if past is None or self.newcomers == 0:
            return past
        known = ~newcomer.unsqueeze(1)
        slates = past.slates.where(known.unsqueeze(2), -1)
        return Past(slates, past.clicks & known.unsqueeze(2), past.days * known)

    def _new_beliefs(self, shoppers: Any, past: Past | None) -> Any:
        """Return what is believed of shoppers at their first visit; None without a belief."""
        if self.belief is None:
            return None
        known = None if past is None else latest(past, self.belief.past_visits)
        return self.belief.start(self.shopper.observe(shoppers), known)

    @staticmethod
    def _whole(episodes: Episodes, shoppers: Any, beliefs: Any) -> dict[str, Any]:
        """Return the tree of everything that changes; without a belief it has no such part."""
        held = {} if beliefs is None else {"beliefs": beliefs}
        return {"episodes": episodes, "shoppers": shoppers, **held}

    def _held(self, method: str) -> bool:
        """Tell whether an answer of the shopper's is held against its promises."""
        return not self._trusts or method not in self._kept

    def _looked_at(self, method: str) -> bool:
        """Tell whether the numbers in an answer of the shopper's are looked at."""
        return self._watchful or method not in self._kept

    def _asked_candidates(self) -> Tensor:
        candidates = self._shopper.candidates(self._shoppers)
        if self._held("candidates"):
            looked_at = self._looked_at("candidates") and not self._offers_all
            promises.check_candidates(self.shopper, candidates, self.num_envs, numbers=looked_at)
            self._kept.add("candidates")
        if self.withholds_new and self.shopper.new_items is not None:
            return _without(candidates, self.shopper.new_items)
        return candidates

    def _own_candidates(self) -> Tensor:
        """Return candidates of the caller's own; one row for everybody stays one row."""
        fresh = self._candidates is None and not self._lists  # nobody else needs the list
        candidates = self._asked_candidates() if fresh else self.candidates
        return candidates if fresh and not shared(candidates) else copied(candidates)

    def _shown(self, slates: Tensor) -> Tensor:
        """Tell which positions (B, K) hold a candidate that does not stand above already."""
        slates = slates.clamp(min=-1)
        candidate = self._shopper.on_offer(self._shoppers, slates)
        if self._held("on_offer"):
            promises.check_offer(self.shopper, candidate, slates)
            self._kept.add("on_offer")
        if candidate is None:
            candidate = _among(slates, self.candidates, len(self.catalog))
        if self.withholds_new and self.shopper.new_items is not None:
            candidate = candidate & ~looked_up(self.shopper.new_items, slates.clamp(min=0))
        return candidate & first_places(slates)

    def _offered(self, levels: Tensor, shown: Tensor) -> Tensor | None:
        """Return the discount (B,) of bundles, and None of other slates.

        It is 0 where no level is told, and where too little is shown to be a bundle.

        Args:
            levels: (B, 1) int64, or (B, 0) where none is told.
            shown: (B, K) bool.
        """
        if not self.discounts:
            return None
        if levels.shape[1] == 0:
            return torch.zeros(len(levels), dtype=torch.float32, device=self.device)
        return looked_up(self._discounts, levels[:, 0].clamp(min=0)) * is_bundle(shown)

    def _reward_inputs(
        self,
        episodes: Episodes,
        slates: Tensor,
        shown: Tensor,
        response: Response,
        discount: Tensor | None,
    ) -> RewardInputs:
        return RewardInputs(
            slates,
            shown,
            response.clicks,
            cosines=self.catalog.cosines,
            purchases=response.purchases,
            outside_reward=response.outside_reward,
            days=response.days,
            left=response.left,
            discount=discount,
            whole=response.whole,
            recent_slates=episodes.recent_slates,
            carried=response.carried,
            **self._tables,
        )


def _among(slates: Tensor, candidates: Tensor, items: int) -> Tensor:
    """Tell which items of slates (B, K) are candidates (B, C) of their row: (B, K) bool."""
    if shared(candidates):
        return among(slates.view(1, -1), candidates[:1], items).view(slates.shape)
    return among(slates, candidates, items)


def _without(candidates: Tensor, new: Tensor) -> Tensor:
    """Take new items (N,) bool out of candidates (B, C), padded at the end with -1."""
    rows = candidates[:1] if shared(candidates) else candidates
    left = rows.where(~looked_up(new, rows.clamp(min=0)), -1)
    order = (left < 0).to(torch.int8).argsort(dim=1, stable=True)
    return left.gather(1, order).expand(len(candidates), -1)


def _check_withholding(shopper: Shopper[Any]) -> None:
    """Raise ValueError where the observation has a number for each candidate, in their order."""
    aligned = sorted({"placement", "popularity"} & shopper.spaces().keys())
    if aligned:
        raise ValueError(
            f"withholds_new is True, but {name_of(shopper)} tells {aligned} of its candidates, of "
            "which none can be taken away."
        )


def _raise_hidden(name: str, slates: Tensor, hidden: Tensor, single: bool) -> None:
    for row, position in hidden.nonzero()[:1].tolist():
        found, place = int(slates[row, position]), [position] if single else [row, position]
        raise ValueError(
            f"{name} holds {found} at {place}, which stands higher up too or is no candidate, "
            "but with strict=True a slate must hold distinct candidates."
        )
