"""Fidelity: each model is calibrated for what it is judged on, weeks stand alone, and a toy log goes all the way."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from benchmarks.lab import logs
from benchmarks.lab.logs import Log
from benchmarks.lab.statistics import critical
from benchmarks.shopper import ablation, baselines, closed_loop, fidelity, gap_baselines
from benchmarks.shopper.ablation import difference
from benchmarks.shopper.fidelity import (
    MODEL,
    RECALIBRATED,
    TREES,
    Config,
    Figures,
    Predictions,
    by_week,
)
from recsim_env.catalog import Catalog
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.fit import FinetuneConfig, Scores, new_shopper, score
from recsim_env.shoppers.household.model import ROW_KINDS, SlateShopper
from tests.support.fake_log import ITEMS, write_shop

SMALL = FinetuneConfig(
    hidden_size=16, layers=1, window=8, head_size=16, pretrain_epochs=0.1, epochs=0.1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which every eighth item is cold."""
    path = tmp_path_factory.mktemp("log")
    catalog = write_shop(path)
    replace(catalog, cold=torch.arange(ITEMS) % 8 == 0).save(path)
    return path


@pytest.fixture(scope="module")
def log(folder: Path) -> Log:
    return Log.load(folder)


@pytest.fixture(scope="module")
def examples(log: Log) -> Examples:
    return log.examples(cold_hidden=False)


@pytest.fixture(scope="module")
def cold(log: Log) -> Tensor:
    assert log.catalog.cold is not None
    return log.catalog.cold


@pytest.fixture(scope="module")
def shopper(folder: Path, log: Log) -> Path:
    path = folder.parent / "shopper"
    new_shopper(log.catalog, SMALL, log.facts).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def predictions(examples: Examples) -> Predictions:
    """Logits that tell responses and non-responses apart, at a wrong level; those of policy slates at another one."""
    valid, test = (
        logs.rows_of(examples, split, ("case_control", "policy")) for split in ("valid", "test")
    )
    random = torch.Generator().manual_seed(0)

    def logits(rows: Tensor) -> Tensor:
        noise = torch.randn(len(rows), generator=random)
        return (
            examples.row_label[rows]
            + noise
            + 2.0 * (examples.row_kind[rows] == ROW_KINDS.index("policy"))
        )

    return Predictions(
        valid, test, {name: (logits(valid), logits(test)) for name in (MODEL, TREES)}
    )


# ---- calibration -----------------------------------------------------------------------------------------------------


def test_platt_finds_the_scale_and_shift_that_made_the_labels() -> None:
    random = torch.Generator().manual_seed(0)
    logit = torch.randn(20_000, generator=random)
    label = torch.bernoulli(torch.sigmoid(0.5 * logit - 2), generator=random)
    assert baselines.platt(logit, label, torch.ones(20_000)) == pytest.approx((0.5, -2.0), abs=0.06)


def test_platt_solves_its_equations_where_responses_are_rare_and_weights_are_large() -> None:
    """As full exposure has them: a loss so flat that a search which looks at its change stops too soon."""
    random = torch.Generator().manual_seed(0)
    logit = 2 * torch.randn(20_000, generator=random) - 5
    label = torch.bernoulli(torch.sigmoid(logit), generator=random)
    weight = torch.where(label > 0, 1.0, 40.0)
    scale, shift = baselines.platt(logit, label, weight)
    gap = weight.double() * (torch.sigmoid(logit.double() * scale + shift) - label)
    assert float(gap.sum()) == pytest.approx(0, abs=1e-6 * float(weight.sum()))
    assert float((gap * logit).sum()) == pytest.approx(0, abs=1e-6 * float(weight.sum()))


def test_platt_needs_both_kinds_of_label() -> None:
    with pytest.raises(ValueError, match="label must hold both responses and non-responses"):
        baselines.platt(torch.zeros(3), torch.zeros(3), torch.ones(3))


