"""Several intents played with the same shoppers, which makes their returns comparable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.ppo.vec_env import expected_reward
from policies.composer import Composer
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Outcome

Base = Callable[[Tensor], Tensor]
"""Features (B, F) to the intents (B, A) that a policy has, in units of the composer."""
Paid = Callable[[Outcome], Tensor]
"""What a visit counts for in a search: (B,), from its outcome."""


@dataclass(frozen=True)
class Played:
    """What several intents earned with the same shoppers.

    Shapes: G intents, S shoppers.
        returns: (G, S) float64, of each shopper's episode
    """

    returns: Tensor
    steps: int
    """Shopper-steps that were taken."""
    whole: bool
    """Whether all episodes came to their end; otherwise all of them stop at the same visit."""


@torch.no_grad()
def play(
    composer: Composer,
    simulator: SlateSimulator,
    intents: Tensor,
    seeds: Tensor,
    most: int,
    *,
    expected_clicks: bool = True,
    base: Base | None = None,
    paid: Paid | None = None,
) -> Played:
    """Play an episode of every shopper with every intent.

    All intents meet the same shoppers with the same noise (common random numbers), so that the
    differences between their returns are far less noisy than the returns.

    Args:
        composer: composes the slates
        simulator: the shoppers; it is reset
        intents: (G, A) float32, in units of the composer
        seeds: (S,) int64, the shoppers
        most: most shopper-steps that may be taken; before the visit that would take more, all stop
        expected_clicks: whether responses count as they were expected, and not as they fell
        base: what the intents are added to; None means intent 0
        paid: what a visit counts for in place of its reward
    """
    several, shoppers = len(intents), len(seeds)
    observation = simulator.reset(seeds.repeat(several))
    row = torch.arange(several * shoppers, device=simulator.device)
    returns = torch.zeros(several * shoppers, dtype=torch.float64, device=simulator.device)
    steps = 0
    while len(row) and steps + len(row) <= most:
        view = composer.view(observation)
        chosen = intents[row // shoppers]
        chosen = chosen if base is None else chosen + base(view.features)
        outcome = simulator.advance(composer.compose_view(view, chosen))
        if paid is not None:
            reward = paid(outcome)
        else:
            reward = expected_reward(simulator, outcome) if expected_clicks else outcome.reward
        returns.index_add_(0, row, reward.double())
        steps += len(row)

        # rows whose episode is over are dropped
        going = (~outcome.ended).nonzero().squeeze(1)
        row = row[going]
        if 0 < len(row) < len(outcome.ended):
            simulator.keep(going)
        if len(row):
            observation = simulator.observe()
    return Played(returns.view(several, shoppers), steps, len(row) == 0)


@torch.no_grad()
def first_visits(
    composer: Composer, simulator: SlateSimulator, seeds: Tensor, visits: int
) -> Observation:
    """The observations of some visits of every shopper under intent 0, all below each other.

    Shoppers whose episode ends begin the next one.
    """
    observation = simulator.reset(seeds)
    nothing = torch.zeros(len(seeds), composer.intent_size, device=simulator.device)
    seen = []
    for _ in range(visits):
        seen.append(observation)
        outcome = simulator.advance(composer.compose_view(composer.view(observation), nothing))
        done = outcome.ended.nonzero().squeeze(1)
        if len(done):
            simulator.restart(done)
        observation = simulator.observe()
    return {name: torch.cat([one[name] for one in seen]) for name in seen[0]}
