"""Play as a Minari dataset, which offline agents learn from, and such a dataset as a log.

A dataset holds whole episodes with spaces, observations, actions, rewards and ends, and the
specification of the environment, so that `dataset.recover_environment()` makes it again. It lies in
`MINARI_DATASETS_PATH`, or else in Minari's own folder of the user. Needs the extra `offline`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from recsim_env import checks
from recsim_env.logs.record import DAY_ZERO
from recsim_env.logs.schema import IMPRESSIONS, SPLITS
from recsim_env.rollout import check_policy_type, draws_for
from recsim_env.types import Policy
from recsim_env.vector import SlateVectorEnv

if TYPE_CHECKING:
    from minari import MinariDataset
    from minari.data_collector import EpisodeBuffer

Array = NDArray[Any]
Act = Callable[[Any], Any]
"""Chooses actions (B, ...) for observations (B, ...), as arrays."""
OF_BATCH = (
    "num_envs",
    "vectorization_mode",
    "vector_kwargs",
    "wrappers",
    "output",
    "autoreset_mode",
)
"""Options of a vector environment that one of a single shopper does not take."""
NEEDED = ("recent_slates", "recent_clicks", "recent_days")
"""Keys of the observation that a log is made from."""


def acting(policy: Policy, envs: VectorEnv[Any, Any, Any]) -> Act:
    """Let a policy of slates act in a vector environment of slates, with the noise of its seeds.

    Args:
        policy: The policy.
        envs: Its environment, `gymnasium.make_vec` of a registered id; arrays are handed out.

    Raises:
        TypeError: If the policy is none.
        ValueError: If the environment is of another kind.
    """
    check_policy_type(policy)
    slates = envs.unwrapped
    if not isinstance(slates, SlateVectorEnv):
        raise ValueError(
            f"envs is {checks.told(slates)}, but a policy of slates plays in a SlateVectorEnv."
        )
    simulator = slates.simulator

    def act(observation: Mapping[str, Any]) -> Array:
        seen = {
            name: torch.as_tensor(value).to(simulator.device) for name, value in observation.items()
        }
        at = simulator.episodes
        chosen: Array = policy(seen, draws_for(policy, at.seed, at.visit, at.number)).cpu().numpy()
        return chosen

    return act


def write_minari(
    dataset_id: str,
    envs: VectorEnv[Any, Any, Any],
    act: Act,
    *,
    rounds: int = 1,
    seed: int = 0,
    algorithm: str | None = None,
    description: str | None = None,
) -> MinariDataset:
    """Play whole episodes in a vector environment, and write them as a Minari dataset.

    Every row plays as many episodes as the others, so that long ones are not fewer. Row i begins
    with the seed `seed` + i; with `rounds` 1, an `acting` policy plays the episodes that
    `recsim_env.logs.record.record` plays with these seeds.

    Args:
        dataset_id: Name of the dataset, as `shop/market/broad-v0`.
        envs: The environment, made by `gymnasium.make_vec`: of slates, or a face of `agents.faces`.
        act: Chooses the actions.
        rounds: Number of episodes of each row.
        seed: Seed of the first row.
        algorithm: Name of what chose the actions.
        description: A sentence on the dataset.

    Raises:
        ImportError: If the extra `offline` is not installed.
        ValueError: If there is a dataset of that name, the environment was not made by
            `gymnasium.make_vec` or does not reset by NEXT_STEP, or a number is out of its range.
    """
    minari = _minari()
    checks.text("dataset_id", dataset_id)
    if dataset_id in minari.list_local_datasets():
        raise ValueError(
            f"dataset_id is {dataset_id!r}, but there is such a dataset: take another name, or "
            f"call minari.delete_dataset({dataset_id!r})."
        )
    if envs.spec is None:
        raise ValueError(
            "envs has no specification, but gymnasium.make_vec gives it one, from which the "
            "environment can be made again."
        )
    episodes = collect(envs, act, rounds=rounds, seed=seed)
    with warnings.catch_warnings():  # it asks for an author and a link
        warnings.simplefilter("ignore", UserWarning)
        found: MinariDataset = minari.create_dataset_from_buffers(
            dataset_id,
            episodes,
            env=_single(envs.spec),
            observation_space=envs.single_observation_space,
            action_space=envs.single_action_space,
            algorithm_name=algorithm,
            description=description,
        )
    return found


def collect(
    envs: VectorEnv[Any, Any, Any], act: Act, *, rounds: int = 1, seed: int = 0
) -> list[EpisodeBuffer]:
    """Play `rounds` whole episodes in every row of a vector environment.

    Raises:
        ImportError: If the extra `offline` is not installed.
        ValueError: If a number is out of its range, or rows do not start again by NEXT_STEP.
    """
    _minari()
    from minari.data_collector import EpisodeBuffer

    rounds = checks.whole("rounds", rounds, 1)
    seed = checks.whole("seed", seed, 0, checks.LARGEST_SEED - envs.num_envs)
    mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    if mode is not AutoresetMode.NEXT_STEP:
        raise ValueError(f"autoreset_mode of envs is {mode.name}, but it must be NEXT_STEP.")

    episodes: list[list[EpisodeBuffer]] = [[] for _ in range(envs.num_envs)]
    observation, _ = envs.reset(seed=seed)
    running = [_Episode(_row(observation, row)) for row in range(envs.num_envs)]
    begins = np.zeros(envs.num_envs, dtype=bool)  # rows that start again at the next step
    while min(map(len, episodes)) < rounds:
        actions = act(observation)
        observation, reward, terminated, truncated, _ = envs.step(actions)
        ended = np.asarray(terminated) | np.asarray(truncated)
        for row in range(envs.num_envs):
            if begins[row]:
                running[row] = _Episode(_row(observation, row))
            elif len(episodes[row]) < rounds:
                running[row].add(
                    _row(actions, row),
                    _row(observation, row),
                    reward[row],
                    (bool(terminated[row]), bool(truncated[row])),
                )
                if ended[row]:
                    number = len(episodes[row])
                    first = seed + row if number == 0 else None
                    told = running[row].told()
                    episodes[row].append(EpisodeBuffer(id=None, seed=first, **told))
        begins = ended & ~begins
    return [episode for of_row in episodes for episode in of_row]


def _single(spec: EnvSpec) -> EnvSpec:
    """The specification of the same environment with one shopper."""
    found = copy.deepcopy(spec)
    found.kwargs = {name: value for name, value in spec.kwargs.items() if name not in OF_BATCH}
    return found


class _Episode:
    """The steps of an episode so far."""

    def __init__(self, observation: Any) -> None:
        self._observations = [observation]
        self._actions: list[Any] = []
        self._rewards: list[Any] = []
        self._ends: list[tuple[bool, bool]] = []

    def add(self, action: Any, observation: Any, reward: Any, ends: tuple[bool, bool]) -> None:
        """Add a step, with what was observed after it."""
        self._observations.append(observation)
        self._actions.append(action)
        self._rewards.append(reward)
        self._ends.append(ends)

    def told(self) -> dict[str, Any]:
        """The fields of Minari's buffer, (T, ...) each; observations have one more."""
        return {
            "observations": _stacked(self._observations),
            "actions": _stacked(self._actions),
            "rewards": list(self._rewards),
            "terminations": [terminated for terminated, _ in self._ends],
            "truncations": [truncated for _, truncated in self._ends],
        }


