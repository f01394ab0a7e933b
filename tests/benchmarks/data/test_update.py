"""A shop is refitted on newer rows: what is learned from, what is scored, and what is written."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import recsim_env
from benchmarks.data import update
from benchmarks.lab.shops import fit_ranker_of
from recsim_env.fitting import FitConfig, fit
from recsim_env.fitting.newer import days_of, grown
from recsim_env.shoppers.session.fit import SessionFitConfig
from recsim_env.shoppers.session.population import load_session
from tests.support.plain_logs import catalog, log

TINY = SessionFitConfig(
    epochs=1, least_steps=2, temperaments=4, hidden_size=8, layers=1, head_size=8
)
QUICK = FitConfig(members=1, judged_users=8, counterfactual=False, model=TINY)
LAST = 8
"""Last day of the old log: four visits two days apart, and users who begin two days later."""


def later(days: int, **options: Any) -> pl.DataFrame:
    """Newer rows, which begin so many days after the old ones did."""
    rows = log(size=5, **options)
    return rows.with_columns(pl.col("timestamp") + datetime.timedelta(days=days))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("update")
    catalog().write_csv(folder / "items.csv")
    fit(log(users=60, visits=4, size=5), catalog(), folder / "shop", config=QUICK)
    fit_ranker_of(folder / "shop", "cpu")
    later(20, users=40, visits=6, seed=1).write_parquet(folder / "new.parquet")
    return folder


def config(shop: Path, output: Path, **changes: Any) -> update.Config:
    told: dict[str, Any] = {
        "site": shop / "shop",
        "log": shop / "new.parquet",
        "catalog": shop / "items.csv",
        "output": output,
        "least_steps": 2,
        "epochs": 0.1,
    }
    return update.Config(**{**told, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def updated(shop: Path) -> Path:
    before = contents(shop / "shop")
    update.main(config(shop, shop / "newer"))
    assert contents(shop / "shop") == before  # nothing is written to the old folder
    return shop / "newer"


def test_the_new_folder_is_a_shop(updated: Path) -> None:
    shoppers = load_session(updated, torch.device("cpu"), 5)
    assert len(shoppers.catalog) == 40
    recsim_env.register("tests/Updated-v0", updated, anyway=True)
    simulator = recsim_env.make_simulator("tests/Updated-v0", device="cpu")
    simulator.reset(torch.arange(3))
    assert (updated / "ranker.safetensors").is_file()
    assert not list(updated.parent.glob("*.part"))


def test_the_report_tells_what_changed(updated: Path) -> None:
    told = json.loads((updated / "shop.json").read_text())["updated"]
    assert told["first_new_day"] == 20
    assert (
        told["days"] == 20 + 2 * 5 + 2 + 1
    )  # six visits two days apart, users begin up to 2 later
    assert set(told["parts"]) == {"shopper model 0", "ranker"}
    page = (updated / "update.md").read_text()
    assert "240 new slates of 40 users, from day 20 on" in page
    for name, part in told["parts"].items():
        better = part["after"]["entropy"] < part["before"]["entropy"]
        assert part["kept"] == ("new" if better else "old")
        assert f"| {name} |" in page


def test_what_did_not_get_better_stays_as_it_was(shop: Path, updated: Path) -> None:
    told = json.loads((updated / "shop.json").read_text())["updated"]["parts"]
    for part, file in {
        "shopper model 0": "model0/model.safetensors",
        "ranker": "ranker.safetensors",
    }.items():
        same = (updated / file).read_bytes() == (shop / "shop" / file).read_bytes()
        assert same is (told[part]["kept"] == "old")


def test_old_and_new_rows_are_one_log(shop: Path) -> None:
    goods = load_session(shop / "shop", torch.device("cpu"), 5).catalog
    found = grown(shop / "shop", shop / "new.parquet", shop / "items.csv", goods)
    assert found.first_new == 20
    assert found.impressions.height == 60 * 4 + 40 * 6
    assert found.users.height == 60  # the new rows are of known users
    of_first = found.impressions.filter(pl.col("shopper") == 0).sort("day")
    days = of_first["day"].to_list()
    assert days[:4] == [days[0], days[0] + 2, days[0] + 4, days[0] + 6]
    gaps = of_first["gap"].to_list()
    assert gaps[3] == days[4] - days[3]  # who was not seen again came back after all
    if len(days) == 10:
        assert gaps[-1] is None
    end = found.impressions["day"].max()
    assert of_first["follow_up"].to_list() == [end - day for day in days]

    # before a day nothing of later days is known
    before = found.sessions(20)
    assert int(days_of(before).max()) == LAST
    assert before.n_slates == 60 * 4
    assert len(found.splits(20)) == len(before) == 60
    assert float(before.watched.max()) <= 20 - 1 - 6


def test_of_users_with_long_histories_the_newest_slates_are_used(shop: Path) -> None:
    goods = load_session(shop / "shop", torch.device("cpu"), 5).catalog
    whole = grown(shop / "shop", shop / "new.parquet", shop / "items.csv", goods)
    short = dataclasses.replace(whole, most_steps=7)
    sessions = short.sessions()
    days = whole.impressions.filter(pl.col("shopper") == 0).sort("day")["day"].to_list()
    assert len(days) == 10
    assert days_of(sessions)[0, :7].tolist() == days[-7:]
    first = update.first_held_out(short, 0.3)
    same = update.Score(0.9, 0.7)
    changes = [update.Change("ranker", same, same)]
    page = update.report(short, first, changes)
    assert "240 new slates of 40 users" in page  # those of the six newest visits of each
    assert "the last 7 slates are used: 120 older ones are left out" in page  # 3 of 40 users
    assert "left out" not in update.report(whole, first, changes)
    # before a day they are the last ones before it
    assert days_of(short.sessions(days[8]))[0, :7].tolist() == days[1:8]


def test_new_users_get_numbers_of_their_own(shop: Path, tmp_path: Path) -> None:
    goods = load_session(shop / "shop", torch.device("cpu"), 5).catalog
    rows = later(20, users=3, visits=2).with_columns(
        user=pl.when(pl.col("user") == "u01").then(pl.lit("somebody")).otherwise(pl.col("user"))
    )
    rows.write_parquet(tmp_path / "new.parquet")
    found = grown(shop / "shop", tmp_path / "new.parquet", shop / "items.csv", goods)
    assert found.users.height == 61
    assert found.users.filter(pl.col("user") == "somebody")["shopper"].to_list() == [60]
    assert found.impressions.filter(pl.col("shopper") == 60).height == 2
    known = dict(found.users.select("user", "shopper").iter_rows())
    assert found.impressions.filter(pl.col("shopper") == known["u02"]).height == 4 + 2


def test_the_newest_days_are_held_out(shop: Path) -> None:
    goods = load_session(shop / "shop", torch.device("cpu"), 5).catalog
    found = grown(shop / "shop", shop / "new.parquet", shop / "items.csv", goods)
    first = update.first_held_out(found, 0.3)
    new = found.impressions.filter(pl.col("day") >= 20)
    share = new.filter(pl.col("day") >= first).height / new.height
    assert 0.3 <= share < 0.5
    assert update.first_held_out(found, 0.9) == 21  # one day is left to learn from
    everybody = found.sessions()
    held = update.visits_of(everybody, first)
    assert int(held.sum()) == new.filter(pl.col("day") >= first).height


def test_training_goes_on_from_the_weights_that_are_there(shop: Path) -> None:
    population = load_session(shop / "shop", torch.device("cpu"), 5)
    goods, member = population.catalog, population.members[0]
    found = grown(shop / "shop", shop / "new.parquet", shop / "items.csv", goods)
    before = {name: value.clone() for name, value in member.state_dict().items()}
    tiny = config(shop, shop / "unused", learning_rate=1e-7)
    newer = update.refit_member(tiny, member, found, 26, goods, seed=0)
    for name, value in newer.state_dict().items():
        if name != "temper.weight":  # replaced by its symmetric root, which is the same numbers
            assert torch.allclose(value.float(), before[name].float(), atol=1e-4), name
    assert all(torch.equal(value, before[name]) for name, value in member.state_dict().items())


@pytest.mark.parametrize("where", ["shop", "shop/inside", "."])
def test_nothing_is_written_to_the_old_folder(shop: Path, where: str) -> None:
    with pytest.raises(ValueError, match=r"output is .*|folder is .*"):
        update.update(config(shop, shop / where))


def test_what_cannot_be_laid_behind_is_refused(shop: Path, tmp_path: Path) -> None:
    early = tmp_path / "early.parquet"
    later(LAST, users=5, visits=2).write_parquet(early)
    with pytest.raises(ValueError, match=r"whose first day is .*, but it must be after"):
        update.update(config(shop, tmp_path / "out", log=early))
    catalog(41).write_csv(tmp_path / "more.csv")
    with pytest.raises(ValueError, match="must hold the 40 items"):
        update.update(config(shop, tmp_path / "out", catalog=tmp_path / "more.csv"))
    with pytest.raises(FileNotFoundError, match=r"site is .* has no shop\.json"):
        update.update(config(shop, tmp_path / "out", site=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_what_new_users_declare_is_told_as_the_shop_does(tmp_path: Path) -> None:
    def likes(rows: pl.DataFrame, extra: str) -> pl.DataFrame:
        number = pl.col("user").str.slice(1).cast(pl.Int64)
        name = pl.when(number % 2 == 0).then(pl.lit("tea")).otherwise(pl.lit("coffee"))
        return rows.with_columns(
            user_likes=pl.when(number == 2).then(pl.lit(extra)).otherwise(name)
        )

    catalog().write_csv(tmp_path / "items.csv")
    fit(likes(log(users=60, size=5), "tea"), catalog(), tmp_path / "shop", config=QUICK)
    rows = likes(later(20, users=4, visits=2), "cocoa").with_columns(user="x" + pl.col("user"))
    rows.write_parquet(tmp_path / "new.parquet")
    goods = load_session(tmp_path / "shop", torch.device("cpu"), 5).catalog
    found = grown(tmp_path / "shop", tmp_path / "new.parquet", tmp_path / "items.csv", goods)
    names = json.loads((tmp_path / "shop" / "shop.json").read_text())["log"]["declared"]
    assert found.declared is not None
    said = dict(found.declared.iter_rows())
    known = dict(found.users.select("user", "shopper").iter_rows())
    expected = {"xu00": "tea", "xu01": "coffee", "xu02": "other"}  # cocoa is news to the shop
    for user, value in expected.items():
        told = dict(zip(names, said[known[user]], strict=True))
        assert told == {name: float(name == f"user_likes={value}") for name in names}


def test_options_are_checked_before_anything_is_read(shop: Path) -> None:
    for name, value in {"held_out": 1.0, "epochs": 0.0, "learning_rate": 2.0}.items():
        with pytest.raises(ValueError, match=f"{name} is"):
            dataclasses.replace(config(shop, shop / "unused"), **{name: value})  # type: ignore[arg-type]
