"""What training leaves on disk: one safetensors file (no pickle), written whole or not at all.

It holds the weights, the optimizer, the private generators, the counters and where every shopper
stands, so that training goes on from it bit for bit (on one thread), and how the policy was built,
so that the policy can be used without Stable-Baselines3 and without the environment.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from agents.keeper import optimizer_state, restore_optimizer
from agents.ppo.algorithm import SlatePPO, environment_of
from policies.base import PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.learnable.kinds import LEARNABLE, Plan
from recsim_env.files import read_tensors, write_tensors
from recsim_env.trees import Flat, flat, restored
from recsim_env.types import Policy

LAST = "checkpoint.safetensors"
"""Name of the file in the folder of a training."""
POLICY = "policy/"
"""How the names of the policy's weights begin."""
BUILT = ("kind", "start", "composer", "knobs", "units", "hidden")
"""What `_how_built` tells."""


def save(model: SlatePPO, path: Path) -> None:
    """Write everything that training needs to go on.

    Raises:
        OSError: If it cannot be written; the checkpoint before is whole.
    """
    written = flat(state_of(model), "training")
    told = {"policy": _how_built(model), "outline": written.outline}
    write_tensors(path, written.tensors, {name: json.dumps(value) for name, value in told.items()})


def load(model: SlatePPO, path: Path) -> None:
    """Put a checkpoint into a model that was built alike. Where its shoppers could not be written
    down, training goes on with fresh episodes, and a line on stderr says so.

    Errors, before anything changes: FileNotFoundError; ValueError where the file is no whole
    checkpoint, holds a weight that is not finite, or the policy was built otherwise; the sentence
    names the file, and the tensor.
    """
    tensors, metadata = read_tensors(path)
    built = _told(path, metadata, "policy")
    if built != _how_built(model):
        raise ValueError(f"{path} holds the policy {built}, but the model is {_how_built(model)}.")
    check_finite(path, tensors, (POLICY, "optimizer/"))
    try:
        missing = restore_model(model, Flat(tensors, _told(path, metadata, "outline")))
    except ValueError as error:
        raise ValueError(f"{path} does not fit the training: {error}") from None
    if missing:
        print(f"{path}: training goes on with fresh episodes, because {missing}", file=sys.stderr)


def state_of(model: SlatePPO) -> dict[str, Any]:
    """All that a training consists of between two updates, as a tree of `recsim_env.trees`."""
    env, why_not = None, None
    if model._last_obs is not None:  # episodes have begun
        try:
            env = environment_of(model).state()
        except TypeError as error:
            why_not = str(error)
    return {
        "policy": dict(model.policy.state_dict()),
        "optimizer": optimizer_state(model.policy.optimizer),
        "random": model.randomness.tensors(),
        "counters": {"num_timesteps": model.num_timesteps, "n_updates": model._n_updates},
        "recent": list(model.ep_info_buffer or ()),
        "starts": None if env is None else torch.as_tensor(model._last_episode_starts),
        "env": env,
        "why_not": why_not,
    }


