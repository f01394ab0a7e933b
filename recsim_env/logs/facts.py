"""Facts about a log that its tables do not hold: its first day, weeks, placements and splits.

Code that works for every log takes these numbers from here, so that a second shop needs no edits.
They lie beside the tables of a log (`facts.json`), and in the configuration of every model that
depends on them.
"""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from recsim_env import checks, files
from recsim_env.logs.schema import MOST_PLACEMENTS, SPLITS, WEEKS

FACTS_FILE = "facts.json"


@dataclass(frozen=True)
class LogFacts:
    """Facts about a shop and its log that the tables of `recsim_env.logs.schema` do not hold.

    Raises:
        ValueError: If a field is not as said; the sentence names it.
    """

    day_zero: datetime.date
    """Date of day 0 of the log."""
    weeks_a_year: int
    """Largest week number of a year; 53 where the first and the last week are cut by the year."""
    placements: tuple[int, int]
    """Number of display codes and of mailer codes, "none" included. A placement is
    display * (number of mailer codes) + mailer, each 0 where there is none."""
    splits: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """First and last week of the train, valid and test split; a split without weeks ends in the
    week before its first. Where users are split and not weeks, train has all of them."""

    def __post_init__(self) -> None:
        """Check every field, and store it as the plain Python type."""
        if type(self.day_zero) is not datetime.date:
            raise ValueError(f"day_zero is {checks.told(self.day_zero)}, but it must be a date.")
        object.__setattr__(self, "weeks_a_year", checks.whole("weeks_a_year", self.weeks_a_year, 1))
        placements = tuple(
            checks.whole("a number of placements", codes, 1, MOST_PLACEMENTS)
            for codes in checks.several("placements", self.placements, 2)
        )
        if math.prod(placements) > MOST_PLACEMENTS:
            raise ValueError(
                f"placements is {placements}, but there must be at most {MOST_PLACEMENTS} pairs of "
                "a display and a mailer code."
            )
        object.__setattr__(self, "placements", placements)
        object.__setattr__(self, "splits", _checked_splits(self.splits))

    def weeks(self, split: str) -> tuple[int, int]:
        """First and last week of a split of `schema.SPLITS`.

        Raises:
            ValueError: If `split` is none of them.
        """
        return self.splits[SPLITS.index(checks.choice("split", split, SPLITS))]

    @property
    def n_placements(self) -> int:
        """Number of placement codes, 0 = not promoted included."""
        return math.prod(self.placements)

    @property
    def n_weeks(self) -> int:
        """Number of weeks from the first of the train split to the last of the test split."""
        return self.splits[-1][1] - self.splits[0][0] + 1

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values: lists, and the date as YYYY-MM-DD."""
        lists = json.loads(json.dumps(asdict(self) | {"day_zero": self.day_zero.isoformat()}))
        assert isinstance(lists, dict)
        return lists

    @classmethod
    def of_json(cls, content: object) -> LogFacts:
        """The facts that `to_json` wrote.

        Raises:
            TypeError: If `content` is no mapping.
            ValueError: If a field is missing, unknown, or not as said.
        """
        told = checks.mapping("facts", content)
        names = {field.name for field in fields(cls)}
        if told.keys() != names:
            raise ValueError(f"facts hold {sorted(told)}, but they must hold {sorted(names)}.")
        try:
            day_zero = datetime.date.fromisoformat(told["day_zero"])
        except (TypeError, ValueError):
            raise ValueError(
                f"day_zero is {checks.told(told['day_zero'])}, but it must be a date YYYY-MM-DD."
            ) from None
        return cls(**{**told, "day_zero": day_zero})

    def write(self, folder: Path | str) -> None:
        """Write `facts.json` into the folder of a log."""
        files.write_json(checks.path("folder", folder) / FACTS_FILE, self.to_json())

    @classmethod
    def read(cls, folder: Path | str) -> LogFacts:
        """Read `facts.json` of the folder of a log.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no JSON, or its content is not as said.
        """
        path = checks.path("folder", folder) / FACTS_FILE
        content = files.read_json(path)
        try:
            return cls.of_json(content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None


def _checked_splits(value: object) -> tuple[tuple[int, int], ...]:
    """Pairs of a first and a last week, each split after the one before it."""
    splits: list[tuple[int, int]] = []
    earliest = 0
    for name, pair in zip(SPLITS, checks.several("splits", value, len(SPLITS)), strict=True):
        start, end = checks.several(f"split {name}", pair, 2)
        first = checks.whole(f"the first week of {name}", start, earliest, WEEKS)
        last = checks.whole(f"the last week of {name}", end, first - 1, WEEKS)
        splits.append((first, last))
        earliest = last + 1
    return tuple(splits)
