"""Teachers beside a head: rows that are drawn, figures by hand, and a tiny run that goes on."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch

from benchmarks.lab import cold_rows, encoders
from benchmarks.lab import teacher as lab
from benchmarks.lab.run import read_rows, read_summary
from benchmarks.lab.teacher import Base
from benchmarks.shopper import teacher
from benchmarks.shopper.baselines import logistic, platt
from benchmarks.shopper.teacher import ROW, WAYS, Config, Part, offset_of, report, taught_rows
from tests.benchmarks.lab.test_teacher import write_model
from tests.support.fake_log import write_shop


def examples(purchases: int, others: int, weight: float) -> Any:
    label = torch.tensor([1.0] * purchases + [0.0] * others)
    return SimpleNamespace(
        row_label=label,
        row_weight=torch.where(label > 0, 1.0, weight),
        row_offset=torch.full((len(label),), math.log(weight)),
    )


def test_rows_that_are_judged_bear_the_weight_of_all() -> None:
    log = examples(3, 30, 4.0)
    part = Part.drawn(log, torch.arange(33), 2, seed=0)
    label = log.row_label[part.rows]
    assert label.sum() == 3
    assert len(part.rows) == 3 + 2 * 3
    assert part.weight[label > 0].tolist() == [1.0] * 3
    assert float(part.weight[label == 0].sum()) == pytest.approx(30 * 4.0)
    assert torch.equal(part.rows, Part.drawn(log, torch.arange(33), 2, seed=0).rows)
    whole = Part.drawn(log, torch.arange(33), 100, seed=0)
    assert torch.equal(whole.rows, torch.arange(33))
    assert torch.equal(whole.weight, log.row_weight)


def test_a_teacher_learns_from_a_third_of_purchases_and_the_offset_says_so() -> None:
    log = examples(20, 400, 4.0)
    rows, offset = taught_rows(log, torch.arange(420), 30, seed=0)
    assert len(rows.unique()) == len(rows) == 30
    assert log.row_label[rows].sum() == 10
    # of 420 rows 20 are purchases, that is 1 to 20; of those taught it is 1 to 2
    expected = math.log(4.0) + math.log(1 / 2) - math.log(1 / 20)
    torch.testing.assert_close(offset, torch.full((30,), expected))
    every = torch.arange(420)
    torch.testing.assert_close(offset_of(log, every, every), log.row_offset)


def test_a_second_score_that_tells_nothing_has_no_scale_and_one_that_tells_all_has_all() -> None:
    generator = torch.Generator().manual_seed(0)
    read = torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    chance = torch.sigmoid(1.5 * read[:, 0] - 0.5 * read[:, 1] - 1)
    found = logistic(read, chance, torch.ones(20_000))  # labels may be chances
    torch.testing.assert_close(found, torch.tensor([1.5, -0.5, -1.0]).double())
    label = (torch.rand(20_000, generator=generator) < chance).float()
    weight = torch.rand(20_000, generator=generator)
    alone = logistic(read[:, :1], label, weight)
    assert tuple(alone.tolist()) == platt(read[:, 0], label, weight)


def lines(way: str, seed: int, auc: list[float]) -> list[dict[str, Any]]:
    place = {"base": "minilm", "rows": 0, "seed": seed, "way": way}
    facts = {"auc": auc, "ne": auc, "log_loss": auc}
    facts |= {"households": [9.0], "purchases": [5.0], "scored": [20.0], "taught": [12.0]}
    facts |= {"seconds": [0.002]}
    return [
        {**place, "what": what, "n": n, "value": value}
        for what, values in facts.items()
        for n, value in enumerate(values)
    ]


def test_differences_are_paired_with_the_head_of_the_same_seed() -> None:
    rows = []
    for seed, base in enumerate((0.5, 0.7)):
        for way in WAYS:
            more = 0.0 if way == "head" else 0.1
            rows += lines(way, seed, [base + more, base + more, base + more + 0.02])
    found = report(pl.DataFrame(rows, schema=ROW))
    less = found.summary["minilm/all/head and relative/auc_minus_head"]
    assert less.value == pytest.approx(0.1)
    assert less.high - less.low == pytest.approx(0, abs=1e-6)  # all samples and seeds agree
    alone = found.summary["minilm/all/relative/auc"]
    assert alone.high - alone.low > 0.1
    assert found.summary["minilm/all/relative/ms"].value == pytest.approx(2.0)
    assert "head and relative" in found.table


@pytest.mark.slow
def test_a_tiny_run_fits_each_cell_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shop(tmp_path / "log", cold=4)
    folder = write_model(tmp_path / "tiny")
    monkeypatch.setitem(lab.BASES, "minilm", Base(lambda: folder, ("query", "value")))
    monkeypatch.setitem(encoders.ENCODERS, "minilm", encoders.random)
    monkeypatch.setattr(cold_rows, "STEPS", 12)
    monkeypatch.setattr(cold_rows, "TOGETHER", 64)
    config = Config(
        seeds=(0, 1),
        taught=48,
        room=16,
        precision="fp32",
        log=tmp_path / "log",
        output=tmp_path / "work",
        samples=6,
        threads=1,
        results=tmp_path / "results",
    )
    teacher.main(config)
    rows = read_rows("teacher", results=tmp_path / "results")
    assert len(rows.filter(pl.col("what") == "auc", pl.col("n") == 0)) == 2 * len(WAYS)
    told = read_summary("teacher", results=tmp_path / "results")
    assert "minilm/all/head and relative/auc_minus_head" in told

    fitted: list[object] = []
    monkeypatch.setattr(teacher, "fit_teacher", lambda *given: fitted.append(given))
    teacher.main(config)
    assert fitted == []
    with pytest.raises(ValueError, match="room"):
        teacher.main(replace(config, room=8))
