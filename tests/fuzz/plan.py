"""How many examples each property gets, and the two ways of drawing them.

In CI (`ci`, what pytest uses by itself) the examples are the same at each run, and their number is
the sum of what the properties ask for, `LEAST` or more. `make fuzz` draws fresh ones, `EXAMPLES` in
all and for at most `SECONDS`; one that fails is kept in `.cache/hypothesis` and tried first the
next time.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.strategies import SearchStrategy

LEAST = 2_000
"""Examples that CI makes at least."""
FRESH = os.environ.get("RECSIM_FUZZ") == "1"
"""Whether examples are drawn anew."""
EXAMPLES = int(os.environ.get("EXAMPLES", "20000"))
SECONDS = float(os.environ.get("SECONDS", "1e9"))
DATABASE = Path(__file__).resolve().parents[2] / ".cache" / "hypothesis"

planned: dict[str, int] = {}
"""Examples that each property asks for in CI, by its name."""
made: dict[str, int] = {}
"""Examples that were made in this process."""
_began = time.monotonic()


def share(examples: int) -> int:
    """How many examples a property gets now."""
    return examples if not FRESH else max(examples * EXAMPLES // LEAST, 1)


def configured(examples: int) -> settings:
    """Settings of hypothesis for a property that asks for so many examples in CI."""
    common: dict[str, Any] = {
        "deadline": None,
        "suppress_health_check": list(HealthCheck),
        "print_blob": True,
    }
    if FRESH:
        return settings(
            max_examples=share(examples), database=DirectoryBasedExampleDatabase(DATABASE), **common
        )
    phases = [phase for phase in Phase if phase not in (Phase.reuse, Phase.explain)]
    return settings(max_examples=examples, derandomize=True, database=None, phases=phases, **common)


def plan(name: str, examples: int) -> None:
    """Note that a property asks for so many examples."""
    planned[name] = examples


def count(name: str) -> bool:
    """Note that an example was made; False where the time is up, and nothing shall be done with it
    any more."""
    made[name] = made.get(name, 0) + 1
    return not FRESH or time.monotonic() - _began < SECONDS


def check_number(name: str) -> None:
    """Assert that a property made all its examples: fewer would go unnoticed."""
    assert FRESH or made[name] >= planned[name], (
        f"{name} made {made[name]} examples of {planned[name]}"
    )


def examples(
    number: int, *arguments: SearchStrategy[Any], name: str | None = None
) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """A test of a property, with so many examples in CI: `@examples(50, st.integers())` above a
    function of one."""

    def decorate(test: Callable[..., None], name: str = name or "") -> Callable[[], None]:
        name = name or test.__name__
        plan(name, number)

        @configured(number)
        @given(st.tuples(*arguments))
        def run(drawn: tuple[Any, ...]) -> None:
            if count(name):
                test(*drawn)

        @functools.wraps(test)
        def whole() -> None:
            run()
            check_number(name)

        del whole.__wrapped__  # pytest would take its arguments for fixtures
        return whole

    return decorate
