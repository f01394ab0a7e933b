"""What the cases are tried on: every registered environment, and small folders made once a
process."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

import recsim_env
from recsim_env import make_simulator, register
from recsim_env.logs import schema
from recsim_env.registration import PRESETS, shopper_options
from recsim_env.shoppers.session.fit import SessionFitConfig, new_session_shopper
from recsim_env.shoppers.session.population import save_session
from recsim_env.shoppers.session.starts import Logged
from recsim_env.simulator import SlateSimulator
from tests.support.fake_log import write_shop
from tests.support.fake_shoppers import member
from tests.support.toys import make_toy_shopper, toy_catalog

FOLDER_ID = "net/Folder-v0"
"""Shoppers fitted to nothing, in a folder: as `CompleteJourney-v0`, made in milliseconds."""
MARKET = Path(recsim_env.__file__).parent / "data" / "market"
TOY_ID = "net/Toy-v0"
"""Toy shoppers, whose candidates change from visit to visit."""
SLOW = ("recsim_env/CompleteJourney-v0",)
"""Environments that take seconds to make; they get a small share of the examples."""
SHOPPERS = 12
START_DAYS = ((0, 60), (0, 150))
"""Days at which shoppers of the small folder start."""


@functools.cache
def scratch() -> Path:
    """A folder for everything that the net writes; it goes when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="recsim-net-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[Any] = []


@functools.cache
def shopper_folder() -> Path:
    """A folder of two small shoppers and a log of twelve people."""
    folder = scratch() / "shopper"
    write_shop(folder)
    for name in ("baskets", "shoppers"):
        path = folder / f"{name}.parquet"
        few = pl.read_parquet(path).filter(pl.col("shopper") < SHOPPERS)
        few.write_parquet(path)
    member(folder, 0).save_pretrained(folder)
    member(folder, 1).save_pretrained(folder / "model1")
    return folder


@functools.cache
def market_folder() -> Path:
    """A folder of two small learned markets."""
    folder = scratch() / "market"
    catalog = toy_catalog()
    config = SessionFitConfig(hidden_size=16, layers=1, window=4, head_size=8)
    models = [new_session_shopper(catalog, 4, config, seed=seed, declared=8) for seed in range(2)]
    declared = torch.nn.functional.normalize(
        torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=1
    )
    save_session(folder, catalog, models, Logged.newcomers(declared))
    return folder


@functools.cache
def ids() -> tuple[str, ...]:
    """Every registered environment, and two of the tests' own."""
    register(
        FOLDER_ID, shopper_folder(), slate_size=5, shopper_options={"start_days": START_DAYS[1]}
    )
    register(
        TOY_ID, make_toy_shopper, slate_size=4, reward={"clicks": 1.0, "category_coverage": 0.5}
    )
    own = (FOLDER_ID, TOY_ID)  # and not what another test registered in this process
    return tuple(id for id in PRESETS if id.startswith("recsim_env/") or id in own)


def quick_ids() -> tuple[str, ...]:
    """Those that are made in milliseconds."""
    return tuple(name for name in ids() if name not in SLOW)


def options_of(id: str) -> tuple[str, ...]:
    """The names of the options that the shopper of an environment takes."""
    return tuple(shopper_options(PRESETS[id]))


def made(id: str, **options: Any) -> SlateSimulator:
    """A simulator of one's own."""
    ids()
    return make_simulator(id, device="cpu", **options)


@functools.cache
def simulator(id: str, strict: bool = False) -> SlateSimulator:
    """A simulator that is made once; whoever uses it resets it first."""
    ids()
    return make_simulator(id, device="cpu", strict=strict)


@functools.cache
def tables() -> dict[str, tuple[schema.Table, pl.DataFrame, int | None]]:
    """Every table of a log that the schema knows: its description, a good one of a few rows, and
    how many items."""
    folder = shopper_folder()
    files = {path.stem: path for path in folder.glob("*.parquet")} | {
        "impressions": folder / "policy.parquet"
    }
    known = [value for value in vars(schema).values() if isinstance(value, schema.Table)]
    return {
        table.name: (table, pl.read_parquet(files[table.name]).head(60), items_of(table))
        for table in known
    }


def items_of(table: schema.Table) -> int | None:
    """How many items the catalogue of the small log has, where the reader of a table asks; else
    None."""
    reader = getattr(schema, f"read_{table.name}")
    return 40 if "n_items" in inspect.signature(reader).parameters else None


def valid_slates(simulator: SlateSimulator, seed: int = 0) -> Tensor:
    """Distinct candidates at random, (B, K); the first one again where there are too few."""
    candidates = simulator.candidates
    draws = torch.rand(candidates.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(
        candidates < 0, -1
    )
    places = draws.argsort(dim=1, descending=True)[:, : simulator.slate_size]
    slates = torch.full((len(candidates), simulator.slate_size), -1)
    slates[:, : places.shape[1]] = candidates.gather(1, places)
    return slates.where(slates >= 0, slates[:, :1].clamp(min=0))


def plays(simulator: SlateSimulator, steps: int = 2) -> None:
    """Assert that a simulator plays: observations in their space, rewards finite and the weighted
    sum of terms."""
    observation = simulator.reset(torch.tensor([3, 4]))
    assert_inside(simulator, observation)
    for step in range(steps):
        shopper_slates = valid_slates(simulator, step)
        if simulator.strict and len(shopper_slates[0].unique()) < simulator.slate_size:
            return
        result = simulator.step(shopper_slates)
        assert_outcome(simulator, vars(result))
        assert_inside(simulator, result.observation)
        if bool(result.ended.any()):
            return


def assert_inside(simulator: SlateSimulator, observation: Mapping[str, Tensor]) -> None:
    """Assert that every row of an observation lies in the space."""
    known = simulator.observation_space
    assert set(observation) == set(known.spaces), (
        f"the observation has the keys {sorted(observation)}"
    )
    for name, value in observation.items():
        for row in value[:3].numpy():
            assert known[name].contains(np.asarray(row)), (
                f"observation[{name!r}] lies outside of its space"
            )


def assert_outcome(simulator: SlateSimulator, outcome: Mapping[str, Any]) -> None:
    """Assert what holds of every step: finite rewards that are the weighted sum of terms, ends that
    exclude another."""
    info, reward = outcome["info"], outcome["reward"]
    assert bool(reward.isfinite().all()), f"the reward is {reward.tolist()}"
    total = torch.zeros_like(reward, dtype=torch.float64)
    for name, weight in simulator.reward.weights.items():
        total += weight * info[f"reward_terms/{name}"].double()
    assert torch.allclose(total.float(), reward, rtol=1e-4, atol=1e-5), (
        "the reward is not the weighted sum of its terms"
    )
    assert not bool((outcome["terminated"] & outcome["truncated"]).any()), (
        "an episode was terminated and truncated"
    )
    gap = info["gap_days"]
    assert bool((gap.isfinite() & (gap >= 0)).all()), f"gap_days is {gap.tolist()}"
    assert bool((info["clicks"] + info["invalid_items"] <= simulator.slate_size).all()), (
        "clicks where nothing was shown"
    )
