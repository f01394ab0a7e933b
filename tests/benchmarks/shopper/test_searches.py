"""Searches by text: places that are shared by hand, and a tiny catalogue whose answers are known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.lab import encoders
from benchmarks.lab.run import read_rows, read_summary
from benchmarks.shopper import searches
from benchmarks.shopper.searches import Config, first_share, ranked, report
from recsim_env.shoppers.carts.shop import words_of
from tests.support.fake_log import write_shop

SHOP: Any = SimpleNamespace(
    text=("red wine; drinks; 1 l", "red wine; drinks; 2 l", "milk; dairy", "red meat; meat")
)


def test_the_first_places_are_shared_among_equals() -> None:
    label = np.array([1.0, 0.0, 1.0, 0.0])
    assert first_share(np.array([4.0, 3.0, 2.0, 1.0]), label) == 0.5
    # two places for items of the type: one is the first item's, three share the other
    assert first_share(np.array([4.0, 1.0, 1.0, 1.0]), label) == pytest.approx((1 + 1 / 3) / 2)
    assert first_share(np.zeros(4), label) == 0.5


def test_words_find_what_holds_them_and_nothing_without_them() -> None:
    rows = ranked("words", SHOP)
    assert rows["search"].to_list() == ["milk", "red meat", "red wine"] * 2
    assert rows["items"].to_list() == [1, 1, 2] * 2
    whole, without = rows[:3], rows[3:]
    assert whole["first"].to_list() == [1, 1, 1]
    assert whole["auc"].to_list() == [1, 1, 1]
    # without its own words "meat" still says what red meat is, and nothing tells wine or milk
    assert without["auc"].to_list() == [0.5, 1, 0.5]
    assert without["first"].to_list() == [0.25, 1, 0.5]


def test_an_encoder_ranks_by_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    meaning = {
        "milk": [1.0, 0.0], "dairy": [2.0, 0.1], "milk; dairy": [3.0, 0.0],
        "red meat": [0.0, 1.0], "meat": [0.0, 9.0], "red meat; meat": [0.0, 2.0],
    }  # fmt: skip

    def told(texts: list[str]) -> Tensor:
        return torch.tensor([meaning.get(text, [-1.0, -1.0]) for text in texts])

    monkeypatch.setitem(encoders.ENCODERS, "told", told)
    rows = ranked("told", SHOP)
    assert rows["auc"].to_list() == [1, 1, 1] * 2
    assert rows["first"].to_list() == [1, 1, 1] * 2


def test_texts_of_one_type_are_refused() -> None:
    one_type: Any = SimpleNamespace(text=("milk; a", "milk; b"))
    with pytest.raises(ValueError, match="has 1 types of products, but it must have 2 or more"):
        ranked("words", one_type)


def test_differences_are_paired_by_search() -> None:
    words, other = ranked("words", SHOP), ranked("random", SHOP)
    found = report(words.vstack(other))
    less = found.summary["random/without/first_minus_words"]
    assert less.value == pytest.approx(
        float((other["first"][3:] - words["first"][3:]).mean())  # type: ignore[arg-type]
    )
    assert less.n == 3
    assert "`random`" in found.table


def test_a_tiny_run(tmp_path: Path) -> None:
    catalog = write_shop(tmp_path / "log")
    searches.main(
        Config(ways=("words", "random"), log=tmp_path / "log", results=tmp_path / "results")
    )
    rows = read_rows("searches", results=tmp_path / "results")
    assert len(rows) == 2 * 2 * len(set(words_of(catalog)))
    assert "words/whole/auc" in read_summary("searches", results=tmp_path / "results")
