"""A log becomes a folder that is registered, played, and judged."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import polars as pl
import pytest

import recsim_env
from recsim_env.fitting import FitConfig, fit
from recsim_env.fitting.output import check_output, remember
from recsim_env.logs.plain import read_plain
from recsim_env.logs.schema import LogError, read_impressions
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import PRESETS, shopper_options
from recsim_env.shop_file import UNFINISHED, ShopFile
from recsim_env.shoppers.session.fit import SessionFitConfig
from recsim_env.shoppers.session.starts import FILE, Logged
from tests.support.plain_logs import catalog, log

TINY = SessionFitConfig(
    epochs=1, least_steps=2, temperaments=4, hidden_size=8, layers=1, head_size=8
)
QUICK = FitConfig(members=1, judged_users=8, counterfactual=False, model=TINY)
USERS, VISITS, SIZE = 60, 4, 5


def rows() -> pl.DataFrame:
    return log(users=USERS, visits=VISITS, size=SIZE, policy=lambda user, visit: "ab"[user % 2])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "shop"
    fit(rows(), catalog(), path, config=QUICK)
    return path


def test_the_folder_holds_everything(shop: Path) -> None:
    names = {path.name for path in shop.iterdir() if not path.name.startswith(".")}
    assert {
        "shop.json",
        "model0",
        "population.safetensors",
        "report.md",
        "report.html",
        "log",
    } <= names
    assert "unfinished" not in names
    told = json.loads((shop / "shop.json").read_text())
    assert told["kind"] == "session"
    assert told["slate_size"] == SIZE
    # Visits are two days apart: the last of four is six days after the first.
    assert told["horizon_days"] == 7.0
    assert told["reward"] == {"clicks": 1.0}
    topics = {"clicks", "order of policies", "levels", "leaving", "returning", "positions"}
    assert set(told["verdicts"]) == topics
    assert all(topic in (shop / "report.md").read_text().lower() for topic in topics)
    table = read_impressions(shop / "log" / "impressions.parquet", 40)
    assert Sessions.of(table).n_slates == USERS * VISITS


def test_it_is_an_environment(shop: Path) -> None:
    recsim_env.register("fitting/Shop-v0", shop, anyway=True)
    env = gym.make("fitting/Shop-v0", population="evaluation")
    observation, _ = env.reset(seed=1)
    total, ended = 0.0, False
    for _ in range(30):
        observation, reward, terminated, truncated, info = env.step(
            observation["candidates"][:SIZE]
        )
        total += float(reward)
        assert float(reward) == float(np.asarray(info["clicks"]).sum())
        if ended := terminated or truncated:
            break
    assert ended
    assert total >= 0


def test_doubtful_levels_are_told_where_it_is_made_and_not_before(
    shop: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "shop"
    shutil.copytree(shop, mine)
    told = json.loads((mine / "shop.json").read_text())
    told["verdicts"]["levels"] = {"holds": False, "sentence": "Levels: not to be trusted."}
    (mine / "shop.json").write_text(json.dumps(told))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recsim_env.register("fitting/Doubtful-v0", mine, anyway=True)
        assert "population" in shopper_options(PRESETS["fitting/Doubtful-v0"])
    with pytest.warns(UserWarning, match=r"Levels: not to be trusted\."):
        recsim_env.make_simulator("fitting/Doubtful-v0")


def test_test_users_are_the_evaluation_population(shop: Path) -> None:
    users = pl.read_parquet(shop / "log" / "users.parquet")
    count = dict(users.group_by("split").len().iter_rows())
    logged = Logged.load(shop / FILE, len(catalog()))
    assert int(logged.evaluation.sum()) == count["test"]
    assert len(logged) == count["train"] + count["test"]


def test_the_same_seed_gives_the_same_models(shop: Path, tmp_path: Path) -> None:
    fit(rows(), catalog(), tmp_path / "again", config=QUICK)
    first, second = (
        (path / "model0" / "model.safetensors").read_bytes() for path in (shop, tmp_path / "again")
    )
    assert first == second


def test_an_interrupted_fit_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that stops while it is judged keeps its models, which are not fitted again."""

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recsim_env.fitting.stages.judged", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(rows(), catalog(), tmp_path / "shop", config=QUICK)
    assert (tmp_path / "shop" / "unfinished" / "model0").is_dir()
    assert not (tmp_path / "shop" / "shop.json").exists()

    other = FitConfig(members=1, counterfactual=False, model=SessionFitConfig(epochs=2))
    with pytest.raises(ValueError, match="unfinished fit to another log or with other settings"):
        fit(rows(), catalog(), tmp_path / "shop", config=other)

    monkeypatch.undo()
    stages: list[str] = []
    fit(
        rows(),
        catalog(),
        tmp_path / "shop",
        config=QUICK,
        progress=lambda stage, done, steps: stages.append(stage),
    )
    assert "model 1 of 1" not in stages
    assert ShopFile.read(tmp_path / "shop").kind == "session"


