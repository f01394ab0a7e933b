"""Explanations of the responses to a slate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.explaining.case import Case
from recsim_env.explaining.explanation import Cause, Explanation
from recsim_env.explaining.kind import KINDS, NOTHING, Kind
from recsim_env.shoppers.base import Shopper, name_of
from recsim_env.shoppers.outside import OutsideShopper
from recsim_env.simulator import SlateSimulator

TOGETHER = 512
"""Counterfactual shoppers who are asked together: a household takes 0.2 megabytes."""


@torch.no_grad()
def explain(
    simulator: SlateSimulator, slates: Tensor, *, kinds: Sequence[str] | None = None
) -> Explanation:
    """Tell what moves each response to slates that are about to be shown.

    For every cause the shoppers are asked once more as if it were not there, with the same draws.
    The simulator stays as it is: the slates can then be shown by `SlateSimulator.step`, and what is
    told here happens. An observation cannot be explained without its simulator, because it holds
    nothing of what shoppers hide.

    Args:
        simulator: A simulator that was reset; of a Gymnasium environment `env.unwrapped.simulator`.
        slates: (B, K) int64, top position first, or (B, K + 1) of bundles.
        kinds: Names of `KINDS`; None means all that these shoppers have. A kind that they do not
            have is an error where it is named.

    Raises:
        ResetNeeded: Before `reset`, or if the episode of a row is over.
        TypeError: If `simulator` is none, or `slates` has the wrong type.
        ValueError: If `slates` cannot be shown, if `kinds` names what is no kind of cause, what
            these shoppers do not have or what cannot be told at this visit, or if the shoppers are
            those of somebody else's environment, whose state cannot be copied.
    """
    case = _case(simulator, slates)
    everyone = torch.arange(len(case.question.slates), device=simulator.device)
    probability, clicks = case.world(everyone).answer()

    # every cause, kind by kind
    rows, causes, names, about, speaks, notes = [], [], [], [], [], []
    chances, answers = [], []
    for name in _chosen(case, kinds):
        kind = KINDS[name]
        if why := kind.missing(case):
            notes.append(why)
            continue
        found = kind.find(case)
        if len(found.rows) == 0:
            continue
        for some, keys in zip(found.rows.split(TOGETHER), found.keys.split(TOGETHER), strict=True):
            world = case.world(some)
            kind.remove(world, keys)
            chance, answer = world.answer()
            chances.append(chance)
            answers.append(answer)
        rows.append(found.rows)
        speaks.append(kind.speaks(case, found) & case.question.shown[found.rows])
        for row, key in found.listed():
            item = kind.item(case, row, key)
            causes.append(Cause(name, key))
            names.append(kind.tell(case, row, key))
            about.append("" if item == NOTHING else case.title(item))

    # shopper after shopper
    size = case.question.slates.shape[1]
    whose = torch.cat([everyone[:0], *rows])
    order = whose.argsort(stable=True)

    def sorted_rows(parts: list[Tensor], empty: Tensor) -> Tensor:
        return torch.cat([empty[:0], *parts])[order]

    def sorted_words(words: list[Any]) -> tuple[Any, ...]:
        return tuple(words[at] for at in order.tolist())

    return Explanation(
        case.question.slates.clone(),
        case.question.shown.clone(),
        probability,
        clicks,
        whose[order],
        sorted_words(causes),
        sorted_rows(chances, probability.new_zeros(0, size)),
        sorted_rows(answers, clicks[:0]),
        sorted_rows(speaks, clicks[:0]),
        sorted_words(names),
        sorted_words(about),
        tuple(tuple(map(case.title, items)) for items in case.question.slates.tolist()),
        tuple(notes),
    )


@torch.no_grad()
def without(
    simulator: SlateSimulator, slates: Tensor, causes: Sequence[Sequence[Cause]]
) -> tuple[Tensor, Tensor]:
    """Ask what the responses to slates would be without several causes at once.

    Args:
        simulator: As for `explain`.
        slates: As for `explain`.
        causes: (B,) of any number, those of `Explanation.causes` that are taken out for each
            shopper.

    Returns:
        The chance of each response without them, (B, K) float32, and the responses under the same
        noise, (B, K) bool.

    Raises:
        ResetNeeded: As `explain`.
        TypeError: As `explain`, or if `causes` holds anything but causes.
        ValueError: As `explain`, if `causes` has not one list for each shopper, or if a shopper has
            no such cause.
    """
    case = _case(simulator, slates)
    batch = len(case.question.slates)
    asked = [
        checks.several(f"causes[{row}]", some)
        for row, some in enumerate(checks.several("causes", causes))
    ]
    if len(asked) != batch:
        raise ValueError(
            f"causes has {len(asked)} lists, but it must have {batch}, one for each shopper."
        )
    for row, some in enumerate(asked):
        for at, cause in enumerate(some):
            checks.instance(f"causes[{row}][{at}]", cause, Cause)
    kinds = _chosen(case, sorted({cause.kind for some in asked for cause in some}))
    there = {
        (row, Cause(name, key)) for name in kinds for row, key in KINDS[name].find(case).listed()
    }
    for row, cause in [(row, cause) for row, some in enumerate(asked) for cause in some]:
        if (row, cause) not in there:
            raise ValueError(
                f"causes[{row}] holds {cause!r}, but that shopper has no such cause: `explain` "
                "tells which there are."
            )

    # One cause of each shopper after the other, kind by kind.
    world = case.world(torch.arange(batch, device=simulator.device))
    for name in kinds:
        keys = [[cause.key for cause in some if cause.kind == name] for some in asked]
        for place in range(max(map(len, keys))):
            taken = [some[place] if place < len(some) else NOTHING for some in keys]
            KINDS[name].remove(world, torch.tensor(taken, device=simulator.device))
    return world.answer()


def _case(simulator: SlateSimulator, slates: Tensor) -> Case:
    """Check the arguments, and return the visit."""
    checks.instance("simulator", simulator, SlateSimulator)
    simulator.check(slates)
    if isinstance(simulator.shopper, OutsideShopper):
        raise ValueError(
            "simulator has the shoppers of somebody else's environment, but only shoppers whose "
            "state can be copied can be explained."
        )
    return Case(simulator, simulator.question(slates))


def _chosen(case: Case, kinds: Sequence[str] | None) -> list[str]:
    """Return the names of the kinds that are looked for, in the order of the registry.

    Raises:
        ValueError: If one is unknown, or cannot be told here.
    """
    known = kinds_of(case.shopper)
    if kinds is None:
        return known
    for at, name in enumerate(checks.several("kinds", kinds)):
        kind: Kind = KINDS.find(f"kinds[{at}]", name)
        if name not in known:
            raise ValueError(
                f"kinds[{at}] is {name!r}, but {name_of(case.shopper)} has no such causes: it has "
                f"{known}."
            )
        if why := kind.missing(case):
            raise ValueError(f"kinds[{at}] is {name!r}, but {why}")
    return [name for name in known if name in kinds]


def kinds_of(shopper: Shopper[Any]) -> list[str]:
    """Return the names of the kinds of causes that shoppers can be moved by."""
    return [name for name, kind in KINDS.items() if kind.has(shopper)]
