"""A progress bar over the steps of a fit, which tells its own length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from recsim_env.shoppers.training import Progress


@contextmanager
def step_bar(title: str) -> Iterator[Progress]:
    """Show a bar for as long as the context lasts, and yield what moves it.

    Args:
        title: What stands before the bar.
    """
    with tqdm(desc=title, unit="step", leave=False) as bar:

        def advance(step: int, steps: int) -> None:
            """Move the bar to `step` of `steps`."""
            bar.total = steps
            bar.update(step - bar.n)

        yield advance
