"""The slates of several policies for one shopper at one visit, side by side.

The shopper is *bored*: for some visits greedy CTR showed more and more of the same. Chosen is the
one of many who saw most of one category lately, as the shop's own counters say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from benchmarks.lab.plots import INK
from recsim_env import rendering
from recsim_env.rollout import draws_for
from recsim_env.shoppers.profile import LATELY
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy

VISITS = 8
"""Number of visits before, in which greedy CTR bores the shoppers."""


@dataclass(frozen=True)
class Served:
    """What a policy shows at the visit, and what comes of it."""

    scene: rendering.Scene
    """The visit as it is drawn."""
    items: list[str]
    """Category and title of each item, top position first."""
    clicks: float
    """Expected number of clicks."""
    categories: int
    """Number of different categories."""
    tired: int
    """Number of items of the category that the shopper saw most of lately."""
    leaving: float | None
    """Chance to leave after the visit, where the shoppers tell it."""


@dataclass(frozen=True)
class Visit:
    """One visit of a bored shopper, served by several policies."""

    category: str
    """The category that the shopper saw most of lately."""
    served: Mapping[str, Served]
    """What each policy shows, by its name."""


@torch.no_grad()
def bored_visit(
    simulator: SlateSimulator,
    greedy: Policy,
    policies: Mapping[str, Policy],
    seeds: Tensor,
) -> Visit:
    """Let greedy CTR serve shoppers for some visits, and then every policy the most bored one.

    Args:
        simulator: The shoppers, whose observation has `category_shown`; it is reset.
        greedy: The policy that bores them.
        policies: The policies that are compared, by name.
        seeds: (B,) int64, the shoppers to choose from.
    """
    staying = simulator.shopper.tells_leaving
    observation = simulator.reset(seeds.to(simulator.device), staying=staying)
    for _ in range(VISITS):
        simulator.advance(_slates(greedy, simulator, observation))
        observation = simulator.observe()
    shown = observation["category_shown"][:, :, LATELY]
    row, group = divmod(int(shown.argmax()), shown.shape[1])
    served = {
        name: _serve(simulator, observation, policy, row, group)
        for name, policy in policies.items()
    }
    return Visit(_last(simulator.catalog.categories[group]), served)


def _slates(policy: Policy, simulator: SlateSimulator, observation: Observation) -> Tensor:
    at = simulator.episodes
    return policy(observation, draws_for(policy, at.seed, at.visit, at.number))


def _serve(
    simulator: SlateSimulator, observation: Observation, policy: Policy, row: int, group: int
) -> Served:
    """Play the visit with a policy, and put the shoppers back to before it."""
    state, catalog = simulator.state(), simulator.catalog
    slates = _slates(policy, simulator, observation)
    before = rendering.arrival(simulator, row, hidden=True)
    outcome = simulator.advance(slates)
    scene = rendering.visit(simulator, row, before, slates, outcome)
    simulator.restore(state)
    items = slates[row].tolist()
    groups = [int(catalog.category[item]) for item in items]
    leaving = outcome.response.leaving
    return Served(
        scene,
        [
            f"{_last(catalog.categories[at])} · {catalog.text[item].partition(';')[0]}"
            for at, item in zip(groups, items, strict=True)
        ],
        float(outcome.response.probability[row].sum()),
        len(set(groups)),
        groups.count(group),
        None if leaving is None else float(leaving[row]),
    )


def _last(path: str) -> str:
    """The last part of the path of a category."""
    return path.rpartition("/")[2]


def as_table(visit: Visit) -> Table:
    """The slates as a table for a terminal, a column for each policy."""
    table = Table(
        title=f"One shopper who saw a lot of {visit.category!r} lately", title_justify="left"
    )
    table.add_column("position", justify="right")
    for name in visit.served:
        table.add_column(name)
    served = list(visit.served.values())
    for position, items in enumerate(zip(*(one.items for one in served), strict=True), 1):
        table.add_row(str(position), *items)
    table.add_section()
    table.add_row(
        "", *(f"{one.tired} of {visit.category!r}, {one.categories} categories" for one in served)
    )
    table.add_row("", *(f"{one.clicks:.2f} clicks expected" for one in served))
    if all(one.leaving is not None for one in served):
        table.add_row("", *(f"{one.leaving:.1%} leave after it" for one in served))
    return table


def as_figure(visit: Visit) -> Figure:
    """The slates as pictures, one policy beside the other."""
    pictures = {name: rendering.as_picture(one.scene) for name, one in visit.served.items()}
    height, width = next(iter(pictures.values())).shape[:2]
    figure = Figure(figsize=(7.5 * len(pictures), 7.5 * height / width + 0.5), layout="constrained")
    row = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axes, (name, picture) in zip(row, pictures.items(), strict=True):
        axes.imshow(picture)
        axes.set_title(name, color=INK, fontsize=15)
        axes.axis("off")
    return figure
