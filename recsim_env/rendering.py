"""What a person sees of a visit: the slate, the responses, and the shopper's recent past."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recsim_env.shoppers.base import Description, counted
from recsim_env.types import Outcome

if TYPE_CHECKING:
    from recsim_env.simulator import SlateSimulator

Frame = str | NDArray[np.uint8]
RENDER_MODES = ("ansi", "rgb_array")


@dataclass(frozen=True)
class Card:
    """A position of the slate as it is drawn."""

    title: str
    """The item's text up to its first semicolon."""
    details: str
    """The rest of the text, less what its category path says anyway."""
    category: str
    shade: int
    """Index of the category, for its colour."""
    price: float
    """Currency units; NaN where unknown."""
    shown: bool
    """False for a repeated item, and for one that is no candidate."""
    bought: bool


@dataclass(frozen=True)
class Ending:
    """The end of a visit as it is drawn."""

    reward: float
    terms: dict[str, float]
    elsewhere: int
    gap_days: float
    day: float
    lapsed: bool
    truncated: bool
    carried: int = 0

    @property
    def sentence(self) -> str:
        """What the shopper does next, in words."""
        if self.lapsed:
            return "lapsed: does not come back"
        if self.gap_days == 0 and not self.truncated:
            return "stays: the next slate comes on the same day"
        days = counted(round(self.gap_days), "day")
        return f"comes back after {days}" + (", beyond the horizon" if self.truncated else "")

    @property
    def besides(self) -> str:
        """What was bought outside of the slate, in words; empty where nothing was."""
        counts = {
            "from earlier pages": self.carried,
            "elsewhere in the store": self.elsewhere - self.carried,
        }
        return ", ".join(f"{count} more bought {where}" for where, count in counts.items() if count)


@dataclass(frozen=True)
class Scene:
    """Everything that a frame shows of a shopper."""

    description: Description
    """The shopper and the visit, before the slate."""
    candidates: int
    """How many items could have been shown."""
    slate_size: int
    """Positions of a slate, which the picture leaves room for."""
    cards: tuple[Card, ...] = ()
    """The slate, top position first; empty where the shopper has just arrived."""
    ending: Ending | None = None
    """None where the shopper has just arrived."""
    bundles: bool = False
    """Whether slates are bundles, which the picture leaves room for."""
    bundle: tuple[str, ...] = ()
    """Where the slate was a bundle: its price, what was taken, and why it goes together."""

    def says(self, key: str) -> str:
        """Return a string of the description; it is empty where the shopper model has none."""
        value = self.description.get(key, "")
        return value if isinstance(value, str) else ", ".join(value)

    @property
    def history(self) -> list[str]:
        """What the shopper did lately, newest first."""
        lines = self.description.get("history", [])
        return [lines] if isinstance(lines, str) else lines

    @property
    def remarks(self) -> list[str]:
        """Further strings of the description, each with its key."""
        known = ("shopper", "date", "store", "history")
        return [f"{key}: {self.says(key)}" for key in self.description if key not in known]


def arrival(simulator: SlateSimulator, row: int, *, hidden: bool = False) -> Scene:
    """Return the scene of a shopper who has just come in.

    Args:
        simulator: The simulator.
        row: The row of the shopper.
        hidden: Whether it shows what agents must not see.
    """
    candidates = int((simulator.candidates[row] >= 0).sum())
    description = simulator.describe(row, hidden=hidden)
    bundles = bool(simulator.discounts)
    return Scene(description, candidates, simulator.slate_size, bundles=bundles)


def visit(
    simulator: SlateSimulator, row: int, before: Scene, slates: Tensor, outcome: Outcome
) -> Scene:
    """Return the scene of a visit that has just ended.

    Args:
        simulator: The simulator.
        row: The row of the shopper.
        before: The row's `arrival`, taken before the step.
        slates: (B, K), as they were ordered, or (B, K + 1) of bundles.
        outcome: What the visit led to.
    """
    episodes = simulator.episodes
    items = slates[row, : simulator.slate_size].tolist()
    shown = (episodes.recent_slates[row, 0] >= 0).tolist()
    bought = episodes.recent_clicks[row, 0].tolist()
    cards = tuple(
        _card(simulator, *position) for position in zip(items, shown, bought, strict=True)
    )
    bundle = _bundle(simulator, row, items, cards, outcome) if simulator.discounts else ()
    return replace(before, cards=cards, ending=_ending(row, outcome), bundle=bundle)


def draw(scene: Scene, render_mode: str) -> Frame:
    """Draw a scene as a text (`ansi`) or as a picture (H, W, 3) uint8 (`rgb_array`)."""
    return as_text(scene) if render_mode == "ansi" else as_picture(scene)


