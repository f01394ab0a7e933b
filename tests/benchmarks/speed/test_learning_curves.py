"""Learning curves are told in units of their own environment, and their figures are the rows'."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from benchmarks.speed.learning_curves import (
    FINETUNE,
    LEARNERS,
    SCHEMA,
    draw,
    minutes_past_greedy,
    normalised,
    operations,
    summarise,
    tables,
)


def made_up() -> pl.DataFrame:
    """One seed: random earns 10, greedy 30, training 20, 40 and 50 after 0, 2 and 4 minutes."""
    rows = [
        {
            "learner": learner,
            "seed": 0,
            "step": step,
            "steps": 1000 * step,
            "minutes": 2.0 * step,
            "return": found,
        }
        | {"random": 10.0, "greedy": 30.0}
        for learner in LEARNERS
        for step, found in enumerate((20.0, 40.0, 50.0))
    ]
    tuning = {
        "learner": FINETUNE,
        "seed": 0,
        "step": 0,
        "steps": 600,
        "minutes": 0.5,
        "flops": 3e12,
    }
    return pl.DataFrame([*rows, tuning | {"machine_flops_per_s": 4e11}], schema=SCHEMA)


def test_zero_is_random_and_one_is_greedy() -> None:
    scores = normalised(made_up()).filter(pl.col("learner") == "recsim")["score"]
    assert scores.to_list() == [0.5, 1.5, 2.0]


def test_the_figures_are_those_of_the_rows() -> None:
    summary = summarise(made_up())
    value = {name: estimate.value for name, estimate in summary.items()}
    assert value["score_device"] == 2.0
    assert value["minutes_stock"] == 4.0
    assert value["thousand_steps_per_minute_recsim"] == 2000 / 4.0 / 1000
    assert value["minutes_past_greedy_device"] == 2.0
    assert value["finetune_visits_per_s"] == 600 / 30
    assert value["finetune_roofline_share"] == pytest.approx(3e12 / 30 / 4e11)
    assert "RecSim" in tables(summary)


def test_a_score_that_falls_again_has_not_passed_greedy() -> None:
    training = pl.DataFrame(
        {"step": [0, 1, 2, 3], "score": [0.5, 1.2, 0.9, 1.1], "minutes": [0.0, 1.0, 2.0, 3.0]}
    )
    assert minutes_past_greedy(training) == 3.0
    assert minutes_past_greedy(training.head(3)) is None


def test_who_does_not_pass_greedy_has_no_such_figure() -> None:
    rows = made_up().with_columns(
        greedy=pl.when(pl.col("learner") == "recsim").then(60.0).otherwise(pl.col("greedy"))
    )
    assert "minutes_past_greedy_recsim" not in summarise(rows)
    line = next(line for line in tables(summarise(rows)).splitlines() if "RecSim" in line)
    assert line.startswith("| RecSim's Q-learning | 0.800 | 4.00 |")
    assert line.endswith("| – |")


def test_the_curve_shows_scores_against_minutes() -> None:
    curves = {
        str(line.get_label()): np.asarray(line.get_xydata())
        for line in draw(made_up()).axes[0].lines
    }
    np.testing.assert_allclose(curves["PPO here"], [[2.0, 1.5], [4.0, 2.0]])


class Loss(nn.Module):
    """One product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (x @ self.weight).sum()}


def test_operations_are_those_of_the_products_forward_and_backward() -> None:
    model = Loss()
    forward = 2 * 3 * 4 * 5  # (3, 4) x (4, 5), a multiplication and an addition each
    assert operations(model, [{"x": torch.ones(3, 4)}] * 2) == 2 * (
        forward + forward
    )  # backward: of the weight alone
    assert model.weight.grad is None


def test_recsims_agent_learns_in_its_own_environment() -> None:
    pytest.importorskip("recsim")
    from benchmarks.speed.recsim_agent import RecSimTraining

    before = repr(np.random.get_state())  # noqa: NPY002
    training = RecSimTraining(0)
    first = training.returns("agent", 3)
    training.learn(2)
    assert training.steps == 2 * 60  # episodes are 60 documents long
    assert training.seconds > 0
    assert training.returns("agent", 3) == training.returns(
        "agent", 3
    )  # judged, it neither learns nor explores
    assert training.returns("agent", 3) != first
    again = RecSimTraining(0)
    again.learn(2)
    assert again.returns("agent", 3) == training.returns("agent", 3)
    assert repr(np.random.get_state()) == before  # noqa: NPY002
    assert not hasattr(np, "Inf")
