"""The ablation: variants are trained as named, scored on their weeks, compared with the first."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from agents.statistics import critical
from benchmarks.lab.logs import Log
from benchmarks.shopper import ablation
from benchmarks.shopper.ablation import difference
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.fit import FinetuneConfig, Scores, new_shopper, score
from recsim_env.shoppers.household.model import SlateShopper
from tests.support.fake_log import write_shop

SMALL = FinetuneConfig(
    hidden_size=16, layers=1, window=8, head_size=16, pretrain_epochs=0.1, epochs=0.1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which every eighth item is cold."""
    path = tmp_path_factory.mktemp("log")
    write_shop(path, cold=8)
    return path


@pytest.fixture(scope="module")
def log(folder: Path) -> Log:
    return Log.load(folder)


@pytest.fixture(scope="module")
def examples(log: Log) -> Examples:
    return log.examples(cold_hidden=False)


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two variants of a question, and the names of those that are trained."""
    changed = {"first": {}, "(no) counters": {"use_counters": False}}
    monkeypatch.setitem(ablation.VARIANTS, "parts", changed)
    trained: list[str] = []
    train = ablation.train

    def spy(config: ablation.Config, name: str, *rest: Any) -> SlateShopper:
        trained.append(name)
        model = train(config, name, *rest)
        assert model.config.use_counters == (name == "first")
        return model

    monkeypatch.setattr(ablation, "train", spy)
    return trained


def test_an_ablations_difference_is_paired_by_sample() -> None:
    base = {"cold_auc": [0.7, 0.6, 0.7, 0.8], "households/cold": [50.0]}
    variant = {"cold_auc": [0.71, 0.61, 0.71, 0.83], "households/cold": [50.0]}
    found = difference(variant, base, "cold_auc")
    half = critical(50) * math.sqrt(50 / 49) * float(np.std([0.01, 0.01, 0.03], ddof=1))
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01 - half, 0.01 + half))


def test_an_ablation_reports_on_scores_that_lie_there(folder: Path, tmp_path: Path) -> None:
    """Nothing is trained where every variant was scored; choices are told apart from parts."""
    for question, name in ablation.NAMES.items():
        config = ablation.Config(
            question=question,  # type: ignore[arg-type]
            log=folder,
            output=tmp_path / "work",
            results=tmp_path,
        )
        inside = replace(config, output=tmp_path / "work" / question)
        for at, variant in enumerate(ablation.VARIANTS[question]):
            scores = {
                f"{part}_{metric}": [0.5 + at / 100] * 4
                for part, many in ablation.METRICS.items()
                for metric in many
            }
            scores |= {f"households/{part}": [9.0] for part in ablation.METRICS} | {
                "minutes": [1.0]
            }
            path = ablation.path_of(inside, variant)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(scores))
        ablation.main(config)
        rows = pl.read_csv(tmp_path / name / "rows.csv")
        assert rows["variant"].unique(maintain_order=True).to_list() == list(
            ablation.VARIANTS[question]
        )
        last = rows.filter(pl.col("figure") == "cold_auc")["difference"].to_list()[-1]
        assert last == pytest.approx((len(ablation.VARIANTS[question]) - 1) / 100)


def test_choices_are_scored_on_the_weeks_before_the_judgement(
    log: Log, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def spy(model: SlateShopper, examples: Examples, split: str, **options: Any) -> Scores:
        asked.append(split)
        return score(model, examples, split, **options)

    monkeypatch.setattr("benchmarks.shopper.ablation.score", spy)
    model, hidden = new_shopper(log.catalog, SMALL, log.facts), log.examples(cold_hidden=True)
    for question in ("choices", "parts"):
        found = ablation.held_out(
            model, hidden, examples, log.cold, ablation.Config(question=question, samples=2)
        )
        assert found["households/policy_slate"][0] <= examples.n_shoppers
    assert asked == ["valid", "valid", "test", "test"]


def test_variants_of_a_toy_log_are_trained_once_and_compared(
    folder: Path, variants: list[str], tmp_path: Path
) -> None:
    config = ablation.Config(
        shopper=SMALL, log=folder, output=tmp_path / "work", samples=20, threads=1, results=tmp_path
    )
    ablation.main(config)
    assert variants == ["first", "(no) counters"]
    work = tmp_path / "work" / "parts"
    assert {path.name for path in work.glob("*.json")} == {
        "config.json",
        "first.json",
        "no_counters.json",
    }
    assert not [path for path in work.iterdir() if path.is_dir()]  # trainings are not kept
    first, other = (
        json.loads((work / name).read_text()) for name in ("first.json", "no_counters.json")
    )

    rows = pl.read_csv(tmp_path / "ablation" / "rows.csv")
    value = {(row["variant"], row["figure"]): row for row in rows.to_dicts()}
    for figure in ("full_exposure_auc", "policy_slate_ndcg10", "cold_log_loss"):
        assert value["first", figure]["difference"] == 0
        assert value["(no) counters", figure]["difference"] == pytest.approx(
            other[figure][0] - first[figure][0]
        )
        assert len(other[figure]) == 1 + 20
    # Favourites are only to be told by counters, so who does not see them ranks worse.
    assert value["(no) counters", "full_exposure_auc"]["high"] < 0
    summary = json.loads((tmp_path / "ablation" / "summary.json").read_text())
    assert summary["first/full_exposure_auc"]["value"] == first["full_exposure_auc"][0]

    ablation.main(config)
    assert variants == ["first", "(no) counters"]  # all of them lie there
    (work / "no_counters.json").unlink()
    ablation.main(config)
    assert variants[2:] == ["(no) counters"]
    again = json.loads((work / "no_counters.json").read_text())
    assert {k: v for k, v in again.items() if k != "minutes"} == {
        k: v for k, v in other.items() if k != "minutes"
    }


def test_scores_of_other_settings_are_not_mixed(
    folder: Path, variants: list[str], tmp_path: Path
) -> None:
    config = ablation.Config(
        shopper=SMALL, log=folder, output=tmp_path / "work", samples=20, threads=1, results=tmp_path
    )
    (tmp_path / "work" / "parts").mkdir(parents=True)
    told = {"question": "parts", "shopper": {}, "log": "elsewhere", "samples": 20}
    (tmp_path / "work" / "parts" / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"config\.json differs in \['log', 'shopper'\]"):
        ablation.main(config)
    assert variants == []
