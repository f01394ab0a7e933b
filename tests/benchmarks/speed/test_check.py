"""The check of recorded ratios: made-up rows that pass, and made-up rows that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks.lab.run import RESULTS, read_rows
from benchmarks.speed import check
from benchmarks.speed.check import REQUESTS, SIZE, WAYS, Compared, Config, compare
from recsim_env.estimates import Estimate


def served(every: float, index: float, wobble: float = 0.0) -> pl.DataFrame:
    """Requests of two milliseconds, say; every second block takes longer by a share."""
    rows: list[dict[str, Any]] = []
    for way, time in {"every item": every, **dict.fromkeys(WAYS, index)}.items():
        for number in range(4 * REQUESTS):
            slower = wobble * (number // 4 % 2) if way == "every item" else 0.0
            told = {"items": SIZE, "way": way, "what": "request", "number": number}
            rows.append({**told, "cpu_ms": time * (1 + slower)})
    return pl.DataFrame(rows)


def test_twice_the_time_on_both_sides_is_no_loss() -> None:
    for one in compare("latency", served(4.0, 2.0), served(8.0, 4.0)):
        assert (one.recorded.value, one.now.value, one.change) == (2.0, 2.0, 0.0)
        assert not one.failed(0.15)


def test_a_loss_of_more_than_15_percent_fails_and_one_of_less_does_not() -> None:
    for index, failed in ((2.3, False), (2.4, True)):  # 13 % and 17 % of the gain
        for one in compare("latency", served(4.0, 2.0), served(4.0, index)):
            assert one.change == pytest.approx(2.0 / index - 1)
            assert one.failed(0.15) is failed
    faster = compare("latency", served(4.0, 2.0), served(4.0, 1.0))
    assert not any(one.failed(0.15) for one in faster)


def test_a_loss_within_the_spread_of_now_does_not_fail() -> None:
    now = served(2.8, 2.0, wobble=0.5)  # gains of 1.4 and 2.1 in turns: 1.75, and 1.7 is the bound
    steady = served(2.8, 2.0)
    assert all(one.failed(0.15) for one in compare("latency", served(4.0, 2.0), steady))
    assert not any(one.failed(0.15) for one in compare("latency", served(4.0, 2.0), now))
    one = Compared("made up", Estimate(2.0), Estimate(1.5, 1.3, 1.71, 3))
    assert not one.failed(0.15)
    assert Compared("made up", Estimate(2.0), Estimate(1.5, 1.3, 1.69, 3)).failed(0.15)


def test_every_recorded_benchmark_tells_ratios_and_no_times() -> None:
    for part in check.RATIOS:
        rows = read_rows(part, results=RESULTS)
        found = compare(part, rows, rows)
        assert len(found) >= 2
        assert all(one.change == 0 and not one.failed(0.0) for one in found)
        assert not any("steps_per" in one.name or "_ms" in one.name for one in found)


def test_the_command_fails_where_a_gain_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = served(4.0, 2.0)
    monkeypatch.setattr(check, "read_rows", lambda part, results: recorded)
    config = Config(parts=("latency",), results=tmp_path)
    monkeypatch.setitem(check.MEASURED, "latency", lambda config: served(4.0, 2.1))
    check.main(config)
    assert "kept" in (tmp_path / "bench_check" / "table.md").read_text()
    monkeypatch.setitem(check.MEASURED, "latency", lambda config: served(4.0, 3.0))
    with pytest.raises(SystemExit, match=rf"^2 gains are lost: latency/every_item_over/{WAYS[0]}"):
        check.main(config)
    assert "**lost**" in capsys.readouterr().out