def _row(values: Any, row: int) -> Any:
    """One row of an array (B, ...), or of a mapping of such arrays."""
    if isinstance(values, Mapping):
        return {name: _row(value, row) for name, value in values.items()}
    return np.array(np.asarray(values)[row])  # a copy: some environments write into their arrays


def _stacked(values: list[Any]) -> Any:
    """Arrays above each other; of mappings, each of their values."""
    if isinstance(values[0], Mapping):
        return {name: _stacked([value[name] for value in values]) for name in values[0]}
    return np.stack(values)


# ---- back into a log -----------------------------------------------------------------------------


def log_of(
    dataset: MinariDataset, *, split: str = "train"
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Read a dataset of slates as the impression table of a log.

    What was shown, clicked, and how many days passed, is read from the observation after each step,
    so that any dataset will do whose observations are those of an environment of this package. An
    episode is a shopper, in the order of the dataset, from day 0 on; responses stand in `click`,
    `policy` is the algorithm of the dataset, and weeks and the store are those of a shop that tells
    none. Propensities are not known.

    Args:
        dataset: The dataset, with observations that are mappings.
        split: train, valid or test.

    Returns:
        The table, and what shoppers declared where they do, as `Sessions.of` takes them.

    Raises:
        ValueError: If observations lack a key of `NEEDED`, the dataset is of whole visits, whose
            clicks go into a cart, it shows nothing, or `split` is none.
    """
    # What observations must tell.
    checks.choice("split", split, SPLITS)
    spaces = getattr(dataset.observation_space, "spaces", {})
    for name in NEEDED:
        if name not in spaces:
            raise ValueError(
                f"dataset has observations without {name!r}, but a log is made from "
                f"{', '.join(NEEDED)}: write it from an environment of slates."
            )
    if "cart" in spaces:
        raise ValueError(
            "dataset is of whole visits, whose clicks go into a cart, but it does not tell what "
            "was paid for: recsim_env.logs.record.record writes their log."
        )

    # Visits of every episode, and what its shopper declared.
    parts, said, visits = [], [], 0
    for shopper, episode in enumerate(dataset.iterate_episodes()):
        part = _visits(episode, shopper, visits)
        visits += len(part)
        parts.append(part.filter(pl.col("slate").list.len() > 0))
        if "declared" in spaces:
            said.append((shopper, episode.observations["declared"][0].tolist()))

    # The columns that a dataset does not tell are those of a shop that knows none of them.
    name = dataset.storage.metadata.get("algorithm_name")
    table = pl.concat(parts).with_columns(
        time=pl.lit(DAY_ZERO) + pl.duration(days=pl.col("day"), hours=12),
        week=pl.col("day") // 7 + 1,
        store=pl.lit(0),
        scenario=pl.lit("simulated"),
        policy=pl.lit(name, pl.String()),
        page=pl.lit(0),
        split=pl.lit(split),
    )
    if not len(table):
        raise ValueError("dataset has no slate that showed an item, but a log needs some.")
    types = {"shopper": pl.Int64(), "declared": pl.List(pl.Float32)}
    declared = pl.DataFrame(said, schema=types, orient="row") if said else None
    return IMPRESSIONS.completed(table), declared


def _visits(episode: Any, shopper: int, first: int) -> pl.DataFrame:
    """The visits of an episode; those from `first` on are numbered by it."""
    after = {name: episode.observations[name][1:] for name in NEEDED}
    slates = after["recent_slates"][:, 0]
    clicks = after["recent_clicks"][:, 0] > 0
    days = after["recent_days"][:, 0].astype(np.float32)
    since = np.concatenate([[0.0], days[:-1].cumsum(dtype=np.float32)])
    left = np.asarray(episode.terminations, dtype=bool)
    shown = slates >= 0
    return pl.DataFrame(
        {
            "shopper": np.full(len(slates), shopper),
            "visit": first + np.arange(len(slates)),
            "day": since.astype(np.int64),
            "slate": [slate[there].tolist() for slate, there in zip(slates, shown, strict=True)],
            "click": [click[there].tolist() for click, there in zip(clicks, shown, strict=True)],
            "gap": [
                None if over else int(gap) for over, gap in zip(left.tolist(), days, strict=True)
            ],
            "follow_up": days.astype(np.int64),
        },
        schema_overrides={
            "slate": pl.List(pl.Int32),
            "click": pl.List(pl.Boolean),
            "gap": pl.Int64,
        },
    )


def _minari() -> Any:
    """The package, or one sentence on how to get it."""
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed, but Minari datasets need the extra `offline`: "
            "pip install 'recsim-env[offline]'."
        ) from None
    return minari
