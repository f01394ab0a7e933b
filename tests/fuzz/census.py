"""Counts what comes of many fresh inputs, in the proportions of a table of faults found in use.

    python -m tests.fuzz.census --examples 5000 --seconds 3600

prints a row a part: how many inputs ended in each verdict (see `judge.VERDICTS`), and below it
every input that is not as it should be, one a line. It ends with 1 where one was silently wrong,
hung or took memory without bound, where a good value was refused or a refused call left a trace, or
where more than one in a hundred was refused unclearly.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import folders, options, parts, playing
from tests.fuzz.judge import VERDICTS, Case, Outcome, judge

Sources = Mapping[str, tuple[float, Callable[[], Any]]]
PARTS: dict[str, tuple[float, Sources]] = {
    "options": (2987, options.SOURCES),
    "steps, order, seeds, masks, rewards, registering": (3154, playing.SOURCES),
    "shoppers, catalogues, policies": (431, parts.SOURCES),
    "config.json": (247, folders.CONFIGS),
    "files of a folder": (122, folders.FILES),
    "tables, weights, code, loaders, paths": (457, folders.TABLES),
    "checkpoints": (13, folders.CHECKPOINTS),
}
"""Each part, with the number of its inputs in the table and where its cases come from."""
MOST_UNCLEAR = 0.01


def shares(examples: int) -> dict[tuple[str, str], int]:
    """How many examples each source of each part gets, one at least."""
    whole = sum(weight for weight, _ in PARTS.values())
    found = {}
    for part, (weight, sources) in PARTS.items():
        total = sum(own for own, _ in sources.values())
        for name, (own, _) in sources.items():
            found[part, name] = max(round(examples * weight / whole * own / total), 1)
    return found


def drawn(source: Callable[[], Any], number: int, start: int, until: float) -> list[Outcome]:
    """The outcomes of so many cases, fewer where the time is up; hypothesis may draw less than it
    is asked for."""
    outcomes: list[Outcome] = []
    while len(outcomes) < number and time.monotonic() < until:
        before = len(outcomes)

        @seed(start + before)
        @settings(
            max_examples=number - before,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(source())
        def run(case: Case) -> None:
            if time.monotonic() < until:
                outcomes.append(judge(case))

        run()
    return outcomes


def census(examples: int, seconds: float, start: int) -> dict[str, list[Outcome]]:
    """The outcomes of so many cases, by part."""
    until = time.monotonic() + seconds
    found: dict[str, list[Outcome]] = {part: [] for part in PARTS}
    for (part, name), number in shares(examples).items():
        began = time.monotonic()
        outcomes = drawn(PARTS[part][1][name][1], number, start, until)
        found[part] += outcomes
        wrong = sum(not outcome.right for outcome in outcomes)
        print(
            f"{part} / {name}: {len(outcomes)}, {wrong} wrong, {time.monotonic() - began:.0f} s",
            file=sys.stderr,
        )
    return found


def report(found: Mapping[str, list[Outcome]]) -> str:
    """The table, and every case that is not as it should be."""
    lines = [
        "| part | inputs | " + " | ".join(VERDICTS) + " |",
        "|---|--:|" + "--:|" * len(VERDICTS),
    ]
    whole: Counter[str] = Counter()
    for part, outcomes in found.items():
        counts = Counter(outcome.verdict for outcome in outcomes)
        whole += counts
        lines.append(_row(part, counts))
    lines.append(_row("sum", whole))
    for part, outcomes in found.items():
        lines += [f"{part}: {outcome}" for outcome in outcomes if not outcome.right]
    return "\n".join(lines)


def _row(part: str, counts: Counter[str]) -> str:
    return (
        f"| {part} | {counts.total():,} | "
        + " | ".join(f"{counts[verdict]:,}" for verdict in VERDICTS)
        + " |"
    )


def met(found: Mapping[str, list[Outcome]]) -> bool:
    """Whether no input is wrong, but for one in a hundred that is refused unclearly."""
    counts = Counter(outcome.verdict for outcomes in found.values() for outcome in outcomes)
    wrong = counts.total() - counts["clear"] - counts["right"] - counts["unclear"]
    return wrong == 0 and counts["unclear"] <= MOST_UNCLEAR * counts.total()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the inputs; by default other ones at each run"
    )
    arguments = parser.parse_args()
    start = random.SystemRandom().randrange(2**31) if arguments.seed is None else arguments.seed
    warnings.simplefilter("ignore")
    found = census(arguments.examples, arguments.seconds, start)
    print(f"seed {start}")
    print(report(found))
    return 0 if met(found) else 1


if __name__ == "__main__":
    sys.exit(main())
