"""A log is built where that is asked for, never over other tables, and commands only read it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from benchmarks.data import build_log, finetune, fit_market, train_ranker
from benchmarks.lab import logs
from benchmarks.lab.logs import ready
from benchmarks.lab.markets import MarketWorld
from benchmarks.shopper import ablation, fidelity
from recsim_env.files import write_text
from recsim_env.logs import complete_journey
from recsim_env.logs.complete_journey import LOG_FILES, UNFINISHED_FILE
from recsim_env.logs.schema import SPLITS
from recsim_env.shoppers.household.fit import FinetuneConfig
from tests.recsim_env.logs.test_complete_journey import RECIPE, fake_encoder, fake_sources
from tests.support.fake_log import write_shop

SMALL = FinetuneConfig(
    hidden_size=16, layers=1, window=8, head_size=16, pretrain_epochs=0.1, epochs=0.1
)
QUIET = Console(quiet=True)


def content(folder: Path) -> dict[str, str]:
    """Names and hashes of all files in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A log of one's own: every table, the facts, and no summary.json."""
    folder = tmp_path / "own"
    write_shop(folder)
    return folder


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where the log was built, by a build that writes the names of the tables alone."""
    found: list[Path] = []

    def build(folder: Path, *, seed: int = 0, progress: Callable[[str], None]) -> None:
        found.append(folder)
        for name in LOG_FILES:
            write_text(folder / name, f"seed {seed}")
        write_text(folder / "summary.json", json.dumps({"seed": seed, "version": 1}))

    monkeypatch.setattr(build_log, "build", build)
    monkeypatch.setattr(complete_journey, "build", build)
    return found


def commands(log: Path, output: Path) -> dict[str, Callable[[], None]]:
    """Every command that reads a log."""
    return {
        "finetune": lambda: finetune.main(
            finetune.Config(shopper=SMALL, log=log, output=output, threads=1)
        ),
        "fidelity": lambda: fidelity.main(fidelity.Config(log=log, threads=1, results=output)),
        "ablation": lambda: ablation.main(
            ablation.Config(log=log, output=output, threads=1, results=output)
        ),
        "train_ranker": lambda: train_ranker.main(
            train_ranker.Config(log=log, output=output / "w", threads=1)
        ),
    }


@pytest.mark.parametrize("command", ["finetune", "fidelity", "ablation", "train_ranker"])
def test_a_folder_that_lacks_a_table_is_left_as_it_is(
    own: Path, tmp_path: Path, builds: list[Path], command: str
) -> None:
    (own / "policy.parquet").unlink()
    before = content(own)
    with pytest.raises(
        FileNotFoundError,
        match=r"own lacks policy\.parquet: .*python -m benchmarks\.data\.build_log --folder",
    ):
        commands(own, tmp_path / "out")[command]()
    assert content(own) == before
    assert builds == []
    assert not (tmp_path / "out" / "finetune").exists()


def test_a_fine_tuning_on_ones_own_tables_reads_them_only(own: Path, tmp_path: Path) -> None:
    before = content(own)
    commands(own, tmp_path / "out")["finetune"]()
    assert (tmp_path / "out" / "shopper" / "config.json").is_file()
    assert content(own) == before
    card = (tmp_path / "out" / "shopper" / "README.md").read_text()
    assert "Weeks 0-19 train, 20-22 calibrate, 23-28 below." in card
    assert "## Held-out weeks 23-28" in card
    assert f"Tables of `{own}`." in card
    assert "Complete Journey" not in card


@pytest.mark.parametrize("command", ["finetune", "fidelity", "ablation", "train_ranker"])
def test_no_output_lies_in_the_log(own: Path, command: str) -> None:
    before = content(own)
    with pytest.raises(
        ValueError, match=r"(output|results) is .*own.*, but it must lie outside of the log"
    ):
        commands(own, own / "runs")[command]()
    assert content(own) == before


@pytest.mark.parametrize(
    ("command", "inside"),
    [
        ("finetune", "shopper"),
        ("finetune", "shopper.part"),
        ("finetune", "shopper.old"),
        ("finetune", "finetune"),
        ("finetune", "."),
        ("fidelity", "fidelity"),
        ("ablation", "parts/no_text"),
        ("ablation", "ablation"),
        ("train_ranker", "w"),
    ],
)
@pytest.mark.parametrize("linked", [False, True], ids=["plain", "through a link"])
def test_no_output_holds_the_log(tmp_path: Path, command: str, inside: str, linked: bool) -> None:
    """A folder that is replaced takes everything below it along."""
    site = tmp_path / "site"
    write_shop(site / inside)
    (tmp_path / "link").symlink_to(site)
    output = tmp_path / "link" if linked else site
    before = content(site)
    match = r"(output|results) is .*, but it must (not hold|lie outside of) the log, "
    if command == "train_ranker":  # which writes a file, and so into no folder at all
        match = "output is .*, but that is a folder, and it must be a file"
    with pytest.raises(ValueError, match=match):
        commands(site / inside, output)[command]()
    assert content(site) == before


def test_no_results_lie_in_the_shopper_that_is_measured(own: Path, tmp_path: Path) -> None:
    config = fidelity.Config(shopper=tmp_path / "fidelity", log=own, results=tmp_path)
    with pytest.raises(ValueError, match=r"results is .*, but it must lie outside of the shopper"):
        fidelity.main(config)


@pytest.mark.parametrize("inside", ["", "unfinished", "unfinished.part"])
def test_no_fit_of_a_market_replaces_the_log_that_it_learns_from(
    tmp_path: Path, inside: str
) -> None:
    market = MarketWorld(slates=100)
    config = fit_market.Config(market, work=tmp_path / "fit" / inside, output=tmp_path / "fit")
    with pytest.raises(ValueError, match=r"output is .*fit, but it must not hold the log of"):
        fit_market.main(config)
    assert not (tmp_path / "fit").exists()


def test_the_default_folder_is_built_and_that_is_said(
    tmp_path: Path,
    builds: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logs, "DEFAULT_LOG", tmp_path / "default")
    console = Console(width=1000)
    assert ready(tmp_path / "default", console, {}) == tmp_path / "default"
    assert "default is missing: the Complete Journey log is built there" in capsys.readouterr().out
    ready(tmp_path / "default", console, {})
    assert builds == [tmp_path / "default"]


def test_another_folder_is_not_built(tmp_path: Path, builds: list[Path]) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere lacks"):
        ready(tmp_path / "elsewhere", QUIET, {})
    assert builds == []
    assert not (tmp_path / "elsewhere").exists()


def test_tables_of_ones_own_are_not_built_over(own: Path) -> None:
    for summary in (None, "{}", "[1, 2]", "no json"):
        if summary is not None:
            (own / "summary.json").write_text(summary)
        before = content(own)
        with pytest.raises(
            FileExistsError,
            match=r"which holds .*, but a log is only built in a folder that is new",
        ):
            build_log.main(build_log.Config(folder=own, force=True))
        assert content(own) == before


def test_a_build_that_was_stopped_is_not_read(tmp_path: Path, builds: list[Path]) -> None:
    vars(build_log)["build"](tmp_path / "log", progress=print)
    write_text(tmp_path / "log" / UNFINISHED_FILE, "{}")
    with pytest.raises(FileNotFoundError, match="log holds a build that is not finished"):
        ready(tmp_path / "log", QUIET, {})
    (tmp_path / "log" / UNFINISHED_FILE).unlink()
    assert ready(tmp_path / "log", QUIET, {}) == tmp_path / "log"


def test_the_commands_read_the_default_folder() -> None:
    assert {
        config().log
        for config in (finetune.Config, fidelity.Config, ablation.Config, train_ranker.Config)
    } == {logs.DEFAULT_LOG}
    assert (
        build_log.Config().folder == replace(build_log.Config(), seed=1).folder == logs.DEFAULT_LOG
    )


def test_a_build_without_facts_is_read_and_other_tables_are_not(
    own: Path, tmp_path: Path, builds: list[Path]
) -> None:
    """Logs that were built before there were facts say in their summary what they are."""
    vars(build_log)["build"](tmp_path / "log", progress=print)
    (tmp_path / "log" / "facts.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"log lacks facts\.json: write the tables"):
        ready(tmp_path / "log", QUIET, {})
    summary = {"seed": 0, "version": 1, "recipe": {"train_until": 40}}
    write_text(tmp_path / "log" / "summary.json", json.dumps(summary))
    assert ready(tmp_path / "log", QUIET, {}) == tmp_path / "log"
    (own / "facts.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"own lacks facts\.json: write the tables"):
        ready(own, QUIET, {})


def test_the_table_of_a_build_has_its_counts_beside_the_first_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(folder: Path, *, seed: int, progress: Callable[[str], None]) -> dict[str, Any]:
        return complete_journey.build(
            folder,
            seed=seed,
            progress=progress,
            sources=fake_sources(),
            recipe=RECIPE,
            encode=fake_encoder,
        )

    monkeypatch.setattr(build_log, "build", build)
    folder = tmp_path / "log"
    build_log.main(build_log.Config(folder=folder))
    assert "built in " in capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    rows = {what: (here, before) for what, here, before in build_log.rows(summary)}
    assert rows["visits"] == (str(12 * 23), "123,631")
    assert rows["households"] == ("12", "2,467")
    policy = pl.read_parquet(folder / "policy.parquet")
    rates = [policy] + [policy.filter(pl.col("split") == split) for split in SPLITS]
    assert rows["policy CTR, %: all / train / valid / test"][0] == " / ".join(
        f"{100 * np.mean(part['purchase'].explode().to_list()):.2f}" for part in rates
    )
    slates = [len(part) for part in rates]
    assert rows["visits with a slate, all / train / valid / test"][0] == " / ".join(
        map(str, slates)
    )
    before = content(folder)
    build_log.main(build_log.Config(folder=folder))
    assert "already built" in capsys.readouterr().out
    assert content(folder) == before

    # A table that was lost, emptied or cut off is built again, and that is said.
    for name, spoil in (
        ("uniform.parquet", Path.unlink),
        ("policy.parquet", lambda path: path.write_bytes(b"")),
        ("baskets.parquet", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        ("embedding.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        ("facts.json", lambda path: path.write_text("{")),
    ):
        spoil(folder / name)
        assert complete_journey.damaged(folder) == [name]
        build_log.main(build_log.Config(folder=folder))
        told = " ".join(capsys.readouterr().out.split())
        assert f"has lost {name}: the log is built again there. built in " in told
        assert content(folder) == before
    (folder / "facts.json").unlink()  # as a build of an earlier version
    assert complete_journey.damaged(folder) == []

    # The mark of a build that was stopped, which `ready` refuses, is no dead end either.
    write_text(folder / UNFINISHED_FILE, "{}")
    build_log.main(build_log.Config(folder=folder))
    assert "built in " in capsys.readouterr().out
    assert content(folder) == before
