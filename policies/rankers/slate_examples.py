"""Logged slates as examples for a two-tower ranker: from a log, or from visits as they happen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.features import Recent
from policies.rankers.two_tower import CATEGORY_KEYS, SHOPPER_KEYS, tower_inputs
from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.types import Observation

Known = Callable[[Observation], Observation]
"""Makes of an observation what the towers know of it."""
_SEEN = tuple(name for name in (*SHOPPER_KEYS, "declared") if name not in CATEGORY_KEYS)


@dataclass(frozen=True)
class SlateExamples:
    """Logged slates, and what was known before each.

    The counters of categories take most of the memory: only those of categories that a shopper was
    shown are kept, and `inputs` lays them out for a batch.

    Shapes: S slates, K positions, P pairs of a slate and a category shown before it, D numbers a
    pair.
    """

    slates: Tensor
    """(S, K) int64, -1 where nothing was shown."""
    clicks: Tensor
    """(S, K) bool."""
    fatigue: Tensor
    """(S, K, 2) float16, recent exposures of and responses to the item."""
    seen: dict[str, Tensor]
    """(S, ..) float32 each, the observation keys of the towers but those of `CATEGORY_KEYS`."""
    category: Tensor
    """(P,) int32, the category of each pair, slate by slate."""
    counters: Tensor
    """(P, D) float32, the counters of `CATEGORY_KEYS`, side by side."""
    ends: Tensor
    """(S + 1,) int64, where the pairs of each slate begin, and the end of the last."""
    groups: int
    """Number of categories G."""

    def __len__(self) -> int:
        return len(self.slates)

    def inputs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Lay out what the towers see of some slates (R,): (R, F) and (R, G, F_c) float16."""
        row, pair = self._pairs(rows)
        wide = self.counters.new_zeros(len(rows), self.groups, self.counters.shape[1])
        wide[row, self.category[pair].long()] = self.counters[pair]
        observation = {name: value[rows] for name, value in self.seen.items()}
        observation |= dict(zip(CATEGORY_KEYS, wide.chunk(len(CATEGORY_KEYS), dim=2), strict=True))
        whole, by_category = tower_inputs(observation)
        return whole.half(), by_category.half()

    def take(self, rows: Tensor) -> SlateExamples:
        """Select slates by their numbers (R,) int64."""
        row, pair = self._pairs(rows)
        number = torch.bincount(row, minlength=len(rows))
        return SlateExamples(
            self.slates[rows],
            self.clicks[rows],
            self.fatigue[rows],
            {name: value[rows] for name, value in self.seen.items()},
            self.category[pair],
            self.counters[pair],
            torch.cat([number.new_zeros(1), number.cumsum(0)]),
            self.groups,
        )

    @classmethod
    def join(cls, parts: Sequence[SlateExamples]) -> SlateExamples:
        """Put the slates of several parts behind each other.

        Raises:
            ValueError: If there are none.
        """
        if not parts:
            raise ValueError("parts is empty, but it must hold one part or more.")
        number = torch.cat([part.ends.diff() for part in parts])
        return cls(
            torch.cat([part.slates for part in parts]),
            torch.cat([part.clicks for part in parts]),
            torch.cat([part.fatigue for part in parts]),
            {name: torch.cat([part.seen[name] for part in parts]) for name in parts[0].seen},
            torch.cat([part.category for part in parts]),
            torch.cat([part.counters for part in parts]),
            torch.cat([number.new_zeros(1), number.cumsum(0)]),
            parts[0].groups,
        )

    def _pairs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the place in `rows` (R,) of each of their pairs, and the pair: (P',) each."""
        first = self.ends[rows]
        number = self.ends[rows + 1] - first
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(number)
        pair = torch.arange(len(row), device=rows.device)
        pair += (first - (number.cumsum(0) - number))[row]
        return row, pair


@torch.no_grad()
def examples_at(
    observation: Observation,
    slates: Tensor,
    clicks: Tensor,
    catalog: Catalog,
    known: Known | None = None,
) -> SlateExamples:
    """Make an example of each slate of one visit.

    Args:
        observation: What the shop knew before the visit, (B, ..) each.
        slates: (B, K) int64, as they were shown; -1 where nothing was.
        clicks: (B, K) bool.
        catalog: The items.
        known: Makes of the observation what the towers know of it; None means all of it.
    """
    seen = observation if known is None else known(observation)
    recent = Recent.of(observation)
    fatigue = [
        recent.of_items(slates, weight, len(catalog)) for weight in (recent.shown, recent.clicked)
    ]
    counters = torch.cat([seen[name] for name in CATEGORY_KEYS], dim=2)
    met = (counters != 0).any(dim=2)
    pairs = met.sum(dim=1)
    return SlateExamples(
        slates=slates,
        clicks=clicks,
        fatigue=torch.stack(fatigue, 2).half(),
        seen={name: seen[name] for name in _SEEN if name in seen},
        category=met.nonzero()[:, 1].int(),
        counters=counters[met],
        ends=torch.cat([pairs.new_zeros(1), pairs.cumsum(0)]),
        groups=len(catalog.categories),
    )


def examples_of(sessions: Sessions, catalog: Catalog, known: Known | None = None) -> SlateExamples:
    """Make an example of every logged slate, from what was known before it."""
    return SlateExamples.join(
        [
            examples_at(moment.observation, moment.slates, moment.clicks, catalog, known)
            for moment in replay(sessions, catalog)
        ]
    )
