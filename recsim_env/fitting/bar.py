"""A line that shows which stage a fit is at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from recsim_env.fitting.stages import Progress


@contextmanager
def stage_bar() -> Iterator[Progress]:
    """Show a bar for as long as the context lasts, and yield what moves it."""
    with tqdm(unit="step", leave=False) as bar:

        def advance(stage: str, done: int, steps: int) -> None:
            """Name the stage, and move the bar to `done` of its `steps`."""
            if stage != bar.desc.rstrip(": "):
                bar.reset(total=steps)
                bar.set_description(stage)
            bar.total = steps
            bar.update(done - bar.n)

        yield advance
