"""Policies on the toy shopper: what they are built from, and a ranker whose logits are known."""

from __future__ import annotations

import datetime

import torch
from torch import Tensor

from policies.inputs import PolicyInputs, Ranker
from policies.observations import candidates_of
from recsim_env.logs.facts import LogFacts
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

TOY_FACTS = LogFacts(
    day_zero=datetime.date(2024, 1, 1),
    weeks_a_year=53,
    placements=(4, 5),
    splits=((1, 40), (41, 46), (47, 53)),
)
"""Facts about the toy shop: four display codes and five mailer codes, 0 among them."""


class TableRanker:
    """Logits from a table (N,): the same for every shopper."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def logits(self, observation: Observation) -> Tensor:
        candidates = candidates_of(observation, len(self.table))
        return self.table[candidates.clamp(min=0)].masked_fill(candidates < 0, -torch.inf)


def made_up_ranker(items: int, seed: int = 3, device: torch.device | str = "cpu") -> TableRanker:
    """No two items with the same logit."""
    table = torch.randn(items, generator=torch.Generator().manual_seed(seed))
    return TableRanker(table.to(device))


def made_up_lift(groups: int, seed: int = 4) -> Tensor:
    """Log lift of each pair of categories, (G, G), symmetric."""
    lift = torch.randn(groups, groups, generator=torch.Generator().manual_seed(seed))
    return (lift + lift.T) / 2


def toy_inputs(simulator: SlateSimulator, ranker: Ranker | None = None) -> PolicyInputs:
    """What the policies are built from on a toy simulator."""
    items = len(simulator.catalog)
    return PolicyInputs(
        catalog=simulator.catalog,
        observation_space=simulator.observation_space,
        slate_size=simulator.slate_size,
        ranker=ranker or made_up_ranker(items, device=simulator.device),
        popularity=torch.arange(items, dtype=torch.float32),
        facts=TOY_FACTS,
        lift=made_up_lift(len(simulator.catalog.categories)).to(simulator.device),
    )
