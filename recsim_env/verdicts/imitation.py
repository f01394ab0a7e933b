"""A logging policy played again: what it showed to shoppers with the most similar history."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.types import Observation

ALIKE = 5
"""Logged shoppers with the most similar history, one of whose slates is shown."""
ENOUGH = 100
"""Slates that a class of visit numbers holds at least; a rarer visit number shares one."""
MOST = 4_000
"""Slates of a class that are kept, the first ones of the log."""


class Imitation:
    """Shows what a logging policy showed at the same visit to the shoppers who are most alike.

    A policy whose code is gone can be played again so. For one that chose blindly it is exact; for
    one that looked at the shopper it is the closer the more slates were logged. A history is what
    the shopper declared, the mean embedding of what was clicked, and how much was clicked. One of
    the `ALIKE` nearest histories is drawn.

    Args:
        slates: (M, K) int64, the policy's slates, an item at the top; -1 = nothing.
        history: (M, F) float32, what was known before each of them; see `history_of`.
        visit: (M,) int64, the number of the visit of each of them, from 0.

    Raises:
        ValueError: If there is no slate.
    """

    draws = 1

    def __init__(self, slates: Tensor, history: Tensor, visit: Tensor) -> None:
        if len(slates) == 0:
            raise ValueError("slates is empty, but a policy is imitated by at least one slate.")
        self.starts = class_starts(visit)
        """(C,) first visit number of each class."""
        place = torch.searchsorted(self.starts, visit, right=True) - 1
        self._pools = [
            (slates[rows], history[rows])
            for rows in (
                (place == at).nonzero().squeeze(1)[:MOST] for at in range(len(self.starts))
            )
        ]

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Choose the slates (B, K); the first item is repeated at positions that were empty."""
        history = history_of(observation)
        visit = observation["visits"].squeeze(1).long()
        place = torch.searchsorted(self.starts, visit.contiguous(), right=True) - 1
        found = torch.empty(
            len(visit), self._pools[0][0].shape[1], dtype=torch.int64, device=visit.device
        )
        for at, (slates, known) in enumerate(self._pools):
            rows = (place == at).nonzero().squeeze(1)
            if len(rows):
                width = min(history.shape[1], known.shape[1])  # without what one side does not tell
                distance = torch.cdist(history[rows, :width], known[:, :width])
                nearest = distance.topk(min(ALIKE, len(known)), largest=False)
                drawn = (draws[rows] * nearest.indices.shape[1]).long()
                found[rows] = slates[nearest.indices.gather(1, drawn).squeeze(1)]
        return found.where(found >= 0, found[:, :1])  # a repeated item is not shown


def imitations(
    sessions: Sessions, catalog: Catalog, groups: Iterable[tuple[str, Tensor]]
) -> dict[str, Imitation]:
    """Learn to imitate the policies of a log.

    Args:
        sessions: The log.
        catalog: Its items.
        groups: Name of each imitation, and (S, T) bool which slates it learns from.
    """
    wanted = list(groups)
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name, _ in wanted}
    for moment in replay(sessions, catalog, history=1):
        history = history_of(moment.observation)
        for name, mask in wanted:
            here = mask[moment.rows, moment.visit].to(history.device)
            number = torch.full((int(here.sum()),), moment.visit, device=history.device)
            parts[name].append((moment.slates[here], history[here], number))
    return {
        name: Imitation(*(torch.cat(column) for column in zip(*pieces, strict=True)))
        for name, pieces in parts.items()
        if any(len(piece[0]) for piece in pieces)
    }


def history_of(observation: Observation) -> Tensor:
    """Describe what a shop knows of shoppers: (B, F) float32, each part of about length 1.

    What they declared comes last, where the shop asks.
    """
    taste = observation["taste"][:, -1]
    clicks = observation["position_clicks"].sum(dim=1, keepdim=True)
    parts = [taste / clicks.clamp(min=1.0), torch.log1p(clicks) / 3.0]
    if "declared" in observation:
        parts.append(observation["declared"])
    return torch.cat(parts, dim=1)


def class_starts(visit: Tensor) -> Tensor:
    """Cut visit numbers (M,) into classes of consecutive ones that hold `ENOUGH` slates each.

    The last class takes what is left over.

    Returns:
        (C,) int64, the first number of each class; the first is 0.
    """
    starts, held = [0], 0
    count = torch.bincount(visit).tolist()
    left = len(visit)
    for number, slates in enumerate(count):
        if held >= ENOUGH and left >= ENOUGH:
            starts.append(number)
            held = 0
        held += slates
        left -= slates
    return torch.tensor(starts, device=visit.device)
