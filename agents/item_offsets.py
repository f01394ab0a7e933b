"""Thompson sampling on single items: what a ranker cannot know of items that nobody showed yet.

A ranker that was fitted to a log judges a new item by what the catalogue says of it. How far it is
off is a number of the item's own, its offset d_i:

    P(click on i at position j) = e_j sigmoid(logit_i + d_i),   d_i ~ N(0, s^2) before it is shown

with e_j the chance that the position is looked at (position-based model; Craswell et al. 2008,
section 3.2). The posterior of every offset is a Gaussian of its own. After a round of visits it
makes one Newton step, as in an online Laplace approximation of a logistic regression (Chapelle and
Li 2011, "An empirical evaluation of Thompson sampling", algorithm 3), with p = e sigmoid(x):

    1 / v <- 1 / v + sum p'^2 / (p (1 - p)),   m <- m + v sum p' (click - p) / (p (1 - p))

where p' = e sigmoid(x) (1 - sigmoid(x)). A slate shows the K candidates with the highest logit plus
an offset drawn from the posterior (Thompson 1933), so that an item of which little is known is
tried until enough is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agents.base import TrainedAgent, TrainingSetup, register_agent, training_seeds
from policies.inputs import PolicyInputs, PositionRanker, looks_of
from policies.parameters import tunable
from policies.slates import top_slates
from recsim_env import noise
from recsim_env.rollout import draws_for
from recsim_env.settings import AMOUNT, RATE, settle
from recsim_env.shoppers.cold import NEW_CANDIDATES
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import looked_up
from recsim_env.types import Observation

WATCHES = 10
"""Number of times that `TrainingSetup.watch` is called before the end of the training."""
LEAST = 1e-6
"""A chance of a click is no nearer to 0 or 1 than this."""


@dataclass(frozen=True)
class ItemOffsetsConfig:
    """Options of Thompson sampling on the offsets of items."""

    new_spread: float = tunable(1.0, 0.1, 3.0, log=True)
    """Standard deviation s of the offset of a new item, in log-odds."""
    known_spread: float = tunable(0.3, 0.0, 1.0)
    """The same of an item that the log holds, which its ranker knows better; 0 learns of new items
    alone."""
    scale: float = tunable(1.0, 0.0, 2.0)
    """Factor on the standard deviations from which offsets are drawn; 0 learns without exploring:
    it shows what is best by the mean."""
    looks_on: float = 0.85
    """Chance that a shopper who looked at a position looks at the next one, where the ranker does
    not tell."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        settle(self, new_spread=AMOUNT, known_spread=AMOUNT, scale=AMOUNT, looks_on=RATE)


@dataclass(frozen=True)
class Offsets:
    """The Gaussian posterior of every item's offset. Shapes: N items."""

    mean: Tensor
    """(N,) float32, in log-odds."""
    variance: Tensor
    """(N,) float32, 0 where the offset is known to be `mean`."""

    @classmethod
    def prior(cls, new: Tensor, config: ItemOffsetsConfig) -> Offsets:
        """What is believed before anything is shown; new (N,) bool."""
        spread = torch.where(new, config.new_spread, config.known_spread).float()
        return cls(torch.zeros_like(spread), spread.square())

    def learned(
        self, items: Tensor, logits: Tensor, looks: Tensor, shown: Tensor, clicks: Tensor
    ) -> Offsets:
        """Make one Newton step from B slates.

        Shapes:
            items:  (B, K) int64
            logits: (B, K) float32, those of the ranker, without the offset
            looks:  (B, K) or (1, K) float32
            shown:  (B, K) bool
            clicks: (B, K) bool
        """
        chance = torch.sigmoid(logits + looked_up(self.mean, items))
        expected = (looks * chance).clamp(LEAST, 1 - LEAST)
        slope = looks * chance * (1 - chance) * shown
        noise_of = expected * (1 - expected)
        surprise = slope * (clicks.float() - expected) / noise_of
        told = torch.zeros_like(self.mean).index_add_(
            0, items.flatten(), (slope.square() / noise_of).flatten()
        )
        moved = torch.zeros_like(self.mean).index_add_(0, items.flatten(), surprise.flatten())
        variance = self.variance / (1 + self.variance * told)
        return Offsets(self.mean + variance * moved, variance)


