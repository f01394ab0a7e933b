"""The gain of an agent over greedy CTR, on shoppers whom it never met."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from agents.evaluate import evaluate
from agents.faces import Face
from agents.faces.face import Predict
from policies import POLICIES

if TYPE_CHECKING:
    from agents.places import Site

FIRST_SEED = 30_000_000
"""First seed of the shoppers of the evaluation."""


def gain_over_greedy(
    site: Site, face: Callable[..., Face[Any]], predict: Predict, shoppers: int = 512
) -> str:
    """Play an agent and greedy CTR with the same shoppers, and tell the difference of the returns.

    Args:
        site: the place that the agent learned in
        face: the face that it learned behind, at its defaults
        predict: chooses actions for observations, see `agents.faces.face.Predict`
        shoppers: number of shoppers
    """
    simulator = site.simulator("evaluation")
    inputs = site.inputs_for(simulator)
    seeds = torch.arange(FIRST_SEED, FIRST_SEED + shoppers)
    greedy = POLICIES["greedy_ctr"].build(inputs)
    agent = face(simulator, inputs).policy(predict)
    one = evaluate(agent, simulator, seeds).rows["return"].to_numpy()
    other = evaluate(greedy, simulator, seeds).rows["return"].to_numpy()
    gain = one - other
    half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    return (
        f"return {one.mean():.1f}, greedy CTR {other.mean():.1f}, "
        f"gain {gain.mean():+.1f} [{gain.mean() - half:.1f}, {gain.mean() + half:.1f}]"
    )
