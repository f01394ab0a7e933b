"""The ladder of encoders: what heads read by hand, and a tiny run that goes on where it stopped."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.statistics import critical
from benchmarks.lab import cold_rows, encoders
from benchmarks.lab.cold_rows import ColdRows, fit_head, past_sums, text_columns
from benchmarks.lab.encoder_report import ROW
from benchmarks.lab.run import read_rows, read_summary
from benchmarks.shopper import language
from benchmarks.shopper.language import Config, report
from recsim_env.logs.complete_journey.encoder import mean_states
from recsim_env.shoppers.household.cold_head import TEXT
from recsim_env.shoppers.household.memory import LEVELS, STATS
from recsim_env.shoppers.household.replay import Visits
from tests.support.fake_log import write_shop

VECTORS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def visits() -> Visits:
    """Two shoppers: one buys item 0, then 0 and 1, then comes again; one buys 2, then comes."""
    nothing = torch.zeros(5, dtype=torch.int64)
    return Visits(
        shopper=torch.tensor([0, 0, 0, 1, 1]),
        rank=torch.tensor([0, 1, 2, 0, 1]),
        day=nothing,
        week=nothing,
        store=nothing,
        gap=nothing,
        follow_up=nothing,
        since=nothing.float(),
        starts=torch.tensor([0, 1, 3, 3, 4, 4]),
        items=torch.tensor([0, 0, 1, 2]),
    )


def test_sums_of_the_past_are_those_by_hand() -> None:
    sums, count = past_sums(visits(), VECTORS)
    assert count.tolist() == [0, 1, 3, 0, 1]
    assert sums.tolist() == [[0, 0], [1, 0], [2, 1], [0, 0], [-1, 0]]


def test_likeness_leaves_the_item_itself_out() -> None:
    stats = torch.zeros(3, LEVELS, STATS)
    stats[0, 0, 0] = 2.0  # the shopper bought item 0 twice before the third visit
    examples: Any = SimpleNamespace(
        visits=visits(),
        row_visit=torch.tensor([2, 2, 3]),
        row_item=torch.tensor([0, 1, 1]),
        row_stats=stats,
    )
    columns = text_columns(examples, torch.arange(3), VECTORS)
    assert columns.shape == (3, TEXT + 1)
    # beside item 0 only item 1 was bought, at a right angle; nobody bought anything before visit 3
    likeness = columns[:, TEXT]
    assert likeness[0] == pytest.approx(0, abs=1e-6)
    assert likeness[1] == pytest.approx(
        float(F.cosine_similarity(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]), dim=0))
    )
    assert likeness[2] == 0


def test_a_head_learns_what_tells_items_apart_and_forgets_no_better_one() -> None:
    generator = torch.Generator().manual_seed(0)
    read = torch.randn(4000, 3, generator=generator)
    label = (torch.rand(4000, generator=generator) < torch.sigmoid(3 * read[:, 1])).float()
    rows = ColdRows(read, label, torch.zeros(4000), torch.arange(4000) % 7)
    train, valid = rows.only(torch.arange(3000)), rows.only(torch.arange(3000, 4000))
    head = fit_head(train, valid, 7, 120, seed=0)
    same = fit_head(train, valid, 7, 120, seed=0)
    other = fit_head(train, valid, 7, 120, seed=1)
    with torch.no_grad():
        logits = head(valid.read)
        assert torch.equal(logits, same(valid.read))
        assert not torch.equal(logits, other(valid.read))
        loss = F.binary_cross_entropy_with_logits(logits, valid.label)
        truth = F.binary_cross_entropy_with_logits(3 * valid.read[:, 1], valid.label)
    assert float(loss) < float(truth) + 0.03


def test_states_are_averaged_over_the_tokens_of_a_text_alone() -> None:
    """Padding changes nothing: a text in a batch has the vector that it has alone."""

    class Model(torch.nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            states = F.one_hot(input_ids, 5).float()
            return SimpleNamespace(last_hidden_state=states)

    def tokenizer(texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(sign) for sign in text] for text in texts]}

    texts = ["12", "1224", "3", "12"]
    found = mean_states(texts, tokenizer, Model())
    assert torch.equal(found[0], found[3])
    torch.testing.assert_close(found[1], F.normalize(torch.tensor([0, 1.0, 2.0, 0, 1.0]), dim=0))
    for at, text in enumerate(texts):
        torch.testing.assert_close(found[at], mean_states([text], tokenizer, Model())[0])


def test_random_tells_texts_apart_and_none_tells_nothing() -> None:
    found = encoders.random(["a", "b", "a"])
    assert torch.equal(found[0], found[2])
    assert abs(float(found[0] @ found[1])) < 0.3
    assert float(encoders.none(["a", "b"]).abs().sum()) == 0


def test_texts_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def lengths(texts: list[str]) -> Tensor:
        asked.append(texts)
        return torch.tensor([[float(len(text))] for text in texts])

    monkeypatch.setitem(encoders.ENCODERS, "lengths", lengths)
    path = tmp_path / "vectors" / "lengths.safetensors"
    first, seconds = encoders.encode("lengths", ["a", "bcd"], path)
    again, same = encoders.encode("lengths", ["a", "bcd"], path)
    assert asked == [["a", "bcd"]]
    assert first.tolist() == again.tolist() == [[1], [3]]
    assert seconds == same >= 0
    with pytest.raises(ValueError, match=r"holds 2 vectors, but it must hold 1"):
        encoders.encode("lengths", ["a"], path)


def test_what_reads_the_language_model_is_named_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "CACHE", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"gguf is not installed: pip install .*\[llm\]"):
        encoders.smollm2(["a"])
    assert list(tmp_path.iterdir()) == []


def lines(
    encoder: str, seed: int, auc: list[float], households: int = 9, **further: object
) -> list[dict[str, Any]]:
    """The rows of a fit, with further columns."""
    place = {"encoder": encoder, "rows": 0, "seed": seed, **further}
    facts: dict[str, list[float]] = {
        "auc": auc,
        "log_loss": [0.1, 0.1, 0.2],
        "households": [households],
        "width": [3],
        "seconds": [1],
    }
    return [
        {**place, "what": what, "n": n, "value": float(value)}
        for what, values in facts.items()
        for n, value in enumerate(values)
    ]


def test_figures_are_means_over_seeds_and_differences_are_paired() -> None:
    rows = [
        *lines("none", 0, [0.5, 0.5, 0.6]),
        *lines("none", 1, [0.7, 0.5, 0.8]),
        *lines("minilm", 0, [0.8, 0.7, 0.8]),
        *lines("minilm", 1, [0.8, 0.7, 1.0]),
    ]
    found = report(pl.DataFrame(rows, schema=ROW))
    assert found.summary["none/all/auc"].value == pytest.approx(0.6)
    less = found.summary["minilm/all/auc_minus_none"]
    assert less.value == pytest.approx(0.2)
    # the households' samples all differ by as much; by .3 and by .1 do the seeds
    assert less.high - less.value == pytest.approx(critical(2) * 0.1)
    assert less.value - less.low == pytest.approx(critical(2) * 0.1)
    assert "less `none`" in found.table


def test_the_spread_of_seeds_widens_an_interval_and_one_seed_has_none() -> None:
    samples = [[0.6, 0.5, 0.7], [0.6, 0.5, 0.7], [0.9, 0.8, 1.0]]
    rows = [line for seed, auc in enumerate(samples) for line in lines("none", seed, auc)]
    found = report(pl.DataFrame(rows, schema=ROW)).summary["none/all/auc"]
    assert found.value == pytest.approx(0.7)
    households = critical(9) * math.sqrt(9 / 8) * math.sqrt(2 * 0.1**2)  # samples .6 and .8
    seeds = critical(3) * math.sqrt((2 * 0.1**2 + 0.2**2) / 2 / 3)
    assert found.high - found.value == pytest.approx(math.hypot(households, seeds))
    one = report(pl.DataFrame(lines("none", 0, samples[0]), schema=ROW)).summary["none/all/auc"]
    assert one.value == pytest.approx(0.6)
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def fit_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 12), ("FEW_STEPS", 12), ("TOGETHER", 64)):
        monkeypatch.setattr(cold_rows, name, value)


def test_a_tiny_run_fits_each_cell_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shop(tmp_path / "log", cold=4)
    fit_in_few_steps(monkeypatch)
    config = Config(
        encoders=("none", "random"),
        rows=(100, 0),
        seeds=(0, 1),
        log=tmp_path / "log",
        output=tmp_path / "work",
        samples=6,
        results=tmp_path / "results",
    )
    language.main(config)
    rows = read_rows("language", results=tmp_path / "results")
    assert len(rows.filter(pl.col("what") == "auc", pl.col("n") == 0)) == 2 * 2 * 2
    told = read_summary("language", results=tmp_path / "results")
    assert "random/all/auc_minus_none" in told

    fitted = []
    monkeypatch.setattr(language, "fit_head", lambda *given: fitted.append(given))
    language.main(config)
    assert fitted == []
    with pytest.raises(ValueError, match="samples"):
        language.main(replace(config, samples=7))
