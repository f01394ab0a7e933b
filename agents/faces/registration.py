"""Faces under ids of their own: `gymnasium.make("agents:agents/MarketIntent-v0")`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.envs.registration import get_env_id, parse_env_id

from agents.faces.intents import IntentEnv, IntentVectorEnv
from agents.faces.masked import MaskedSlateEnv, MaskedSlateVectorEnv
from recsim_env import checks
from recsim_env.registration import OWN, PRESETS

if TYPE_CHECKING:
    from agents.places import Site

SINGLE: dict[str, Callable[..., gymnasium.Env[Any, Any]]] = {
    "Intent": IntentEnv,
    "Masked": MaskedSlateEnv,
}
"""The environment of one shopper by the word that an id has for it."""
VECTOR: dict[str, Callable[..., gymnasium.vector.VectorEnv[Any, Any, Any]]] = {
    "Intent": IntentVectorEnv,
    "Masked": MaskedSlateVectorEnv,
}
"""The same for B shoppers at once."""
OF_FACES = ("config", "limit", "candidates", "autoreset_mode", "max_episode_steps")
"""Options that go to the face; all others go to `agents.places.open_place`."""


def register_faces(id: str, place: str | os.PathLike[str] | None = None) -> list[str]:
    """Make both faces of an environment known to `gymnasium.make` and `gymnasium.make_vec`.

        register_faces("shop/Mine-v0")
        env = gymnasium.make("shop/MineIntent-v0")  # and shop/MineMasked-v0

    The environment is opened when one is made, with `agents.places.open_place`: its log and its
    ranker are read, or made and cached at the first time. What `make` is told beside goes there
    (`cache`, `reward`, `slate_size`, `device`, ...), but for `population` (`train` by default, or
    `evaluation`) and what the environments of `agents.faces` take.

    Args:
        id: `namespace/name-v0`; the name of the face is put behind the name
        place: what `open_place` takes: a registered id, `module:id` or a folder; None means `id`

    Returns:
        The ids that were registered.

    Raises:
        ValueError: If `id` is no text.
        gymnasium.error.Error: If Gymnasium does not accept the id.
    """
    namespace, name, version = parse_env_id(checks.text("id", id))
    opened = id if place is None else os.fspath(place)
    made = []
    for face in SINGLE:
        made.append(get_env_id(namespace, f"{name}{face}", version))
        gymnasium.register(
            id=made[-1],
            entry_point="agents.faces.registration:make_face",
            vector_entry_point="agents.faces.registration:make_vector_face",
            kwargs={"face": face, "place": opened},
        )
    return made


def make_face(
    face: str,
    place: str,
    *,
    population: str = "train",
    render_mode: str | None = None,
    **options: Any,
) -> gymnasium.Env[Any, Any]:
    """Open a place and make the environment of one shopper; `register_faces` says of what."""
    checks.choice("face", face, SINGLE)
    own, site = _split(place, options)
    simulator = site.simulator(population)
    return SINGLE[face](simulator, site.inputs_for(simulator), render_mode=render_mode, **own)


def make_vector_face(
    face: str,
    place: str,
    num_envs: int = 1,
    *,
    population: str = "train",
    render_mode: str | None = None,
    **options: Any,
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Open a place and make the environment of B shoppers; `register_faces` says of what."""
    checks.choice("face", face, VECTOR)
    own, site = _split(place, options)
    simulator = site.simulator(population)
    inputs = site.inputs_for(simulator)
    return VECTOR[face](simulator, inputs, num_envs, render_mode=render_mode, **own)


def _split(place: str, options: dict[str, Any]) -> tuple[dict[str, Any], Site]:
    """Return the options of the face, and the place opened with the others."""
    own = {name: options.pop(name) for name in OF_FACES if name in options}
    if all(isinstance(value, Hashable) for value in options.values()):
        return own, _opened(place, **options)
    return own, _open(place, **options)


def _open(place: str, **options: Any) -> Site:
    from agents.places import open_place  # it opens logs, and what is registered need not be opened

    if "cache" in options:
        options["cache"] = checks.path("cache", options["cache"])
    return open_place(place, **options)


_opened = functools.lru_cache(maxsize=2)(_open)
"""The places opened last: several environments of one place share its log and ranker."""

for _id in [id for id in PRESETS if id.startswith(OWN)]:
    register_faces(_id.replace(OWN, "agents/"), _id)
