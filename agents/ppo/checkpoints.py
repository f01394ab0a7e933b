"""Checkpoints of a PPO training: a safetensors file (no pickle), written as a whole or not at all.

A checkpoint holds the weights, the optimizer, the private generators, the counters and the state of
every shopper, so that a resumed training gives the same bits as an uninterrupted one (on one
thread). It also says how the policy was built, so that the policy can be used without
Stable-Baselines3 and without the environment.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from agents.keeper import optimizer_state, restore_optimizer
from agents.ppo.algorithm import SlatePPO, environment_of
from policies.composer import Composer, ComposerConfig
from policies.inputs import PolicyInputs
from policies.learnable.kinds import LEARNABLE, ActorInputs
from recsim_env.files import read_tensors, write_tensors
from recsim_env.trees import Flat, flat, restored
from recsim_env.types import Policy

LAST = "checkpoint.safetensors"
"""Name of the last checkpoint in the folder of a training."""
POLICY = "policy/"
"""Prefix of the names of the policy's weights."""
BUILT = ("kind", "start", "composer", "reward", "knobs", "units", "hidden")
"""Keys of `_how_built`."""


def save(model: SlatePPO, path: Path) -> None:
    """Write everything that is needed to resume the training.

    Raises:
        OSError: If the file cannot be written; an earlier checkpoint stays intact.
    """
    written = flat(state_of(model), "training")
    told = {"policy": _how_built(model), "outline": written.outline}
    write_tensors(path, written.tensors, {name: json.dumps(value) for name, value in told.items()})


def load(model: SlatePPO, path: Path) -> None:
    """Load a checkpoint into a model that was built in the same way.

    If the checkpoint does not hold the state of the shoppers, the training continues with new
    episodes, and a line on stderr says so.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a complete checkpoint, holds a weight that is not finite, or
            belongs to a policy that was built differently. The message names the file and the
            tensor, and nothing has changed.
    """
    tensors, metadata = read_tensors(path)
    built = _told(path, metadata, "policy")
    if built != _how_built(model):
        raise ValueError(f"{path} holds the policy {built}, but the model is {_how_built(model)}.")

    # numbers and shapes are checked before the model changes
    check_finite(path, tensors, (POLICY, "optimizer/"))
    try:
        missing = restore_model(model, Flat(tensors, _told(path, metadata, "outline")))
    except ValueError as error:
        raise ValueError(f"{path} does not fit the training: {error}") from None
    if missing:
        print(f"{path}: training goes on with fresh episodes, because {missing}", file=sys.stderr)


def state_of(model: SlatePPO) -> dict[str, Any]:
    """The state of a training between two updates, as a tree of `recsim_env.trees`."""
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
    """Continue from the result of `state_of`.

    Returns:
        Why the episodes cannot continue; None where they do, or none had begun.

    Raises:
        ValueError: If the state does not fit; the message says where.
    """
    like: dict[str, Any] = {
        "policy": dict(model.policy.state_dict()),
        "counters": {"num_timesteps": 0, "n_updates": 0},
    }
    like |= dict.fromkeys(("optimizer", "random", "recent", "starts", "env", "why_not"))
    found = restored(like, state, model.device)

    # the states of the generators are checked before anything changes
    for name, now in model.randomness.tensors().items():
        saved = found["random"].get(name)
        if not name.startswith("cuda") and (
            saved is None or saved.shape != now.shape or saved.dtype != now.dtype
        ):
            raise ValueError(f"The tensor 'random/{name}' is missing or of another shape or type.")
    env = environment_of(model)
    if found["env"] is not None:
        env.restore(found["env"])

    restore_optimizer(model.policy.optimizer, found["optimizer"])
    model.policy.load_state_dict(found["policy"])
    model.randomness.load({name: value.cpu() for name, value in found["random"].items()})
    model.num_timesteps, model._n_updates = (
        found["counters"]["num_timesteps"],
        found["counters"]["n_updates"],
    )
    model.ep_info_buffer = deque(found["recent"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)

    # where the episodes cannot continue, the next ones differ from those before
    if found["env"] is not None:  # observed with the weights in place: goal units are among them
        # SB3 declares arrays; tensors take their place, as in `agents.ppo.device_ppo`
        model._last_obs, model._last_episode_starts = cast(Any, env.observed()), found["starts"]
        return None
    env.generation = model._n_updates
    begun = model.num_timesteps > 0
    return (found["why_not"] or "the checkpoint does not say where they stood.") if begun else None


def visits_of(path: Path) -> int:
    """The number of visits that a checkpoint's training had made.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a complete checkpoint.
    """
    node: Any = _told(path, read_tensors(path, "counters/")[1], "outline")
    for step in ("dict", "counters", "dict", "num_timesteps", "value"):
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, int):
        raise ValueError(f"{path} does not tell how many visits its training had made.")
    return node


