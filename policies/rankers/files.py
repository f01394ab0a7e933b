"""Rankers in files of any kind: which one a file holds, and whether it fits to a shop."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium

from policies.inputs import Ranker
from policies.rankers import belief, ctr, two_tower
from policies.rankers.belief import BeliefRanker, save_belief_ranker
from policies.rankers.ctr import CTRRanker, load_model, save_model
from policies.rankers.networks import DESCRIBED
from policies.rankers.recent import RecentRanker, counters_for
from policies.rankers.two_tower import TwoTowerRanker, load_two_tower, save_two_tower
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.files import read_tensors
from recsim_env.shop_file import HOUSEHOLD

KINDS = (ctr.KIND, two_tower.KIND, belief.KIND, HOUSEHOLD)
"""Kinds of rankers that a file may hold."""


def save_ranker(ranker: Ranker, path: Path) -> None:
    """Write a ranker to a file (safetensors), as a whole or not at all.

    Raises:
        TypeError: If the ranker is of a class that no file holds.
        OSError: If the file cannot be written.
    """
    if isinstance(ranker, CTRRanker):
        save_model(ranker.model, path)
    elif isinstance(ranker, RecentRanker):
        save_two_tower(ranker.two_tower, path)
    elif isinstance(ranker, TwoTowerRanker):
        save_two_tower(ranker, path)
    elif isinstance(ranker, BeliefRanker):
        save_belief_ranker(path)
    else:
        from policies.rankers import household  # it imports transformers

        if not isinstance(ranker, household.HouseholdRanker):
            raise TypeError(
                f"ranker is {checks.told(ranker)}, but a file holds a CTRRanker, a TwoTowerRanker, "
                "a BeliefRanker or a HouseholdRanker."
            )
        household.save_household_ranker(ranker, path)


def load_ranker(
    path: Path, catalog: Catalog, space: gymnasium.spaces.Dict, slate_size: int
) -> Ranker:
    """Read a ranker of any kind for a shop.

    Args:
        path: the file
        catalog: the items, on the device of the ranker
        space: space of the observation of one shopper
        slate_size: number of slate positions K

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken, or the ranker was fitted to other items or slates.
    """
    kind = kind_of(path)
    if kind == ctr.KIND:
        model = load_model(path)
        try:
            return CTRRanker(catalog, model)
        except ValueError as error:
            raise ValueError(_misfit(path, catalog, str(error))) from error
    if kind == belief.KIND:
        if lacking := [key for key in belief.KEYS if key not in space.spaces]:
            raise ValueError(
                f"{path} reads a belief, but the observation lacks {lacking}: give the environment "
                "a belief."
            )
        return BeliefRanker()
    if kind == HOUSEHOLD:
        from policies.rankers import household  # it imports transformers

        if lacking := [key for key in household.KEYS if key not in space.spaces]:
            raise ValueError(f"{path} reads a loyalty card, but the observation lacks {lacking}.")
        return household.load_household_ranker(path, catalog)
    ranker = load_two_tower(path, catalog.device)
    items, positions = len(ranker.model.category), len(ranker.model.examination)
    if items != len(catalog):
        raise ValueError(_misfit(path, catalog, f"it ranks {items:,} items"))
    if positions != slate_size:
        raise ValueError(
            f"{path} was fitted to slates of {positions} positions, but slate_size is {slate_size}."
        )
    counters = counters_for(space, catalog, slate_size)
    return ranker if counters is None else RecentRanker(ranker, counters)


def kind_of(path: Path) -> str:
    """The kind of the ranker in a file, one of `KINDS`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no ranker.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file, but it must be that of a ranker.")
    try:
        described = json.loads(read_tensors(path, "no tensor at all")[1].get(DESCRIBED, "{}"))
        kind = described.get("kind") if isinstance(described, dict) else None
    except (json.JSONDecodeError, RecursionError):
        kind = None
    if kind not in KINDS:
        raise ValueError(f"{path} holds {checks.told(kind)}, but a ranker is one of {KINDS}.")
    return str(kind)


def _misfit(path: Path, catalog: Catalog, why: str) -> str:
    return f"{path} does not fit to the {len(catalog):,} items of the catalogue: {why}"
