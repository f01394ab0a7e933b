"""A sheet that pictures are drawn on, in layout units, with its colours."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAPER, INK, FAINT, WHITE, LINE = "#f7f2e8", "#22303c", "#7c8791", "#ffffff", "#e0d8c8"
HEADER, GREEN, MINT, RED, CREAM = "#22303c", "#2f855a", "#e8f6ee", "#b83a3a", "#f3e3c8"
SHADES = (
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
_LONGEST = 300  # letters of a text that are looked at: no line is as wide
_SCALE = 2  # drawn twice as large, then shrunk: smooth edges


@dataclass
class Sheet:
    """A Pillow image in layout units, which are pixels of the final frame."""

    width: int
    height: int
    image: Any = field(init=False)
    pen: Any = field(init=False)
    fonts: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        image, image_draw, self._font = _pillow()
        self.image = image.new("RGB", (self.width * _SCALE, self.height * _SCALE), PAPER)
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
            [(x - r) * _SCALE, (y - r) * _SCALE, (x + r) * _SCALE, (y + r) * _SCALE], fill=GREEN
        )
        path = [(x - r * 0.45, y), (x - r * 0.1, y + r * 0.38), (x + r * 0.5, y - r * 0.38)]
        self.pen.line(
            [(a * _SCALE, b * _SCALE) for a, b in path],
            fill=WHITE,
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
