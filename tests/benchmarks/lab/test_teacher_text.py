"""What a teacher reads of rows, worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.lab.teacher_text import (
    Frame,
    RowTexts,
    candidate_texts,
    last_purchases,
    padded_batch,
    past_of,
)
from recsim_env.catalog import Catalog
from recsim_env.shoppers.household.replay import Visits

TEXTS = ("milk; dairy; grocery; 1 l", "tea; drinks; grocery", "cat food; pets", "milk; dairy; shop")
BEGIN, SEP = 1, 2


class Words:
    """A tokenizer whose tokens are words and signs, numbered from 10 on as they come."""

    cls_token_id, sep_token_id = BEGIN, SEP

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        words = text.replace(";", " ;").replace("\n", " \n ").split(" ")
        return [self.known.setdefault(word, 10 + len(self.known)) for word in words if word]

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, Any]:
        lines = [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]
        return {"input_ids": lines}

    def words(self, tokens: tuple[int, ...]) -> str:
        names = {number: word for word, number in self.known.items()}
        names |= {BEGIN: "[", SEP: "|"}
        return " ".join(names[token] for token in tokens)


def log() -> Any:
    """Two shoppers: one buys 0, then 1 and 2, then comes again; one buys 3, then comes again."""
    nothing = torch.zeros(5, dtype=torch.int64)
    visits = Visits(
        shopper=torch.tensor([0, 0, 0, 1, 1]),
        rank=torch.tensor([0, 1, 2, 0, 1]),
        day=nothing,
        week=nothing,
        store=nothing,
        gap=nothing,
        follow_up=nothing,
        since=nothing.float(),
        starts=torch.tensor([0, 1, 3, 3, 4, 4]),
        items=torch.tensor([0, 1, 2, 3]),
    )
    return SimpleNamespace(
        visits=visits,
        row_visit=torch.tensor([2, 2, 0, 4, 1]),
        row_item=torch.tensor([3, 1, 2, 0, 1]),
        row_placement=torch.tensor([0, 1, 3, 4, 0]),  # of three mailer codes
    )


def shop() -> Catalog:
    catalog = Catalog.synthetic(4, 2, 8, torch.Generator().manual_seed(0))
    return replace(catalog, text=TEXTS, price=torch.tensor([1.5, float("nan"), 3.0, 2.25]))


def test_a_past_is_the_shoppers_own_before_the_visit_and_without_the_item() -> None:
    examples = log()
    assert [last_purchases(examples, row) for row in range(5)] == [[2, 1, 0], [2, 0], [], [3], [0]]
    assert last_purchases(examples, 0, most=2) == [2, 1]


def test_a_past_names_each_text_once_and_is_cut_at_whole_purchases() -> None:
    told = [(5, 6), (7,), (8, 9, 8), (5, 6)]
    assert past_of([0, 1, 3, 2], told, 6) == (5, 6, 7, 8, 9, 8)
    assert past_of([0, 1, 3, 2], told, 5) == (5, 6, 7)
    assert past_of([2, 1], told, 2) == ()
    assert past_of([], told, 6) == ()


def test_an_item_is_told_with_price_and_promotion() -> None:
    found = candidate_texts(shop(), log(), torch.arange(5), (2, 3))
    assert found == [
        "milk; dairy; shop; 2.25",
        "tea; drinks; grocery; in the mailer",
        "cat food; pets; 3.00; on display",
        "milk; dairy; grocery; 1 l; 1.50; on display; in the mailer",
        "tea; drinks; grocery",
    ]


def test_the_text_of_a_row_is_that_by_hand() -> None:
    words = Words()
    texts = RowTexts(shop(), log(), (2, 3), words, room=10)
    full, bare = texts.of(torch.tensor([0, 2]))
    # "cat food ; pets ;" and "tea ; drinks ;" are nine tokens: no room for the milk
    past = "cat food ; pets ; tea ; drinks ;"
    assert words.words(full[0]) == f"[ {past} | milk ; dairy ; shop ; 2.25 |"
    assert words.words(bare[0]) == "[ | milk ; dairy ; shop ; 2.25 |"
    assert full[1] == bare[1]  # nothing was bought before


def test_a_language_model_reads_a_line_break_in_place_of_marks() -> None:
    words = Words()
    words.cls_token_id = words.sep_token_id = None  # type: ignore[assignment]
    assert Frame.of(words) == Frame((), tuple(words.encode("\n", add_special_tokens=False)), ())


@pytest.mark.parametrize("padding", [0, 9])
def test_lines_are_padded_on_the_right(padding: int) -> None:
    tokens, mask = padded_batch([(4, 5, 6), (7,)], padding)
    assert tokens.tolist() == [[4, 5, 6], [7, padding, padding]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
