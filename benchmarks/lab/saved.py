"""What benchmarks keep of trained agents, besides the checkpoints of `agents.ppo.checkpoints`."""

from __future__ import annotations

from pathlib import Path

import torch

from agents.ppo.agents import PPOComposerConfig
from agents.ppo.checkpoints import check_finite
from policies import PolicyInputs
from policies.composer import Composer
from policies.learnable.intents import ComposerPolicy, IntentActor
from recsim_env.files import read_tensors, write_tensors
from recsim_env.types import Policy

UNTRAINED, POLISHED = "untrained.safetensors", "polished.safetensors"
"""Names of the files of a policy before its first update, and as the search left it that followed
the last one, beside its last checkpoint."""
AGENT = "agent"
"""Name of the folder of the agent that a training kept, beside these."""


def save_actor(policy: Policy, path: Path) -> None:
    """Write the weights of a composer policy (safetensors), whole or not at all."""
    assert isinstance(policy, ComposerPolicy)
    write_tensors(path, policy.actor.state_dict())


def load_actor(path: Path, config: PPOComposerConfig, inputs: PolicyInputs) -> ComposerPolicy:
    """Read what `save_actor` wrote.

    Args:
        path: The file of the weights, which does not say how the policy was built.
        config: The configuration that it was trained with.
        inputs: What the policy is built from.

    Raises:
        RuntimeError: If the weights do not fit `config` and `inputs`.
        ValueError: If the file is cut off, or a weight is not finite.
    """
    weights, composer = read_tensors(path)[0], Composer(inputs, config.composer)
    check_finite(path, weights)
    generator = torch.Generator().manual_seed(0)  # of weights that are overwritten
    width, hidden = len(weights["standardize.mean"]), config.network.actor_hidden
    actor = IntentActor(width, composer.intent_size, hidden, config.network.log_std, generator)
    actor.load_state_dict(weights)
    return ComposerPolicy(composer, actor.to(inputs.catalog.device).requires_grad_(False))
