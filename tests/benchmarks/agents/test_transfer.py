"""Transfer: the figures of hand-made rows, and a small market that is measured once."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import pytest
import torch

import recsim_env
from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, seeds
from agents.ppo.agents import PPOComposerConfig
from agents.ppo.config import PPOConfig
from benchmarks.agents import transfer
from benchmarks.agents.transfer import (
    Cell,
    Config,
    Models,
    OpenedCell,
    cells,
    measure,
    read_work,
)
from benchmarks.agents.transfer_report import (
    LEARNED,
    LOG,
    ROWS,
    TRUE,
    analyse,
    cells_of,
    draw,
    gain_kept,
    tables,
)
from benchmarks.lab import contenders
from benchmarks.lab.contenders import FIXED
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.settings import remember_settings, settings_of
from policies import POLICIES
from policies.learnable.sb3 import NetworkConfig
from recsim_env.registration import PRESETS
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.session.fit import SessionFitConfig

# ---- figures of hand-made rows -------------------------------------------------------------------

Returns = dict[tuple[str, str], tuple[float, float]]
FIVE: Returns = {
    ("uniform", LOG): (1.0, 1.5),
    ("greedy_ctr", LOG): (10.0, 9.0),
    ("cap 1", LOG): (20.0, 22.0),
    ("mmr 1", LOG): (16.0, 24.0),
    ("ppo", TRUE): (22.0, 20.9),
    ("ppo", LEARNED): (19.0, 25.0),
}
"""(agent, trained in) -> true and learned return."""


def rows_of(
    returns: Returns, world: int = 0, seed: int = 0, simulator: str = LEARNED, slates: int = 300_000
) -> pl.DataFrame:
    """The rows of one cell with the true ones; learned PPO was trained in its simulator."""
    lines: list[dict[str, Any]] = []
    for (agent, trained_in), earned in returns.items():
        for kind, value in zip((TRUE, simulator), earned, strict=True):
            lines.append(
                {
                    "world": world,
                    "slates": slates,
                    "mixture": "exploring",
                    "simulator": kind,
                    "model_seed": seed if kind == LEARNED else None,
                    "agent": agent,
                    "trained_in": simulator if trained_in == LEARNED else trained_in,
                    "agent_seed": 0 if trained_in == LOG else seed,
                    "episodes": 10,
                    "return": value,
                    "return_se": 0.1,
                    "clicks": value,
                    "visits": 10.0,
                }
            )
    return pl.DataFrame(lines, schema=ROWS)


def joined(*parts: pl.DataFrame) -> pl.DataFrame:
    """As in a work folder: the true row of an agent stands there once."""
    return pl.concat(parts).unique(maintain_order=True)


def test_the_figures_of_one_cell() -> None:
    found = analyse(rows_of(FIVE), 300_000, "exploring").summary
    # four agents, six pairs, of which cap 1 and mmr 1 are the wrong way round: (5 - 1) / 6
    assert found["kendall_tau"].value == pytest.approx(4 / 6)
    # six agents, fifteen pairs, with p the ppo of the true market and q that of the learned one. In
    # truth mmr < q < cap < p, in the learned market p < cap < mmr < q: wrong are (mmr, cap), (mmr,
    # p), (cap, p), (q, cap), (q, p)
    assert found["kendall_tau_ppo_included"].value == pytest.approx((10 - 5) / 15)
    assert found["worst_return_error"].value == pytest.approx(0.5)  # uniform, and mmr 1
    errors = (0.5, 0.1, 0.1, 0.5, 1.1 / 22, 6 / 19)
    assert found["mean_return_error"].value == pytest.approx(sum(errors) / 6)
    assert found["ppo_gain_kept"].value == pytest.approx((19 - 10) / (22 - 10))
    assert (found["ppo_gain_true"].value, found["ppo_gain_learned"].value) == (12, 9)
    assert found["ppo_optimism"].value == pytest.approx(25 / 19 - 1)
    assert found["winner_regret"].value == pytest.approx(
        1 - 19 / 22
    )  # the ppo of the learned market wins there
    assert (found["worlds"].value, found["seeds"].value, found["agents"].value) == (1, 1, 6)
    assert np.isnan(found["kendall_tau"].low)


def test_gain_kept_is_unknown_where_there_was_nothing_to_keep() -> None:
    assert gain_kept(19, 22, 10) == 9 / 12
    assert gain_kept(8, 22, 10) == -2 / 12
    assert np.isnan(gain_kept(19, 10, 10))
    assert np.isnan(gain_kept(19, 9, 10))


def test_cells_are_averaged_with_intervals_over_worlds_and_an_unfinished_one_is_left_out() -> None:
    ordered = FIVE | {("mmr 1", LOG): (16.0, 21.0)}  # tau 1
    unfinished = {agent: value for agent, value in FIVE.items() if agent[0] != "ppo"}
    rows = joined(
        rows_of(FIVE, 0, 0),
        rows_of(ordered, 0, 1),
        rows_of(ordered, 1, 0),
        rows_of(FIVE, 1, 1),
        rows_of(ordered, 2, 0),
        rows_of(unfinished, 2, 1),
    )
    assert len(cells_of(rows)) == 5
    found = analyse(rows, 300_000, "exploring").summary
    tau = found["kendall_tau"]
    assert tau.value == pytest.approx((2 * 4 / 6 + 3) / 5)
    assert tau.low < tau.value < tau.high
    assert tau.n == 3
    assert (found["worlds"].value, found["seeds"].value) == (3, 2)


def test_sweeps_and_ensembles_compare_what_they_share() -> None:
    ordered = FIVE | {("mmr 1", LOG): (16.0, 21.0)}
    ensemble = rows_of(ordered, 0, 0, "ensemble2-pessimism1").filter(pl.col("simulator") != TRUE)
    own = rows_of({("ppo", LEARNED): (21.0, 20.0)}, 0, 0, "ensemble2-pessimism1")
    other = ensemble.filter(pl.col("trained_in") != "ensemble2-pessimism1")
    rows = joined(
        rows_of(FIVE, 0, 0),
        rows_of(ordered, 1, 0),  # not in the sweep: world 1 has one size alone
        rows_of(ordered, 0, 0, slates=30_000),
        other,
        own,
    )
    found = analyse(rows, 300_000, "exploring")
    assert found.summary["kendall_tau"].value == pytest.approx((4 / 6 + 1) / 2)
    assert found.summary["tau/300000"].value == pytest.approx(4 / 6)
    assert found.summary["tau/30000"].value == pytest.approx(1)
    assert found.summary["ensemble/single/tau"].value == pytest.approx(4 / 6)
    assert found.summary["ensemble/ensemble2-pessimism1/tau"].value == pytest.approx(1)
    assert found.summary["ensemble/ensemble2-pessimism1/gain_kept"].value == pytest.approx(
        (21 - 10) / (22 - 10)
    )
    text = tables(found)
    assert "| 30,000 slates | 1 x 1 |" in text
    assert "ensemble2, pessimism 1" in text
    assert len(draw(found).axes) == 3


def test_rows_without_the_asked_log_are_refused() -> None:
    with pytest.raises(ValueError, match="rows has no cell of 5 slates by the mixture 'exploring'"):
        analyse(rows_of(FIVE), 5, "exploring")


# ---- a small market ------------------------------------------------------------------------------

ID = "toys/Transfer-v0"
SMALL = MarketConfig(items=60, categories=6, width=4)


@pytest.fixture(scope="module")
def market() -> Iterator[str]:
    """Id of a small market."""
    reward = {"clicks": 1.0, "intra_list_distance": 0.3}
    options = {"config": SMALL}
    recsim_env.register(
        ID, make_market, reward=reward, slate_size=5, horizon_days=12.0, shopper_options=options
    )
    yield ID
    PRESETS.pop(ID, None)
    gymnasium.registry.pop(ID, None)


def config_in(folder: Path, env: str) -> Config:
    return Config(
        part="main",
        env=env,
        worlds=(0,),
        seeds=(0,),
        slates=1_500,
        mixture="uniform",
        sizes=(1_500,),
        model=SessionFitConfig(
            epochs=0.5, least_steps=1, hidden_size=16, layers=1, head_size=16, window=12
        ),
        ppo=PPOComposerConfig(
            ppo=PPOConfig(n_steps=4, batch_size=32, n_epochs=1),
            network=NetworkConfig((8,), (8,)),
            checked=0.0,
            watch_every=100,
        ),
        steps=16 * 30,
        shoppers=16,
        trials=4,
        tuning_episodes=8,
        episodes=24,
        batch=16,
        device="cpu",
        markets=folder / "market",
        work=folder / "work",
        results=folder / "results",
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, market: str) -> Config:
    """Rows of a market whose learned market is the true one."""
    config = config_in(tmp_path_factory.mktemp("transfer"), market)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            transfer,
            "learned_simulator",
            lambda config, cell, site: site.simulator(),
        )
        assert measure(config, cells(config)) == []
    return config


def test_the_truth_in_place_of_the_learned_market_transfers_whole(measured: Config) -> None:
    rows = read_work(measured.work)
    assert len(rows) == 2 * (len(FIXED) + 2) + len(FIXED)
    found = analyse(rows, measured.slates, measured.mixture).summary
    assert found["kendall_tau"].value == pytest.approx(1)
    assert found["kendall_tau_ppo_included"].value == pytest.approx(1)
    assert found["worst_return_error"].value == 0
    assert (
        0 < found["kendall_tau_of_the_true_market_itself"].value < 1
    )  # other shoppers, and few of them
    assert found["worst_return_error_of_the_true_market_itself"].value > 0
    assert found["winner_regret"].value == 0
    assert found["ppo_optimism"].value == 0
    assert (
        found["ppo_gain_true"].value == found["ppo_gain_learned"].value
    )  # the same market and the same seed
    assert found["agents"].value == len(FIXED) + 2 >= 16


def test_rows_are_what_evaluate_says(measured: Config) -> None:
    world = MarketWorld(measured.env, 0, measured.slates, measured.mixture)
    site = world.open(measured.markets, "cpu")
    policy = POLICIES["cap"].build(site.inputs, {"limit": 1})
    expected = evaluate(
        policy, world.simulator("cpu"), seeds(REPORTED_SEED, measured.episodes)
    ).rows
    rows = read_work(measured.work).filter(pl.col("agent") == "cap 1", pl.col("simulator") == TRUE)
    assert rows["return"].to_list() == pytest.approx([expected["return"].to_numpy().mean()])
    assert rows["clicks"].to_list() == pytest.approx([expected["clicks"].to_numpy().mean()])
    assert rows["visits"].to_list() == pytest.approx([expected["visits"].to_numpy().mean()])
    assert rows["return_se"].to_list() == pytest.approx(
        [expected["return"].to_numpy().std(ddof=1) / 24**0.5]
    )


def test_nothing_is_computed_twice(measured: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(MarketWorld, "open", never)
    for name in (
        "evaluate",
        "ppo_composer",
        "fitted_session",
        "learned_simulator",
        "tune_constant",
    ):
        monkeypatch.setattr(transfer, name, never)
    assert measure(measured, cells(measured)) == []


def test_one_missing_row_is_all_that_is_computed(
    measured: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_work(measured.work)
    paths = sorted(measured.work.glob("*/*/rows/*.parquet"))
    (lost,) = measured.work.glob("*/true/rows/ppo-learned-seed0.parquet")
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in paths if path != lost}
    trained: list[object] = []
    monkeypatch.setattr(transfer, "learned_simulator", lambda config, cell, site: site.simulator())
    monkeypatch.setattr(transfer, "ppo_composer", lambda *arguments: trained.append(arguments))
    assert measure(measured, cells(measured)) == []
    assert read_work(measured.work).equals(
        before
    )  # the same agent from its file, the same episodes
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert trained == []


def test_the_tuned_constant_is_the_best_of_its_trials_on_the_tuning_shoppers(
    measured: Config,
) -> None:
    opened = OpenedCell(measured, cells(measured)[0])
    knobs = opened.tuned_knobs()
    by_hand = [dict.fromkeys(knobs, 0.0) | hand for hand in contenders.HAND]
    assert knobs in by_hand  # four trials: those set by hand


def test_runs_of_other_settings_do_not_mix(measured: Config) -> None:
    def shared(config: Config) -> dict[str, object]:
        return settings_of(config, free=transfer.FREE)

    remember_settings(measured.work, shared(measured))
    other_cells = dataclasses.replace(measured, worlds=(3,), part="sweep")
    remember_settings(measured.work, shared(other_cells))
    with pytest.raises(ValueError, match=r"differs in \['episodes'\]"):
        remember_settings(measured.work, shared(dataclasses.replace(measured, episodes=25)))


def test_parts_ask_for_these_cells() -> None:
    config = Config(worlds=(4, 5), seeds=(0, 1), sizes=(10, 300_000), mixtures=("uniform", "broad"))
    found = {
        part: cells(dataclasses.replace(config, part=part))
        for part in ("main", "sweep", "ensemble", "all")
    }
    assert [(cell.world.world, cell.models.seeds) for cell in found["main"]] == [
        (4, (0,)),
        (4, (1,)),
        (5, (0,)),
        (5, (1,)),
    ]
    assert [(cell.world.slates, cell.world.mixture) for cell in found["sweep"]] == [
        (10, "broad"),
        (300_000, "broad"),
        (300_000, "uniform"),
    ]
    world = MarketWorld(world=4, mixture="broad")
    assert found["ensemble"][-2:] == [Cell(world, Models((0, 1), b), (0, 1)) for b in (0.0, 1.0)]
    assert len(found["all"]) == len(set(found["all"])) == 4 + 2 + 2
    assert cells(dataclasses.replace(config, part="report")) == []


@pytest.mark.slow
def test_user_models_are_fitted_once_and_make_ensembles(tmp_path: Path, market: str) -> None:
    config = dataclasses.replace(
        config_in(tmp_path, market), part="ensemble", seeds=(0, 1), pessimism=(1.0,)
    )
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    transfer.main(config)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (str(np.random.get_state()), random.getstate()) == states[1:]  # noqa: NPY002
    figures = json.loads((tmp_path / "results" / "transfer" / "summary.json").read_text())
    expected = {
        "kendall_tau",
        "worst_return_error",
        "ensemble/single/tau",
        "ensemble/ensemble2-pessimism1/tau",
    }
    assert expected <= set(figures)
    assert (figures["worlds"]["value"], figures["seeds"]["value"]) == (1, 2)
    models = {path: path.stat().st_mtime_ns for path in config.work.glob("*/seed*/model")}
    assert len(models) == 2
    transfer.main(config)
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert {path.name for path in config.work.rglob(".*")} == {
        ".alone",
        ".lock",
    }  # no half-written file is left
