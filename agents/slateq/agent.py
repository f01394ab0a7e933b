"""The SlateQ agents: the policy, the training loop that serves shoppers, and the registration."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agents.base import (
    TrainedAgent,
    TrainingSetup,
    Watch,
    ignore_progress,
    register_agent,
    training_seeds,
)
from agents.keeper import Keeper
from agents.slateq.choices import Choice, PositionBased
from agents.slateq.config import SlateQChancesConfig, SlateQConfig
from agents.slateq.learner import SlateQLearner
from agents.slateq.memory import ReplayMemory
from agents.slateq.values import FactorisedValues, ItemValues, ObserveVisit, Visits, observe_visit
from policies.composer import Composer, ComposerConfig
from recsim_env.rollout import draws_for
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Outcome

WATCHES = 10
"""Number of times that `TrainingSetup.watch` is called before the end of the training."""
SMALLEST_DRAW = 1e-30
"""Lower bound of a draw, so that its logarithm is finite."""


class SlateQPolicy:
    """Shows the slate with the largest value, or explores by adding Gumbel noise to the logits.

    Args:
        observe_visit: turns observations into visits
        network: the values
        choice: the model of how shoppers click
        size: K, number of positions of a slate
        pool: P, the uniform numbers that an exploring slate takes
        temperature: scale of the Gumbel noise; 0 = no exploration
    """

    def __init__(
        self,
        observe_visit: ObserveVisit,
        network: ItemValues,
        choice: Choice,
        size: int,
        *,
        pool: int = 0,
        temperature: float = 0.0,
    ) -> None:
        self.observe_visit = observe_visit
        self.network = network
        self.draws = pool if temperature > 0 else 0
        self._choice = choice
        self._size = size
        self._temperature = temperature

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K) for B shoppers."""
        visits = self.observe_visit(observation)
        return visits.slates(self.choose(visits, draws), self._size)

    @torch.no_grad()
    def choose(self, visits: Visits, draws: Tensor) -> Tensor:
        """Pool indices (B, min(K, P)) of the slates, top position first."""
        _, gains = self.network(visits)
        logits = visits.logits
        if self.draws:
            # not `noise.gumbel`, which bounds a draw of exactly 0 differently
            gumbel = -torch.log(
                -torch.log(draws[:, : logits.shape[1]].clamp(SMALLEST_DRAW, 1 - 2**-24))
            )
            logits = logits + self._temperature * gumbel
        return self._choice.best(logits, gains, self._size)


