"""The small shopper's benchmark: int8 answers as fp32 does, figures by hand, a run on a toy."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.speed import small_report
from benchmarks.speed.int8 import quantised, quantised_layers, saved_bytes
from benchmarks.speed.small import Variant, assembled
from benchmarks.speed.small_report import ROW, SHIPPED, changed, rank_correlation, report, returns
from recsim_env.shoppers.household.examples import Collator
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.peaks import SHOP_TABLES
from recsim_env.shoppers.weights import load_model, save_model
from tests.support.fake_log import write_shop
from tests.support.small_shopper import fitted_model, toy_examples


def test_int8_answers_as_fp32_does_within_its_rounding() -> None:
    model = fitted_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        batch = Collator(toy_examples(), splits=("valid",))(range(8))
        exact, rounded = model(**batch), quantised(model)(**batch)
    for name in ("logits", "gap_logits"):
        difference = (exact[name] - rounded[name]).abs()
        assert float(difference.max()) > 0
        assert float(difference.mean()) < 0.05 * float(exact[name].std() + 1)


def test_int8_keeps_the_layers_whose_weights_are_read_and_tells_what_it_saves() -> None:
    model = fitted_model()
    names = quantised_layers(model)
    assert {"blocks.0.qkv", "blocks.1.feed_out", "gap_head.outer", "slate_head.middle"} <= set(
        names
    )
    assert not {"slate_head.of_stats", "slate_head.of_item_context"} & set(names)
    numbers = sum(model.get_parameter(f"{name}.weight").numel() for name in names)
    assert saved_bytes(model) == 3 * numbers


def toy_rows() -> pl.DataFrame:
    """A shipped and a small shopper, three policies in four episodes."""
    rows: list[tuple[str, str, str, int, float]] = []
    for variant, auc, us, plus in ((SHIPPED, 0.9, 60.0, 0.0), ("small", 0.899, 30.0, 0.5)):
        for what, value in (("auc", auc), ("ne", 0.7), ("cold_auc", 0.75), ("gap_nll", 1.8)):
            rows += [(variant, what, "", n, value + n * 0.001) for n in range(4)]
        rows += [(variant, "households", "", 0, 100.0), (variant, "mb", "", 0, 7.0)]
        rows += [(variant, "us", "", n, us * (1 + 0.1 * n)) for n in range(3)]
        rows += [(variant, "alone_us", "", n, 2000.0) for n in range(3)]
        for policy, mean in (("uniform", 1.0), ("mmr", 5.0), ("popular", 3.0)):
            rows += [(variant, "return", policy, n, mean + plus + 0.01 * n) for n in range(4)]
    return pl.DataFrame(rows, schema=ROW, orient="row")


def test_a_report_compares_with_the_shipped_shopper() -> None:
    found = report(toy_rows())
    summary = found.summary
    assert summary["speedup"].value == pytest.approx(2.0)
    assert summary["auc_loss"].value == pytest.approx(0.001)
    assert summary["tau"].value == 1
    assert summary["changed"].value == 0
    assert summary["return_difference"].value == pytest.approx(0.5)
    assert summary["shipped/us"].value == pytest.approx(66.0)
    assert "shipped/speedup" not in summary
    assert len(found.table.strip().splitlines()) == 2 + 2 + 2


def test_policies_are_compared_by_name_and_episode() -> None:
    table = returns(toy_rows(), SHIPPED)
    np.testing.assert_allclose(table[:, 1], [5.01, 3.01, 1.01])  # mmr, popular, uniform


def test_a_changed_order_is_counted_where_both_are_sure() -> None:
    noise = np.random.default_rng(0).normal(size=(3, 400))
    one = np.array([[0.0], [1.0], [1.05]]) + noise
    other = np.array([[1.0], [0.0], [1.1]]) + noise[:, ::-1]
    assert changed(one, one) == 0
    assert changed(one, other) == 1  # 0 and 1 have swapped; 1 and 2 are not told apart in `one`
    assert rank_correlation(one, one).value == 1
    assert rank_correlation(one, other).value == pytest.approx(1 / 3)
    found = rank_correlation(one, other)
    assert -1 <= found.low <= found.high <= 1


def test_a_folder_is_put_together_with_another_window(tmp_path: Path) -> None:
    write_shop(tmp_path / "log")
    (tmp_path / "model").mkdir()
    save_model(fitted_model(), tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    folder = assembled(tmp_path / "model", tmp_path / "log", tmp_path / "new", 5)
    assert load_model(SlateShopper, folder).config.window == 5
    assert {path.name for path in folder.iterdir()} >= set(SHOP_TABLES)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    env = Variant("int8", folder, int8=True).env()
    assert callable(env.shopper)
    shopper = env.shopper(torch.device("cpu"), 5)
    assert shopper.slate_size == 5
    kinds = {type(part).__module__ for part in shopper.shop.model.modules()}  # type: ignore[attr-defined]
    assert any("quantized" in kind for kind in kinds)
    assert Variant("int8", folder, int8=True).megabytes() < Variant("", folder).megabytes()


def test_figures_are_the_columns_of_the_table() -> None:
    found = small_report.figures(toy_rows(), "small")
    assert set(small_report.COLUMNS) == set(found)
