"""Lines that show how far a fit is: one through its stages, one over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from recsim_env.fitting.stages import Progress

if TYPE_CHECKING:
    from recsim_env.shoppers.training import Progress as StepProgress  # it imports transformers


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


@contextmanager
def step_bar(title: str | None) -> Iterator[StepProgress]:
    """Show a bar for as long as the context lasts, and yield what moves it.

    Args:
        title: What stands before the bar; None shows none.
    """
    with tqdm(desc=title, unit="step", leave=False, disable=title is None) as bar:

        def advance(step: int, steps: int) -> None:
            """Move the bar to `step` of `steps`."""
            bar.total = steps
            bar.update(step - bar.n)

        yield advance