def load_policy(path: Path, inputs: PolicyInputs, *, deterministic: bool = True) -> Policy:
    """The policy of a checkpoint, without the training around it.

    It composes for the reward that it was trained with, whatever that of `inputs` is.

    Args:
        path: the checkpoint
        inputs: what the policy is built from
        deterministic: whether the policy takes its most likely action; otherwise it samples

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a complete checkpoint, holds a weight that is not finite, or
            was made with settings or knobs that do not exist here.
    """
    tensors, metadata = read_tensors(path, POLICY)
    built = _told(path, metadata, "policy")
    if missing := [name for name in BUILT if name not in built]:
        raise ValueError(
            f"{path} does not tell {missing} of its policy, but it can be built with all of "
            f"{BUILT} only."
        )
    if built["kind"] not in LEARNABLE:
        raise ValueError(
            f"{path} holds a policy of kind {built['kind']!r}, but there are {sorted(LEARNABLE)}."
        )
    check_finite(path, tensors)

    # the composer and the configuration of the kind, as they were
    kind = LEARNABLE[built["kind"]]
    try:
        rewarded = replace(inputs, reward=built["reward"])
        start = kind.config(**built["start"])
        composer = kind.composer_for(rewarded, ComposerConfig(**built["composer"]), start)
    except TypeError as error:
        raise ValueError(
            f"{path} holds settings that this version does not have: {error}."
        ) from None
    for name, here in _steering(composer).items():
        if built[name] != here:
            raise ValueError(
                f"{path} was trained with the {name} {built[name]}, but here are {here}."
            )

    # the actor, with the saved weights
    weights = _under(tensors, f"{POLICY}actor.")
    generator = torch.Generator().manual_seed(0)  # draws weights that are then overwritten
    plan = ActorInputs(
        composer, inputs.catalog, _width(path, weights), tuple(built["hidden"]), generator
    )
    actor = kind.actor(plan, start)
    for name, like in actor.state_dict().items():
        if name not in weights or weights[name].shape != like.shape:
            found = (
                f"has the shape {tuple(weights[name].shape)}" if name in weights else "is missing"
            )
            raise ValueError(
                f"{path}: the tensor '{POLICY}actor.{name}' {found}, but it must be "
                f"{tuple(like.shape)}."
            )
    actor.load_state_dict(weights)
    device = inputs.catalog.embedding.device
    return kind.policy(composer, actor.to(device), deterministic=deterministic)


def _width(path: Path, weights: Mapping[str, Tensor]) -> int:
    """Number of features that an actor takes."""
    mean = weights.get("standardize.mean")
    if mean is None or mean.ndim != 1:
        raise ValueError(
            f"{path}: the tensor '{POLICY}actor.standardize.mean' is missing or no vector."
        )
    return len(mean)


def _how_built(model: SlatePPO) -> dict[str, Any]:
    """How the policy of a model was built: what `load_policy` needs besides the weights."""
    policy = model.policy
    start = asdict(policy.start)
    if policy.composer.goals:  # by name and in their order, as in a file
        start["goals"] = list(policy.composer.goals)
    return {
        "kind": policy.kind,
        "start": start,
        "composer": asdict(policy.composer.config),
        "reward": dict(policy.composer.reward.weights),
        **_steering(policy.composer),
        "hidden": list(policy.network.actor_hidden),
    }


def _steering(composer: Composer) -> dict[str, list[Any]]:
    """The meaning of an actor's outputs: the knobs, and the log-odds per unit of each."""
    return {"knobs": list(composer.knobs), "units": composer.units.tolist()}


def _told(path: Path, metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """A part of the metadata, which must be a JSON object."""
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
    """Check that all numbers are finite.

    Args:
        path: the file, for the message
        tensors: the tensors by name
        prefixes: beginnings of the names that are checked

    Raises:
        ValueError: If a number is NaN or infinite; the message names the tensor.
    """
    for name, value in tensors.items():
        if not name.startswith(prefixes) or not value.is_floating_point():
            continue
        if not bool((finite := value.isfinite()).all()):
            at = (~finite).nonzero()[0].tolist()
            raise ValueError(
                f"{path}: the tensor {name!r} holds {value[tuple(at)].item()} at {at}, but must be "
                "finite."
            )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
