"""The visits of a log as the session model takes them, with the counters of a simulation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions
from recsim_env.noise import normal
from recsim_env.shoppers.session.heads import TEMPERAMENT
from recsim_env.shoppers.session.memory import COUNTERS, SessionMemory, context_size
from recsim_env.tensors import first_places

CELLS = 64
"""Longest mean length of the episodes of a full batch; a batch of longer ones holds fewer."""
EPISODES_PER_REPLAY = 512
"""Episodes that are replayed side by side, so that what they touch stays in a processor's cache."""


@dataclass(frozen=True)
class Visits:
    """The V visits of S episodes, one episode after the other, as the model takes them.

    A visit is one slate, as a step of `Sessions` is.

    Shapes: K positions.
    """

    slates: Tensor
    """(V, K) int64 without padding."""
    shown: Tensor
    """(V, K) bool, whether there was an item at the position."""
    clicks: Tensor
    """(V, K) bool, whether the item was clicked."""
    counters: Tensor
    """(V, K, COUNTERS) float32 before the visit."""
    context: Tensor
    """(V, C) float32 after it."""
    days: Tensor
    """(V,) float32 days since the first visit of the episode."""
    since: Tensor
    """(V,) float32 days since the visit before, 1 at the first."""
    gap: Tensor
    """(V,) float32 days until the next visit, -1 where none was seen."""
    follow_up: Tensor
    """(V,) float32 days through which the shopper was watched after the visit."""
    purchases: Tensor | None
    """(V, K) bool, what was bought of what was clicked; None where the log has none."""
    left_out: int
    """Number of slates of the log that were left out because histories are cut."""
    length: Tensor
    """(S,) int64, the number of visits of each episode."""
    declared: Tensor
    """(S, D) float32, what each shopper told of its interest; D = 0 where shops do not ask."""

    @classmethod
    def of(cls, sessions: Sessions, catalog: Catalog) -> Visits:
        """Replay a log: the counters are those that a simulation keeps.

        Raises:
            ValueError: If the log shows items that the catalogue does not have, or has no visit.
        """
        if sessions.n_slates == 0:
            raise ValueError("sessions has no visit, but a model is fitted to at least one.")
        if int(sessions.slates.max()) >= len(catalog):
            raise ValueError(
                f"sessions shows item {int(sessions.slates.max())}, but the catalogue has "
                f"{len(catalog)}."
            )

        # Slates and clicks of real visits.
        real = sessions.real
        slates = sessions.slates[real]
        shown = first_places(slates)
        days = sessions.days
        since = torch.cat([torch.ones_like(days[:, :1]), days.diff(dim=1)], dim=1)

        # Counters and contexts, replayed; episodes of similar lengths stand side by side.
        counters = torch.zeros(len(slates), slates.shape[1], COUNTERS, dtype=torch.float32)
        context = torch.zeros(
            len(slates), context_size(catalog.embedding.shape[1]), dtype=torch.float32
        )
        begins = sessions.length.cumsum(0) - sessions.length
        for rows in sessions.length.argsort(stable=True).split(EPISODES_PER_REPLAY):
            part = sessions.take(rows)
            at = begins[rows].unsqueeze(1) + torch.arange(part.slates.shape[1])
            counters[at[part.real]], context[at[part.real]] = _replayed(part, catalog)
        return cls(
            slates=slates.clamp(min=0),
            shown=shown,
            clicks=sessions.clicks[real] & shown,
            counters=counters,
            context=context,
            days=days[real],
            since=since[real],
            gap=sessions.gaps[real],
            follow_up=sessions.follow_up[real],
            purchases=None if sessions.purchases is None else sessions.purchases[real] & shown,
            left_out=int(sessions.left_out.sum()),
            length=sessions.length,
            declared=sessions.declared,
        )

    def __len__(self) -> int:
        return len(self.length)

    @property
    def leaves(self) -> Tensor:
        """(V,) float32, 1 where the shopper was watched after this visit and not seen again."""
        return ((self.gap < 0) & (self.follow_up > 0)).float()

    @property
    def watched(self) -> Tensor:
        """(V,) bool, whether the log says anything about what came after the visit."""
        return (self.gap >= 0) | (self.follow_up > 0)

    def batch(self, episodes: Tensor) -> dict[str, Tensor]:
        """Take whole episodes (B,) as arguments of `SessionShopper.forward`, without `normal`."""
        length = self.length[episodes]
        real = torch.arange(int(length.max())) < length.unsqueeze(1)
        start = (self.length.cumsum(0) - self.length)[episodes]
        rows = (start.unsqueeze(1) + torch.arange(real.shape[1]))[real]
        names = ["slates", "shown", "clicks", "counters", "context", "since", "gap", "follow_up"]
        names += [] if self.purchases is None else ["purchases"]
        order = torch.arange(real.shape[1], dtype=torch.float32)
        days = order.expand(real.shape)
        if not torch.equal(self.days[rows], days[real]):
            days = days.new_zeros(real.shape).masked_scatter(real, self.days[rows])
            days = days.cummax(dim=1).values  # at padding, the last
        return {
            "real": real,
            "declared": self.declared[episodes],
            # one row for all where everybody comes once a day: attention is then cheaper
            "days": days[:1] if days.stride(0) == 0 else days,
        } | {name: getattr(self, name)[rows] for name in names}


@torch.no_grad()
def _replayed(sessions: Sessions, catalog: Catalog) -> tuple[Tensor, Tensor]:
    """Replay a few episodes.

    Returns:
        (V, K, COUNTERS) counters before, and (V, C) context after each visit, episode by episode.
    """
    width, groups = catalog.embedding.shape[1], len(catalog.categories)
    batch, visits, size = sessions.slates.shape
    counters = torch.zeros(batch, visits, size, COUNTERS, dtype=torch.float32)
    context = torch.zeros(batch, visits, context_size(width), dtype=torch.float32)
    memory = SessionMemory.empty(batch, len(catalog), groups, width, torch.device("cpu"))
    for visit in range(visits):
        shown = first_places(sessions.slates[:, visit])
        slates = sessions.slates[:, visit].clamp(min=0)
        counters[:, visit] = memory.look(slates, catalog.category)
        memory.record(
            slates, shown, sessions.clicks[:, visit] & shown, catalog.category, catalog.embedding
        )
        context[:, visit] = memory.context()
        memory.wait(sessions.gaps[:, visit].clamp(min=0))
    return counters[sessions.real], context[sessions.real]


def spread_out(episodes: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers (B, S, TEMPERAMENT) that cover their space evenly.

    A Sobol sequence is moved around the unit cube by a draw of each episode's own (Cranley &
    Patterson 1976).
    """
    points = torch.quasirandom.SobolEngine(TEMPERAMENT).draw(count)
    return normal((points + torch.rand(episodes, 1, TEMPERAMENT, generator=generator)) % 1.0)
