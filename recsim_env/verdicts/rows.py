"""Held-out rows: one for each shown item, and one for each slate, in the order of the log."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions
from recsim_env.tensors import first_places

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """The R items that were shown, or the V slates, of held-out users, with predictions by name.

    Rows go user by user, slate by slate, from the top of a slate down. Everything but `label` and
    what is predicted was known before the slate.
    """

    user: Ints
    """(R,) number of the episode of the log."""
    visit: Ints
    """(R,) how many slates the user was shown before."""
    policy: Ints
    """(R,) index into `policies` of the policy that chose the slate; -1 where it is unknown."""
    activity: Ints
    """(R,) clicks of the user before this slate."""
    position: Ints
    """(R,) place in the slate, 0 at the top; -1 where a row is a slate."""
    item: Ints
    """(R,) the item; -1 where a row is a slate."""
    category: Ints
    """(R,) index of its category; -1 where a row is a slate."""
    label: Flags
    """(R,) whether the item was clicked, or whether the user left after the slate."""
    policies: tuple[str, ...] = ()
    """Names of the logging policies."""
    predicted: dict[str, Floats] = field(default_factory=dict)
    """Name of a model -> (R,) predicted chance of the label."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def first(self) -> Flags:
        """(R,) whether it is the user's first slate."""
        return np.asarray(self.visit == 0)

    @property
    def users(self) -> int:
        """The number of users that the rows are of."""
        return len(np.unique(self.user))

    def only(self, keep: ArrayLike) -> Rows:
        """Take a part of the rows, by indices or a mask (R,)."""
        rows = np.asarray(keep)
        cut = {
            one.name: getattr(self, one.name)[rows]
            for one in fields(self)
            if one.name not in ("policies", "predicted")
        }
        predicted = {name: chance[rows] for name, chance in self.predicted.items()}
        return Rows(**cut, policies=self.policies, predicted=predicted)

    def with_prediction(self, name: str, chance: ArrayLike) -> Rows:
        """Add the predictions (R,) of a model, in place of those of the same name.

        Raises:
            ValueError: If the shape differs, or a number is not finite or not from 0 to 1.
        """
        numbers = np.asarray(chance, dtype=np.float64)
        if numbers.shape != self.label.shape:
            raise ValueError(
                f"chance of {name!r} has shape {numbers.shape}, but it must have "
                f"{self.label.shape}, one number a row."
            )
        wrong = np.flatnonzero(~((numbers >= 0) & (numbers <= 1)))
        if len(wrong):
            raise ValueError(
                f"chance of {name!r} is {numbers[wrong[0]]} in row {wrong[0]}, but every number "
                "must be from 0 to 1."
            )
        return replace(self, predicted={**self.predicted, name: numbers})


def shown_of(sessions: Sessions) -> torch.Tensor:
    """Tell which positions of the log's slates hold an item: (V, K) bool, episode by episode.

    The rows of `item_rows` are these positions, so that predictions (V, K) of a model become
    those of rows by `chance[shown_of(sessions)]`.
    """
    return first_places(sessions.slates[sessions.real])


def item_rows(sessions: Sessions, catalog: Catalog) -> Rows:
    """Give one row for each shown item of a log, without predictions."""
    shown = shown_of(sessions)
    slate, position = shown.nonzero(as_tuple=True)
    of_slate = slate_rows(sessions)
    items = sessions.slates[sessions.real][shown]
    return replace(
        of_slate.only(slate.numpy()),
        position=position.numpy(),
        item=items.numpy(),
        category=catalog.category.cpu()[items].numpy(),
        label=sessions.clicks[sessions.real][shown].numpy(),
    )


def slate_rows(sessions: Sessions) -> Rows:
    """Give one row for each slate of a log, without predictions; its label is leaving after it."""
    real, (episodes, longest) = sessions.real, sessions.slates.shape[:2]
    visit = torch.arange(longest).expand(episodes, longest)
    clicks = (sessions.clicks & (sessions.slates >= 0)).sum(dim=2)
    last = visit == sessions.length.unsqueeze(1) - 1
    nothing = np.full(sessions.n_slates, -1, dtype=np.int64)
    return Rows(
        user=torch.arange(episodes).unsqueeze(1).expand(episodes, longest)[real].numpy(),
        visit=visit[real].numpy(),
        policy=sessions.policy[real].numpy(),
        activity=(clicks.cumsum(dim=1) - clicks)[real].numpy(),
        position=nothing,
        item=nothing,
        category=nothing,
        label=(last & sessions.left.unsqueeze(1))[real].numpy(),
        policies=sessions.policies,
    )
