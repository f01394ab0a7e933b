"""What a shop believes of each of its users, kept without any simulator.

A simulator keeps the belief beside its episodes. A shop keeps a state for each user: it starts at
the first visit, is handed in with every observation, is updated once the user has come back, and
is saved between visits as plain tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from numpy.typing import ArrayLike
from torch import Tensor

from policies.observations import candidates_of
from policies.serving.batches import as_batch, of_shoppers
from recsim_env import checks, trees
from recsim_env.belief.base import PREFIX, Belief, SeenVisit
from recsim_env.catalog import Catalog
from recsim_env.tensors import first_places
from recsim_env.types import MAX_DAYS, Observation


def believed(belief: Belief[Any], observation: Observation, state: Any, items: int) -> Observation:
    """An observation (B, ...) with what is believed of its shoppers.

    Args:
        belief: The belief.
        observation: What was observed; `candidates` may be left out where every item is one.
        state: The belief about the B shoppers.
        items: Number of items in the catalogue.

    Raises:
        ValueError: If the state is about another number of shoppers.
    """
    candidates = candidates_of(observation, items)
    if trees.length(state) != len(candidates):
        raise ValueError(
            f"belief is about {trees.length(state)} shoppers, but observation is of "
            f"{len(candidates)}."
        )
    return {**observation, **belief.observe(state, candidates)}


class ServedBelief:
    """The belief of a shop about its users: a state for one of them, or for a batch of B.

    Arguments are arrays, lists or tensors, of one user or with B in front. What a state holds is
    the belief's own business; `save` writes it down, and `load` brings it back.

    Args:
        belief: What is believed, and how it is learned.
        space: Space of the observation of one shopper, with the keys of the belief.
        catalog: The items, on the device of the belief.

    Raises:
        ValueError: If the belief is about other items, slates or observations.
    """

    def __init__(self, belief: Belief[Any], space: spaces.Dict, catalog: Catalog) -> None:
        known = {name: one for name, one in space.items() if not name.startswith(PREFIX)}
        belief.check_fits(catalog, belief.slate_size, known)
        self.belief = belief
        self._known, self._catalog = spaces.Dict(known), catalog

    def start(self, observation: Mapping[str, ArrayLike | Tensor]) -> Any:
        """What is believed of users at their first visit.

        Args:
            observation: What is observed then; keys of the belief are not needed.

        Raises:
            TypeError: If the observation is no mapping or a value is of another type.
            ValueError: If a key is missing or a shape is another one.
        """
        return self.belief.start(as_batch(observation, self._known, self._catalog)[0])

    @torch.no_grad()
    def update(
        self,
        state: Any,
        slate: ArrayLike | Tensor,
        clicks: ArrayLike | Tensor,
        days: ArrayLike | Tensor,
        purchases: ArrayLike | Tensor | None = None,
    ) -> None:
        """Learn from a visit, in place, when the users are back.

        Args:
            state: What was believed at the visit.
            slate: (K,) or (B, K) items that were shown, top position first, -1 where nothing was.
            clicks: (K,) or (B, K) 1 where the item was clicked, 0 elsewhere.
            days: Days from that visit until this one, 0 or more; one number, or (B,) numbers.
            purchases: (K,) or (B, K) 1 where the item was bought; None where the shop does not tell
                purchases from clicks.

        Raises:
            TypeError: If a value is of another type.
            ValueError: If a shape or a number is not as said; the state has not changed.
        """
        rows = trees.length(state)
        slates = self._of_visit("slate", slate, rows)
        _between("slate", slates, -1, len(self._catalog) - 1)
        shown = first_places(slates)
        clicked = self._answers("clicks", clicks, shown)
        bought = None if purchases is None else self._answers("purchases", purchases, clicked)
        since, _ = of_shoppers("days", days, (), torch.float32, self.belief.device)
        _between("days", since, 0, MAX_DAYS)
        if len(since) not in (1, rows):
            raise ValueError(f"days is of {len(since)} visits, but belief is about {rows} users.")
        visit = SeenVisit(slates.clamp(min=0), shown, clicked, since.expand(rows).clone(), bought)
        self.belief.update(state, visit)

    def save(self, state: Any, row: int = 0) -> dict[str, Tensor]:
        """Copy the belief about one user as plain tensors, for `load` and for files.

        Args:
            state: What is believed.
            row: The number of the user in the state, which is 0 where it is the only one.
        """
        row = checks.whole("row", row, 0, trees.length(state) - 1)
        return self.belief.save(state, row)

    def load(self, saved: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]]) -> Any:
        """The state about one user, or the state about several in their order, from `save`.

        Raises:
            TypeError: If it is neither.
            ValueError: If a user's tensors are not those that `save` gives.
        """
        users = [saved] if isinstance(saved, Mapping) else checks.several("saved", saved)
        if not users:
            raise ValueError("saved is empty, but it must hold the belief about a user or several.")
        state = self.belief.blank(len(users))
        for row, tensors in enumerate(users):
            at = torch.tensor([row], device=self.belief.device)
            trees.put(state, at, self.belief.load(tensors))
        return state

    def observed(self, observation: Observation, state: Any) -> Observation:
        """An observation (B, ...) of tensors with the keys of the belief, as policies take it."""
        return believed(self.belief, observation, state, len(self._catalog))

    def _of_visit(self, name: str, value: Any, rows: int) -> Tensor:
        """A value of every position, (B, K) int64."""
        shape = (self.belief.slate_size,)
        found, _ = of_shoppers(name, value, shape, torch.int64, self.belief.device)
        if len(found) != rows:
            raise ValueError(f"{name} is of {len(found)} visits, but belief is about {rows} users.")
        return found

    def _answers(self, name: str, value: Any, possible: Tensor) -> Tensor:
        """Clicks or purchases (B, K) bool, none of them where it is not possible."""
        found = self._of_visit(name, value, len(possible))
        _between(name, found, 0, 1)
        answers = found > 0
        if bool((answers & ~possible).any()):
            row, place = (answers & ~possible).nonzero()[0].tolist()
            where = "nothing was shown" if name == "clicks" else "there was no click"
            raise ValueError(f"{name} holds 1 at [{row}, {place}], but {where} there.")
        return answers


def _between(name: str, value: Tensor, low: float, high: float) -> None:
    """Check that all numbers lie in a range."""
    wrong = ~((value >= low) & (value <= high))  # also NaN
    if bool(wrong.any()):
        found = value[tuple(wrong.nonzero()[0].tolist())].item()
        raise ValueError(f"{name} holds {found}, but it must be from {low:g} to {high:g}.")
