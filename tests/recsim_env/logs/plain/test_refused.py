"""Wrong input is told in one sentence with file, column and row, before any work."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsim_env.logs.plain import read_plain
from recsim_env.logs.schema import LogError
from tests.support.plain_logs import START, catalog, edited, log

Change = Callable[[pl.DataFrame], pl.DataFrame]

ROWS: dict[str, tuple[Change, str]] = {
    "missing column": (lambda f: f.rename({"click": "clicked"}), r"column 'click': found no such column .*is it 'clicked'\?.*click=clicked"),
    "no user": (lambda f: f.drop("user"), "column 'user': found no such column"),
    "no timestamp": (lambda f: f.drop("timestamp").rename({"position": "place"}), r"column .timestamp.: found no such column among .*if it has another name, say columns timestamp=NAME"),
    "unknown item": (lambda f: edited(f, 7, item="x9"), "column 'item', row 7: found 'x9', expected one of the 40 items of catalog"),
    "two unknown items": (lambda f: edited(edited(f, 9, item="x9"), 7, item="x8"), r"row 7: found 'x8' \(and 1 more\)"),
    "no item": (lambda f: edited(f, 7, item=None), "column 'item', row 7: found nothing"),
    "no user id": (lambda f: edited(f, 7, user=None), "column 'user', row 7: found nothing .empty or NaN., expected the id of a user"),
    "no click": (lambda f: edited(f, 7, click=None), "column 'click', row 7: found nothing .empty or NaN., expected 0 or 1"),
    "half a click": (lambda f: edited(f.with_columns(pl.col("click").cast(pl.Float64)), 7, click=0.5), r"column 'click', row 7: found 0.5, expected 0 or 1.* or a count"),
    "half a click in a text": (lambda f: edited(f.with_columns(pl.col("click").cast(pl.String)), 7, click="0.5"), r"column 'click', row 7: found '0.5', expected 0 or 1"),
    "no zone where others have one": (lambda f: edited(f.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S+02:00")), 7, timestamp="2024-01-01 10:00:00"), "column 'timestamp', row 7: found '2024-01-01 10:00:00', expected a time .* with its zone, which other rows have"),
    "NaN click": (lambda f: edited(f.cast({"click": pl.Float64}), 7, click=float("nan")), "column 'click', row 7: found nan"),
    "negative click": (lambda f: edited(f, 7, click=-1), "column 'click', row 7: found -1"),
    "click in words": (lambda f: edited(f.cast({"click": pl.String}), 7, click="maybe"), "column 'click', row 7: found 'maybe'"),
    "before 1970": (lambda f: edited(f, 7, timestamp=datetime.datetime(1969, 12, 31)), "column 'timestamp', row 7: found .*1969.*expected a time from 1971"),
    "counted days": (lambda f: f.with_columns(timestamp=pl.int_range(pl.len())), "column 'timestamp', row 0: found 0 \\(and 599 more\\), expected a time from 1971"),
    "no time": (lambda f: edited(f, 7, timestamp=None), "column 'timestamp', row 7: found nothing"),
    "day first": (lambda f: f.with_columns(pl.col("timestamp").dt.strftime("%d/%m/%Y %H:%M")), "column 'timestamp': found '01/03/2024 10:00'"),
    "broken time": (lambda f: edited(f.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S")), 7, timestamp="soon"), "column 'timestamp', row 7: found 'soon'"),
    "negative position": (lambda f: edited(f, 7, position=-1), "column 'position', row 7: found -1, expected a whole number of 0 or more"),
    "half a position": (lambda f: edited(f.cast({"position": pl.Float64}), 7, position=1.5), "column 'position', row 7: found 1.5"),
    "propensity 0": (lambda f: edited(f.with_columns(propensity=0.5), 7, propensity=0.0), r"column 'propensity', row 7: found 0.0, expected a probability"),
    "log propensity": (lambda f: f.with_columns(propensity=-3.2), "column 'propensity', row 0: found -3.2"),
    "item twice": (lambda f: edited(f, 7, item=f["item"][8]), "column 'item', row 8: found 'i[0-9]+', expected items that are distinct within a slate"),
    "unsorted": (lambda f: edited(f, 5, timestamp=START - datetime.timedelta(days=1)).drop("position"), "column 'timestamp', row 5: found .*expected no time before"),
    "no clicks": (lambda f: f.with_columns(click=pl.lit(0)), "column 'click': found no click in 600 rows, expected both 0 and 1"),
    "only clicks": (lambda f: f.with_columns(click=pl.lit(1)), "column 'click': found only clicks in 600 rows"),
    "ten users": (lambda f: f.filter(pl.col("user") < "u10"), "column 'user': found 10 users, expected at least 20"),
    "empty": (lambda f: f.clear(), "log: found no rows, expected at least one"),
    "lists": (
        lambda f: f.with_columns(user=pl.concat_list("user")),
        r"column 'user', row 0: found List\(String\), expected one text",
    ),
    "one user": (
        lambda f: f.filter(pl.col("user") == "u00"),
        "column 'user': found 1 user, expected at least 20",
    ),
    "session missing": (lambda f: edited(f.with_columns(session=pl.lit("s")), 7, session=None), "column 'session', row 7: found nothing"),
}  # fmt: skip
GOODS: dict[str, tuple[Change, str]] = {
    "no title": (lambda f: f.drop("title"), "catalog: column 'title': found no such column"),
    "item twice": (lambda f: edited(f, 7, item="i003"), "catalog: column 'item', row 7: found 'i003', expected an id that no row above has"),
    "no id": (lambda f: edited(f, 7, item=None), "catalog: column 'item', row 7: found nothing"),
    "negative price": (lambda f: edited(f, 7, price=-1.0), "catalog: column 'price', row 7: found -1.0, expected a price of 0 or more"),
    "price in words": (lambda f: edited(f.cast({"price": pl.String}), 7, price="$3"), r"column 'price', row 7: found '\$3'"),
    "short vector": (lambda f: edited(f.with_columns(embedding=pl.lit("1 0 1")), 7, embedding="1 0"), "column 'embedding', row 7: found '1 0', expected a vector of 3 finite"),
    "zero vector": (lambda f: edited(f.with_columns(embedding=pl.lit("[1, 0]")), 7, embedding="[0, 0]"), "column 'embedding', row 7"),
    "vector with NaN": (lambda f: edited(f.with_columns(embedding=pl.lit("1 0")), 7, embedding="1 nan"), "column 'embedding', row 7"),
    "no vector": (lambda f: edited(f.with_columns(embedding=pl.lit("1 0")), 7, embedding=None), "column 'embedding', row 7: found nothing"),
    "vectors of several widths": (lambda f: f.with_columns(embedding=pl.int_ranges(1, 3 + pl.int_range(pl.len()) % 2)), r"column 'embedding', row [01]: found \[1(, 2)?\] \(and 19 more\), expected a vector of"),
    "price beyond a Float32": (lambda f: edited(f, 7, price=1e300), "column 'price', row 7: found 1e\\+300"),
    "empty": (lambda f: f.clear(), "catalog: found no rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_a_wrong_log_is_refused(case: str) -> None:
    change, message = ROWS[case]
    with pytest.raises(LogError, match=message) as caught:
        read_plain(change(log()), catalog())
    assert str(caught.value).startswith("log: ")
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    "case", ["unknown item", "no click", "broken time", "item twice", "log propensity"]
)
def test_a_file_is_named(case: str, tmp_path: Path) -> None:
    change, message = ROWS[case]
    file = tmp_path / "log.csv"
    change(log()).write_csv(file)
    with pytest.raises(LogError, match=message.replace("-3.2", "'-3.2'")) as caught:
        read_plain(file, catalog())
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("case", GOODS)
def test_a_wrong_catalogue_is_refused(case: str) -> None:
    change, message = GOODS[case]
    with pytest.raises(LogError, match=message):
        read_plain(log(), change(catalog()))


def test_one_class_in_the_test_users_is_refused() -> None:
    rows = log()
    held = read_plain(rows, catalog()).users.filter(pl.col("split") == "test")["user"].to_list()
    quiet = rows.with_columns(
        pl.when(pl.col("user").is_in(held)).then(0).otherwise("click").alias("click")
    )
    with pytest.raises(LogError, match="found no click in the 60 rows of the users to test on"):
        read_plain(quiet, catalog())


def test_no_click_in_the_training_users_is_refused() -> None:
    rows = log()
    learned = read_plain(rows, catalog()).users.filter(pl.col("split") == "train")["user"].to_list()
    quiet = rows.with_columns(
        pl.when(pl.col("user").is_in(learned)).then(0).otherwise("click").alias("click")
    )
    with pytest.raises(LogError, match="found no click in the rows of the users to learn from"):
        read_plain(quiet, catalog())


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"")
    (tmp_path / "log.parquet").write_bytes(b"no parquet")
    log().write_csv(tmp_path / "semicolons.csv", separator=";")
    header = "user,timestamp,item,click\n"
    (tmp_path / "header.csv").write_text(header)
    (tmp_path / "twice.csv").write_text(f"user,{header}a,a,2024-01-01,i001,0\n")
    (tmp_path / "ragged.csv").write_text(f"{header}a,2024-01-01,i001,0\nb,2024-01-01,i001,0,5\n")
    (tmp_path / "latin.csv").write_bytes(f"{header}\xe9,2024-01-01,i001,0\n".encode("latin1"))
    for name, message in (
        ("log.csv", "found no readable table"),
        ("semicolons.csv", "found columns separated by ';', expected commas"),
        ("twice.csv", "column 'user': found it twice in the header"),
        ("ragged.csv", "found no readable table .found more fields"),
        ("latin.csv", "found no readable table .invalid utf-8"),
        ("header.csv", "found no rows"),
        ("log.parquet", "found no readable table"),
        ("other.csv", "found no such file"),
        ("log.xlsx", r"found a file named '\.xlsx'"),
    ):
        with pytest.raises(LogError, match=message):
            read_plain(tmp_path / name, catalog())
    (tmp_path / "folder").mkdir()
    with pytest.raises(LogError, match="folder: found a folder, expected log as one file"):
        read_plain(tmp_path / "folder", catalog())
    with pytest.raises(TypeError, match="log is 3, but it must be a path"):
        read_plain(3, catalog())  # type: ignore[arg-type]


def test_the_row_below_the_header_is_row_0(tmp_path: Path) -> None:
    wrong = edited(log(), 0, item="x9")
    wrong.write_csv(tmp_path / "log.csv")
    with pytest.raises(LogError, match=r"row 0: found 'x9'.*Rows count from 0, below the header\."):
        read_plain(tmp_path / "log.csv", catalog())
    with pytest.raises(LogError, match=r"row 0: found 'x9'.* of catalog\.$"):
        read_plain(wrong, catalog())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("user", "written as column=name"),
        ("shopper=uid", "columns names 'shopper', but the columns are"),
        ("user=uid", "column 'uid': found no such column"),
        ({"user": 3}, "must be a text"),
        ("user=item", "log: column 'item': columns says that it is user, but it is item too"),
        (
            "user_x=click",
            "log: column 'click': columns says that it is user_x, but it is click too",
        ),
        ("user=item,item=item", "but it is user too|but it is item too"),
        ("title=category", "catalog: column 'category': columns says that it is title"),
        ({"click": "purchase"}, r"column 'purchase': found no such column among .*\]"),
    ],
)
def test_columns_that_are_not_there(columns: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plain(log(), catalog(), columns=columns)  # type: ignore[arg-type]


def test_a_time_zone_is_checked() -> None:
    with pytest.raises(ValueError, match="time_zone is 'Mars', but it must be a name such as"):
        read_plain(log(), catalog(), time_zone="Mars")
