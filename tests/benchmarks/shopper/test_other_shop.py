"""Departments as other shops: what they know, and a tiny run that goes on where it stopped."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from benchmarks.lab.cold_rows import ColdRows, fit_head, past_sums
from benchmarks.lab.run import read_rows, read_summary
from benchmarks.shopper import other_shop
from benchmarks.shopper.other_shop import COLUMNS, Config, report
from tests.benchmarks.shopper.test_language import VECTORS, fit_in_few_steps, lines, visits
from tests.support.fake_log import write_shop


def test_a_shop_knows_no_purchases_of_what_it_does_not_sell() -> None:
    sums, count = past_sums(visits(), VECTORS, torch.tensor([False, True, True, True]))
    # item 0 was bought twice by the first shopper, whose only purchase that counts is item 1
    assert count.tolist() == [0, 0, 1, 0, 1]
    assert sums.tolist() == [[0, 0], [0, 0], [0, 1], [0, 0], [-1, 0]]


def test_a_fit_that_goes_on_keeps_its_start_where_nothing_is_better() -> None:
    generator = torch.Generator().manual_seed(0)
    read = torch.randn(4000, 3, generator=generator)
    label = (torch.rand(4000, generator=generator) < torch.sigmoid(2 * read[:, 1])).float()
    rows = ColdRows(read, label, torch.zeros(4000), torch.arange(4000) % 7)
    train, valid = rows.only(torch.arange(3000)), rows.only(torch.arange(3000, 4000))
    start = fit_head(train, valid, 7, 120, seed=0)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    turned = replace(train, label=1 - train.label)

    kept = fit_head(turned, valid, 7, 60, seed=0, start=start)
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
    gone_on = fit_head(turned, replace(valid, label=1 - valid.label), 7, 60, seed=0, start=start)
    assert not torch.equal(gone_on.state_dict()["last.weight"], before["last.weight"])
    assert torch.equal(start.state_dict()["last.weight"], before["last.weight"])


def test_departments_count_alike_and_are_told_one_by_one() -> None:
    rows = [
        *lines("none", 0, [0.5, 0.5, 0.6], 4, department="deli"),
        *lines("minilm", 0, [0.9, 0.8, 0.9], 4, department="deli"),
        *lines("none", 0, [0.7, 0.5, 0.8], 400, department="meat"),
        *lines("minilm", 0, [0.7, 0.7, 0.8], 400, department="meat"),
    ]
    found = report(pl.DataFrame(rows, schema=COLUMNS))
    assert found.summary["none/no/auc"].value == pytest.approx(0.6)
    assert found.summary["minilm/no/auc_minus_none"].value == pytest.approx(0.2)
    assert found.summary["deli/no/auc/minilm_minus_none"].value == pytest.approx(0.4)
    assert found.summary["meat/no/auc/minilm_minus_none"].value == pytest.approx(0)
    assert "| AUC less `none`, 0 rows |" in found.table


def test_a_tiny_run_fits_each_cell_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shop(tmp_path / "log", cold=4)
    fit_in_few_steps(monkeypatch)
    config = Config(
        departments=("department 0", "department 1"),
        encoders=("none", "random"),
        rows=(0, 50),
        seeds=(0,),
        log=tmp_path / "log",
        output=tmp_path / "work",
        samples=6,
        results=tmp_path / "results",
    )
    other_shop.main(config)
    rows = read_rows("other_shop", results=tmp_path / "results")
    assert len(rows.filter(pl.col("what") == "auc", pl.col("n") == 0)) == 2 * 2 * 2
    told = read_summary("other_shop", results=tmp_path / "results")
    assert {"random/no/auc_minus_none", "random/50/auc_minus_none"} <= told.keys()

    fitted = []
    monkeypatch.setattr(other_shop, "fit_head", lambda *given: fitted.append(given))
    other_shop.main(config)
    assert fitted == []
    with pytest.raises(ValueError, match=r"departments is 'toys', but it must be one of"):
        other_shop.main(replace(config, departments=("toys",)))
