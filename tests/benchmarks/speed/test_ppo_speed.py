"""Every part is timed, both loops learn the same, and the figures are those of the rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from agents.ppo.agents import PPOComposerConfig
from agents.ppo.config import PPOConfig
from benchmarks.lab.places import Place
from benchmarks.speed.ppo_loops import LOOPS, PARTS, as_it_comes, measure
from benchmarks.speed.ppo_speed import Config, draw, lines, summarise
from tests.benchmarks.agents.test_league import TOY, open_toy
from tests.support.places import only
from tests.support.toys import registered_toys


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a place where toy shoppers come."""
    small = {"ppo_composer": {"ppo": PPOConfig(n_steps=4, batch_size=32, n_epochs=2)}}
    place = Place(TOY, 0, False, open_toy, oracles=False, log=False, settings=small)
    only(monkeypatch, place)
    with registered_toys(TOY):
        yield place.name


def test_with_the_same_settings_both_loops_learn_the_same_and_every_part_is_timed(toy: str) -> None:
    rows = measure(
        Config(toy, shoppers=8, updates=2, seeds=(0,), evaluate_every=2, episodes=12, device="cpu")
    )
    assert rows.height == len(LOOPS) * 3
    ours, stock, alike = (
        rows.filter(pl.col("loop") == loop) for loop in ("device", "stock", "same_settings")
    )
    assert (
        ours["steps"].to_list()
        == stock["steps"].to_list()
        == alike["steps"].to_list()
        == [0, 32, 64]
    )
    assert ours["return"].is_null().to_list() == [False, True, False]
    assert ours["return"].drop_nulls().to_list() == pytest.approx(
        alike["return"].drop_nulls().to_list(), rel=1e-4
    )
    assert ours["return"][0] == stock["return"][0]  # before training all are the same
    trained = rows.filter(pl.col("update") > 0)
    assert trained.select(pl.min_horizontal(f"{part}_s" for part in PARTS).min()).item() > 0
    whole = trained.select(pl.sum_horizontal(f"{part}_s" for part in PARTS)).to_series()
    assert whole.to_list() == pytest.approx(trained["cpu_s"].to_list(), rel=0.05)


def made_up() -> pl.DataFrame:
    """Three loops, one seed, three updates of 100 steps, of which the first is left out."""
    rows = []
    for loop, seconds, gained in (
        ("device", 1.0, 0.0),
        ("stock", 3.0, -0.5),
        ("same_settings", 2.0, 0.25),
    ):
        for update in range(4):
            slow = 10.0 if update == 1 else float(update > 0)
            parts = dict(zip(PARTS, (0.3, 0.5, 0.1, 0.05, 0.05), strict=True))
            times = {f"{part}_s": slow * seconds * share for part, share in parts.items()}
            clocks = {"wall_s": 2 * slow * seconds, "cpu_s": slow * seconds}
            counted = {"loop": loop, "seed": 0, "update": update, "steps": 100 * update}
            rows.append(
                {
                    **counted,
                    **clocks,
                    **times,
                    "return": 5.0 + update + gained if update in (0, 2, 3) else None,
                }
            )
    return pl.DataFrame(rows)


def test_the_figures_are_those_of_the_rows() -> None:
    summary = summarise(made_up())
    value = {name: estimate.value for name, estimate in summary.items()}
    assert value["over_stock_sb3"] == value["over_stock_sb3_cpu"] == pytest.approx(3.0)
    assert (
        value["over_stock_sb3_same_settings"]
        == value["over_stock_sb3_same_settings_cpu"]
        == pytest.approx(2.0)
    )
    assert value["return_minus_stock"] == 0.5
    assert value["return_minus_stock_same_settings"] == -0.25
    assert value["curve_minus_stock"] == pytest.approx((7.0 + 8.0) / 2 - (6.5 + 7.5) / 2)
    assert value["necessary_share"] == pytest.approx(0.3 + 0.5 + 0.1)
    assert value["steps_per_s_device"] == pytest.approx(100 / 2.0)
    assert value["steps_per_cpu_s_stock"] == pytest.approx(100 / 3.0)
    assert value["act_us_stock"] == pytest.approx(3.0 * 0.5 / 100 * 1e6)
    assert value["return_device"] == 8.0
    assert [line["loop"] for line in lines(summary)] == [loop.label for loop in LOOPS.values()]


def test_stock_sb3_has_the_settings_that_its_documentation_tells() -> None:
    ours = PPOComposerConfig()
    stock = as_it_comes(ours)
    assert (stock.ppo.n_epochs, stock.ppo.batch_size, stock.ppo.learning_rate) == (10, 64, 3e-4)
    assert (stock.ppo.gamma, stock.ppo.gae_lambda, stock.ppo.clip_range) == (0.99, 0.95, 0.2)
    assert (stock.ppo.max_grad_norm, stock.annealed) == (0.5, 1.0)
    assert stock.ppo.n_steps == ours.ppo.n_steps
    assert (stock.network, stock.composer, stock.reward) == (
        ours.network,
        ours.composer,
        ours.reward,
    )


def test_the_curves_are_drawn_against_steps_and_wall_minutes() -> None:
    rows = made_up()
    figure = draw(rows, summarise(rows))
    for axes, at in ((1, [0.0, 200.0, 300.0]), (2, [0.0, 6.0 * 11 / 60, 6.0 * 12 / 60])):
        curves = {
            str(line.get_label()): np.asarray(line.get_xydata()) for line in figure.axes[axes].lines
        }
        expected = list(zip(at, [4.5, 6.5, 7.5], strict=True))
        np.testing.assert_allclose(curves[LOOPS["stock"].label], expected)
