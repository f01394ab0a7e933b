"""A household's past and an item that nobody knows, as one text for a teacher.

    [begin] purchase; purchase; .. [between] the item; price; on display; in the mailer [end]

Purchases come most recent first, each distinct text once, cut where the tokens that are left hold
no whole one. The item itself is in no past: what a row is asked for must not be read from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.logs.placements import display_of, mailer_of
from recsim_env.shoppers.household.examples import Examples

PARTS = 2
"""Parts of a text that are told of a purchase: type and category, not department, brand, size."""
MOST = 64
"""Most of the last purchases that are looked at for the past of a row."""
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """The tokens that stand before the past, between past and item, and after the item."""

    begin: Tokens
    between: Tokens
    end: Tokens

    @classmethod
    def of(cls, tokenizer: Any) -> Frame:
        """Take those of a tokenizer: of BERT its marks, of a language model a line break."""
        if tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None:
            mark = (int(tokenizer.sep_token_id),)
            return cls((int(tokenizer.cls_token_id),), mark, mark)
        return cls((), tuple(tokenizer.encode("\n", add_special_tokens=False)), ())


def last_purchases(examples: Examples, row: int, most: int = MOST) -> list[int]:
    """List what a household bought before the visit of a row, the last one first.

    Args:
        examples: the log; what is hidden in it was never bought
        row: the row, whose own item is left out
        most: number of purchases that are looked at

    Returns:
        Items, at most `most`; those of a visit in the reverse order of its basket.
    """
    visits, visit = examples.visits, int(examples.row_visit[row])
    first = visit - int(visits.rank[visit])
    start, end = int(visits.starts[first]), int(visits.starts[visit])
    bought = visits.items[max(start, end - most) : end].tolist()[::-1]
    own = int(examples.row_item[row])
    return [item for item in bought if item != own]


def past_of(purchases: Sequence[int], told: Sequence[Tokens], room: int) -> Tokens:
    """Join the tokens of purchases, each distinct one once, while whole ones fit.

    Args:
        purchases: items, the last purchase first
        told: the tokens of each item of the catalogue
        room: number of tokens that there are
    """
    found: list[Tokens] = []
    left = room
    for tokens in dict.fromkeys(told[item] for item in purchases):
        if len(tokens) > left:
            break
        found.append(tokens)
        left -= len(tokens)
    return tuple(chain.from_iterable(found))


def candidate_texts(
    catalog: Catalog, examples: Examples, rows: Tensor, placements: tuple[int, int]
) -> list[str]:
    """Tell the item of each row (R,): its text, its price where known, and its promotion."""
    code, mailers = examples.row_placement[rows], placements[1]
    shown, mailed = display_of(code, mailers) > 0, mailer_of(code, mailers) > 0
    found = []
    for at, item in enumerate(examples.row_item[rows].tolist()):
        price = float(catalog.price[item])
        parts = [catalog.text[item]]
        parts += [f"{price:.2f}"] if price == price else []
        parts += ["on display"] if shown[at] else []
        parts += ["in the mailer"] if mailed[at] else []
        found.append("; ".join(parts))
    return found


class RowTexts:
    """Writes rows of a log as tokens, with their past and without it.

    Args:
        catalog: the items
        examples: the log
        placements: number of display and of mailer codes
        tokenizer: turns texts into tokens
        room: number of tokens for the past
    """

    def __init__(
        self,
        catalog: Catalog,
        examples: Examples,
        placements: tuple[int, int],
        tokenizer: Any,
        room: int,
    ) -> None:
        self.catalog, self.examples, self.placements = catalog, examples, placements
        self.tokenizer, self.room, self.frame = tokenizer, room, Frame.of(tokenizer)
        short = ["; ".join(text.split("; ")[:PARTS]) + ";" for text in catalog.text]
        self.told = self._tokens(short)

    def of(self, rows: Tensor) -> tuple[list[Tokens], list[Tokens]]:
        """Write rows (R,): with their past, and as if there was none.

        The two are the same where nothing was bought before.
        """
        items = self._tokens(candidate_texts(self.catalog, self.examples, rows, self.placements))
        begin, between, end = vars(self.frame).values()
        pasts = [
            past_of(last_purchases(self.examples, row), self.told, self.room)
            for row in rows.tolist()
        ]
        full = [
            begin + past + between + item + end for past, item in zip(pasts, items, strict=True)
        ]
        return full, [begin + between + item + end for item in items]

    def _tokens(self, texts: list[str]) -> list[Tokens]:
        """Turn texts into tokens; each distinct one once."""
        distinct = list(dict.fromkeys(texts))
        found = self.tokenizer(distinct, add_special_tokens=False)["input_ids"]
        place = dict(zip(distinct, map(tuple, found), strict=True))
        return [place[text] for text in texts]


def padded_batch(lines: Sequence[Tokens], padding: int) -> tuple[Tensor, Tensor]:
    """Pad lines of tokens on the right.

    Returns:
        (B, L) int64 tokens, and (B, L) int64, 1 where there is one.
    """
    width = max(len(line) for line in lines)
    mask = torch.arange(width) < torch.tensor([len(line) for line in lines]).unsqueeze(1)
    tokens = torch.full(mask.shape, padding, dtype=torch.int64)
    tokens[mask] = torch.tensor([token for line in lines for token in line], dtype=torch.int64)
    return tokens, mask.long()
