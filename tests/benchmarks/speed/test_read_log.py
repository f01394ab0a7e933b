"""The reading of a log is measured in processes of its own."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from benchmarks.speed.read_log import Config, main


@pytest.mark.slow
def test_both_files_are_read_and_measured(tmp_path: Path) -> None:
    main(Config(users=200, visits=5, size=4, items=300, results=tmp_path))
    rows = pl.read_csv(tmp_path / "read_log" / "rows.csv")
    assert rows["file"].to_list() == ["csv", "parquet"]
    assert rows["slates"].to_list() == [1000, 1000]
    assert rows["rows"].to_list() == [4000, 4000]
    assert rows.select((pl.col("read_cpu_s", "peak_gb") > 0).all()).row(0) == (True, True)
