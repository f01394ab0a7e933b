"""A visit as lines of text."""

from __future__ import annotations

import math
import textwrap

from recsim_env.rendering.scene import Card, Ending, Scene
from recsim_env.shoppers.base import counted


def as_text(scene: Scene) -> str:
    """Draw a scene as lines of text."""
    head = "  ".join(filter(None, map(scene.says, ("date", "store", "shopper"))))
    lines = [head, "-" * max(len(head), 40), f"{counted(scene.candidates, 'item')} could be shown"]
    for position, card in enumerate(scene.cards, start=1):
        lines.append(_text_line(position, card))
        lines += [f"        {why.name}: {why.times}" for why in card.reasons]
    lines += scene.bundle
    lines += _text_ending(scene.ending)
    lines += scene.remarks
    lines += ["lately:", *(f"  {line}" for line in scene.history)] if scene.history else []
    return "\n".join(lines) + "\n"


def _text_line(position: int, card: Card) -> str:
    mark = "[x]" if card.bought else "[ ]" if card.shown else " - "
    price = "" if math.isnan(card.price) else f"{card.price:8.2f}"
    note = "" if card.shown else "  (not shown)"
    words = "; ".join(filter(None, (card.title, card.details)))
    return (
        f"{position:3d} {mark} {textwrap.shorten(words, 60):60s} {price:>8s}  {card.category}{note}"
    )


def _text_ending(ending: Ending | None) -> list[str]:
    if ending is None:
        return ["no slate yet"]
    terms = ", ".join(f"{name} {value:.2f}" for name, value in ending.terms.items())
    return [
        "; ".join(filter(None, (f"reward {ending.reward:.2f} ({terms})", ending.besides))),
        f"day {ending.day:.0f}: {ending.sentence}",
    ]
