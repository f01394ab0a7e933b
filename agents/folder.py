"""An agent as a folder: everything that makes its slates, without the environment around it.

    agent.json             environment, reward, limit, observation, versions, scores; written last
    policy.safetensors     the network, and how its policy is built
    ranker.safetensors     the ranker that it starts from
    catalog.parquet, embedding.safetensors     the items
    belief/                the fitted user model, where the agent reads a belief
    popularity.safetensors, lasting.safetensors, lift.safetensors, facts.json     where the policy
                           was built from them

Everything is JSON, parquet and safetensors; nothing that is loaded runs code. An agent that was
trained with a belief brings the model that infers it, so that a shop can keep the belief about each
user itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

import recsim_env
from agents.places.opening import plain
from agents.places.site import Site
from agents.ppo.checkpoints import POLICY, load_policy
from agents.ppo.constraint import Constraint
from policies.goals import Weights
from policies.inputs import PolicyInputs
from policies.learnable.conditioned import ConditionedPolicy
from policies.learnable.intents import ComposerPolicy
from policies.rankers.files import load_ranker, save_ranker
from policies.serving.batches import as_batch
from policies.serving.beliefs import ServedBelief
from policies.serving.recommender import Recommender
from recsim_env import checks
from recsim_env.belief.base import PREFIX
from recsim_env.belief.registry import load_belief, save_belief
from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate
from recsim_env.files import read_object, read_tensors, refilling, write_json, write_tensors
from recsim_env.logs.facts import FACTS_FILE, LogFacts
from recsim_env.shop_file import SHOP_FILE
from recsim_env.types import Policy, best_device

ABOUT, NETWORK, RANKER, POPULARITY, LASTING, LIFT = (
    "agent.json",
    "policy.safetensors",
    "ranker.safetensors",
    "popularity.safetensors",
    "lasting.safetensors",
    "lift.safetensors",
)
"""Names of the files in the folder of an agent."""
BELIEF = "belief"
"""Folder in it of the model of a belief."""
UNFINISHED = "unfinished"
"""Folder in it of an agent that is being written."""
FORMAT = 2
"""Version of the folder; another one is refused."""
KEYS = (
    "format",
    "env",
    "options",
    "reward",
    "belief",
    "observation",
    "inputs",
    "versions",
    "scores",
)
"""Keys of agent.json."""


def save_agent(
    folder: Path,
    checkpoint: Path,
    site: Site,
    *,
    env: str | None = None,
    scores: Mapping[str, Estimate | float] | None = None,
    constraint: Constraint | None = None,
) -> None:
    """Write an agent that was trained by PPO into a folder of its own.

    Args:
        folder: The folder; what lies there is replaced.
        checkpoint: The checkpoint of the training.
        site: The place where it was trained.
        env: What the environment is called to open it again; None means `site.env`.
        scores: What the agent reached, by name.
        constraint: The limit under which it was trained, where there was one.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        TypeError: If the ranker is of a class that no file holds.
        ValueError: If the checkpoint is broken, an observation is no array of numbers, or no folder
            holds a belief of this kind.
    """
    inputs = site.inputs
    told = {
        "format": FORMAT,
        "env": site.env if env is None else env,
        "options": {name: plain(value) for name, value in site.options("evaluation").items()},
        "reward": dict(site.reward),
        "constraint": None if constraint is None else dataclasses.asdict(constraint),
        "belief": None if site.belief is None else site.belief.kind,
        "observation": {
            name: _described(name, space) for name, space in inputs.observation_space.items()
        },
        "inputs": {
            "slate_size": inputs.slate_size,
            "pool": inputs.pool,
            "per_category": inputs.per_category,
            "levels": inputs.levels,
        },
        "versions": {"recsim_env": recsim_env.__version__, "torch": str(torch.__version__)},
        "scores": {name: _score(value) for name, value in (scores or {}).items()},
    }

    # The agent that stands there goes when the new one is whole; `ABOUT` says that it is.
    tensors, metadata = read_tensors(checkpoint, POLICY)
    with refilling(folder, folder / UNFINISHED, ABOUT, _optional) as part:
        write_tensors(part / NETWORK, tensors, {"policy": metadata.get("policy", "")})
        save_ranker(inputs.need_ranker("agent"), part / RANKER)
        inputs.catalog.to("cpu").save(part)
        if site.belief is not None:
            save_belief(site.belief, part / BELIEF)
        if inputs.popularity is not None:
            write_tensors(part / POPULARITY, {"popularity": inputs.popularity})
        if inputs.lasting is not None:
            write_tensors(part / LASTING, {"lasting": inputs.lasting})
        if inputs.lift is not None:
            write_tensors(part / LIFT, {"lift": inputs.lift})
        if inputs.facts is not None:
            inputs.facts.write(part)
        write_json(part / ABOUT, told)


def _optional(folder: Path) -> list[Path]:
    """What the folder of an agent may hold or not."""
    return [folder / name for name in (POPULARITY, LASTING, LIFT, FACTS_FILE, BELIEF)]


def load_agent(folder: Path | str, device: torch.device | str | None = None) -> Agent:
    """Load what `save_agent` wrote.

    Args:
        folder: The folder of the agent.
        device: Where it computes, cpu or cuda; None means the best there is.

    Raises:
        FileNotFoundError: If there is no such folder, or a file is missing.
        ValueError: If a file is broken, was written by another version of the format, or belongs to
            another catalogue.
    """
    folder = checks.path("folder", folder)
    path = folder / ABOUT
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {ABOUT}, but the folder of an agent has: "
            "python -m benchmarks.agents.train writes one."
        )
    told = read_object(path)
    if told.get("format") != FORMAT:
        raise ValueError(
            f"{path} has the format {told.get('format')}, but this version reads {FORMAT}."
        )
    if missing := [name for name in KEYS if name not in told]:
        raise ValueError(f"{path} does not tell {missing}, but an agent has all of {KEYS}.")

    # what the policy is built from
    catalog = Catalog.load(folder).to(best_device(device))
    space = spaces.Dict({name: _space(one) for name, one in told["observation"].items()})
    sizes = told["inputs"]
    popularity = lasting = lift = None
    if (folder / POPULARITY).exists():
        popularity = read_tensors(folder / POPULARITY)[0]["popularity"].to(catalog.device)
    if (folder / LASTING).exists():
        lasting = read_tensors(folder / LASTING)[0]["lasting"].to(catalog.device)
    if (folder / LIFT).exists():
        lift = read_tensors(folder / LIFT)[0]["lift"].to(catalog.device)
    inputs = PolicyInputs(
        catalog,
        space,
        sizes["slate_size"],
        load_ranker(folder / RANKER, catalog, space, sizes["slate_size"]),
        popularity,
        sizes["pool"],
        sizes["per_category"],
        LogFacts.read(folder) if (folder / FACTS_FILE).exists() else None,
        told["reward"],
        lasting,
        lift,
        sizes.get("levels", 0),
    )
    return Agent(
        inputs,
        load_policy(folder / NETWORK, inputs),
        told["env"],
        told["options"],
        told["reward"],
        told["versions"],
        told["scores"],
        None if told["belief"] is None else _belief_of(folder, inputs),
        _constraint_of(path, told.get("constraint")),  # earlier versions did not tell
    )


def _constraint_of(path: Path, told: Any) -> Constraint | None:
    """The limit that a file tells.

    Raises:
        ValueError: If it is none.
    """
    if told is None:
        return None
    try:
        return Constraint(**checks.mapping("constraint", told))
    except (TypeError, ValueError) as error:
        names = [one.name for one in dataclasses.fields(Constraint)]
        raise ValueError(
            f"{path} has the constraint {checks.told(told)}, but it must tell {names}: {error}"
        ) from None


def _belief_of(folder: Path, inputs: PolicyInputs) -> ServedBelief:
    """The belief that an agent reads, from its own folder.

    Raises:
        FileNotFoundError: If its files are missing.
        ValueError: If a file is broken, or the belief is about another catalogue.
    """
    own = folder / BELIEF
    if not (own / SHOP_FILE).is_file():
        raise FileNotFoundError(
            f"{own} has no {SHOP_FILE}, but {folder / ABOUT} says that the agent reads a belief: "
            "copy the whole folder of the agent."
        )
    belief = load_belief(own, inputs.catalog.device, inputs.slate_size)
    try:
        return ServedBelief(belief, inputs.observation_space, inputs.catalog)
    except ValueError as error:
        raise ValueError(f"{own} does not belong to this agent: {error}") from None


@dataclass(frozen=True)
class Agent:
    """A trained agent, ready to make slates."""

    inputs: PolicyInputs
    """What its policy is built from: items, ranker, the space of an observation."""
    policy: Policy
    """Its policy at the most likely action, as `agents.evaluate.evaluate` takes it."""
    env: str
    """The environment in which it was trained, as `agents.places.open_place` takes it."""
    options: Mapping[str, Any]
    """Options of the environment."""
    reward: Mapping[str, float]
    """Weight of each term of the reward that it was trained for."""
    versions: Mapping[str, str]
    """Versions of the packages that it was trained with."""
    scores: Mapping[str, Any]
    """What it reached after its training, with 95 % intervals."""

    belief: ServedBelief | None = None
    """What it reads of each user, where it was trained with a belief: it starts, updates, saves and
    loads the states that `recommend` takes."""
    constraint: Constraint | None = None
    """The limit on the mean of a reward term per visit under which it was trained; None where it
    was trained for its reward alone. `scores` tell the limit as a number, and what it reached."""

    def __post_init__(self) -> None:
        made = (
            Recommender(self.inputs, self.policy, None)
            if isinstance(self.policy, ComposerPolicy)
            else self.policy
        )
        object.__setattr__(self, "_serve", made)

    def at(self, weights: Weights) -> Agent:
        """The same agent for other weights of its goals; only their ratios count.

        Args:
            weights: as `policies.learnable.conditioned.ConditionedPolicy.at` takes them

        Raises:
            TypeError: If they are no numbers.
            ValueError: If the agent was not trained for any weights, or if they are not finite,
                negative, all 0 or of another length.
        """
        if not isinstance(self.policy, ConditionedPolicy):
            raise ValueError(
                f"weights are given, but this agent was trained for one reward, {self.reward}: one "
                "of `ppo_conditioned` serves any weights."
            )
        return dataclasses.replace(self, policy=self.policy.at(weights))

    @torch.no_grad()
    def recommend(
        self, observation: Mapping[str, ArrayLike | Tensor], belief: Any = None
    ) -> NDArray[np.int64] | Tensor:
        """Make the slate of one shopper, or the slates of several.

        Args:
            observation: The keys of `inputs.observation_space`, as arrays or tensors: of the shapes
                of the space for one shopper, or (B, ...) for B shoppers. `candidates` may be left
                out where every item is one.
            belief: What is believed of these shoppers, as `self.belief` starts and updates it. None
                where the agent reads no belief, or the observation holds its keys, as that of a
                simulator with the belief does.

        Returns:
            The slate (K,) or the slates (B, K) of item ids, top position first: a tensor where the
            observation is made of tensors, else an array.

        Raises:
            TypeError: If the observation is no mapping or a value is of another type.
            ValueError: If a key is missing, a shape is another one, a number cannot be, or a belief
                is missing or not asked for.
        """
        seen = checks.mapping("observation", observation)
        tensors = any(isinstance(value, Tensor) for value in seen.values())
        batch, single = self._batch(seen, belief)
        serve: Any = vars(self)["_serve"]
        rows = len(next(iter(batch.values())))
        slates: Tensor = serve(batch, torch.zeros(rows, 0, device=self.inputs.catalog.device))
        found = slates[0] if single else slates
        if tensors:
            return found.to(next(v.device for v in seen.values() if isinstance(v, Tensor)))
        return found.cpu().numpy()

    def _batch(self, seen: Mapping[str, Any], belief: Any) -> tuple[dict[str, Tensor], bool]:
        """The observation as tensors (B, ...), and whether it is of one shopper.

        Raises:
            TypeError: As `recommend`.
            ValueError: As `recommend`.
        """
        space, catalog = self.inputs.observation_space, self.inputs.catalog
        if belief is None:
            lacking = [name for name in space if name.startswith(PREFIX) and name not in seen]
            if lacking and self.belief is not None:
                raise ValueError(
                    f"observation has no {lacking[0]!r}, but this agent reads a belief: hand in "
                    "belief=state, where state = agent.belief.start(observation) at the first "
                    "visit, and agent.belief.update(state, ...) learns from each visit."
                )
            return as_batch(seen, space, catalog)
        if self.belief is None:
            raise ValueError("belief is given, but this agent was trained without one.")
        unasked = [name for name in space if name.startswith(PREFIX)]
        batch, single = as_batch(seen, space, catalog, unasked)
        return self.belief.observed(batch, belief), single


# ---- as JSON -------------------------------------------------------------------------------------


def _described(name: str, space: gymnasium.Space[Any]) -> dict[str, Any]:
    """The space of a key of an observation as JSON; bounds are those of all its numbers.

    Raises:
        ValueError: If it is no array of numbers.
    """
    if not isinstance(space, (spaces.Box, spaces.MultiBinary, spaces.MultiDiscrete)):
        raise ValueError(
            f"observation_space[{name!r}] is {checks.told(space)}, but an agent is kept with "
            "observations that are arrays of numbers."
        )
    if isinstance(space, spaces.Box):
        low, high = (float(space.low.min()), float(space.high.max())) if space.low.size else (0, 0)
    elif isinstance(space, spaces.MultiBinary):
        low, high = 0, 1
    else:
        low, high = 0, float(space.nvec.max()) - 1
    return {
        "shape": list(space.shape or ()),
        "dtype": str(np.dtype(space.dtype)),
        "low": low if math.isfinite(low) else None,
        "high": high if math.isfinite(high) else None,
    }


def _space(told: Mapping[str, Any]) -> spaces.Box:
    dtype: Any = np.dtype(told["dtype"]).type
    low, high = (
        float(end) if told[name] is None else told[name]
        for name, end in (("low", "-inf"), ("high", "inf"))
    )
    if np.issubdtype(dtype, np.integer):
        low, high = int(low), int(high)
    return spaces.Box(low, high, tuple(told["shape"]), dtype)


def _score(value: Estimate | float) -> Any:
    if isinstance(value, Estimate):
        told = dataclasses.asdict(value)
        return {name: one if math.isfinite(one) else None for name, one in told.items()}
    return float(value)
