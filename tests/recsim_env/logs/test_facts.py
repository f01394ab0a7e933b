"""Facts of a log come back as written, are checked, and are known of builds that lack the file."""

import json
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from recsim_env.logs import complete_journey
from recsim_env.logs.complete_journey import FACTS, Recipe
from recsim_env.logs.complete_journey.tables import split_weeks
from recsim_env.logs.facts import FACTS_FILE, LogFacts


def test_facts_come_back_as_written(tmp_path: Path) -> None:
    FACTS.write(tmp_path)
    assert json.loads((tmp_path / FACTS_FILE).read_text()) == {
        "day_zero": "2017-01-01",
        "weeks_a_year": 53,
        "placements": [10, 11],
        "splits": [[1, 44], [45, 48], [49, 53]],
    }
    assert LogFacts.read(tmp_path) == LogFacts.of_json(FACTS.to_json()) == FACTS


def test_splits_are_told_by_name() -> None:
    assert [FACTS.weeks(split) for split in ("train", "valid", "test")] == [
        (1, 44),
        (45, 48),
        (49, 53),
    ]
    assert FACTS.n_weeks == 44 + 4 + 5
    assert FACTS.n_placements == 10 * 11
    with pytest.raises(ValueError, match="split is 'all', but it must be one of"):
        FACTS.weeks("all")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("day_zero", "2017-01-01", "day_zero is '2017-01-01', but it must be a date"),
        ("weeks_a_year", 0, "weeks_a_year is 0"),
        ("weeks_a_year", True, "weeks_a_year is True"),
        ("placements", (10,), "placements is .* a list of 2 values"),
        ("placements", (10, 0), "a number of placements is 0"),
        ("placements", (16, 17), "at most 256 pairs"),
        ("splits", ((1, 44), (45, 48)), "splits is .* a list of 3 values"),
        ("splits", ((1, 44), (44, 48), (49, 53)), "first week of valid is 44, .* of 45|from 45"),
        ("splits", ((1, 44), (45, 43), (49, 53)), "last week of valid is 43"),
        ("splits", ((-1, 44), (45, 48), (49, 53)), "first week of train is -1"),
    ],
)
def test_facts_are_checked(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FACTS, **{field: value})


def test_a_split_may_have_no_weeks() -> None:
    assert replace(FACTS, splits=((1, 44), (45, 44), (45, 53))).weeks("valid") == (45, 44)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"facts\.json is no readable JSON"),
        ("[]", "facts is .*, but it must be a mapping"),
        ("{}", r"facts hold \[\], but they must hold \['day_zero'"),
        (json.dumps({**FACTS.to_json(), "more": 1}), "facts hold .*'more'"),
        (json.dumps({**FACTS.to_json(), "day_zero": "today"}), "day_zero is 'today'"),
        (json.dumps({**FACTS.to_json(), "day_zero": 3}), "day_zero is 3"),
    ],
)
def test_a_file_of_other_content_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / FACTS_FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        LogFacts.read(tmp_path)


@pytest.mark.parametrize(
    ("until", "last", "expected"),
    [
        ((44, 48), 53, ((1, 44), (45, 48), (49, 53))),
        ((6, 8), 10, ((1, 6), (7, 8), (9, 10))),
        ((44, 48), 20, ((1, 44), (45, 48), (49, 48))),  # nothing to test on
        ((44, 40), 53, ((1, 44), (45, 44), (45, 53))),  # nothing to validate on
    ],
)
def test_the_weeks_of_a_recipe(until: tuple[int, int], last: int, expected: object) -> None:
    splits = split_weeks(Recipe(train_until=until[0], valid_until=until[1]), last)
    assert splits == replace(FACTS, splits=splits).splits == expected


def test_a_build_without_the_file_is_known_by_its_summary(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        complete_journey.read_facts(tmp_path)
    summary = {"version": 1, "seed": 0, "recipe": asdict(Recipe(train_until=40, valid_until=50))}
    path = tmp_path / complete_journey.SUMMARY_FILE
    path.write_text(json.dumps(summary))
    assert complete_journey.read_facts(tmp_path) == replace(
        FACTS, splits=((1, 40), (41, 50), (51, 53))
    )
    own = replace(FACTS, day_zero=date(2020, 2, 29))
    own.write(tmp_path)
    assert complete_journey.read_facts(tmp_path) == own  # the file is believed first
    (tmp_path / FACTS_FILE).unlink()
    path.write_text(json.dumps({"rows": 3}))
    with pytest.raises(FileNotFoundError):
        complete_journey.read_facts(tmp_path)
