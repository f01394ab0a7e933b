"""Who serves a log: mixtures of policies, each of which serves whole episodes.

A shop that explores writes an impression log: every episode is served by one policy, drawn from a
mixture that holds the greedy ranker, noisy versions of it, constant re-rankers with knobs drawn at
random, and uniform slates. A shop that explores broadly also serves what is popular, has many more
such re-rankers, tries out the ones it could have instead (MMR, caps, DPP), and in a part of the
episodes draws the knobs anew at every visit, so that what was shown before and what is shown now
are not of one hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.cues import explored_ranges
from policies.heuristics import Uniform
from policies.log_servers import NoisyComposerPolicy, RandomKnobsPolicy
from recsim_env import SlateSimulator
from recsim_env.types import Policy

KNOBS = explored_ranges()
"""Ranges of log-odds from which the knobs of an exploring log's re-rankers are drawn."""
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
BROAD = explored_ranges(broadly=True)
"""The same for a broad log; each knob is off half of the time, so that diversity and feedback also
come alone."""


def servers(
    simulator: SlateSimulator,
    inputs: PolicyInputs | None,
    mixture: Mixture,
    slates: int,
    seed: int,
) -> list[Server]:
    """Everyone who serves one round of a log.

    Knobs whose cue the environment does not show are left out.

    Args:
        simulator: The shoppers.
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
    composer = Composer(inputs, ComposerConfig(form="log_odds", offset_dims=0))
    greedy = NoisyComposerPolicy(composer, {}, 0.0)
    if mixture == "greedy":
        return [("greedy", greedy, 1.0)]
    noisy = [(f"softmax {t}", NoisyComposerPolicy(composer, {}, t)) for t in TEMPERATURES]
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
        ("restless", RandomKnobsPolicy(composer, shown(composer, BROAD), TEMPERATURES[-1]), 0.2),
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
    ranges = shown(composer, ranges)
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
        found.append(
            (f"knobs {at}", NoisyComposerPolicy(composer, knobs, temperature), share / number)
        )
    return found


def shown(
    composer: Composer, ranges: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Those of the ranges whose knobs a composer has, in their order."""
    return {name: span for name, span in ranges.items() if name in composer.knobs}