def _bundle(
    simulator: SlateSimulator, row: int, items: list[int], cards: tuple[Card, ...], outcome: Outcome
) -> tuple[str, ...]:
    """Return the lines of a bundle: its price, what was taken, and why it goes together."""
    shown = [card for card in cards if card.shown]
    price, discount = sum(card.price for card in shown), outcome.info["discount"][row].item()
    offer = f"the bundle costs {price * (1 - discount):.2f}"
    if discount > 0:
        offer += f", {discount:.0%} off {price:.2f}"
    taken = sum(card.bought for card in shown)
    if bool(outcome.info["whole"][row]):
        answer = "taken whole"
    elif taken:
        answer = f"{taken} of {counted(len(shown), 'item')} taken, each at its own price"
    else:
        answer = "nothing taken"
    seen = [item for item, card in zip(items, cards, strict=True) if card.shown]
    why = simulator.shopper.goes_together(seen) or ["nothing in it goes together"]
    return f"{offer}: {answer}", "; ".join(why)


def _card(simulator: SlateSimulator, item: int, shown: bool, bought: bool) -> Card:
    catalog = simulator.catalog
    shade = int(catalog.category[item])
    return Card(
        title=catalog.text[item].split("; ")[0],
        details=_details(catalog.text[item], catalog.path[item]),
        category=catalog.categories[shade].split("/")[-1],
        shade=shade,
        price=float(catalog.price[item]),
        shown=shown,
        bought=bought,
    )


def _details(text: str, path: str) -> str:
    levels = path.split("/")
    return "; ".join(
        part for part in text.split("; ")[1:] if part.replace("/", " & ") not in levels
    )


def _ending(row: int, outcome: Outcome) -> Ending:
    info = {name: value[row].item() for name, value in outcome.info.items()}
    prefix, carried = "reward_terms/", outcome.response.carried
    return Ending(
        reward=outcome.reward[row].item(),
        terms={
            name.removeprefix(prefix): value
            for name, value in info.items()
            if name.startswith(prefix)
        },
        elsewhere=int(info["elsewhere"]),
        carried=0 if carried is None else int((carried[row] >= 0).sum()),
        gap_days=info["gap_days"],
        day=info["day"],
        lapsed=bool(outcome.terminated[row]),
        truncated=bool(outcome.truncated[row]),
    )


# The text.


def as_text(scene: Scene) -> str:
    """Draw a scene as lines of text."""
    head = "  ".join(filter(None, map(scene.says, ("date", "store", "shopper"))))
    lines = [head, "-" * max(len(head), 40), f"{counted(scene.candidates, 'item')} could be shown"]
    lines += [_text_line(position, card) for position, card in enumerate(scene.cards, start=1)]
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


# The picture.

_PAPER, _INK, _FAINT, _WHITE, _LINE = "#f7f2e8", "#22303c", "#7c8791", "#ffffff", "#e0d8c8"
_HEADER, _GREEN, _MINT, _RED, _CREAM = "#22303c", "#2f855a", "#e8f6ee", "#b83a3a", "#f3e3c8"
_SHADES = (
    "#3b6ea5",
    "#d98e32",
    "#7a5ea8",
    "#4d9078",
    "#c05a7a",
    "#8a7a3c",
    "#5b8fb9",
    "#b5653a",
    "#6d8f3f",
    "#8f6f9f",
)
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
_LONGEST = 300  # letters of a text that are looked at: no line is as wide
_SCALE = 2  # drawn twice as large, then shrunk: smooth edges


