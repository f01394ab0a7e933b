"""The cases on which the verdict on levels was fixed: what is hidden, and what the report counts."""

from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from benchmarks.lab.contenders import Blind
from benchmarks.lab.run import RESULTS, read_rows
from benchmarks.shopper.verdict_cases import errors, report, row_of, without_declared
from recsim_env.files import write_json
from recsim_env.types import Observation
from recsim_env.verdicts.verdict import EXPLAINED_SHARE
from tests.support.verdict_toys import toy_log


def a_row(case: str, explained: float, trusted: bool) -> dict[str, object]:
    return {
        "world": 10, "mixture": "broad", "case": case, "auc": 0.7, "ratio": 1.0,
        "explained": explained, "explained_low": explained - 0.1, "explained_high": explained + 0.1,
        "explained_held_out": explained, "misjudged": 0.2, "uniform_first": 1.5, "trusted": trusted,
        "worst_error": 0.2, "error greedy_ctr": 0.1,
    }  # fmt: skip


def test_false_alarms_and_misses_are_counted() -> None:
    rows = [a_row("known", 0.5, True), a_row("known", 0.2, False)]
    rows += [a_row("hidden", 0.4, True), a_row("hidden", 0.1, False), a_row("hidden", 0.0, False)]
    found = report(pl.DataFrame(rows))
    assert (found.summary["false_alarms"].value, found.summary["false_alarms"].n) == (1, 2)
    assert (found.summary["misses"].value, found.summary["misses"].n) == (1, 3)
    assert found.summary["hidden_explained_highest"].value == 0.4
    assert found.table.count("broad, world 10, known") == 2


def test_what_shoppers_declared_is_hidden_from_log_and_policy() -> None:
    log, _ = toy_log(10)
    told = log.__class__(**{**vars(log), "declared": torch.ones(10, 3)})
    assert without_declared(told).declared.shape == (10, 0)

    class Seen:
        draws = 2

        def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
            assert "declared" not in observation
            return observation["visits"].long()

    blind = Blind(Seen())
    assert blind.draws == 2
    seen = blind({"declared": torch.ones(1, 3), "visits": torch.tensor([[4.0]])}, torch.zeros(1, 2))
    assert seen.tolist() == [[4]]


def test_the_row_of_a_case_comes_from_its_files(tmp_path: Path) -> None:
    count = 400
    policy = ["uniform", "greedy"] * (count // 2)
    clicked = [at % 4 == 0 or (at % 2 == 1 and at % 3 == 0) for at in range(count)]
    pl.DataFrame(
        {
            "held_out": [at >= 200 for at in range(count)], "user": list(range(count)),
            "visit": [0] * count, "policy": policy, "activity": [0] * count,
            "position": [0] * count, "item": [0] * count, "category": [0] * count,
            "clicked": clicked, "predicted": [0.4] * count,
        }
    ).write_parquet(tmp_path / "rows.parquet")  # fmt: skip
    returns = {
        "greedy_ctr": {"true": 10.0, "learned": 12.0},
        "uniform": {"true": 5.0, "learned": 4.5},
    }
    write_json(tmp_path / "returns.json", returns)
    row = row_of(tmp_path)
    assert row["worst_error"] == pytest.approx(0.2)
    assert row["error uniform"] == pytest.approx(-0.1)
    assert row["uniform_first"] == pytest.approx(0.4 * 200 / sum(clicked[::2]))
    assert row["explained"] == pytest.approx(0, abs=1e-9)  # the same for both policies
    assert row["trusted"] is (row["misjudged"] <= 0.1)
    assert errors(returns)["greedy_ctr"] == pytest.approx(0.2)


def test_the_limit_lies_between_the_committed_cases() -> None:
    rows = read_rows("verdict_cases", results=RESULTS)
    known, hidden = (rows.filter(pl.col("case") == case) for case in ("known", "hidden"))
    assert len(known) >= 3 <= len(hidden)
    assert hidden["explained"].max() < EXPLAINED_SHARE < known["explained"].min()  # type: ignore[operator]
    assert known["trusted"].all()
    assert not hidden["trusted"].any()
    assert {0, 1, 2}.isdisjoint(rows["world"])  # those are for reported results
