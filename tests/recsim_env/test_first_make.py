"""A first use imports nothing heavy for nothing, and says on stderr what takes long."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import recsim_env
from recsim_env import waiting

DATA = Path(recsim_env.__file__).parent / "data"


def run(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_neither_tables_nor_transformers() -> None:
    heavy = "('transformers', 'polars', 'pandas', 'matplotlib', 'stable_baselines3')"
    assert run(f"import sys, recsim_env; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_a_closed_form_market_needs_neither() -> None:
    made = (
        "import sys, gymnasium, recsim_env; "
        "gymnasium.make('recsim_env/Market-v0', device='cpu').reset(seed=0)"
    )
    assert (
        run(f"{made}; print([m for m in ('transformers', 'polars') if m in sys.modules])") == "[]"
    )


def test_the_model_card_says_how_transformers_reads_the_model() -> None:
    """In a process that imports nothing else of this package."""
    card = (DATA / "complete_journey" / "README.md").read_text()
    snippet = (
        card.split("```python\n")[1]
        .split("```")[0]
        .replace("path/to/this/folder", str(DATA / "complete_journey"))
    )
    assert run(f"{snippet}print(type(model).__name__, model.config.n_items)") == "SlateShopper 3500"


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_what_takes_long_is_said_once_on_stderr(
    seconds: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.05)
    with waiting.waiting("counting the shelves"):
        time.sleep(seconds)
    time.sleep(0.1)
    assert capsys.readouterr().err == ("recsim_env: counting the shelves ..\n" if seconds else "")