def test_nothing_is_written_where_it_should_not(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds files that are not those of a fit"):
        fit(rows(), catalog(), tmp_path / "mine", config=QUICK)
    rows().write_csv(tmp_path / "log.csv")
    catalog().write_csv(tmp_path / "items.csv")
    with pytest.raises(ValueError, match="lies in it: nothing is written where inputs are"):
        fit(tmp_path / "log.csv", tmp_path / "items.csv", tmp_path, config=QUICK)
    with pytest.raises(ValueError, match="but that is a file"):
        fit(rows(), catalog(), tmp_path / "log.csv", config=QUICK)
    with pytest.raises(LogError, match="found no click"):
        fit(rows().with_columns(click=pl.lit(0)), catalog(), tmp_path / "none", config=QUICK)
    for term in ("purchases", "outside_reward"):
        with pytest.raises(ValueError, match=f"reward has the term '{term}'"):
            fit(rows(), catalog(), tmp_path / "none", reward={term: 1.0}, config=QUICK)
    with pytest.raises(ValueError, match="device is 'abacus'"):
        fit(rows(), catalog(), tmp_path / "none", config=QUICK, device="abacus")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.csv", "log.csv", "mine"]


def test_what_a_fit_that_was_killed_at_once_leaves_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / UNFINISHED).mkdir()
    (tmp_path / UNFINISHED / ".settings.json.7.0a1b2c3d.tmp").touch()
    assert check_output(tmp_path, ()) == tmp_path
    (tmp_path / UNFINISHED / "thesis.txt").touch()
    with pytest.raises(ValueError, match="holds files that are not those of a fit"):
        check_output(tmp_path, ())


def test_nothing_of_an_earlier_log_stays(tmp_path: Path) -> None:
    told = rows().with_columns(user_age=pl.col("user").str.slice(1).cast(pl.Int64))
    fit(told, catalog(), tmp_path, config=replace(QUICK, members=2))
    (tmp_path / "ranker.safetensors").touch()
    before = {path.name for path in (tmp_path / "log").iterdir()}
    fit(rows(), catalog(), tmp_path, config=QUICK)
    assert before - {path.name for path in (tmp_path / "log").iterdir()} == {"declared.parquet"}
    assert not (tmp_path / "ranker.safetensors").exists()
    assert not (tmp_path / "model1").exists()


def test_an_earlier_shop_stands_until_the_new_one_is_whole(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "shop"
    shutil.copytree(shop, mine)
    (mine / "ranker.safetensors").touch()

    def contents() -> dict[str, bytes]:
        inside = (path for path in mine.rglob("*") if path.is_file())
        told = {path.relative_to(mine).as_posix(): path.read_bytes() for path in inside}
        return {name: held for name, held in told.items() if not name.startswith(("unf", "."))}

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = contents()
    other = replace(QUICK, seed=1)
    monkeypatch.setattr("recsim_env.fitting.stages.write_report", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(rows(), catalog(), mine, config=other)
    assert contents() == before
    recsim_env.register("fitting/Earlier-v0", mine, anyway=True)
    monkeypatch.undo()
    stages: list[str] = []
    fit(rows(), catalog(), mine, config=other, progress=lambda stage, *_: stages.append(stage))
    assert "model 1 of 1" not in stages
    assert contents().keys() == before.keys() - {"ranker.safetensors"}
    assert contents()["shop.json"] != before["shop.json"]


def test_models_without_their_settings_are_not_used(tmp_path: Path) -> None:
    """A process that is killed while it removes the unfinished models may leave some of them."""
    plain = read_plain(rows(), catalog())
    model = tmp_path / UNFINISHED / "model0"
    model.mkdir(parents=True)
    remember(tmp_path, plain, QUICK)
    assert not model.exists()
    model.mkdir()
    remember(tmp_path, plain, QUICK)
    assert model.exists()  # of the same fit


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"members": 0}, "members is 0"),
        ({"slate_size": 0}, "slate_size is 0"),
        ({"horizon_days": -1.0}, "horizon_days is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"counterfactual": 3}, "counterfactual is 3"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        FitConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        ({"clicks": "a"}, r"reward\['clicks'\] is 'a'"),
        ({"joy": 1.0}, "a term of reward is 'joy'"),
        ({}, "reward has no term"),
    ],
)
def test_a_bad_reward_is_named(reward: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        fit(rows(), catalog(), tmp_path / "none", reward=reward, config=QUICK)
    assert not (tmp_path / "none").exists()


def test_episodes_longer_than_the_log_are_told(tmp_path: Path) -> None:
    config = FitConfig(
        members=1, judged_users=8, counterfactual=False, model=TINY, horizon_days=90.0
    )
    fitted = fit(rows(), catalog(), tmp_path / "shop", config=config)
    assert any("Episodes of 90 days extrapolate" in note for note in fitted.notes)
    assert ShopFile.read(tmp_path / "shop").horizon_days == 90.0
