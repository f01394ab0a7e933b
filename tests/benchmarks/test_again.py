"""Tables and summaries are what the committed rows say."""

from __future__ import annotations

import pytest

from benchmarks import again
from benchmarks.lab.run import RESULTS, read_origin, read_rows, read_summary


@pytest.mark.parametrize("name", again.REPORTS)
def test_tables_and_figures_are_what_their_rows_say(name: str) -> None:
    folder = RESULTS / name
    if name == "league" and not (folder / "curves.parquet").is_file():
        with pytest.raises(FileNotFoundError, match=r"league lacks curves\.parquet"):
            again.REPORTS[name](read_rows(name), read_origin(name)["config"], folder)
        return
    found = again.REPORTS[name](read_rows(name), read_origin(name)["config"], folder)
    assert found.table.strip() + "\n" == (folder / "table.md").read_text(), (
        f"run `python -m benchmarks.again {name}`"
    )
    assert found.summary.keys() == read_summary(name).keys()
    for figure_name, estimate in read_summary(name).items():
        made = found.summary[figure_name]
        assert (made.value, made.low, made.high) == pytest.approx(
            (estimate.value, estimate.low, estimate.high), nan_ok=True
        ), figure_name