@pytest.mark.parametrize("judgement", fidelity.JUDGED)
def test_each_judgement_has_a_calibration_of_its_own(
    examples: Examples, cold: Tensor, predictions: Predictions, judgement: str
) -> None:
    """On the rows that calibrate, predicted equals observed in each judgement, though policy slates are 2 too high."""
    kind, of_cold = fidelity.JUDGED[judgement]
    logits = {name: (before, before) for name, (before, _) in predictions.logits.items()}
    judged = Predictions(predictions.valid, predictions.valid, logits).judged(
        examples, cold, judgement
    )
    assert judged.keys() == {MODEL, RECALIBRATED, TREES}
    for model in (RECALIBRATED, TREES):
        rows, logit = judged[model]
        assert (examples.row_kind[rows] == ROW_KINDS.index(kind)).all()
        assert (cold[examples.row_item[rows]] == of_cold).all()
        weight = examples.row_weight[rows].double()
        assert float((weight * torch.sigmoid(logit.double())).sum()) == pytest.approx(
            float((weight * examples.row_label[rows]).sum()), rel=1e-6
        )


def test_the_shopper_is_judged_as_it_is_shipped_as_well(
    examples: Examples, cold: Tensor, predictions: Predictions
) -> None:
    rows, logit = predictions.judged(examples, cold, "policy_slate")[MODEL]
    at = torch.searchsorted(predictions.test.sort().values, rows)
    assert torch.equal(logit, predictions.logits[MODEL][1][predictions.test.argsort()][at])


def test_weeks_are_told_one_by_one(
    examples: Examples, cold: Tensor, predictions: Predictions
) -> None:
    figures = Figures()
    judged = {name: predictions.judged(examples, cold, name) for name in fidelity.WEEKLY}
    by_week(figures, examples, judged, Config(samples=5))
    rows, logit = judged["policy_slate"][MODEL]
    week = examples.visits.week[examples.row_visit[rows]]
    weeks = week.unique().tolist()
    assert len(weeks) > 2
    for number in weeks:
        own = week == number
        by_hand = torch.sigmoid(logit[own].double()).sum() / examples.row_label[rows[own]].sum()
        assert figures.summary[f"policy_slate_ratio_week_{number}"].value == pytest.approx(
            float(by_hand)
        )
    lines = fidelity.week_table(figures).splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")][2:] == [
        str(w) for w in weeks
    ]


def test_a_figure_whose_samples_are_mostly_undefined_has_no_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = Figures()
    figures.add("auc", MODEL, 0.7, np.array([0.7, math.nan, math.nan]), 10)
    figures.add("ne", TREES, math.nan, np.array([math.nan, 0.5]), 10)
    assert math.isnan(figures.summary["auc"].low)
    assert figures.rows[0]["samples"] == 1
    assert (
        "auc of transformer has no interval: 1 of 3 bootstrap samples define the score"
        in capsys.readouterr().out
    )
    assert figures.summary.keys() == {"auc"}


# ---- all of it -------------------------------------------------------------------------------------------------------


def test_a_toy_log_is_measured_and_left_as_it_is(
    folder: Path, shopper: Path, tmp_path: Path
) -> None:
    before = {
        path: path.read_bytes()
        for place in (folder, shopper)
        for path in place.rglob("*")
        if path.is_file()
    }
    config = Config(
        shopper=shopper, log=folder, samples=10, closed_loop=False, threads=1, results=tmp_path
    )
    fidelity.main(config)
    summary = json.loads((tmp_path / "fidelity" / "summary.json").read_text())
    frequency, popularity = (
        summary[f"{name}_full_exposure_auc"]["value"] for name in ("frequency", "popularity")
    )
    assert frequency > popularity + 0.1  # shoppers have favourites
    assert summary["gbdt_full_exposure_ne"]["value"] < 1
    assert (
        summary["policy_slate_ratio"]["value"] < 0.6
    )  # nothing was fitted, and nothing is but two numbers
    assert 0.8 < summary["recalibrated_policy_slate_ratio"]["value"] < 1.25
    table = (tmp_path / "fidelity" / "table.md").read_text()
    assert "transformer, as shipped" in table
    assert "week by week" in table
    after = {
        path: path.read_bytes()
        for place in (folder, shopper)
        for path in place.rglob("*")
        if path.is_file()
    }
    assert after == before


def test_a_log_without_cold_items_is_refused(tmp_path: Path) -> None:
    write_shop(tmp_path / "log")
    with pytest.raises(ValueError, match="log marks no items as cold"):
        fidelity.main(Config(log=tmp_path / "log", threads=1, results=tmp_path))


# ---- gaps ------------------------------------------------------------------------------------------------------------


