"""A log that does not fit into memory: read group by group, and never more rows held than told."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recsim_env.logs.plain.reading import read_plain
from recsim_env.logs.plain.sources import Source
from tests.support.plain_logs import catalog, log

GROUP = 200
"""Rows of a row group."""


def test_a_file_of_many_row_groups_holds_no_more_rows_than_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = log(users=400, visits=5)
    path = tmp_path / "log.parquet"
    rows.write_parquet(path, row_group_size=GROUP)
    assert len(rows) == 400 * 5 * 5 == 50 * GROUP
    held: list[int] = []
    really = Source.collect

    def collect(source: Source, frame: pl.LazyFrame) -> pl.DataFrame:
        found = really(source, frame)
        held.append(len(found))
        return found

    monkeypatch.setattr(Source, "collect", collect)
    most = 1_500
    plain = read_plain(path, catalog(), most_rows=most)
    assert max(held) <= most  # of 10,000
    assert plain.rows == len(rows)
    drawn = sum(one.rows for one in plain.dropped)
    assert len(rows) - drawn <= most
    assert plain.impressions["slate"].list.len().sum() == len(rows) - drawn

    # The users that were drawn do not depend on the file, nor on its groups.
    monkeypatch.setattr(Source, "collect", really)
    again = read_plain(rows, catalog(), most_rows=most)
    assert_frame_equal(again.impressions, plain.impressions)
    rows.write_parquet(path, row_group_size=37)
    assert_frame_equal(read_plain(path, catalog(), most_rows=most).impressions, plain.impressions)
