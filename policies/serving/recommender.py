"""A trained policy as a shop calls it: from what is known of some shoppers to their slates.

With a two-tower ranker an index may propose the best items of every category: the ranker scores
these and the items shown lately, the composer looks at their pool, and the actor's most likely
intent composes the slate. Only the index takes time that depends on the size of the catalogue. Any
other ranker serves without an index, which ranks every candidate.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from policies.composer import View
from policies.features import Recent
from policies.inputs import PolicyInputs
from policies.learnable.intents import ComposerPolicy
from policies.observations import ObservationCheck
from policies.pool import Pool, Pooling
from policies.rankers.two_tower import TwoTowerRanker, tower_inputs
from policies.serving.beliefs import believed
from policies.serving.retrieval import CategoryIndex, IndexConfig
from recsim_env import checks
from recsim_env.belief.base import Belief
from recsim_env.tensors import repeated
from recsim_env.types import Observation


def index_of(ranker: TwoTowerRanker, config: IndexConfig | None = None) -> CategoryIndex:
    """Build an index over a ranker's items."""
    model = ranker.model
    return CategoryIndex(model.items(), model.bias, model.category, config)


class Recommender:
    """Makes slates from observations; it is also a deterministic `recsim_env.types.Policy`.

    The slates are those of `policy` itself if the index is exact and `count` is at least the size
    of a slate plus the number of items shown lately, or the number of items of every category.

    Args:
        built_from: what `policy` was built from
        policy: policy of a composer; its most likely intent is taken
        index: index of the items of a `TwoTowerRanker`; None = every candidate is ranked
        count: number of candidates of each category
        belief: what the shop believes of its users, where the policy reads that; `recommend` then
            takes the state of it

    Raises:
        TypeError: If an argument is of another class, or there is an index and the ranker is no
            `TwoTowerRanker`.
        ValueError: If the policy samples, the index holds another number of items, or `count` is
            below 1 or too small for the pool.
    """

    draws = 0

    def __init__(
        self,
        built_from: PolicyInputs,
        policy: ComposerPolicy,
        index: CategoryIndex | None,
        *,
        count: int = 24,
        belief: Belief[Any] | None = None,
    ) -> None:
        # What does not go together is refused.
        checks.instance("built_from", built_from, PolicyInputs)
        checks.instance("policy", policy, ComposerPolicy)
        ranker, items = built_from.need_ranker("recommender"), len(built_from.catalog)
        if index is not None and not isinstance(ranker, TwoTowerRanker):
            raise TypeError(
                f"built_from.ranker is {type(ranker).__name__}, but an index needs a "
                "TwoTowerRanker."
            )
        if policy.draws:
            raise ValueError(
                f"policy takes {policy.draws} draws, but serving needs a deterministic one."
            )
        if index is not None:
            checks.instance("index", index, CategoryIndex)
        if index is not None and len(index) != items:
            raise ValueError(f"index holds {len(index)} items, but the catalogue has {items}.")
        if belief is not None:
            checks.instance("belief", belief, Belief)

        # What a slate is made of.
        self.policy = policy
        self._belief = belief
        self._index, self._items = index, items
        self._count = checks.whole("count", count, max(built_from.per_category, 1))
        self._slate_size = min(built_from.slate_size, items)
        self._ranker = ranker
        if isinstance(ranker, TwoTowerRanker):
            self._vectors = ranker.model.items().detach()
        self._pooling = Pooling(built_from, policy.composer.config.pool)
        known = {
            name: space
            for name, space in built_from.observation_space.items()
            if name != "candidates" or index is None
        }
        self._check = ObservationCheck(spaces.Dict(known), built_from.catalog)

    @property
    def megabytes(self) -> float:
        """Size of the index, in 10^6 bytes; 0 without one."""
        return 0.0 if self._index is None else self._index.megabytes

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Serve slates (B, K) as `recommend` does; the draws are not read."""
        return self.recommend(observation)

    @torch.no_grad()
    def recommend(self, observation: Observation, belief: Any = None) -> Tensor:
        """Serve slates (B, K) int64 of distinct items, top position first.

        Where the index finds too few items for a shopper, every item is ranked for this shopper.

        Args:
            observation: the keys of the observation space, (B, ...) each; `candidates` may be left
                out where every item may be shown
            belief: state of the belief about these shoppers, which gives its keys of the
                observation; None where they are in it

        Raises:
            TypeError: If a key has another type or lies on another device.
            ValueError: If a key is missing or has another shape, a number is not finite, an item is
                unknown, `candidates` holds nothing for a shopper, or leaves out an item that an
                index may propose; or if the belief is about other shoppers, or of no use here.
        """
        if belief is not None:
            observation = self._believed(observation, belief)
        self.check(observation)
        view = self.policy.view(observation, self.pool(observation))
        self._check_finite(view.features, observation)
        return self.compose(view)

    def _believed(self, observation: Observation, state: Any) -> Observation:
        """Add what is believed of the shoppers to an observation.

        Raises:
            ValueError: If this recommender has no belief.
        """
        if self._belief is None:
            raise ValueError("belief is given, but this recommender was made without one.")
        return believed(self._belief, observation, state, self._items)

    # ---- the steps ----

    def check(self, observation: Observation) -> None:
        """Check an observation, and raise what `recommend` raises."""
        self._check(observation)
        self._check.check_whole(observation)
        if "candidates" in observation:
            _check_some(observation["candidates"])
        if self._index is not None and "candidates" in observation:
            _check_all("candidates", observation["candidates"], self._items)

    @torch.no_grad()
    def pool(self, observation: Observation) -> Pool:
        """Take the pool of the composer, from the index where there is one.

        Raises:
            ValueError: If a number that the ranker looks at is not finite.
        """
        if self._index is None:
            return self.policy.composer.pool(observation)
        assert isinstance(self._ranker, TwoTowerRanker)  # the constructor made sure
        model, recent = self._ranker.model, Recent.of(observation)
        query, of_category = model.shopper(*tower_inputs(observation))
        self._check_finite(query, observation)
        items = _with_recent(self._index.search(query, self._count).flatten(1), recent)
        ids = items.clamp(min=0)
        tired = model.fatigue[0] * recent.shown + model.fatigue[1] * recent.clicked
        logits = torch.einsum("bd,bcd->bc", query, self._vectors[ids]) + model.bias[ids]
        logits = (
            logits
            + of_category.gather(1, model.category[ids])
            + recent.of_items(ids, tired, self._items)
        )
        pool = self._pooling.among(logits, items)
        short = (pool.items >= 0).sum(dim=1) < self._slate_size
        return self._completed(pool, short, observation) if bool(short.any()) else pool

    def _completed(self, pool: Pool, short: Tensor, observation: Observation) -> Pool:
        """Rank every item for the rows, short (B,), whose pool has fewer items than a slate."""
        every = self.policy.composer.pool(
            {name: value[short] for name, value in observation.items()}
        )
        more = every.items.shape[1] - pool.items.shape[1]
        parts = []
        for name, nothing in (("items", -1), ("logits", -math.inf), ("columns", 0)):
            values = torch.nn.functional.pad(getattr(pool, name), (0, more), value=nothing)
            values[short] = getattr(every, name)
            parts.append(values)
        return Pool(*parts)

    def _check_finite(self, seen: Tensor, observation: Observation) -> None:
        """Raise where numbers made of an observation are not finite, and name the key at fault."""
        if not math.isfinite(float(seen.sum())):
            self._check.check_numbers(observation)
            if not bool(seen.isfinite().all()):
                raise ValueError(
                    "observation holds numbers so large that what the policy sees of them is not "
                    "finite."
                )

    @torch.no_grad()
    def compose(self, view: View) -> Tensor:
        """Compose the slates (B, K) of the most likely intents.

        Raises:
            ValueError: If a number that the actor looks at is not finite.
        """
        intent = self.policy.actor.act({"features": view.features}, None)
        if not bool(intent.isfinite().all()):
            raise ValueError(
                "observation holds a number that is not finite, but the policy needs finite ones."
            )
        return self.policy.composer.compose_view(view, intent)


def _with_recent(found: Tensor, recent: Recent) -> Tensor:
    """Items found (B, C), and behind them those shown lately (B, R) that were not found, or -1.

    Their scores depend on how often they were shown, which the index does not know.
    """
    shown = recent.items.where(recent.shown > 0, -1)
    here = (found.unsqueeze(1) == shown.unsqueeze(2)).any(dim=2)
    return torch.cat([found, shown.where(~(here | repeated(shown)), -1)], dim=1)


def _check_all(name: str, value: Tensor, items: int) -> None:
    """Check that candidates (B, C) are the whole catalogue in its order."""
    checks.tensor(f"observation[{name!r}]", value, ("B", "C"), torch.int64)
    every = torch.arange(items, device=value.device)
    if value.shape[1] != items or not bool((value == every).all()):
        raise ValueError(
            f"observation[{name!r}] has the shape {tuple(value.shape)} and is not the "
            f"catalogue's {items} items in "
            "their order, but an index serves all of them: leave it out."
        )


def _check_some(candidates: Tensor) -> None:
    """Check that every row of candidates (B, C) holds an item."""
    empty = (candidates < 0).all(dim=1)
    if bool(empty.any()):
        raise ValueError(
            f"observation['candidates'] holds nothing but -1 in row {int(empty.int().argmax())}, "
            "but there must be an item to recommend."
        )