@dataclass
class _Sheet:
    """A Pillow image in layout units, which are pixels of the final frame."""

    width: int
    height: int
    image: Any = field(init=False)
    pen: Any = field(init=False)
    fonts: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        image, image_draw, self._font = _pillow()
        self.image = image.new("RGB", (self.width * _SCALE, self.height * _SCALE), _PAPER)
        self.pen = image_draw.Draw(self.image)

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        fill: str,
        *,
        line: str | None = None,
        r: float = 0,
    ) -> None:
        """Draw a rectangle with round corners of radius r."""
        area = [x * _SCALE, y * _SCALE, (x + w) * _SCALE - 1, (y + h) * _SCALE - 1]
        self.pen.rounded_rectangle(area, r * _SCALE, fill=fill, outline=line, width=_SCALE)

    def scallop(self, x: float, y: float, w: float, h: float, fill: str) -> None:
        """Draw a strip of awning with a round lower end."""
        self.box(x, y, w, h - w / 2, fill)
        self.pen.ellipse(
            [x * _SCALE, (y + h - w) * _SCALE, (x + w) * _SCALE - 1, (y + h) * _SCALE], fill=fill
        )

    def tick(self, x: float, y: float, r: float) -> None:
        """Draw a tick in a green disc of radius r around (x, y)."""
        self.pen.ellipse(
            [(x - r) * _SCALE, (y - r) * _SCALE, (x + r) * _SCALE, (y + r) * _SCALE], fill=_GREEN
        )
        path = [(x - r * 0.45, y), (x - r * 0.1, y + r * 0.38), (x + r * 0.5, y - r * 0.38)]
        self.pen.line(
            [(a * _SCALE, b * _SCALE) for a, b in path],
            fill=_WHITE,
            width=int(2.4 * _SCALE),
            joint="curve",
        )

    def write(
        self,
        x: float,
        y: float,
        text: str,
        size: int,
        fill: str,
        *,
        bold: bool = False,
        at: str = "la",
    ) -> None:
        """Write one line of text."""
        stroke = {"stroke_width": 0.35 * _SCALE} if bold else {}
        self.pen.text(
            (x * _SCALE, y * _SCALE), text, fill=fill, font=self.font(size), anchor=at, **stroke
        )

    def font(self, size: int) -> Any:
        """Return Pillow's own font, so that a frame looks alike everywhere."""
        if size not in self.fonts:
            self.fonts[size] = self._font.load_default(size * _SCALE)
        return self.fonts[size]

    def wrap(self, text: str, width: float, size: int, lines: int) -> list[str]:
        """Break a text into at most so many lines of a width, with three dots where it goes on."""
        out: list[str] = []
        words = text[:_LONGEST].split()
        while words and len(out) < lines:
            starts = (" ".join(words[:count]) for count in range(1, len(words) + 1))
            taken = max(
                sum(1 for _ in takewhile(lambda start: self.fits(start, width, size), starts)), 1
            )
            out.append(" ".join(words[:taken]))
            words = words[taken:]
        return (
            [*out[:-1], self.cut(out[-1] + (" ..." if words else ""), width, size)] if out else []
        )

    def cut(self, text: str, width: float, size: int) -> str:
        """Cut a text to one line that fits, with three dots where it was cut."""
        if self.fits(text, width, size):
            return text
        text = text.removesuffix("...").rstrip()[:_LONGEST]
        while text and not self.fits(text + "...", width, size):
            text = text[:-1].rstrip()
        return text + "..."

    def fits(self, text: str, width: float, size: int) -> bool:
        """Tell whether one line of text is no wider than `width`."""
        return bool(self.font(size).getlength(text) <= width * _SCALE)

    def pixels(self) -> NDArray[np.uint8]:
        """Return the frame as an array (H, W, 3)."""
        return np.array(self.image.reduce(_SCALE), dtype=np.uint8)


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            "render_mode 'rgb_array' needs Pillow: pip install 'recsim-env[render]'."
        ) from error
    return Image, ImageDraw, ImageFont


def as_picture(scene: Scene) -> NDArray[np.uint8]:
    """Draw a scene as a picture (H, W, 3) uint8; H and W depend on the slate size alone.

    Where slates are bundles, there is room for two lines more.
    """
    columns, rows = min(_COLUMNS, scene.slate_size), math.ceil(scene.slate_size / _COLUMNS)
    window = max(columns * (_CARD[0] + _SPACE) + _SPACE, 640)
    shelf = rows * (_CARD[1] + _SPACE) + _SPACE
    foot = _FOOT + _BUNDLE * scene.bundles
    sheet = _Sheet(
        2 * _MARGIN + window + _MARGIN + _SIDE, _TOP + _MARGIN + _AWNING + shelf + foot + _MARGIN
    )
    _draw_header(sheet, scene)
    _draw_window(sheet, scene, _MARGIN, _TOP + _MARGIN, window, shelf + _AWNING)
    _draw_ending(sheet, scene, _MARGIN, sheet.height - foot - _MARGIN + 24, window)
    _draw_history(sheet, scene, sheet.width - _SIDE - _MARGIN, _TOP + _MARGIN)
    return sheet.pixels()


def _draw_header(sheet: _Sheet, scene: Scene) -> None:
    sheet.box(0, 0, sheet.width, _TOP, _HEADER)
    half = sheet.width / 2 - 2 * _MARGIN
    left = "  ·  ".join(filter(None, (scene.says("date"), scene.says("store"))))
    right = [*filter(None, [scene.says("shopper"), *scene.remarks]), ""]
    sheet.write(_MARGIN, 16, sheet.cut(left, half, 22), 22, _WHITE, bold=True)
    sheet.write(_MARGIN, 50, f"{counted(scene.candidates, 'item')} could be shown", 15, "#c5ced6")
    sheet.write(sheet.width - _MARGIN, 18, sheet.cut(right[0], half, 17), 17, _WHITE, at="ra")
    sheet.write(
        sheet.width - _MARGIN,
        50,
        sheet.cut("  ·  ".join(filter(None, right[1:])), half, 15),
        15,
        "#c5ced6",
        at="ra",
    )


