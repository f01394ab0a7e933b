"""A visit as a picture: a shop window with the slate, and what the shopper did lately beside it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recsim_env.rendering.scene import Card, Scene
from recsim_env.rendering.sheet import (
    CREAM,
    FAINT,
    GREEN,
    HEADER,
    INK,
    LINE,
    MINT,
    PAPER,
    RED,
    SHADES,
    WHITE,
    Sheet,
)
from recsim_env.shoppers.base import counted

_COLUMNS, _CARD, _SPACE, _MARGIN, _SIDE, _TOP, _AWNING, _FOOT = (
    5,
    (172, 176),
    12,
    28,
    290,
    84,
    46,
    84,
)
_BUNDLE = 44  # height of the lines of a bundle
_WHY, _TIMES = 82, 44  # height of what moved a response, and width of a factor


def as_picture(scene: Scene) -> NDArray[np.uint8]:
    """Draw a scene as a picture (H, W, 3) uint8; H and W depend on the slate size alone.

    Where slates are bundles, there is room for two lines more, and where responses are explained,
    for what moved each of them.
    """
    columns, rows = min(_COLUMNS, scene.slate_size), math.ceil(scene.slate_size / _COLUMNS)
    height = _card_height(scene)
    window = max(columns * (_CARD[0] + _SPACE) + _SPACE, 640)
    shelf = rows * (height + _SPACE) + _SPACE
    foot = _FOOT + _BUNDLE * scene.bundles
    sheet = Sheet(
        2 * _MARGIN + window + _MARGIN + _SIDE, _TOP + _MARGIN + _AWNING + shelf + foot + _MARGIN
    )
    _draw_header(sheet, scene)
    _draw_window(sheet, scene, _MARGIN, _TOP + _MARGIN, window, shelf + _AWNING)
    _draw_ending(sheet, scene, _MARGIN, sheet.height - foot - _MARGIN + 24, window)
    _draw_history(sheet, scene, sheet.width - _SIDE - _MARGIN, _TOP + _MARGIN)
    return sheet.pixels()


def _draw_header(sheet: Sheet, scene: Scene) -> None:
    sheet.box(0, 0, sheet.width, _TOP, HEADER)
    half = sheet.width / 2 - 2 * _MARGIN
    left = "  ·  ".join(filter(None, (scene.says("date"), scene.says("store"))))
    right = [*filter(None, [scene.says("shopper"), *scene.remarks]), ""]
    sheet.write(_MARGIN, 16, sheet.cut(left, half, 22), 22, WHITE, bold=True)
    sheet.write(_MARGIN, 50, f"{counted(scene.candidates, 'item')} could be shown", 15, "#c5ced6")
    sheet.write(sheet.width - _MARGIN, 18, sheet.cut(right[0], half, 17), 17, WHITE, at="ra")
    sheet.write(
        sheet.width - _MARGIN,
        50,
        sheet.cut("  ·  ".join(filter(None, right[1:])), half, 15),
        15,
        "#c5ced6",
        at="ra",
    )


def _draw_window(sheet: Sheet, scene: Scene, x: float, y: float, w: float, h: float) -> None:
    """Draw the shop window: an awning, and the cards below it, top position first."""
    sheet.box(x, y + 8, w, h, WHITE, line=LINE, r=8)
    strips = round(w / 36)
    for strip in range(strips):
        sheet.scallop(
            x + strip * w / strips, y, w / strips, _AWNING - 6, RED if strip % 2 == 0 else CREAM
        )
    if not scene.cards:
        sheet.write(
            x + w / 2, y + h / 2, "the shopper has just come in: no slate yet", 18, FAINT, at="mm"
        )
    for position, card in enumerate(scene.cards):
        row, column = divmod(position, _COLUMNS)
        left = x + _SPACE + column * (_CARD[0] + _SPACE)
        top = y + _AWNING + _SPACE + row * (_card_height(scene) + _SPACE)
        _draw_card(sheet, card, position + 1, left, top, _card_height(scene))


def _card_height(scene: Scene) -> int:
    return _CARD[1] + _WHY * scene.explained


def _draw_card(sheet: Sheet, card: Card, position: int, x: float, y: float, h: int) -> None:
    w = _CARD[0]
    fill, line = (
        (MINT, GREEN) if card.bought else (PAPER, LINE) if card.shown else ("#eceae6", "#d3cfc7")
    )
    ink = INK if card.shown else FAINT

    # the card with its category's stripe, position and price
    sheet.box(x, y, w, h, fill, line=line, r=8)
    sheet.box(x + 12, y + 34, w - 24, 3, SHADES[card.shade % len(SHADES)] if card.shown else FAINT)
    sheet.write(x + 12, y + 11, str(position), 15, FAINT, bold=True)
    if not math.isnan(card.price):
        sheet.write(
            x + (w - 12 if not card.bought else w - 42),
            y + 11,
            f"{card.price:.2f}",
            15,
            ink,
            at="ra",
            bold=True,
        )

    # the item's text, with the category below
    titles, details = sheet.wrap(card.title, w - 24, 15, 3), sheet.wrap(card.details, w - 24, 13, 2)
    for number, words in enumerate(titles):
        sheet.write(x + 12, y + 48 + 20 * number, words, 15, ink)
    for number, words in enumerate(details):
        sheet.write(x + 12, y + 54 + 20 * len(titles) + 17 * number, words, 13, FAINT)
    foot = card.category if card.shown else "not shown"
    sheet.write(x + 12, y + h - 26, sheet.cut(foot.lower(), w - 24, 13), 13, FAINT)

    # what moved the response, between text and category
    top = y + _CARD[1] - 22
    if card.reasons:
        sheet.box(x + 12, top - 7, w - 24, 1, LINE)
    for why in card.reasons:
        sheet.write(
            x + w - 12, top, why.times, 13, GREEN if why.raised else RED, at="ra", bold=True
        )
        for number, words in enumerate(sheet.wrap(why.name, w - 24 - _TIMES, 12, 2)):
            sheet.write(x + 12, top + 15 * number, words, 12, INK)
        top += 36

    if card.bought:
        sheet.tick(x + w - 22, y + 19, 11)


def _draw_ending(sheet: Sheet, scene: Scene, x: float, y: float, w: float) -> None:
    """Draw what the visit came to and what happens next, below the window."""
    if scene.ending is None:
        return
    ending = scene.ending
    for number, line in enumerate(scene.bundle):
        sheet.write(x, y + 58 + 20 * number, sheet.cut(line, w, 15), 15, INK, bold=number == 0)
    sheet.write(x, y, f"reward {ending.reward:.2f}", 22, INK, bold=True)
    terms = "  ·  ".join(
        f"{name.replace('_', ' ')} {value:.2f}" for name, value in ending.terms.items()
    )
    sheet.write(x, y + 34, sheet.cut(terms, w * 0.58, 15), 15, FAINT)
    colour = RED if ending.lapsed else GREEN
    sheet.write(x + w, y, sheet.cut(ending.sentence, w * 0.6, 20), 20, colour, bold=True, at="ra")
    rest = "  ·  ".join(filter(None, (f"day {ending.day:.0f}", ending.besides)))
    sheet.write(x + w, y + 34, sheet.cut(rest, w * 0.42, 15), 15, FAINT, at="ra")


def _draw_history(sheet: Sheet, scene: Scene, x: float, y: float) -> None:
    """Draw what the shopper did lately, beside the window."""
    height = sheet.height - y - _MARGIN
    sheet.box(x, y + 8, _SIDE, height - 8, WHITE, line=LINE, r=8)
    sheet.write(x + 18, y + 24, "Lately", 19, INK, bold=True)
    entries = [_history_lines(sheet, entry) for entry in scene.history] or [
        [("nothing yet", FAINT)]
    ]
    top, bottom = y + 60, y + height - 16
    for lines in entries:
        if top + 19 * len(lines) > bottom:
            break
        for number, (words, colour) in enumerate(lines):
            sheet.write(x + 18, top + 19 * number, words, 14, colour)
        top += 19 * len(lines) + 9


def _history_lines(sheet: Sheet, entry: str) -> list[tuple[str, str]]:
    """Return the coloured lines of an entry of the history: its heading, then two of the rest."""
    head, _, rest = entry.rpartition(" · ")
    lines = [(line, INK) for line in sheet.wrap(rest, _SIDE - 36, 14, 2)]
    return [(sheet.cut(head, _SIDE - 36, 14), FAINT), *lines] if head else lines
