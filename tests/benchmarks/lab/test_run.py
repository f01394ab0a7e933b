"""What a run leaves behind says what was measured, and where it comes from."""

import dataclasses
import enum
import json
import math
import subprocess
from pathlib import Path

import matplotlib
import polars as pl
import pytest
from matplotlib.figure import Figure

from agents.statistics import Estimate
from benchmarks.lab.provenance import PACKAGES, git_state
from benchmarks.lab.run import LARGEST_CSV, Report, Run, read_rows, read_summary, report_again

matplotlib.use("agg")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1)
    folder: Path = Path("runs/x")
    colour: Colour = Colour.RED
    inner: Inner = dataclasses.field(default_factory=Inner)


ROWS = pl.DataFrame({"policy": ["greedy", "uniform"], "seed": [0, 1], "return": [2.5, 0.5]})
SUMMARY = {"greedy/return": Estimate(2.5, 2.0, 3.0, 40), "steps": Estimate(12.0)}


def figure() -> Figure:
    drawn = Figure()
    drawn.add_subplot().plot([0, 1])
    return drawn


def test_everything_is_written_and_read_back(tmp_path: Path) -> None:
    folder = Run("compare", Config(), results=tmp_path).save(
        ROWS, summary=SUMMARY, table="| a |\n", figure=figure()
    )
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "config.json", "figure.png", "rows.csv", "summary.json", "table.md",
    ]  # fmt: skip
    assert read_rows("compare", results=tmp_path).equals(ROWS)
    read = read_summary("compare", results=tmp_path)
    assert read["greedy/return"] == SUMMARY["greedy/return"]
    assert (read["steps"].value, read["steps"].n, math.isnan(read["steps"].low)) == (12.0, 1, True)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "table.md").read_text() == "| a |\n"


def test_summary_is_flat_json_with_null_for_what_is_unknown(tmp_path: Path) -> None:
    folder = Run("compare", Config(), results=tmp_path).save(ROWS, summary=SUMMARY, table="")
    assert json.loads((folder / "summary.json").read_text()) == {
        "greedy/return": {"value": 2.5, "low": 2.0, "high": 3.0, "n": 40},
        "steps": {"value": 12.0, "low": None, "high": None, "n": 1},
    }
    with pytest.raises(ValueError, match="measured figures"):
        Run("compare", Config(), results=tmp_path).save(
            ROWS, summary={"x": Estimate(math.nan)}, table=""
        )


def test_config_says_where_a_result_comes_from(tmp_path: Path) -> None:
    folder = Run("compare", Config(), results=tmp_path).save(ROWS, summary={}, table="")
    origin = json.loads((folder / "config.json").read_text())
    assert origin["config"] == {
        "seeds": [0, 1],
        "folder": "runs/x",
        "colour": "red",
        "inner": {"rate": 0.1},
    }
    assert set(origin) == {
        "config", "command", "date", "commit", "dirty", "versions", "hardware", "seconds",
    }  # fmt: skip
    assert set(origin["versions"]) == {"python", *PACKAGES}
    assert None not in origin["versions"].values()
    assert origin["hardware"]["cores"] >= 1
    assert set(origin["hardware"]) == {"processor", "cores", "torch_threads", "memory_gib", "gpu"}


def test_many_rows_become_parquet_and_nothing_of_the_earlier_run_stays(tmp_path: Path) -> None:
    Run("compare", Config(), results=tmp_path).save(
        ROWS, summary=SUMMARY, table="", figure=figure()
    )
    many = pl.DataFrame({"x": range(LARGEST_CSV + 1)})
    folder = Run("compare", Config(), results=tmp_path).save(many, summary={}, table="")
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "config.json", "rows.parquet", "summary.json", "table.md",
    ]  # fmt: skip
    assert read_rows("compare", results=tmp_path).equals(many)


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Run("compare", Config(), results=tmp_path).save(ROWS, summary=SUMMARY, table="old")

    def broken(self: pl.DataFrame, path: Path) -> None:
        path.write_text("half a fi")
        raise OSError("disk full")

    monkeypatch.setattr(pl.DataFrame, "write_csv", broken)
    with pytest.raises(OSError, match="disk full"):
        Run("compare", Config(), results=tmp_path).save(ROWS[:1], summary={}, table="new")
    assert read_rows("compare", results=tmp_path).equals(ROWS)
    assert [path.name for path in folder.glob(".*")] == [".lock"]


def test_a_report_made_again_leaves_rows_and_their_origin(tmp_path: Path) -> None:
    folder = Run("compare", Config(), results=tmp_path).save(
        ROWS, summary=SUMMARY, table="old", figure=figure(), curves=ROWS[:1]
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report_again(
        "compare", Report("new", {"greedy/return": Estimate(2.5, 1.0, 4.0, 40)}), results=tmp_path
    )
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {
        "table.md",
        "summary.json",
        "config.json",
    }
    assert after["table.md"] == b"new\n"
    old, new = (json.loads(part["config.json"]) for part in (before, after))
    assert new.pop("reported").keys() == {"command", "date", "commit", "dirty"}
    assert new == old
    assert pl.read_parquet(folder / "curves.parquet").equals(ROWS[:1])
    Run("compare", Config(), results=tmp_path).save(ROWS, summary={}, table="")
    assert not (folder / "curves.parquet").exists()


@pytest.mark.parametrize("name", ["", "Compare", "../x", "a b"])
def test_names_that_are_no_words(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Run(name, Config())


def test_configs_that_json_cannot_hold(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Odd:
        thing: object = dataclasses.field(default_factory=object)

    with pytest.raises(TypeError, match="the config holds a object"):
        Run("compare", Odd(), results=tmp_path)
    with pytest.raises(TypeError, match="dataclass instance, found dict"):
        Run("compare", {"seed": 1}, results=tmp_path)


def test_nested_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nested columns \['slate'\]"):
        Run("compare", Config(), results=tmp_path).save(
            pl.DataFrame({"slate": [[1, 2]]}), summary={}, table=""
        )


def test_git_state_ignores_results(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t.invalid"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    git("init")
    (tmp_path / "code.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "one")
    state = git_state(tmp_path)
    assert (len(str(state["commit"])), state["dirty"]) == (40, False)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "rows.csv").write_text("x\n")
    (tmp_path / "README.md").write_text("table\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "league.md").write_text("table\n")
    assert git_state(tmp_path) == state
    (tmp_path / "code.py").write_text("2\n")
    assert git_state(tmp_path)["dirty"] is True


def test_results_go_where_no_committed_ones_lie_and_the_run_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Run("compare", Config()).save(ROWS, summary={}, table="")
    assert folder == Path("runs/results/compare")
    assert (tmp_path / folder / "rows.csv").is_file()
    assert "results: runs/results/compare" in capsys.readouterr().out
