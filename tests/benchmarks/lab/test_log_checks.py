"""A log whose tables do not fit together is refused before anything is trained or written."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from benchmarks.data import finetune, train_ranker
from benchmarks.lab.log_checks import check_scales, digest_of
from benchmarks.lab.logs import Log
from benchmarks.lab.settings import TABLES, settings_of, write_settings
from benchmarks.shopper import ablation
from recsim_env.catalog import Catalog
from recsim_env.shoppers.household.fit import FinetuneConfig
from tests.support.fake_log import write_shop

SMALL = FinetuneConfig(
    hidden_size=16, layers=1, window=8, head_size=16, pretrain_epochs=0.1, epochs=0.1
)
TABLE_NAMES = ("baskets", "case_control", "policy", "uniform")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop")
    write_shop(path)
    return path


@pytest.fixture
def own(shop: Path, tmp_path: Path) -> Path:
    """A log that a test may spoil."""
    return Path(shutil.copytree(shop, tmp_path / "own"))


def change(path: Path, *columns: pl.Expr) -> None:
    pl.read_parquet(path).with_columns(*columns).write_parquet(path)


def cut(path: Path, kept: pl.Expr) -> None:
    pl.read_parquet(path).filter(kept).write_parquet(path)


def tune(log: Path, output: Path) -> None:
    finetune.main(finetune.Config(shopper=SMALL, log=log, output=output, threads=1))


def text_for_shoppers(log: Path) -> None:
    (log / "shoppers.parquet").write_text("hi")


def few_shoppers(log: Path) -> None:
    cut(log / "shoppers.parquet", pl.col("shopper") < 10)


def no_promotions(log: Path) -> None:
    cut(log / "promotions.parquet", pl.lit(False))


def late_promotions(log: Path) -> None:
    change(log / "promotions.parquet", pl.col("week") + pl.lit(100, pl.Int16))


def far_promotions(log: Path) -> None:
    change(log / "promotions.parquet", pl.col("store") + pl.lit(99_990, pl.Int32))


def late_popularity(log: Path) -> None:
    change(log / "popularity.parquet", pl.col("week") + pl.lit(100, pl.Int16))


def train_only(log: Path) -> None:
    for name in TABLE_NAMES:
        change(log / f"{name}.parquet", pl.lit("train").alias("split"))


def no_train(log: Path) -> None:
    for name in TABLE_NAMES:
        cut(log / f"{name}.parquet", pl.col("split") != "train")
    renumber(log)


def renumber(log: Path) -> None:
    """Shoppers without a gap."""
    for name in TABLE_NAMES:
        change(log / f"{name}.parquet", pl.col("shopper").rank("dense").cast(pl.Int64) - 1)


def policy_train_only(log: Path) -> None:
    cut(log / "policy.parquet", pl.col("split") == "train")


def nothing_bought(log: Path) -> None:
    change(log / "baskets.parquet", pl.col("items").list.head(0))


def no_responses(log: Path) -> None:
    change(log / "case_control.parquet", pl.col("purchase").list.eval(pl.lit(False)))


def other_visits(log: Path) -> None:
    change(log / "policy.parquet", pl.col("visit") + 100_000)


def other_shoppers(log: Path) -> None:
    change(log / "policy.parquet", pl.col("shopper") + 1000)


def other_days(log: Path) -> None:
    change(log / "uniform.parquet", pl.col("day") + pl.lit(3, pl.Int32))


def other_stores(log: Path) -> None:
    change(log / "uniform.parquet", pl.col("store") + pl.lit(1, pl.Int32))


SPOILT: dict[Callable[[Path], None], str] = {
    text_for_shoppers: r"shoppers\.parquet: found no readable parquet",
    few_shoppers: r"baskets\.parquet: column 'shopper', row \d+: found 59, expected one of the 10",
    no_promotions: r"promotions\.parquet holds no store and week with 30 items",
    late_promotions: r"promotions\.parquet holds no store and week with 30 items",
    far_promotions: r"promotions\.parquet holds no store and week with 30 items",
    late_popularity: r"popularity\.parquet holds weeks from 100 to 129, but",
    train_only: r"baskets\.parquet holds no visit of the valid split",
    no_train: r"baskets\.parquet holds no visit of the train split",
    policy_train_only: r"policy\.parquet holds no items with a purchase in the valid split",
    nothing_bought: r"baskets\.parquet holds no item that .* first time in the train split",
    no_responses: r"case_control\.parquet holds no items with a purchase in the train split",
    other_visits: r"policy\.parquet: column 'visit', row 0: found 100000, expected a visit of bas",
    other_shoppers: r"policy\.parquet: column 'shopper', row 0: found 1000, expected 0, as visit 0",
    other_days: r"uniform\.parquet: column 'day', row 0: found \d+, expected \d+, as visit 0 has",
    other_stores: r"uniform\.parquet: column 'store', row 0: found [12], expected [01], as visit 0",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_log_whose_tables_do_not_fit_is_refused_first(
    own: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(own)
    with pytest.raises(ValueError, match=SPOILT[spoil]):
        tune(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_ranker_learns_from_slates_of_one_length(own: Path, tmp_path: Path) -> None:
    config = train_ranker.Config(log=own, output=tmp_path / "w", save_results=False)
    lists = [
        pl.col(name).list.head(pl.when(pl.col("visit") == 7).then(9).otherwise(10))
        for name in ("slate", "purchase", "placement")
    ]
    change(own / "uniform.parquet", *lists)
    with pytest.raises(ValueError, match=r"uniform\.parquet: column 'slate', row 7: found 9 items"):
        train_ranker.main(config)
    change(own / "uniform.parquet", pl.lit(None, pl.List(pl.Int16)).alias("placement"))
    with pytest.raises(ValueError, match=r"column 'placement', row 0: found None"):
        train_ranker.main(config)
    assert not (tmp_path / "w").exists()


def test_a_ranker_is_written_into_no_folder(tmp_path: Path) -> None:
    config = train_ranker.Config(log=tmp_path / "none", output=tmp_path, save_results=False)
    with pytest.raises(
        ValueError, match=r"output is .*, but that is a folder, and it must be a fi"
    ):
        train_ranker.main(config)
    assert not list(tmp_path.iterdir())


def test_a_log_is_read_with_its_shoppers(shop: Path) -> None:
    log = Log.load(shop)
    assert log.shoppers["holdout"].to_list() == [number % 5 == 0 for number in range(60)]


# ---- other tables in the same place ----


def flip(log: Path) -> None:
    """What was bought was not, and the other way round."""
    for name in ("case_control", "policy", "uniform"):
        change(log / f"{name}.parquet", pl.col("purchase").list.eval(~pl.element()))


def test_a_digest_is_that_of_the_tables_and_the_facts(own: Path, shop: Path) -> None:
    assert digest_of(own) == digest_of(shop)
    (own / "README.md").write_text("no table")
    assert digest_of(own) == digest_of(shop)
    facts = (own / "facts.json").read_text()
    (own / "facts.json").write_text(facts.replace('"weeks_a_year": 52', '"weeks_a_year": 53'))
    assert digest_of(own) != digest_of(shop)


def test_a_fine_tuning_does_not_go_on_with_other_tables(own: Path, tmp_path: Path) -> None:
    tune(own, tmp_path / "out")
    finished = (tmp_path / "out" / "shopper" / "config.json").read_bytes()
    tune(own, tmp_path / "out")  # the same tables: it is finished
    flip(own)
    with pytest.raises(ValueError, match=r"config\.json differs in \['tables'\]: .* other tables"):
        tune(own, tmp_path / "out")
    assert (tmp_path / "out" / "shopper" / "config.json").read_bytes() == finished


def test_an_ablation_does_not_go_on_with_other_tables(own: Path, tmp_path: Path) -> None:
    catalog = Catalog.load(own)
    replace(catalog, cold=torch.arange(len(catalog)) % 8 == 0).save(own)
    config = ablation.Config(log=own, output=tmp_path / "out", threads=1, results=tmp_path)
    told = settings_of(config, only=ablation.COMMON)
    write_settings(tmp_path / "out" / "parts", told | {TABLES: "another digest"})
    with pytest.raises(ValueError, match=re.escape("config.json differs in ['tables']")):
        ablation.main(config)
    write_settings(tmp_path / "out" / "parts", told | {"samples": 7, TABLES: "another digest"})
    with pytest.raises(ValueError, match=re.escape("config.json differs in ['samples']")):
        ablation.main(config)


def test_a_calibration_that_turns_the_order_of_items_is_refused() -> None:
    check_scales([{"scale": 0.2}, {"scale": 1.0}])
    for scale in (0.0, -0.018, float("nan")):
        with pytest.raises(ValueError, match=r"scale of model 1 is .*, but it must be above 0"):
            check_scales([{"scale": 0.2}, {"scale": scale}])


@pytest.mark.parametrize("content", ["", '{"shopper": ', "[]"])
def test_a_half_written_configuration_is_named(own: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"out/config\.json is (no readable JSON|\[\], but)"):
        tune(own, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == content