class OffsetPolicy:
    """Shows the K candidates with the highest logit plus offset.

    Args:
        inputs: what the ranker and the slates are made of
        offsets: what is believed of the items
        scale: factor on the standard deviations from which offsets are drawn; 0 takes the means
    """

    def __init__(self, inputs: PolicyInputs, offsets: Offsets, scale: float) -> None:
        self._inputs, self._scale = inputs, scale
        self._ranker = inputs.need_ranker("thompson_items")
        self.mean, self.spread = offsets.mean, offsets.variance.sqrt()
        self.draws = len(offsets.mean) if scale > 0 else 0

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K)."""
        return self.shown(observation, draws)[0]

    @torch.no_grad()
    def shown(self, observation: Observation, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Compose slates (B, K), and return the logits (B, K) of their items without offsets."""
        candidates, logits = observation["candidates"], self._ranker.logits(observation)
        at = candidates.clamp(min=0)
        offset = looked_up(self.mean, at)
        if self._scale > 0:
            drawn = self._scale * looked_up(self.spread, at) * noise.normal(draws).gather(1, at)
            offset = offset + drawn
        slates = top_slates(logits + offset, candidates, self._inputs.slate_size)
        table = logits.new_zeros(len(logits), len(self.mean))
        table.scatter_(1, at, logits.where(candidates >= 0, 0.0))
        return slates, table.gather(1, slates.clamp(min=0))


@register_agent("thompson_items", ItemOffsetsConfig)
def thompson_items(setup: TrainingSetup, config: ItemOffsetsConfig) -> TrainedAgent:
    """Serve by draws of the offsets and learn from every click.

    Raises:
        ValueError: If there is no shopper or no step.
    """
    shoppers = setup.need_shoppers("thompson_items")
    simulator, rounds = setup.simulator, setup.steps // shoppers
    observation = simulator.reset(training_seeds(setup.seed, shoppers))
    new = _new_items(observation, len(simulator.catalog))
    offsets = untrained = Offsets.prior(new, config)

    # continue an interrupted training
    clicks = torch.zeros((), dtype=torch.int64, device=simulator.device)
    first, like = 0, {"round": 0, "clicks": clicks, "offsets": offsets, "simulator": None}
    if found := setup.keeper.found(setup.about(config), like, simulator.device):
        first, clicks, offsets = found["round"], found["clicks"], found["offsets"]
        simulator.restore(found["simulator"])
        observation = simulator.observe()

    for at in range(first, rounds):
        setup.keeper.keep(partial(_state, at, clicks, offsets, simulator))
        if at % max(rounds // WATCHES, 1) == 0:
            setup.watch(at * shoppers, OffsetPolicy(setup.inputs, offsets, 0.0))

        # one visit of every shopper
        policy, episodes = OffsetPolicy(setup.inputs, offsets, config.scale), simulator.episodes
        draws = draws_for(policy, episodes.seed, episodes.visit, episodes.number)
        slates, logits = policy.shown(observation, draws)
        looks = _looks(setup.inputs, observation, config)
        outcome = simulator.advance(slates)
        shown = simulator.episodes.recent_slates[:, 0] >= 0
        clicked = simulator.episodes.recent_clicks[:, 0]

        # what it teaches
        offsets = offsets.learned(slates.clamp(min=0), logits, looks, shown, clicked)
        clicks = clicks + clicked.sum()
        simulator.restart(outcome.ended.nonzero().squeeze(1))
        observation = simulator.observe()

    setup.watch(rounds * shoppers, OffsetPolicy(setup.inputs, offsets, 0.0))
    return TrainedAgent(
        policy=OffsetPolicy(setup.inputs, offsets, 0.0),
        sampled=OffsetPolicy(setup.inputs, offsets, config.scale),
        untrained=OffsetPolicy(setup.inputs, untrained, 0.0),
        untrained_sampled=OffsetPolicy(setup.inputs, untrained, config.scale),
        steps=rounds * shoppers,
        facts={"clicks_per_visit": float(clicks) / (rounds * shoppers)},
    )


def _new_items(observation: Observation, items: int) -> Tensor:
    """Which items (N,) bool the shop told to be new, among the candidates of any shopper.

    An item that is a candidate of nobody at first counts as known.
    """
    candidates = observation["candidates"]
    new = torch.zeros(items, dtype=torch.bool, device=candidates.device)
    if NEW_CANDIDATES not in observation:
        return new
    told = (observation[NEW_CANDIDATES] > 0) & (candidates >= 0)
    new[candidates[told]] = True
    return new


def _looks(inputs: PolicyInputs, observation: Observation, config: ItemOffsetsConfig) -> Tensor:
    """The chance (B, K) or (1, K) that each position is looked at."""
    ranker = inputs.need_ranker("thompson_items")
    if isinstance(ranker, PositionRanker):
        return looks_of(ranker, observation, inputs.slate_size)
    device = observation["candidates"].device
    return (config.looks_on ** torch.arange(inputs.slate_size, device=device)).unsqueeze(0).float()


def _state(at: int, clicks: Tensor, offsets: Offsets, simulator: SlateSimulator) -> dict[str, Any]:
    """What `thompson_items` needs to continue with round `at`."""
    return {"round": at, "clicks": clicks, "offsets": offsets, "simulator": simulator.state()}