def _draw_window(sheet: _Sheet, scene: Scene, x: float, y: float, w: float, h: float) -> None:
    """Draw the shop window: an awning, and the cards below it, top position first."""
    sheet.box(x, y + 8, w, h, _WHITE, line=_LINE, r=8)
    strips = round(w / 36)
    for strip in range(strips):
        sheet.scallop(
            x + strip * w / strips, y, w / strips, _AWNING - 6, _RED if strip % 2 == 0 else _CREAM
        )
    if not scene.cards:
        sheet.write(
            x + w / 2, y + h / 2, "the shopper has just come in: no slate yet", 18, _FAINT, at="mm"
        )
    for position, card in enumerate(scene.cards):
        row, column = divmod(position, _COLUMNS)
        left = x + _SPACE + column * (_CARD[0] + _SPACE)
        _draw_card(
            sheet, card, position + 1, left, y + _AWNING + _SPACE + row * (_CARD[1] + _SPACE)
        )


def _draw_card(sheet: _Sheet, card: Card, position: int, x: float, y: float) -> None:
    w, h = _CARD
    fill, line = (
        (_MINT, _GREEN)
        if card.bought
        else (_PAPER, _LINE)
        if card.shown
        else ("#eceae6", "#d3cfc7")
    )
    ink = _INK if card.shown else _FAINT

    # the card with its category's stripe, position and price
    sheet.box(x, y, w, h, fill, line=line, r=8)
    sheet.box(
        x + 12, y + 34, w - 24, 3, _SHADES[card.shade % len(_SHADES)] if card.shown else _FAINT
    )
    sheet.write(x + 12, y + 11, str(position), 15, _FAINT, bold=True)
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
        sheet.write(x + 12, y + 54 + 20 * len(titles) + 17 * number, words, 13, _FAINT)
    foot = card.category if card.shown else "not shown"
    sheet.write(x + 12, y + h - 26, sheet.cut(foot.lower(), w - 24, 13), 13, _FAINT)

    if card.bought:
        sheet.tick(x + w - 22, y + 19, 11)


def _draw_ending(sheet: _Sheet, scene: Scene, x: float, y: float, w: float) -> None:
    """Draw what the visit came to and what happens next, below the window."""
    if scene.ending is None:
        return
    ending = scene.ending
    for number, line in enumerate(scene.bundle):
        sheet.write(x, y + 58 + 20 * number, sheet.cut(line, w, 15), 15, _INK, bold=number == 0)
    sheet.write(x, y, f"reward {ending.reward:.2f}", 22, _INK, bold=True)
    terms = "  ·  ".join(
        f"{name.replace('_', ' ')} {value:.2f}" for name, value in ending.terms.items()
    )
    sheet.write(x, y + 34, sheet.cut(terms, w * 0.58, 15), 15, _FAINT)
    colour = _RED if ending.lapsed else _GREEN
    sheet.write(x + w, y, sheet.cut(ending.sentence, w * 0.6, 20), 20, colour, bold=True, at="ra")
    rest = "  ·  ".join(filter(None, (f"day {ending.day:.0f}", ending.besides)))
    sheet.write(x + w, y + 34, sheet.cut(rest, w * 0.42, 15), 15, _FAINT, at="ra")


def _draw_history(sheet: _Sheet, scene: Scene, x: float, y: float) -> None:
    """Draw what the shopper did lately, beside the window."""
    height = sheet.height - y - _MARGIN
    sheet.box(x, y + 8, _SIDE, height - 8, _WHITE, line=_LINE, r=8)
    sheet.write(x + 18, y + 24, "Lately", 19, _INK, bold=True)
    entries = [_history_lines(sheet, entry) for entry in scene.history] or [
        [("nothing yet", _FAINT)]
    ]
    top, bottom = y + 60, y + height - 16
    for lines in entries:
        if top + 19 * len(lines) > bottom:
            break
        for number, (words, colour) in enumerate(lines):
            sheet.write(x + 18, top + 19 * number, words, 14, colour)
        top += 19 * len(lines) + 9


def _history_lines(sheet: _Sheet, entry: str) -> list[tuple[str, str]]:
    """Return the coloured lines of an entry of the history: its heading, then two of the rest."""
    head, _, rest = entry.rpartition(" · ")
    lines = [(line, _INK) for line in sheet.wrap(rest, _SIDE - 36, 14, 2)]
    return [(sheet.cut(head, _SIDE - 36, 14), _FAINT), *lines] if head else lines
