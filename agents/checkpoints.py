"""What training leaves on disk: one safetensors file (no pickle), written whole or not at all.

It holds the weights, the optimizer, the private generators and the counters, so that training goes on from it, and how
the policy was built, so that the policy can be used without Stable-Baselines3 and without the environment.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from agents.ppo import SlatePPO, environment_of
from policies.base import Policy, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.learnable import LEARNABLE, Plan

LAST = "checkpoint.safetensors"
"""Name of the file in the folder of a training."""


def save(model: SlatePPO, path: Path) -> None:
    """Write everything that training needs to go on."""
    tensors = {f"policy/{name}": value for name, value in model.policy.state_dict().items()}
    for at, entries in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{at}/{name}": torch.as_tensor(value) for name, value in entries.items()}
    tensors |= {f"random/{name}": value for name, value in model.randomness.tensors().items()}
    counters = {"num_timesteps": model.num_timesteps, "n_updates": model._n_updates}
    metadata = {"counters": json.dumps(counters), "policy": json.dumps(_how_built(model))}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(contiguous, temporary, metadata=metadata)
    temporary.replace(path)


def load(model: SlatePPO, path: Path) -> None:
    """Put a checkpoint into a model that was built alike, and let its episodes go on from fresh seeds.

    Errors: FileNotFoundError; ValueError where the policy was built otherwise.
    """
    metadata, tensors = _read(path)
    if metadata["policy"] != _how_built(model):
        raise ValueError(f"{path} holds the policy {metadata['policy']}, but the model is {_how_built(model)}.")
    model.policy.load_state_dict(_under(tensors, "policy/"))
    optimizer = model.policy.optimizer
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer/").items():
        at, entry = name.split("/")
        state.setdefault(int(at), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    model.randomness.load(_under(tensors, "random/"))
    model.num_timesteps = metadata["counters"]["num_timesteps"]
    model._n_updates = metadata["counters"]["n_updates"]
    environment_of(model).generation = model._n_updates


def load_policy(path: Path, inputs: PolicyInputs, *, deterministic: bool = True) -> Policy:
    """The policy of a checkpoint, to be used.

    Errors: FileNotFoundError; ValueError where the environment or this version has not what it was trained on.
    """
    metadata, tensors = _read(path)
    built = metadata["policy"]
    if built["kind"] not in LEARNABLE:
        raise ValueError(f"{path} holds a policy of kind {built['kind']!r}, but there are {sorted(LEARNABLE)}.")
    kind = LEARNABLE[built["kind"]]
    composer = Composer(inputs, ComposerConfig(**built["composer"]))
    for name, here in _steering(composer).items():
        if built[name] != here:
            raise ValueError(f"{path} was trained with the {name} {built[name]}, but here are {here}.")
    weights = _under(tensors, "policy/actor.")
    generator = torch.Generator().manual_seed(0)  # of weights that are overwritten
    plan = Plan(composer, inputs.catalog, len(weights["standardize.mean"]), tuple(built["hidden"]), generator)
    actor = kind.actor(plan, kind.config(**built["start"]))
    actor.load_state_dict(weights)
    return kind.policy(composer, actor.to(inputs.catalog.embedding.device), deterministic)


def _how_built(model: SlatePPO) -> dict[str, Any]:
    """What `load_policy` needs besides the weights."""
    policy = model.policy
    return {
        "kind": policy.kind,
        "start": asdict(policy.start),
        "composer": asdict(policy.composer.config),
        **_steering(policy.composer),
        "hidden": list(policy.network.actor_hidden),
    }


def _steering(composer: Composer) -> dict[str, list[Any]]:
    """What an actor's outputs mean: the knobs, and the log-odds per unit of each."""
    return {"knobs": list(composer.knobs), "units": composer.units.tolist()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = {name: json.loads(text) for name, text in file.metadata().items()}
        return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