def test_a_gaps_loss_is_that_of_its_bin_and_a_censored_one_that_of_all_later_bins() -> None:
    chance = torch.full((3, len(gap_baselines.REPORTED_BINS)), 0.02)
    chance[:, 3], chance[:, 9], chance[:, -1] = 0.3, 0.2, 0.28
    gap = torch.tensor([3, 12, -1])  # days 10 to 13 are one bin, the tenth
    follow_up = torch.tensor([30, 30, 9])  # watched through day 9: the bins from day 10 on are left
    by_hand = [-math.log(0.3), -math.log(0.2), -math.log(0.2 + 0.02 + 0.02 + 0.28)]
    assert gap_baselines.REPORTED_BINS[9] == 10
    assert gap_baselines.gap_log_loss(chance, gap, follow_up).tolist() == pytest.approx(
        by_hand, rel=1e-5
    )


# ---- closed loop -----------------------------------------------------------------------------------------------------


def test_errors_of_a_closed_loop_by_hand() -> None:
    weekly = pl.DataFrame()
    curve = np.array([[0.1, 0.2, 0.0], [3.0, 1.0, 0.0]])
    logged = closed_loop.Behaviour(
        {"CTR": 0.04}, {"mix": np.array([1.0, 3.0]), "a curve": curve}, weekly
    )
    other = np.array([[0.12, 0.1, 0.3], [9.0, 9.0, 9.0]])
    simulated = closed_loop.Behaviour(
        {"CTR": 0.03}, {"mix": np.array([2.0, 2.0]), "a curve": other}, weekly
    )
    found = {
        str(line["what"]): float(line["error"]) for line in closed_loop.errors(simulated, logged)
    }
    assert found["CTR"] == pytest.approx(0.25)
    assert found["mix"] == pytest.approx(abs(0.5 - 0.25) + abs(0.5 - 0.75))
    assert found["a curve"] == pytest.approx(
        (3 * 0.2 + 1 * 0.5) / 4
    )  # the last bin has no response in the log


def test_the_logging_policy_scores_own_counts_and_popularity() -> None:
    catalog = Catalog.synthetic(6, 2, 4, torch.Generator().manual_seed(0))
    policy = closed_loop.LoggingPolicy(catalog, 100.0, 5, slate_size=2)
    observation = {
        "candidates": torch.tensor([[4, 1, -1]]),
        "bought_items": torch.tensor([[1, -1]]),
        "bought_counts": torch.tensor([[3.0, 0.0]]),
        "category_counts": torch.tensor([[5.0, 7.0]]),
        "popularity": torch.tensor([[0.2, 0.1, 0.0]]),
    }
    r = policy.recipe
    by_hand = [
        r.category_weight * math.log1p(5)
        + r.popularity_weight * math.log1p(20),  # item 4: category 0
        r.item_weight * math.log1p(3)
        + r.category_weight * math.log1p(7)
        + r.popularity_weight * math.log1p(10),
        -math.inf,
    ]
    assert policy.scores(observation)[0].tolist() == pytest.approx(by_hand)


# ---- ablation --------------------------------------------------------------------------------------------------------


def test_an_ablations_difference_is_paired_by_sample() -> None:
    base = {"cold_auc": [0.7, 0.6, 0.7, 0.8], "households/cold": [50.0]}
    variant = {"cold_auc": [0.71, 0.61, 0.71, 0.83], "households/cold": [50.0]}
    found = difference(variant, base, "cold_auc")
    half = critical(50) * math.sqrt(50 / 49) * float(np.std([0.01, 0.01, 0.03], ddof=1))
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01 - half, 0.01 + half))


def test_an_ablation_reports_on_scores_that_lie_there(folder: Path, tmp_path: Path) -> None:
    """Nothing is trained where every variant was scored before; choices are told apart from parts."""
    for question, name in ablation.NAMES.items():
        config = ablation.Config(
            question=question, log=folder, output=tmp_path / "work", results=tmp_path
        )  # type: ignore[arg-type]
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
    folder: Path, log: Log, examples: Examples, cold: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def spy(model: SlateShopper, examples: Examples, split: str, **options: Any) -> Scores:
        asked.append(split)
        return score(model, examples, split, **options)

    monkeypatch.setattr("benchmarks.shopper.ablation.score", spy)
    model, hidden = new_shopper(log.catalog, SMALL, log.facts), log.examples(cold_hidden=True)
    for question in ("choices", "parts"):
        found = ablation.held_out(
            model, hidden, examples, cold, ablation.Config(question=question, samples=2)
        )
        assert found["households/policy_slate"][0] <= examples.n_shoppers
    assert asked == ["valid", "valid", "test", "test"]
