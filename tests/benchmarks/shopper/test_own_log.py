"""Simulators of plain logs beside the truth: what the figures count, and a small run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest

from benchmarks.lab.contenders import FIXED
from benchmarks.shopper import own_log
from recsim_env.fitting import FitConfig
from recsim_env.shoppers.session.fit import SessionFitConfig


def rows(world: int, case: str, learned: list[float], levels: bool | None) -> pl.DataFrame:
    true = [10.0, 20.0, 40.0]
    return pl.DataFrame(
        {
            "world": [world] * 3,
            "case": [case] * 3,
            "contender": ["uniform", "mmr 1", "greedy_ctr"],
            "true": true,
            "learned": learned,
            "levels": pl.Series([levels] * 3, dtype=pl.Boolean),
        }
    )


def test_figures_by_hand() -> None:
    good = rows(0, "known", [11.0, 20.0, 38.0], True)
    assert own_log.tau_of(good) == pytest.approx(1.0)
    assert own_log.errors_of(good).tolist() == pytest.approx([0.1, 0.0, -0.05])
    # Greedy before MMR: one of three pairs is turned round.
    bad = rows(0, "hidden", [11.0, 50.0, 44.0], False)
    assert own_log.tau_of(bad) == pytest.approx(1 / 3)
    summary = own_log.report(pl.concat([good, bad])).summary
    assert summary["market_csv_tau"].value == pytest.approx(1.0)
    assert summary["market_csv_worst_error"].value == pytest.approx(0.1)
    assert summary["market_csv_hidden_worst_error"].value == pytest.approx(1.5)
    assert summary["market_csv_greedy_error"].value == pytest.approx(-0.05)
    assert summary["market_csv_hidden_flagged"].value == 1.0


@pytest.mark.parametrize(
    ("known", "hidden", "flagged"),
    [
        (True, False, 1.0),
        (True, True, 0.0),
        (False, False, 0.0),
        (None, False, 0.0),
        (True, None, 0.0),
    ],
)
def test_one_false_alarm_or_one_miss_is_told(
    known: bool | None, hidden: bool | None, flagged: float
) -> None:
    table = pl.concat(
        [
            rows(0, "known", [10.0, 20.0, 40.0], True),
            rows(0, "hidden", [10.0, 20.0, 60.0], False),
            rows(1, "known", [10.0, 20.0, 40.0], known),
            rows(1, "hidden", [10.0, 20.0, 60.0], hidden),
        ]
    )
    assert own_log.report(table).summary["market_csv_hidden_flagged"].value == flagged


def test_what_public_data_gave_is_read(tmp_path: Path) -> None:
    assert own_log.public_of(tmp_path) == {}
    shop = tmp_path / "movielens" / "shop"
    shop.mkdir(parents=True)
    lead = {"value": -0.001, "low": -0.01, "high": 0.009, "n": 94}
    told = {
        "kind": "session",
        "verdicts": {"clicks": {"holds": False, "sentence": "Clicks: no."}},
        "findings": {"clicks": [{"metric": "auc", "model": "item and user mean", "lead": lead}]},
    }
    (shop / "shop.json").write_text(json.dumps(told))
    found = own_log.public_of(tmp_path)
    assert found["summary"]["ml100k_refused"].value == 1.0
    assert found["summary"]["ml100k_auc_minus_item_user_mean"].value == -0.001
    assert "Clicks: no." in found["table"]


@pytest.mark.slow
def test_a_small_market_goes_the_whole_way_and_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SessionFitConfig(
        epochs=1, least_steps=2, temperaments=4, hidden_size=8, layers=1, head_size=8
    )
    config = own_log.Config(
        parts=("market",),
        worlds=(0,),
        slates=1500,
        fit=FitConfig(members=1, counterfactual=False, judged_users=4, model=model),
        episodes=4,
        trials=4,
        tuning_episodes=4,
        markets=tmp_path / "markets",
        work=tmp_path / "work",
        results=tmp_path / "results",
        device="cpu",
    )
    own_log.main(config)
    measured = pl.read_csv(tmp_path / "results" / "own_log" / "rows.csv")
    assert set(measured["contender"]) == set(FIXED)
    assert len(measured) == 2 * len(FIXED)

    def again(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(own_log, "evaluate", again)
    monkeypatch.setattr(own_log, "fit", again)
    own_log.main(dataclasses.replace(config, results=tmp_path / "more"))
    second = pl.read_csv(tmp_path / "more" / "own_log" / "rows.csv")
    assert second.equals(measured)
