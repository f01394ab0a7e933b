"""What TensorBoard's event files hold, read as they lie there: nothing is purged or merged."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util


def event_files(folder: Path) -> list[Path]:
    """The files in the order in which they were opened: by second, then by their number in the
    process."""

    def opened(path: Path) -> tuple[int, int]:
        parts = path.name.split(".")  # events.out.tfevents.<second>.<host>.<process>.<number>
        return int(parts[3]), int(parts[-1])

    return sorted(folder.glob("events.out.tfevents.*"), key=opened)


def points(folder: Path) -> dict[str, list[tuple[int, float | None]]]:
    """Return the points (step, value) of each tag as they were written; None for no number."""
    found: dict[str, list[tuple[int, float | None]]] = {}
    for path in event_files(folder):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = (
                    tensor_util.make_ndarray(value.tensor) if value.HasField("tensor") else None
                )
                scalar = (
                    float(number)
                    if number is not None and number.ndim == 0 and number.dtype.kind == "f"
                    else None
                )
                found.setdefault(value.tag, []).append((event.step, scalar))
    return found
