"""Who serves a market's log: mixtures of policies, each of which serves whole episodes.

A shop that explores writes an impression log: every episode is served by one policy, drawn from a
mixture that holds the greedy ranker, noisy versions of it, constant re-rankers with knobs drawn at
random, and uniform slates. A shop that explores broadly also serves what is popular, has many more
such re-rankers, tries out the ones it could have instead (MMR, caps, DPP), and in a part of the
episodes draws the knobs anew at every visit, so that what was shown before and what is shown now
are not of one hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.heuristics import Uniform
from recsim_env import SlateSimulator, noise
from recsim_env.types import Observation, Policy

KNOBS = {
    "count": (-2.0, 0.0),
    "similarity": (-2.0, 0.0),
    "sated": (-1.5, 0.3),
    "flooded": (-3.0, 0.5),
}
"""Range that each knob of a logging re-ranker is drawn from, in log-odds."""
TEMPERATURES = (0.3, 0.7, 1.5)
"""Scales of the Gumbel noise on the log-odds of the noisy policies, which makes them samples from a
softmax at that temperature."""
Mixture = Literal["broad", "exploring", "greedy", "uniform"]
"""Who serves a log: `greedy` is the ranker alone after a uniform first round; see the module for
the others."""
Server = tuple[str, Policy, float]
"""Name of a policy, the policy, and the share of the slates that it serves."""
GROUPS, GROUP = 60, 400
"""The largest number of re-rankers with knobs of their own in a round of a broad log, and about how
many slates each serves at least."""
TRIED = ("mmr", "cap", "dpp")
"""Registered policies that a broad log tries with parameters from all over their ranges."""
BROAD = {
    "count": (-2.0, 0.0),
    "similarity": (-2.0, 0.0),
    "sated": (-3.0, 0.3),
    "flooded": (-3.0, 0.5),
}
"""Range of each knob in a broad log, in log-odds; each knob is off half of the time, so that
diversity and feedback also come alone."""


class Logging:
    """A composer with constant knobs and noise on the ranker's log-odds."""

    def __init__(self, composer: Composer, knobs: dict[str, float], temperature: float) -> None:
        self._composer = composer
        self._intent = composer.intent(knobs)
        self._temperature = temperature
        self.draws = composer.pool_size

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Make the slates (B, K) of a batch of shoppers."""
        view = self._composer.view(observation)
        logits = view.pool.logits + self._temperature * noise.gumbel(draws)
        intent = self._intent.to(draws.device).expand(len(draws), -1)
        return self._composer.compose_view(
            replace(view, pool=replace(view.pool, logits=logits)), intent
        )


class Restless:
    """A composer that draws its knobs and the temperature of its noise anew at every visit."""

    def __init__(self, composer: Composer) -> None:
        self._composer = composer
        self._low, self._high = (
            composer.intent({name: span[end] for name, span in BROAD.items()}) for end in (0, 1)
        )
        self.draws = composer.pool_size + len(self._low) + 1

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Make the slates (B, K) of a batch of shoppers."""
        view = self._composer.view(observation)
        of_items, of_knobs, heat = draws.split([self._composer.pool_size, len(self._low), 1], dim=1)
        logits = view.pool.logits + TEMPERATURES[-1] * heat**2 * noise.gumbel(of_items)
        low, high = self._low.to(draws.device), self._high.to(draws.device)
        intent = torch.where(of_knobs < 0.5, 0.0, low + (high - low) * (2 * of_knobs - 1))
        return self._composer.compose_view(
            replace(view, pool=replace(view.pool, logits=logits)), intent
        )


def servers(
    simulator: SlateSimulator,
    inputs: PolicyInputs | None,
    mixture: Mixture,
    slates: int,
    seed: int,
) -> list[Server]:
    """Everyone who serves one round of a log.

    Args:
        simulator: The market.
        inputs: What policies are built from, with the ranker of the rounds before; None in the
            first round, which is uniform.
        mixture: Who serves.
        slates: The number of slates of the round, about.
        seed: The seed of the knobs and parameters that are drawn.
    """
    uniform = Uniform(
        len(simulator.catalog), simulator.shopper.max_candidates, simulator.slate_size
    )
    if inputs is None or mixture == "uniform":
        return [("uniform", uniform, 1.0)]
    composer = Composer(inputs, ComposerConfig(offset_dims=0))
    greedy = Logging(composer, {}, 0.0)
    if mixture == "greedy":
        return [("greedy", greedy, 1.0)]
    noisy = [(f"softmax {t}", Logging(composer, {}, t)) for t in TEMPERATURES]
    if mixture == "exploring":
        found: list[Server] = [
            ("uniform", uniform, 0.1),
            ("greedy", greedy, 0.1),
        ]
        found += [(name, policy, 0.2 / len(noisy)) for name, policy in noisy]
        return found + rerankers(composer, 12, 0.6, seed)
    groups = min(max(round(0.25 * slates / GROUP), len(TRIED)), GROUPS)
    return [
        ("uniform", uniform, 0.05),
        ("greedy", greedy, 0.1),
        ("popular", POLICIES["popular"].build(inputs, {}), 0.05),
        *((name, policy, 0.1 / len(noisy)) for name, policy in noisy),
        *rerankers(composer, groups, 0.25, seed, BROAD, off=0.5),
        *tried(inputs, groups, 0.25, seed),
        ("restless", Restless(composer), 0.2),
    ]


def tried(inputs: PolicyInputs, number: int, share: float, seed: int) -> list[Server]:
    """The policies of `TRIED` in turn, with parameters drawn from the ranges of tuning."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Server] = []
    for at in range(number):
        spec = POLICIES[TRIED[at % len(TRIED)]]
        drawn = {
            name: span.low
            + (span.high + span.integer - span.low) * float(torch.rand((), generator=generator))
            for name, span in spec.search().items()
        }
        parameters = {
            name: int(value) if spec.search()[name].integer else value
            for name, value in drawn.items()
        }
        found.append(
            (f"{TRIED[at % len(TRIED)]} {at}", spec.build(inputs, parameters), share / number)
        )
    return found


def rerankers(
    composer: Composer,
    number: int,
    share: float,
    seed: int,
    ranges: Mapping[str, tuple[float, float]] = KNOBS,
    off: float = 0.0,
) -> list[Server]:
    """Constant re-rankers whose knobs are drawn at random, every second one with noise.

    Args:
        composer: Makes the slates.
        number: How many re-rankers there are.
        share: The share of the slates that all of them serve together.
        seed: The seed of the draws.
        ranges: The range that each knob is drawn from.
        off: The chance of each knob to be off.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[Server] = []
    for at in range(number):
        drawn = {name: float(torch.rand((), generator=generator)) for name in ranges}
        knobs = {name: low + (high - low) * drawn[name] for name, (low, high) in ranges.items()}
        if off > 0:
            knobs = {
                name: knob
                for name, knob in knobs.items()
                if float(torch.rand((), generator=generator)) >= off
            }
        temperature = TEMPERATURES[at % len(TEMPERATURES)] * (at % 2)
        found.append((f"knobs {at}", Logging(composer, knobs, temperature), share / number))
    return found
