"""A training that another process asks for its updates, one by one, in the code of any commit.

`answer` is run from this path in the work tree of any commit, so the file imports nothing but the
training of `benchmarks.speed.ppo_loops`, or of `benchmarks.ppo_speed`, where that lay before. It
reads the number of an update from each line of its input, makes the update, and answers with a row
in JSON.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def training(told: dict[str, Any]) -> Any:
    """Build a training of this project's loop from the options of `Trainings`."""
    moved = importlib.util.find_spec("benchmarks.speed") is not None
    loops = importlib.import_module(
        "benchmarks.speed.ppo_loops" if moved else "benchmarks.ppo_speed"
    )
    places = importlib.import_module(
        "benchmarks.lab.places" if moved else "benchmarks.league_places"
    )
    belief = told.pop("belief", None)
    options = {**told, "markets": Path(told["markets"]), "seeds": tuple(told["seeds"])}
    config = (loops.Trainings if moved else loops.Config)(**options)
    site = places.PLACES[config.place].open(config.markets, config.slates, config.device)
    if belief is not None:
        registry = importlib.import_module("recsim_env.belief.registry")
        device = site.inputs.catalog.device
        site = site.believing(registry.load_belief(Path(belief), device, site.inputs.slate_size))
    return loops.Training(config, site, "device", config.seeds[0])


def answer() -> None:
    """Answer every line with a row; what the training prints goes to the standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    import torch  # after the environment variables of threads were read

    told = json.loads(sys.argv[2])
    torch.set_num_threads(told.pop("threads"))
    asked = training(told)
    for line in sys.stdin:
        print(json.dumps(asked.update(int(line))), file=answers, flush=True)
