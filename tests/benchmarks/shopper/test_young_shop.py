"""A young shop: which users and items it knows, what its item vectors are told, and the report."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from benchmarks.lab.run import read_rows, read_summary
from benchmarks.shopper import young_shop
from benchmarks.shopper.young_shop import (
    CATEGORY,
    ROW,
    SHUFFLED,
    TEXTS,
    TITLES,
    catalog_with,
    episodes,
    of_young_shop,
    predictions,
    report,
)
from recsim_env.logs.plain import PlainLog, embed_items, read_plain
from recsim_env.shoppers.session.fit import new_session_shopper
from tests.support import plain_logs
from tests.support.small_commands import MODEL, small_young_shop


@pytest.fixture(scope="module")
def plain() -> PlainLog:
    return read_plain(plain_logs.log(users=60), plain_logs.catalog())


def test_a_young_shop_is_tested_on_all_users_and_knows_as_few_as_asked(plain: PlainLog) -> None:
    young = of_young_shop(plain, 10, seed=0)
    slates = young.impressions.group_by("split").len()
    found = dict(zip(slates["split"], slates["len"], strict=True))
    tested = plain.impressions.filter(pl.col("split") == "test")
    assert found == {"train": 12, "valid": 4, "test": len(tested)}  # users have 4 slates each
    assert of_young_shop(plain, 0, seed=0) is plain
    other = of_young_shop(plain, 10, seed=1).impressions
    assert set(other["shopper"]) != set(young.impressions["shopper"])


def test_vectors_differ_by_their_texts_alone(plain: PlainLog) -> None:
    made = {texts: catalog_with(plain, texts, seed=3) for texts in TEXTS}
    assert torch.equal(made[TITLES].embedding, embed_items(plain, seed=3).vectors)
    assert not torch.equal(made[SHUFFLED].embedding, made[TITLES].embedding)
    # What users clicked is the same half of every vector, and the catalogue tells people the truth.
    half = made[TITLES].embedding.shape[1] - 32
    for texts in TEXTS:
        assert made[texts].text == made[TITLES].text
        assert made[texts].path == made[TITLES].path
        clicked = made[texts].embedding[:, half:]
        assert torch.allclose(clicked, made[TITLES].embedding[:, half:], atol=1e-6)
    # Items of one category have one text where their titles are hidden.
    texts_alone = made[CATEGORY].embedding[:, :half]
    same = made[CATEGORY].category == made[CATEGORY].category[0]
    assert torch.allclose(texts_alone[same], texts_alone[0].expand(int(same.sum()), -1), atol=1e-5)


def test_unmet_items_are_those_that_no_slate_showed(plain: PlainLog) -> None:
    young = of_young_shop(plain, 1, seed=0)
    catalog = catalog_with(young, CATEGORY, seed=0)
    train, test = (episodes(young, split, 8) for split in ("train", "test"))
    model = new_session_shopper(catalog, test.slates.shape[2], MODEL)
    rows, unmet = predictions(model, train, test, catalog)
    met = set(train.slates[train.slates >= 0].tolist())
    shown = [item for item in test.slates[test.real].flatten().tolist() if item >= 0]
    assert unmet.tolist() == [item not in met for item in shown]
    assert len(rows.label) == len(shown)
    assert 0 < rows.chance.min() < rows.chance.max() < 1


def row(texts: str, seed: int, what: str, values: list[float]) -> list[dict[str, object]]:
    place = {"texts": texts, "slates": 100, "seed": seed}
    return [{**place, "what": what, "n": n, "value": value} for n, value in enumerate(values)]


def test_the_report_subtracts_by_hand() -> None:
    scores = {CATEGORY: (0.60, 0.62), SHUFFLED: (0.61, 0.61), TITLES: (0.70, 0.66)}
    rows = []
    for texts, both in scores.items():
        for seed, auc in enumerate(both):
            spread = [auc, auc - 0.01, auc + 0.01]
            rows += row(texts, seed, "all/auc", spread)
            rows += row(texts, seed, "all/log_loss", [1.0 - value for value in spread])
            for what, value in (("all/users", 50.0), ("unmet", 0.25), ("slates", 96.0)):
                rows += row(texts, seed, what, [value])
    found = report(pl.DataFrame(rows, schema=ROW))
    assert found.summary["100/all/titles/auc"].value == pytest.approx(0.68)
    assert found.summary["100/all/category/auc_below"].value == pytest.approx(0.07)
    assert found.summary["100/all/shuffled/log_loss_below"].value == pytest.approx(-0.07)
    assert not any("unmet" in name for name in found.summary)  # of which no fit has a score
    assert "| 96 | all | 100% |" in found.table


def test_a_small_run_goes_on_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = small_young_shop(Path("work"))
    young_shop.main(config)
    rows = read_rows("young_shop", results=config.results)
    summary = read_summary("young_shop", results=config.results)
    assert 0 < summary["4/all/titles/auc"].value < 1
    # The cells that are there are not measured again; one that is missing is, to the same rows.
    cells = sorted(Path("work").glob("*-seed*.json"))
    times = {path: path.stat().st_mtime_ns for path in cells}
    lost = next(path for path in cells if path.name == "4-titles-seed1.json")
    lost.unlink()
    young_shop.main(config)
    assert all(path.stat().st_mtime_ns == times[path] for path in cells if path != lost)
    assert read_rows("young_shop", results=config.results).equals(rows)
    assert "titles" in capsys.readouterr().out


def test_a_log_that_is_missing_is_told_with_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run python -m benchmarks.data.plain_movielens\."):
        young_shop.main(young_shop.Config(log=tmp_path, work=tmp_path / "work"))
    assert not (tmp_path / "work").exists()
