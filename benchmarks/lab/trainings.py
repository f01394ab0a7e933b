"""Trainings that `benchmarks.agents.train` left: which are finished, and which may be pooled.

    <trained>/<agent>/seed<k>/     settings, the untrained policy, the last checkpoint and, below
                                   agent/, what was kept

Seeds are pooled as repetitions of one training, so all of them must have come to their end, be of
equal length, and have the same settings.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.folder import NETWORK
from agents.ppo.checkpoints import LAST, visits_of
from benchmarks.lab.saved import AGENT, UNTRAINED
from benchmarks.lab.settings import differing, read_settings

SEED = re.compile(r"seed(0|[1-9]\d*)")
"""Name of the folder of a training seed."""
VISITS = "visits"
"""Name of the setting that says how many visits a training was asked for."""
KEPT = f"{AGENT}/{NETWORK}"
"""Path of the network that a training kept, in its folder."""
AGAIN = "run python -m benchmarks.agents.train again with its settings"
"""What to do about a training that is not finished."""


@dataclass(frozen=True)
class FinishedTraining:
    """A training that came to its end."""

    seed: int
    """The seed of the training."""
    folder: Path
    """The folder that the training wrote."""
    visits: int
    """Number of visits that it made."""
    settings: dict[str, Any]
    """What it was made with."""


def finished_trainings(folder: Path) -> list[FinishedTraining]:
    """The trainings in the folder of an agent, by seed; other folders are left out with a line.

    Raises:
        FileNotFoundError: If there is no training.
        ValueError: If one is not finished, or they are of different lengths or settings.
    """
    found = [_finished(seed, path) for seed, path in sorted(_seeds(folder).items())]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no training: run python -m benchmarks.agents.train."
        )
    for other in found[1:]:
        _check_alike(found[0], other)
    return found


def _seeds(folder: Path) -> dict[int, Path]:
    found = {}
    for path in folder.glob("seed*"):
        if name := SEED.fullmatch(path.name):
            found[int(name[1])] = path
        else:
            print(f"{path} is left out: it is no folder of a training seed.", file=sys.stderr)
    return found


def _finished(seed: int, folder: Path) -> FinishedTraining:
    """Read a training, which must have made as many visits as it was asked for.

    Raises:
        ValueError: If it has not.
    """
    lacking = [name for name in ("config.json", UNTRAINED, LAST) if not (folder / name).is_file()]
    if lacking:
        raise ValueError(f"{folder} lacks {', '.join(lacking)}, but a training has it: {AGAIN}.")
    settings, made = read_settings(folder), visits_of(folder / LAST)
    asked = settings.get(VISITS)
    if not isinstance(asked, int):
        raise ValueError(
            f"{folder / 'config.json'} does not say how many visits were asked for: {AGAIN}."
        )
    if made < asked:
        raise ValueError(
            f"{folder} holds a training of {made:,} visits, but it was asked for {asked:,}: "
            f"{AGAIN}, or delete the folder."
        )
    if not (folder / KEPT).is_file():
        raise ValueError(f"{folder} lacks {KEPT}, but a finished training has it: {AGAIN}.")
    return FinishedTraining(seed, folder, made, settings)


def _check_alike(one: FinishedTraining, other: FinishedTraining) -> None:
    """Check that two trainings may be pooled.

    Raises:
        ValueError: If one is longer, or has other settings.
    """
    if one.visits != other.visits:
        raise ValueError(
            f"{other.folder} made {other.visits:,} visits, but {one.folder} made {one.visits:,}: "
            "only trainings of equal length are compared as one."
        )
    if names := differing(_pooled(one.settings), _pooled(other.settings)):
        raise ValueError(
            f"{other.folder} and {one.folder} differ in {names}, but only trainings with the same "
            "settings are compared as one."
        )


def _pooled(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that trainings share; where they ran does not count, nor what was asked for."""
    place = settings.get("place")
    told = {name: value for name, value in settings.items() if name not in ("place", VISITS)}
    inside = place if isinstance(place, dict) else {}
    return told | {
        f"place.{name}": value
        for name, value in inside.items()
        if name not in ("device", "threads", "cache")
    }
