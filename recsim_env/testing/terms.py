"""The check of a reward term of one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.rewards import RewardInputs, Term
from recsim_env.rewards.inputs import catalog_tables
from recsim_env.tensors import first_places, is_dense
from recsim_env.testing.generators import generators


@torch.no_grad()
def check_term(term: Term, *, batch: int = 8, seed: int = 0, tolerance: float = 1e-5) -> None:
    """Raise unless a reward term keeps every promise that can be tried.

    It is given slates of one position and of several, with repeated items, items that are no
    candidates, and nothing shown at all. It must return (B,) real and finite numbers, each from its
    own row alone. They must be the same when it is asked again, where the catalogue's cosines are
    not at hand, and whatever stands at a position that is not shown. It must write into nothing and
    draw nothing.

    Args:
        term: A function of `RewardInputs`, such as one that `reward_term` registers.
        batch: B, how many slates it is given at a time.
        seed: The seed of the slates.
        tolerance: By how much numbers may differ between two ways, relative or absolute.

    Raises:
        ValueError: If the term breaks a promise, which the message names.
    """
    if not callable(term):
        raise ValueError(f"term is {checks.told(term)}, but it must be a function of RewardInputs.")
    batch, tolerance = (
        checks.whole("batch", batch, 4, 10_000),
        checks.number("tolerance", tolerance, 0),
    )
    generator = torch.Generator().manual_seed(checks.whole("seed", seed, 0, checks.LARGEST_SEED))
    catalog = Catalog.synthetic(40, 5, 8, generator)
    catalog = dataclasses.replace(catalog, popularity=1 / (2 + torch.arange(40.0)))
    for size in (1, 2, 7):
        _check_term(term, _inputs(catalog, batch, size, generator), catalog, tolerance)


def _inputs(catalog: Catalog, batch: int, size: int, generator: torch.Generator) -> RewardInputs:
    """Make slates of four kinds in turn, clicks on what is shown, and purchases of what is clicked.

    They hold distinct items, any items, one item at every position, or nothing that is shown.
    """
    numbers = torch.rand(batch, len(catalog), generator=generator)
    slates, kind = numbers.argsort(dim=1)[:, :size].contiguous(), torch.arange(batch) % 4
    anything = torch.randint(len(catalog) // 4, (batch, size), generator=generator)
    slates = torch.where((kind == 1).unsqueeze(1), anything, slates)
    slates = torch.where((kind == 2).unsqueeze(1), slates[:, :1], slates)
    candidate = torch.rand(batch, size, generator=generator) < 0.8
    shown = first_places(slates) & (candidate | (kind == 0).unsqueeze(1)) & (kind != 3).unsqueeze(1)
    clicks = shown & (torch.rand(batch, size, generator=generator) < 0.5)
    bought = clicks & (torch.rand(batch, size, generator=generator) < 0.5)
    tables: dict[str, Any] = catalog_tables(catalog)
    return RewardInputs(
        slates,
        shown,
        clicks,
        cosines=catalog.cosines,
        purchases=bought,
        outside_reward=torch.randn(batch, generator=generator),
        days=7 * torch.rand(batch, generator=generator),
        left=torch.rand(batch, generator=generator) < 0.5,
        recent_slates=torch.randint(-1, len(catalog), (batch, 3, size), generator=generator),
        **tables,
    )


def _check_term(term: Term, inputs: RewardInputs, catalog: Catalog, tolerance: float) -> None:
    """Check the promises of a term for these inputs."""
    name, positions = getattr(term, "__name__", type(term).__name__), inputs.slates.shape[1]

    def fail(found: str, expected: str) -> None:
        raise ValueError(f"The reward term {name} {found} (K = {positions}), but {expected}.")

    def compare(changed: RewardInputs, expected: Tensor, found: str, promise: str) -> None:
        value = _value(term, changed, fail)
        if not torch.allclose(value.double(), expected.double(), rtol=tolerance, atol=tolerance):
            fail(found, promise)

    value = _value(term, inputs, fail)
    compare(
        inputs,
        value,
        "returned other numbers when asked again",
        "it must be a function of its inputs alone",
    )
    for row in range(len(inputs.slates)):
        at = slice(row, row + 1)
        own: dict[str, Any] = {name: told[at] for name, told in inputs.rows().items()}
        alone = dataclasses.replace(inputs, **own)
        compare(
            alone,
            value[at],
            f"returned another number for row {row} alone than for the batch",
            "a row must depend on that row of the inputs alone",
        )
    others = dataclasses.replace(
        inputs, slates=inputs.slates.where(inputs.shown, (inputs.slates + 7) % len(catalog))
    )
    compare(
        others,
        value,
        "returned another number for another item at a position that is not shown",
        "what is not shown must count for nothing",
    )
    compare(
        dataclasses.replace(inputs, cosines=None),
        value,
        "returned another number without cosines",
        "inputs.cosines is None for large catalogues, and the cosines are those of "
        "inputs.embedding",
    )


def _value(term: Term, inputs: RewardInputs, fail: Callable[[str, str], None]) -> Tensor:
    """Return what a term returns, once it is as promised and nothing else was touched."""
    copies = {
        key: value.clone() for key, value in vars(inputs).items() if isinstance(value, Tensor)
    }
    before, batch = generators(), len(inputs.slates)
    try:
        value = term(inputs)
    except Exception as error:
        without = " without cosines" if inputs.cosines is None else ""
        said = " ".join(str(error).split())[: checks.LONGEST]
        fail(f"raised {type(error).__name__}{without}, {said!r}", "it must answer any slate")
        raise
    if generators() != before:
        fail("drew from a global generator", "it must be a function of its inputs alone")
    for key, copy in copies.items():
        if not torch.equal(getattr(inputs, key).nan_to_num(), copy.nan_to_num()):
            fail(f"wrote into inputs.{key}", "it must leave its inputs as they are")
    if not is_dense(value) or value.is_complex() or value.shape != (batch,):
        fail(
            f"returned {checks.told(value)}",
            f"it must return a tensor of real numbers of shape ({batch},)",
        )
    if not bool(value.isfinite().all()):
        row = int((~value.isfinite()).nonzero()[0])
        fail(f"returned {value[row].item()} in row {row}", "every number must be finite")
    return value