def restore_model(model: SlatePPO, state: Flat) -> str | None:
    """Take what `state_of` gave; why episodes could not go on, or None where they do.

    Raises:
        ValueError: If the state does not fit, with the place where it does not.
    """
    like: dict[str, Any] = {
        "policy": dict(model.policy.state_dict()),
        "counters": {"num_timesteps": 0, "n_updates": 0},
    }
    like |= dict.fromkeys(("optimizer", "random", "recent", "starts", "env", "why_not"))
    found = restored(like, state, model.device)
    for name, now in model.randomness.tensors().items():
        saved = found["random"].get(name)
        if not name.startswith("cuda") and (
            saved is None or saved.shape != now.shape or saved.dtype != now.dtype
        ):
            raise ValueError(f"The tensor 'random/{name}' is missing or of another shape or type.")
    seen = None if found["env"] is None else environment_of(model).restore(found["env"])
    restore_optimizer(model.policy.optimizer, found["optimizer"])
    model.policy.load_state_dict(found["policy"])
    model.randomness.load({name: value.cpu() for name, value in found["random"].items()})
    model.num_timesteps, model._n_updates = (
        found["counters"]["num_timesteps"],
        found["counters"]["n_updates"],
    )
    model.ep_info_buffer = deque(found["recent"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    if seen is not None:
        # SB3 declares arrays; tensors take their place, as in `agents.ppo.device_ppo`
        model._last_obs, model._last_episode_starts = cast(Any, seen), found["starts"]
        return None
    environment_of(model).generation = model._n_updates
    begun = model.num_timesteps > 0
    return (found["why_not"] or "the checkpoint does not say where they stood.") if begun else None


def load_policy(path: Path, inputs: PolicyInputs, *, deterministic: bool = True) -> Policy:
    """The policy of a checkpoint, to be used.

    Errors: FileNotFoundError; ValueError where the file is no whole checkpoint, holds a weight that
    is not finite, or the environment or this version has not what it was trained on.
    """
    tensors, metadata = read_tensors(path, POLICY)
    built = _told(path, metadata, "policy")
    if missing := [name for name in BUILT if name not in built]:
        raise ValueError(
            f"{path} does not tell {missing} of its policy, but it can be built with all of {BUILT} only."
        )
    if built["kind"] not in LEARNABLE:
        raise ValueError(
            f"{path} holds a policy of kind {built['kind']!r}, but there are {sorted(LEARNABLE)}."
        )
    check_finite(path, tensors)
    kind = LEARNABLE[built["kind"]]
    try:
        composer = Composer(inputs, ComposerConfig(**built["composer"]))
        start = kind.config(**built["start"])
    except TypeError as error:
        raise ValueError(
            f"{path} holds settings that this version does not have: {error}."
        ) from None
    for name, here in _steering(composer).items():
        if built[name] != here:
            raise ValueError(
                f"{path} was trained with the {name} {built[name]}, but here are {here}."
            )
    weights = _under(tensors, f"{POLICY}actor.")
    generator = torch.Generator().manual_seed(0)  # of weights that are overwritten
    plan = Plan(composer, inputs.catalog, _width(path, weights), tuple(built["hidden"]), generator)
    actor = kind.actor(plan, start)
    for name, like in actor.state_dict().items():
        if name not in weights or weights[name].shape != like.shape:
            found = (
                f"has the shape {tuple(weights[name].shape)}" if name in weights else "is missing"
            )
            raise ValueError(
                f"{path}: the tensor '{POLICY}actor.{name}' {found}, but it must be {tuple(like.shape)}."
            )
    actor.load_state_dict(weights)
    return kind.policy(composer, actor.to(inputs.catalog.embedding.device), deterministic)


def _width(path: Path, weights: Mapping[str, Tensor]) -> int:
    """Number of features that an actor sees."""
    mean = weights.get("standardize.mean")
    if mean is None or mean.ndim != 1:
        raise ValueError(
            f"{path}: the tensor '{POLICY}actor.standardize.mean' is missing or no vector."
        )
    return len(mean)


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


def _told(path: Path, metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """A part of the metadata."""
    try:
        told = json.loads(metadata[name])
    except (KeyError, ValueError):
        told = None
    if not isinstance(told, dict):
        raise ValueError(
            f"{path} has no {name!r} in its metadata, but a checkpoint of a training has."
        )
    return told


def check_finite(
    path: Path, tensors: Mapping[str, Tensor], prefixes: tuple[str, ...] = ("",)
) -> None:
    """Errors: ValueError where a number in a tensor whose name begins so is NaN or infinite; it names the tensor."""
    for name, value in tensors.items():
        if not name.startswith(prefixes) or not value.is_floating_point():
            continue
        if not bool((finite := value.isfinite()).all()):
            at = (~finite).nonzero()[0].tolist()
            raise ValueError(
                f"{path}: the tensor {name!r} holds {value[tuple(at)].item()} at {at}, but must be finite."
            )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
