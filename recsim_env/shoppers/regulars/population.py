"""The regular customers of a market at work."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env import checks, trees
from recsim_env.shoppers import cold
from recsim_env.shoppers.base import Description, Past, Shopper, counted
from recsim_env.shoppers.profile import EVER, profile_spaces
from recsim_env.shoppers.regulars.behaviour import Behaviour, RegularsState
from recsim_env.shoppers.regulars.config import REGULARS, RegularsConfig
from recsim_env.shoppers.regulars.history import known_regulars, registered_regulars
from recsim_env.shoppers.regulars.traits import TRAITS
from recsim_env.shoppers.worlds import of_kind, world_of
from recsim_env.types import Observation, Response, best_device
from recsim_env.waiting import waiting

POPULATIONS = ("train", "evaluation")
"""The shoppers that agents learn with, three in four, and the others, who judge them."""
REMEMBERED = 100
"""Visits before an episode that the shop can tell of."""


class RegularsShopper(Shopper[RegularsState]):
    """The regular customers of a market, see `recsim_env.shoppers.regulars.behaviour`.

    Every episode begins with one of the regulars whom the shop knows, as `history` left them: what
    the shop remembers of them is there at the first visit. They come every few days until they
    leave. Every item is a candidate at every visit. The observation holds the keys of
    `recsim_env.shoppers.profile.profile_spaces`, and

        declared: (D,) float32 of unit length, what the shopper said of its interest at
            registration, before all of its visits

    A newcomer (`SlateSimulator`'s `newcomers`) is one of the regulars on the day of its
    registration: the same traits, the interest that it had then, and no visit behind it.

    Args:
        device: `cpu` or `cuda`.
        slate_size: K, from 1 to the number of items.
        config: The market's parameters.
        world: The seed of the catalogue, of the items' quality and of the regulars, from 0 to
            2**32 - 1.
        population: `train`, `evaluation`, or None for all regulars.
        new_items: The share of items, from 0 to 1, that came after all histories: nobody saw them
            before an episode. How they are liked is as for any other item.
        never_leave: Whether nobody leaves; see `Shopper.staying`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    tells_leaving = True
    serves_newcomers = True
    trusted = True

    def __init__(
        self,
        device: torch.device,
        slate_size: int = 10,
        *,
        config: RegularsConfig = REGULARS,
        world: int = 0,
        population: str | None = None,
        new_items: float = 0.0,
        never_leave: bool = False,
    ) -> None:
        self.config = of_kind("config", config, RegularsConfig)
        self.world = checks.whole("world", world, 0, checks.LARGEST_SEED)
        size = checks.whole("slate_size", slate_size, 1, config.items)
        if population is not None:
            checks.choice("population", population, POPULATIONS)
        of_items = cold.share("new_items", new_items)
        catalog, quality = world_of(config, self.world)
        super().__init__(
            catalog,
            size,
            device=best_device(device),
            start_draws=1,
            visit_draws=size + config.width + 2,
            never_leave=never_leave,
        )
        self._behaviour = Behaviour(config, self.catalog, quality, size)
        with waiting("playing the histories of the regulars"):
            known = known_regulars(config, self.world, size, REMEMBERED, of_items)
        new = cold.new_items(config.items, of_items, self.world)
        self.new_items = None if new is None else new.to(self.device)
        first = config.known * 3 // 4
        low = first if population == "evaluation" else 0
        high = first if population == "train" else config.known
        rows = torch.arange(low, high)
        self._known: RegularsState = trees.moved(trees.pick(known.state, rows), self.device)
        self._past = trees.moved(trees.pick(known.past, rows), self.device)
        self._first, self._rows = low, rows
        self._registered: RegularsState | None = None  # made when the first newcomer comes

    # ---- the methods of a shopper ----

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the spaces of `observe` for one shopper."""
        declared = gymnasium.spaces.Box(-1, 1, (self.config.width,), np.float32)
        return {"declared": declared, **profile_spaces(self.catalog, self.slate_size)}

    def start(self, draws: Tensor) -> RegularsState:
        """Take one of the regulars, as its history left it."""
        return trees.pick(self._known, self._chosen(draws))

    def start_new(self, draws: Tensor) -> RegularsState:
        """Take one of the regulars, as it was when it registered."""
        if self._registered is None:
            everyone = registered_regulars(self._behaviour, self.world)
            self._registered = trees.pick(everyone, self._rows.to(self.device))
        return trees.pick(self._registered, self._chosen(draws))

    def _chosen(self, draws: Tensor) -> Tensor:
        count = len(self._known.who)
        return (draws[:, 0] * count).long().clamp(max=count - 1)

    def past(self, state: RegularsState, visits: int) -> Past:
        """Tell the last visits before the episode, newest first."""
        rows = state.who - self._first
        found = trees.pick(self._past, rows)
        return Past(found.slates[:, :visits], found.clicks[:, :visits], found.days[:, :visits])

    def on_offer(self, state: RegularsState, items: Tensor) -> Tensor:
        """Tell that every item may be shown."""
        return items >= 0

    def observe(self, state: RegularsState) -> Observation:
        """Return what the shopper declared, and what the shop remembers of slates and responses."""
        return {"declared": state.declared.clone(), **state.profile.observe()}

    def respond(
        self, state: RegularsState, slates: Tensor, shown: Tensor, draws: Tensor
    ) -> Response:
        """Click, and come back some days later or never, as `behaviour` says."""
        of_visit, leave = draws.split([self._behaviour.draws, 1], dim=1)
        visit = self._behaviour.visit(state, slates, shown, of_visit)
        left = (leave.squeeze(1) < visit.leaving) & (not self.never_leave)
        none = torch.zeros_like(visit.days)
        return Response(
            visit.clicks,
            visit.probability,
            left,
            days=visit.days,
            elsewhere=none,
            leaving=visit.leaving,
        )

    def describe(self, state: RegularsState, row: int) -> Description:
        """Tell the clicks in each category so far; hidden: traits, satisfaction and satiation."""
        names, profile = self.catalog.categories, state.profile
        clicks, sated = profile.clicked[row, :, EVER], state.sated[row]
        most = clicks.argsort(descending=True, stable=True)[:8].tolist()
        met = sated.argsort(descending=True, stable=True)[:8].tolist()
        traits = vars(state.traits)
        return {
            "date": f"day {int(state.day[row]) + 1}, visit {int(profile.visits[row]) + 1}",
            "store": "market",
            "history": [
                f"{counted(int(clicks[c]), 'click')} · {names[c]}" for c in most if clicks[c] > 0
            ],
            "hidden": [
                ", ".join(f"{name} {float(traits[name][row]):.2f}" for name in TRAITS),
                f"satisfaction {float(state.satisfaction[row]):.2f}",
                *(f"satiation {float(sated[c]):.1f} with {names[c]}" for c in met if sated[c] > 0),
            ],
        }

    # ---- the truth, for oracles ----

    def log_odds(self, state: RegularsState, items: Tensor) -> Tensor:
        """Return the log-odds of a click on items (B, P) that are looked at: (B, P) float32."""
        return self._behaviour.log_odds(state, items)

    def log_odds_of_all(self, state: RegularsState) -> Tensor:
        """Return those of the whole catalogue: (B, N) float32."""
        return self._behaviour.log_odds_of_all(state)

    def examined(self, state: RegularsState) -> Tensor:
        """Return the chance to look at each position: (B, K) float32, 1 at the top."""
        return self._behaviour.examined(state)


def make_regulars(
    device: torch.device,
    slate_size: int = 10,
    *,
    config: RegularsConfig = REGULARS,
    world: int = 0,
    alike: bool = False,
    population: str | None = None,
    new_items: float = 0.0,
) -> RegularsShopper:
    """Make the regular customers of a market.

    Args:
        device: `cpu` or `cuda`.
        slate_size: K, from 1 to the number of items.
        config: The market's parameters.
        world: The seed of its catalogue and of its regulars.
        alike: Whether every shopper is as the median one; by default they differ in their traits.
        population: `train`, the three in four that agents learn with, `evaluation`, the others, or
            None for all of them.
        new_items: The share of items, from 0 to 1, that nobody saw before an episode.

    Raises:
        ValueError: If an argument is out of its range, `alike` no flag, or a slate is larger than
            the catalogue.
    """
    of_kind("config", config, RegularsConfig)
    config = config.alike() if checks.flag("alike", alike) else config
    return RegularsShopper(
        device,
        slate_size,
        config=config,
        world=world,
        population=population,
        new_items=new_items,
    )
