"""What a person sees of a visit: the slate, the responses, and the shopper's recent past."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsim_env.rendering.picture import as_picture
from recsim_env.rendering.scene import Card, Ending, Scene, Why, arrival, visit
from recsim_env.rendering.text import as_text

Frame = str | NDArray[np.uint8]
RENDER_MODES = ("ansi", "rgb_array")

__all__ = [
    "RENDER_MODES",
    "Card",
    "Ending",
    "Frame",
    "Scene",
    "Why",
    "arrival",
    "as_picture",
    "as_text",
    "draw",
    "visit",
]


def draw(scene: Scene, render_mode: str) -> Frame:
    """Draw a scene as a text (`ansi`) or as a picture (H, W, 3) uint8 (`rgb_array`)."""
    return as_text(scene) if render_mode == "ansi" else as_picture(scene)