def serve(
    simulator: SlateSimulator,
    observe_visit: ObserveVisit,
    learner: SlateQLearner,
    *,
    pool: int,
    seed: int,
    steps: int,
    shoppers: int,
    watch: Watch = ignore_progress,
    keeper: Keeper | None = None,
    about: Mapping[str, object] | None = None,
) -> dict[str, float]:
    """Serve shoppers with exploring slates and learn from their visits.

    Args:
        simulator: the shoppers; it is reset here
        observe_visit: turns observations into visits
        learner: trained in place
        pool: P, the widest pool that `observe_visit` returns
        seed: seed of shoppers, exploration and batches
        steps: visits in all, at least one
        shoppers: shoppers that are served at once, at least one
        watch: called with the visits so far and the greedy policy as it stands
        keeper: keeps the state with which an interrupted training goes on; None keeps nothing
        about: what the training depends on; see `Keeper.found`

    Returns:
        The mean loss, the number of updates and the mean reward per visit.
    """
    config, size = learner.config, learner.size
    rounds, warm_up = steps // shoppers, max(-(-config.warm_up // shoppers), 2)
    memory = ReplayMemory(max(config.memory // shoppers, 2))
    generator = torch.Generator().manual_seed(seed)
    exploring = SlateQPolicy(
        observe_visit,
        learner.network,
        learner.choice,
        size,
        pool=pool,
        temperature=config.temperature,
    )
    best = SlateQPolicy(observe_visit, learner.averaged, learner.choice, size)
    visits = observe_visit(simulator.reset(training_seeds(seed, shoppers)))
    losses = torch.zeros((), device=simulator.device)
    rewards, lapses, updates, first = torch.zeros_like(losses), torch.zeros_like(losses), 0, 0

    # continue an interrupted training
    keeper = keeper or Keeper()
    like = _state(0, (losses, rewards, lapses), 0, learner, memory, generator, None)
    like["learner"]["optimizer"] = like["memory"]["kept"] = None
    if found := keeper.found(about or {}, like, simulator.device):
        first, updates, (losses, rewards, lapses) = found["round"], found["updates"], found["sums"]
        generator = found["generator"]
        learner.restore(found["learner"])
        memory.restore(found["memory"])
        simulator.restore(found["simulator"])
        visits = observe_visit(simulator.observe())

    for at in range(first, rounds):
        sums = (losses, rewards, lapses)
        keeper.keep(partial(_state, at, sums, updates, learner, memory, generator, simulator))
        if at % max(rounds // WATCHES, 1) == 0:
            watch(at * shoppers, best)

        # one visit of every shopper; whose episode is over is replaced
        reward, outcome = _serve_visit(simulator, exploring, visits, learner, memory)
        rewards, lapses = rewards + reward.mean(), lapses + outcome.terminated.float().mean()
        simulator.restart(outcome.ended.nonzero().squeeze(1))
        visits = observe_visit(simulator.observe())

        # updates from the replay memory, once the warm-up has given features and values their scale
        if at + 1 == warm_up:
            # r / (1 - gamma (1 - lapse rate))
            level = rewards / (warm_up - config.gamma * (warm_up - lapses))
            learner.start(memory.draw(4 * config.batch_size, generator).visits, float(level))
        if at + 1 >= warm_up:
            for _ in range(config.updates):
                rate = 1 - (at + 1 - warm_up) / max(rounds - warm_up, 1)
                losses = losses + learner.update(memory.draw(config.batch_size, generator), rate)
                updates += 1

    watch(rounds * shoppers, best)
    return {
        "loss": float(losses) / max(updates, 1),
        "updates": updates,
        "reward_per_visit": float(rewards) / rounds,
    }


def _serve_visit(
    simulator: SlateSimulator,
    exploring: SlateQPolicy,
    visits: Visits,
    learner: SlateQLearner,
    memory: ReplayMemory,
) -> tuple[Tensor, Outcome]:
    """Show exploring slates to every shopper, update the click model, and remember the visits.

    Returns:
        The scaled rewards (B,) and what the visits led to.
    """
    now = simulator.episodes
    places = exploring.choose(visits, draws_for(exploring, now.seed, now.visit, now.number))
    outcome = simulator.advance(visits.slates(places, learner.size))
    shown = simulator.episodes.recent_slates[:, 0, : places.shape[1]] >= 0
    clicks = simulator.episodes.recent_clicks[:, 0, : places.shape[1]]

    # what it teaches at once, and what is remembered of it
    learner.choice.learn(visits.logits.gather(1, places), clicks, shown)
    reward = learner.config.reward_scale * outcome.reward
    memory.add(visits, places, clicks, reward, outcome.terminated, ~outcome.truncated)
    return reward, outcome


def _state(
    at: int,
    sums: tuple[Tensor, Tensor, Tensor],
    updates: int,
    learner: SlateQLearner,
    memory: ReplayMemory,
    generator: torch.Generator,
    simulator: SlateSimulator | None,
) -> dict[str, Any]:
    """What `serve` needs to continue with round `at`."""
    return {
        "round": at,
        "sums": sums,
        "updates": updates,
        "learner": learner.state(),
        "memory": memory.state(),
        "generator": generator,
        "simulator": None if simulator is None else simulator.state(),
    }


@register_agent("slateq_chances", SlateQChancesConfig)
@register_agent("slateq", SlateQConfig)
def slateq(setup: TrainingSetup, config: SlateQConfig) -> TrainedAgent:
    """Learn item values by serving shoppers; the untrained policy is greedy CTR.

    Raises:
        ValueError: If there is no shopper or no step.
    """
    shoppers = setup.need_shoppers("SlateQ")
    simulator = setup.simulator
    composer = Composer(setup.inputs, ComposerConfig(pool=config.pool))
    observe = partial(observe_visit, composer)
    size, pool = simulator.slate_size, composer.pool_size

    # the widths of the network are those of one example
    example = observe(simulator.reset(training_seeds(setup.seed, 1)))
    generator = torch.Generator().manual_seed(setup.seed)
    network = FactorisedValues(example.features.shape[1], example.items.shape[2], config, generator)
    choice = PositionBased(size, simulator.device)
    learner = SlateQLearner(network.to(simulator.device), choice, size, config)

    def policy(temperature: float = 0.0) -> SlateQPolicy:
        network = copy.deepcopy(learner.averaged)
        return SlateQPolicy(observe, network, choice, size, pool=pool, temperature=temperature)

    untrained, untrained_sampled = policy(), policy(config.temperature)
    facts = serve(
        simulator,
        observe,
        learner,
        pool=pool,
        seed=setup.seed,
        steps=setup.steps,
        shoppers=shoppers,
        watch=setup.watch,
        keeper=setup.keeper,
        about=setup.about(config),
    )
    facts |= {f"examination/{j}": chance for j, chance in enumerate(choice.examination.tolist())}
    steps = setup.steps // shoppers * shoppers
    return TrainedAgent(
        policy(), policy(config.temperature), untrained, untrained_sampled, steps, facts
    )
