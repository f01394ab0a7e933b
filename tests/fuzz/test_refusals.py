"""Any option, action, seed, part and file: a good value means what it says, a bad one is refused by
its name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fuzz import plan, test_invariants, test_simulators
from tests.fuzz.census import PARTS
from tests.fuzz.judge import Case, judge

pytestmark = pytest.mark.slow

BY_SOURCE = {
    "options": 200,
    "options of slow environments": 30,
    "unknown options": 40,
    "source of an environment": 40,
    "EnvConfig": 60,
    "MarketConfig": 150,
    "actions": 250,
    "too early": 30,
    "too late": 20,
    "seeds": 90,
    "options of reset": 60,
    "rows": 80,
    "rewards": 60,
    "what terms return": 40,
    "names of terms": 30,
    "terms": 60,
    "registering": 40,
    "shoppers": 90,
    "catalogues": 80,
    "made-up catalogues": 20,
    "parameters of policies": 60,
    "parameters as a whole": 15,
    "rankers": 50,
    "inputs of policies": 40,
    "configurations": 80,
    "indices": 30,
    "config.json": 40,
    "descriptions of rankers": 15,
    "files": 25,
    "tables": 100,
    "tables in a folder": 8,
    "weights": 25,
    "code": 10,
    "loaders": 25,
    "paths": 40,
    "checkpoints": 10,
}
"""Examples in CI, as many as a source is worth and costs; a new source gets twenty."""
SOURCES = {name: source for _, sources in PARTS.values() for name, (_, source) in sources.items()}


def property_of(name: str) -> Any:
    """The property of a source of cases."""

    @plan.examples(BY_SOURCE.get(name, 20), SOURCES[name](), name=name)
    def holds(case: Case) -> None:
        outcome = judge(case)
        assert outcome.right, str(outcome)

    return holds


for _name in SOURCES:
    plan.planned[_name] = BY_SOURCE.get(_name, 20)


@pytest.mark.parametrize("name", list(SOURCES))
def test_outcomes_are_right(name: str) -> None:
    property_of(name)()


def test_ci_draws_enough() -> None:
    modules = (
        test_invariants,
        test_simulators,
    )  # their properties were noted when they were imported
    assert sum(plan.planned.values()) >= plan.LEAST, modules
