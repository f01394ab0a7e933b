"""Bundles: the figures by hand, and a tiny run that goes on where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from agents.statistics import over_training_seeds, paired_difference
from benchmarks.agents import bundle
from benchmarks.lab.run import read_rows, read_summary
from policies.bundle_oracle import ORACLE_BUNDLE
from recsim_env.registration import PRESETS, EnvConfig, add_preset
from recsim_env.shoppers.bundles.config import BUNDLES
from recsim_env.shoppers.bundles.population import make_bundles

ID = "tests/TinyBundle-v0"
TINY = dataclasses.replace(
    BUNDLES, market=dataclasses.replace(BUNDLES.market, items=30, categories=6, width=4, base=-1.0)
)


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    add_preset(
        ID,
        EnvConfig(
            make_bundles,
            {"revenue": 1.0},
            slate_size=3,
            horizon_days=8.0,
            shopper_options={"config": TINY},
        ),
    )
    yield
    del PRESETS[ID]


def rows_of(policy: str, seed: int | None, returns: list[float]) -> list[dict[str, object]]:
    """Rows of one line of episodes in world 0."""
    return [
        {
            "env": ID,
            "world": 0,
            "policy": policy,
            "seed": seed,
            "episode": at,
            "return": value,
            "visits": 2,
            "taken": 1,
        }
        for at, value in enumerate(returns)
    ]


def test_gains_are_paired_by_shopper_and_trainings_are_the_units() -> None:
    rows = pl.DataFrame(
        rows_of(bundle.SINGLES, None, [1.0, 2.0, 3.0])
        + rows_of(ORACLE_BUNDLE, None, [3.0, 3.5])  # of fewer shoppers
        + rows_of(bundle.AGENT, 0, [2.0, 2.0, 5.0])
        + rows_of(bundle.AGENT, 1, [2.0, 4.0, 3.0])
    )
    assert bundle.gain(rows, ORACLE_BUNDLE, bundle.SINGLES) == paired_difference(
        [3.0, 3.5], [1.0, 2.0]
    )
    found = bundle.gain(rows, bundle.AGENT, bundle.SINGLES)
    assert found == over_training_seeds(np.array([[1.0, 0.0, 2.0], [1.0, 2.0, 0.0]]))
    assert found.value == pytest.approx(1.0)


def config(folder: Path, seeds: tuple[int, ...]) -> bundle.Config:
    return bundle.Config(
        envs=(ID,),
        worlds=(0,),
        agents=("ppo_autoregressive",),
        seeds=seeds,
        steps=32 * 8 * 3,
        shoppers=8,
        slates=200,
        tuning_episodes=4,
        episodes=6,
        oracle_episodes=3,
        cache=folder / "places",
        work=folder / "work",
        results=folder / "results",
        device="cpu",
    )


@pytest.mark.slow
def test_a_run_goes_on_with_the_seeds_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.main(config(tmp_path, (0,)))
    results = tmp_path / "results"
    first = read_rows("bundle", results=results)
    expected = [*bundle.BASELINES, ORACLE_BUNDLE, "ppo_autoregressive"]
    assert first["policy"].unique(maintain_order=True).to_list() == expected
    assert first.group_by("policy").len().sort("policy")["len"].unique().to_list() == [3, 6]
    levels = first.filter(pl.col("policy").str.ends_with(bundle.DISCOUNTED))["level"]
    assert set(levels.to_list()) <= {0, 1, 2, 3}

    bundle.main(config(tmp_path, (0, 1)))
    both = read_rows("bundle", results=results)
    kept = both.filter(pl.col("seed").is_null() | (pl.col("seed") == 0))
    assert kept.equals(first)
    assert sorted(both["seed"].drop_nulls().unique()) == [0, 1]
    summary = read_summary("bundle", results=results)
    name = f"TinyBundle-v0/ppo_autoregressive_minus_{bundle.PAIR}"
    own = both.filter(pl.col("env") == ID)
    assert summary[name].value == pytest.approx(
        bundle.gain(own, "ppo_autoregressive", bundle.PAIR).value
    )
    monkeypatch.setattr(bundle.World, "open", lambda *told: pytest.fail("opened again"))
    bundle.main(config(tmp_path, (0, 1)))  # everything is there


def test_an_environment_without_bundles_is_refused(tmp_path: Path) -> None:
    add_preset("tests/Plain-v0", PRESETS["recsim_env/Market-v0"])
    try:
        told = dataclasses.replace(config(tmp_path, (0,)), envs=("tests/Plain-v0",))
        with pytest.raises(ValueError, match="its slates are no bundles"):
            bundle.main(told)
    finally:
        del PRESETS["tests/Plain-v0"]
