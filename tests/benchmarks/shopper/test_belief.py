"""The report on a belief: intervals counted by hand, and a small market from start to end."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from benchmarks.lab.markets import MarketWorld
from benchmarks.shopper.belief import SOURCES, Config, judged, log_loss, main, measure, report
from recsim_env.files import write_json
from recsim_env.shop_file import SESSION, ShopFile
from recsim_env.shoppers.session.fit import SessionFitConfig, fit_session
from recsim_env.shoppers.session.population import save_session
from recsim_env.shoppers.session.starts import Logged


def noted(rows: int = 4) -> dict[str, torch.Tensor]:
    """Errors of -1, 1, -3 and 3 that the belief says are of size 1; one shopper, four visits."""
    errors = torch.tensor([-1.0, 1.0, -3.0, 3.0]).unsqueeze(1)
    one = torch.ones(rows, 1)
    return {
        "interest": errors.expand(-1, 2) + 5.0,  # a constant that truth and belief need not share
        "spread": one.expand(-1, 2),
        "traits": errors.expand(-1, 3),
        "deviation": one.expand(-1, 3),
        "visit": torch.tensor([0, 0, 1, 1]),
        "shopper": torch.tensor([0, 1, 0, 1]),
        **dict.fromkeys(SOURCES, torch.full((rows,), 0.3)),
    }


def test_intervals_are_counted_by_hand() -> None:
    rows = judged(noted())
    assert rows["interest_50"].to_list() == [0.0, 0.0, 0.0, 0.0]
    assert rows["interest_90"].to_list() == [1.0, 1.0, 0.0, 0.0]
    assert rows["patience_error"].to_list() == pytest.approx([1.0, 1.0, 9.0, 9.0])
    assert rows["depth_said"].to_list() == [1.0] * 4
    found = report(rows)
    assert found.summary["visits_1/interest_90"].value == 1.0
    assert found.summary["visits_2/weariness_90"].value == 0.0
    assert [len(part.splitlines()) for part in found.table.split("\n\n")] == [4, 4]


def test_log_loss_by_hand() -> None:
    chance, clicks = torch.tensor([[0.5, 0.25]]), torch.tensor([[True, False]])
    expected = -(torch.tensor(0.5).log() + torch.tensor(0.75).log()) / 2
    torch.testing.assert_close(log_loss(chance, clicks), expected.unsqueeze(0))


@pytest.mark.slow
def test_a_small_market_from_start_to_end(tmp_path: Path) -> None:
    market = MarketWorld(slates=3000, mixture="broad")
    site = market.open(tmp_path / "market", "cpu")
    catalog = site.inputs.catalog.to("cpu")
    quick = SessionFitConfig(
        epochs=1, least_steps=30, temperaments=8, hidden_size=16, head_size=8, layers=1
    )
    model, true = fit_session(site.logged, catalog, quick), site.simulator()
    save_session(tmp_path / "shop", catalog, [model], Logged.newcomers(site.logged.declared))
    shop = ShopFile(SESSION, true.slate_size, true.horizon_days, true.reward.weights)
    write_json(tmp_path / "shop" / "shop.json", shop.plain())
    config = Config(
        market=market,
        markets=tmp_path / "market",
        shop=tmp_path / "shop",
        shoppers=40,
        results=tmp_path / "results",
    )
    rows = measure(config)
    assert rows.equals(measure(config))
    assert rows["visit"].min() == 0
    assert rows["shopper"].n_unique() == 40
    losses = {source: rows[source].mean() for source in SOURCES}
    assert min(losses, key=lambda source: losses[source]) == "truth"  # type: ignore[arg-type, return-value]
    assert (rows["belief"] - rows["session model"]).abs().mean() < 0.02  # type: ignore[operator]
    main(config)
    saved = next((tmp_path / "results" / "belief").glob("rows.*"))
    read = pl.read_csv(saved) if saved.suffix == ".csv" else pl.read_parquet(saved)
    assert len(read) == len(rows)
    assert (tmp_path / "results" / "belief" / "figure.png").exists()
