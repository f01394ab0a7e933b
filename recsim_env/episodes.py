"""What the simulator keeps of the episodes that are played, and what it asks at a visit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsim_env.shoppers.base import Past, S, Shopper
from recsim_env.types import Response


@dataclass(frozen=True)
class Question:
    """What B shoppers are asked at a visit.

    Shapes: B shoppers, K positions, V draws of a visit.
    """

    slates: Tensor
    """(B, K) int64, top position first."""
    shown: Tensor
    """(B, K) bool, False for a repeated item and for what is no candidate."""
    draws: Tensor
    """(B, V) float32, uniform in [0, 1)."""
    discount: Tensor | None
    """(B,) float32 of bundles, None of other slates."""

    def rows(self, rows: Tensor) -> Question:
        """Return what the shoppers of some rows (R,) are asked, in that order."""
        discount = None if self.discount is None else self.discount[rows]
        return Question(self.slates[rows], self.shown[rows], self.draws[rows], discount)

    def answer(self, shopper: Shopper[S], state: S) -> Response:
        """Ask the shoppers, whose `state` is moved in place to the next visit."""
        asked = (state, self.slates, self.shown, self.draws)
        if self.discount is None:
            return shopper.respond(*asked)
        return shopper.respond_to_offer(*asked, self.discount)


@dataclass(frozen=True)
class Episodes:
    """The state of B episodes.

    Every tensor is replaced and never written into, so that what was handed out stays as it was.
    """

    seed: Tensor
    """(B,) int64, the seed that each episode was started with."""
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
    newcomer: Tensor
    """(B,) bool, the shopper came without a history, though others have one."""

    def remembering(self, past: Past | None) -> Episodes:
        """Return new episodes with what the shop remembers of shoppers whom it knew before."""
        if past is None:
            return self
        past = latest(past, self.recent_days.shape[1])
        told = past.slates.shape[1]
        slates, clicks, days = (
            self.recent_slates.clone(),
            self.recent_clicks.clone(),
            self.recent_days.clone(),
        )
        slates[:, :told], clicks[:, :told], days[:, :told] = past.slates, past.clicks, past.days
        return replace(self, recent_slates=slates, recent_clicks=clicks, recent_days=days)

    def after(
        self,
        slates: Tensor,
        shown: Tensor,
        response: Response,
        day: Tensor,
        ended: Tensor,
    ) -> Episodes:
        """Return the episodes after this visit, with its slate and its days."""
        places = torch.arange(self.recent_days.shape[1], device=day.device)
        had_visit = places < self.visit.unsqueeze(1)
        aged = (self.recent_days + response.days.unsqueeze(1)).where(had_visit, 0)
        return replace(
            self,
            visit=self.visit + 1,
            day=day,
            ended=ended,
            recent_slates=_push(self.recent_slates, slates.where(shown, -1)),
            recent_clicks=_push(self.recent_clicks, response.clicks),
            recent_days=_push(aged, response.days),
        )


def latest(past: Past, visits: int) -> Past:
    """Return the last visits of a past, the newest first."""
    return Past(past.slates[:, :visits], past.clicks[:, :visits], past.days[:, :visits])


def _push(history: Tensor, newest: Tensor) -> Tensor:
    """Put the newest entry (B, ...) in front of (B, H, ...) and drop the oldest."""
    return torch.cat([newest.unsqueeze(1), history[:, :-1]], dim=1)
