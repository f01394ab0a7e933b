"""The benchmark of long histories: what it fits, what it keeps, and its figures by hand."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch

from benchmarks.shopper import history
from benchmarks.shopper.history import Config, Variant
from recsim_env.shoppers.household.fit import FinetuneConfig
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.weights import load_model
from tests.support.fake_log import write_shop

SMALL = FinetuneConfig(hidden_size=16, layers=1, head_size=16, pretrain_epochs=0.0, epochs=0.1)


def test_variants_are_fitted_once_and_timed_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window changes nothing but the window, and bytes grow by one visit's keys and values."""
    write_shop(tmp_path / "log", cold=8)
    config = Config(
        windows=(2, 6),
        without_counters=(6,),
        shopper=SMALL,
        log=tmp_path / "log",
        output=tmp_path / "work",
        samples=4,
        shoppers=8,
        rounds=2,
        seconds=0.01,
        threads=1,
        results=tmp_path / "results",
    )
    history.main(config)
    rows = pl.read_csv(tmp_path / "results" / "history" / "rows.csv")
    sizes = {
        (row["counters"], row["window"]): row["value"]
        for row in rows.filter(pl.col("what") == "bytes").to_dicts()
    }
    a_visit = 2 * 16 * 4 + 4  # key and value of one layer, and its day
    assert sizes[True, 6] - sizes[True, 2] == pytest.approx(4 * a_visit)
    assert sizes[True, 6] == sizes[False, 6]
    for variant in history.variants(config):
        model = load_model(SlateShopper, config.output / variant.name / "shopper")
        assert (model.config.window, model.config.use_counters) == (
            variant.window,
            variant.counters,
        )
        assert not (config.output / variant.name / "training").exists()
    timed = rows.filter(pl.col("what") == "us")
    assert len(timed) == 3 * 2
    assert (timed["value"] > 0).all()

    def never(*arguments: Any) -> None:
        raise AssertionError("nothing is left to be fitted")

    monkeypatch.setattr(history, "fitted", never)
    history.main(config)
    with pytest.raises(ValueError, match=r"config\.json differs in \['samples'\]"):
        history.main(replace(config, samples=5))


def test_a_visit_is_cut_where_more_lie_before_it_than_the_window_holds() -> None:
    """The state before a visit has seen the last `window` visits, so as many are not too many."""
    told = SimpleNamespace(
        visits=SimpleNamespace(rank=torch.tensor([0, 1, 2, 3])),
        row_visit=torch.tensor([0, 2, 2, 2, 3]),  # nothing is scored in the visit of rank 1
    )
    rows = torch.arange(5)
    assert history.cut_of(told, rows, 2) == pytest.approx(1 / 3)  # type: ignore[arg-type]
    assert history.cut_of(told, rows[:4], 2) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": (513,)}, r"windows\[0\] is 513, but it must be a whole number from 1 to 512"),
        ({"without_counters": (0,)}, r"without_counters\[0\] is 0, but"),
        ({"samples": 1}, "samples is 1, but it must be a whole number from 2"),
        ({"shopper": replace(SMALL, window=8)}, "shopper.window is 8, but it must stay at its"),
        ({"shopper": replace(SMALL, use_counters=False)}, "shopper.use_counters is False, but"),
    ],
)
def test_what_would_fail_after_an_hour_or_do_nothing_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def rows_of(variant: Variant, auc: float, us: float) -> list[dict[str, Any]]:
    place = {"window": variant.window, "counters": variant.counters}
    values = {
        "auc": [auc, auc - 0.01, auc + 0.01, auc],
        "ne": [0.8] * 4,
        "households": [50.0],
        "cut": [0.25],
        "minutes": [1.0],
        "us": [us, us],
        "bytes": [2048.0],
    }
    return [
        {**place, "what": what, "n": n, "value": value}
        for what, several in values.items()
        for n, value in enumerate(several)
    ]


def test_windows_are_compared_with_the_shipped_one_on_the_same_households() -> None:
    told = [
        *rows_of(Variant(True, 8), 0.86, 40.0),
        *rows_of(Variant(True, 64), 0.87, 60.0),
        *rows_of(Variant(False, 8), 0.7, 40.0),
    ]
    found = history.report(pl.DataFrame(told, schema=history.ROW))
    less = found.summary["counters/8/auc_minus_64"]
    assert (less.value, less.low, less.high) == pytest.approx((-0.01, -0.01, -0.01))
    assert found.summary["counters/64/us"].value == 60
    assert "counters/64/auc_minus_64" not in found.summary
    assert "no_counters/8/auc_minus_64" not in found.summary  # no shopper of 64 is without
    lines = found.table.strip().splitlines()
    assert [line.split("|")[1:3] for line in lines[2:]] == [
        [" with ", " 8 "],
        [" with ", " 64 "],
        [" without ", " 8 "],
    ]
    assert found.figure is not None
    assert json.dumps(sorted(found.summary))
