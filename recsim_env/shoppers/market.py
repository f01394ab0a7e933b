"""A market whose truth is known: closed-form shoppers with long-term dynamics.

At a visit a shopper with interest u (unit vector) looks at position j = 0 .. K-1 with chance e^j
and clicks on item i of category c there with chance

    p = e^j sigmoid(base + interest u . v_i + quality_i - satiation g s_c - fatigue f_i)

Position-based examination: Craswell et al. 2008, "An experimental comparison of click position-bias
models", section 3.2. Then, with w_j = e^j for shown positions and 0 else,

    s_c <- satiation_decay s_c
           + q sum over j of [category c] (satiation_exposure w_j + satiation_click click_j)
    f_i <- fatigue_decay f_i + w_j for the items shown
    u   <- unit(u + drift noise)
    leaves with chance
        sigmoid(leave_base - patience + leave_bored g boredom + leave_unsatisfied [no click])

where boredom is the mean of s_c over the slate as it was met, weighted by w_j. Satiation that
recovers with time: McAlister 1982, "A dynamic attribute satiation model of variety-seeking
behavior", equation 1; as an environment for slates: Ie et al. 2019, "RecSim", section 4. Each
shopper has an own satiation speed q, variety-seeking g, patience and examination depth e, which the
shop does not see. Of the interest it sees what the shopper declared at the first visit, unit(u +
noise), as in a questionnaire at registration.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import MOST_NUMBERS
from recsim_env.noise import normal
from recsim_env.shoppers.base import Description, S, Shopper, counted
from recsim_env.shoppers.profile import EVER, Profile, profile_spaces
from recsim_env.shoppers.worlds import (
    MOST,
    category_centres,
    check_parameters,
    first_interests,
    interest_draws,
    of_kind,
    positions_examined,
    share_moved,
    world_of,
)
from recsim_env.tensors import looked_up
from recsim_env.types import Observation, Response, best_device

_COUNTS = {
    "items": 10**6,
    "categories": 10**6,
    "width": 4096,
    "favourites": 10**6,
}  # from 1 to this
_LENGTHS = ("interest_noise", "declared_noise", "drift", "satiation_exposure", "satiation_click")
_SPREADS = ("quality_spread", "patience_spread", "examination_spread")
_RANGES = {  # of all other numbers: from -MOST to MOST
    **dict.fromkeys(("examination", "satiation_decay", "fatigue_decay"), (0.0, 1.0)),
    **dict.fromkeys((*_LENGTHS, *_SPREADS), (0.0, MOST)),
    **dict.fromkeys(("speed_spread", "variety_spread"), (0.0, 5.0)),  # of logarithms
    "leave_base": (-math.inf, MOST),
}


@dataclass(frozen=True)
class MarketConfig:
    """Every parameter of a market, in log-odds unless another unit is given.

    The dynamics are assumptions, chosen so that boredom decides how long a shopper stays; nothing
    is fitted to data.

    Raises:
        ValueError: If a number is none, or is out of its range.
    """

    items: int = 1000
    """Number of items in the catalogue."""
    categories: int = 20
    """Number of categories, which are of equal size."""
    width: int = 16
    """Number of dimensions of interests and item embeddings."""
    favourites: int = 3
    """Number of categories that a newcomer's interest is made of."""
    base: float = -2.5
    """Log-odds of a click on an examined item that has nothing to do with the shopper's
    interest."""
    interest: float = 3.0
    """Log-odds that a click gains per unit of the cosine between interest and item."""
    interest_noise: float = 0.3
    """Length of the noise that is added to the mixture of a newcomer's favourite categories."""
    declared_noise: float = 0.3
    """Length of the noise in what a newcomer declares of its interest, which has length 1."""
    quality_spread: float = 0.3
    """Standard deviation over items of the log-odds that an item has for every shopper."""
    examination: float = 0.85
    """Probability that the median shopper, having examined a position, examines the next one."""
    satiation: float = 1.0
    """Log-odds that a click of the median shopper loses per unit of satiation with the category."""
    satiation_decay: float = 0.9
    """Share of the satiation that is left at the next visit."""
    satiation_exposure: float = 0.03
    """Satiation with a category that each examined position of it adds, for the median shopper."""
    satiation_click: float = 0.25
    """Satiation with a category that a click in it adds, for the median shopper."""
    fatigue: float = 0.7
    """Log-odds that a click loses per unit of fatigue, which each examination of the item adds."""
    fatigue_decay: float = 0.8
    """Share of the fatigue that is left at the next visit."""
    drift: float = 0.03
    """Standard deviation by which each number of the interest moves between visits."""
    leave_base: float = -6.0
    """Log-odds that the median shopper leaves after a visit; with -inf nobody ever leaves."""
    leave_bored: float = 2.5
    """Log-odds of leaving that a unit of boredom adds, for the median shopper."""
    leave_unsatisfied: float = 3.0
    """Log-odds of leaving that a visit without a click adds."""
    speed_spread: float = 0.5
    """Standard deviation over shoppers of the log of satiation speed. It is an assumption: the data
    show that speeds differ by category, not by shopper."""
    variety_spread: float = 0.85
    """Standard deviation of the log of variety-seeking, which multiplies `satiation` and
    `leave_bored`. Households of the Complete Journey data have repeat rates from under .2 to over
    .8: if those are their 5 % and 95 % points, the log-odds of repeating differ by 2.8 / 3.3 =
    .85."""
    patience_spread: float = 0.6
    """Standard deviation over shoppers of patience. Of the variance of the log gaps between visits,
    32 % lies between households, which is .57 of a standard deviation of about 1."""
    examination_spread: float = 0.5
    """Standard deviation over shoppers of the log-odds of examining the next position. It is an
    assumption: the data hold no positions."""

    def __post_init__(self) -> None:
        check_parameters(self, _COUNTS, _RANGES)
        if self.items * self.width > MOST_NUMBERS:
            most = MOST_NUMBERS // self.items
            raise ValueError(
                f"width is {self.width!r}, but it must be from 1 to {most} with {self.items} items."
            )

    def alike(self) -> MarketConfig:
        """Return the same market with shoppers who all behave as the median one does."""
        return dataclasses.replace(
            self, speed_spread=0.0, variety_spread=0.0, patience_spread=0.0, examination_spread=0.0
        )


MARKET = MarketConfig()
"""Satiation that greed runs into: much to gain from variety."""
MILD = MarketConfig(
    satiation_exposure=0.01,
    satiation_click=0.1,
    leave_base=-4.0,
    leave_bored=1.0,
    leave_unsatisfied=1.0,
)
"""Shoppers who leave for other reasons too: little to gain."""
CONTROL = MarketConfig(
    satiation=0.0,
    satiation_exposure=0.0,
    satiation_click=0.0,
    fatigue=0.0,
    drift=0.0,
    leave_base=-math.inf,
    leave_bored=0.0,
    leave_unsatisfied=0.0,
)
"""Nothing that is shown changes anything later: showing what is most likely to be clicked is
optimal."""


@dataclass
class MarketState:
    """The hidden state of B shoppers.

    Shapes: D interest width, G categories, N items.
    """

    interest: Tensor
    """(B, D) float32 of unit length."""
    declared: Tensor
    """(B, D) float32 of unit length, what the shopper said of its interest before the first
    visit."""
    satiation: Tensor
    """(B, G) float32 >= 0."""
    fatigue: Tensor
    """(B, N) float32 >= 0."""
    speed: Tensor
    """(B,) float32, satiation speed, 1 for the median shopper."""
    variety: Tensor
    """(B,) float32, variety-seeking, 1 for the median shopper."""
    patience: Tensor
    """(B,) float32 log-odds, 0 for the median shopper."""
    examination: Tensor
    """(B,) float32 chance to look one position further."""
    profile: Profile
    """What the shop remembers."""
    day: Tensor
    """(B,) float32, one a visit."""


class ClosedMarket(Shopper[S]):
    """Shoppers of a closed form, whose hidden state holds that of a market; oracles read it."""

    @abstractmethod
    def log_odds(self, state: S, items: Tensor) -> Tensor:
        """Return the log-odds of a click on items (B, P) that are looked at: (B, P) float32."""

    @abstractmethod
    def examined(self, state: S) -> Tensor:
        """Return the chance to look at each position: (B, K) float32, 1 at the top."""

    @abstractmethod
    def market_state(self, state: S) -> MarketState:
        """Return what the shoppers of every market have: interest, satiation and traits."""


class MarketShopper(ClosedMarket[MarketState]):
    """The population of a market.

    They come once a day until they leave. Every item is a candidate at every visit. The observation
    holds the keys of `recsim_env.shoppers.profile.profile_spaces`, and

        declared: (D,) float32 of unit length, what the shopper said of its interest before the
            first visit

    Args:
        device: `cpu` or `cuda`.
        slate_size: K, from 1 to the number of items.
        config: The market's parameters.
        world: The seed of the catalogue and of the items' quality, from 0 to 2**32 - 1: another
            number gives another market.
        never_leave: Whether nobody leaves; see `Shopper.staying`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    tells_leaving = True
    trusted = True

    def __init__(
        self,
        device: torch.device,
        slate_size: int = 10,
        *,
        config: MarketConfig = MARKET,
        world: int = 0,
        never_leave: bool = False,
    ) -> None:
        self.config = of_kind("config", config, MarketConfig)
        self.world = checks.whole("world", world, 0, checks.LARGEST_SEED)
        size = checks.whole("slate_size", slate_size, 1, config.items)
        catalog, quality = world_of(config, self.world)
        super().__init__(
            catalog,
            size,
            device=best_device(device),
            start_draws=interest_draws(config) + 4,
            visit_draws=size + 1 + config.width,
            never_leave=never_leave,
        )
        self.quality = quality.to(self.device)
        self._centres = category_centres(self.catalog)

    # ---- the methods of a shopper ----------------------------------------------------------------

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the spaces of `observe` for one shopper."""
        declared = gymnasium.spaces.Box(-1, 1, (self.config.width,), np.float32)
        return {"declared": declared, **profile_spaces(self.catalog, self.slate_size)}

    def start(self, draws: Tensor) -> MarketState:
        """Make newcomers: an interest in a few categories, and traits of their own."""
        config, batch = self.config, len(draws)
        of_interest, traits = draws.split([interest_draws(config), 4], dim=1)
        interest, declared = first_interests(config, self._centres, of_interest)
        trait = normal(traits)
        zeros = functools.partial(torch.zeros, dtype=torch.float32, device=self.device)
        return MarketState(
            interest=interest,
            declared=declared,
            satiation=zeros(batch, config.categories),
            fatigue=zeros(batch, config.items),
            speed=torch.exp(config.speed_spread * trait[:, 0]),
            variety=torch.exp(config.variety_spread * trait[:, 1]),
            patience=config.patience_spread * trait[:, 2],
            examination=share_moved(config.examination, config.examination_spread * trait[:, 3]),
            profile=Profile.empty(batch, self.catalog, self.slate_size, self.device),
            day=zeros(batch),
        )

    def on_offer(self, state: MarketState, items: Tensor) -> Tensor:
        """Tell that every item may be shown."""
        return items >= 0

    def observe(self, state: MarketState) -> Observation:
        """Return what the shopper declared, and what the shop remembers of slates and responses."""
        return {"declared": state.declared.clone(), **state.profile.observe()}

    def respond(self, state: MarketState, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        """Click, tire, drift, and come back tomorrow or never, as the module says."""
        sizes = [self.slate_size, 1, self.config.width]
        click_draw, leave_draw, drift_draw = draws.split(sizes, dim=1)
        looks = self.examined(state) * shown
        probability = looks * torch.sigmoid(self.log_odds(state, slates))
        clicks = click_draw < probability
        leaving = self.move_on(state, slates, shown, looks, clicks, drift_draw)
        left = (leave_draw.squeeze(1) < leaving) & (not self.never_leave)
        one, none = torch.ones_like(state.day), torch.zeros_like(state.day)
        return Response(clicks, probability, left, days=one, elsewhere=none, leaving=leaving)

    def move_on(
        self,
        state: MarketState,
        slates: Tensor,
        shown: Tensor,
        looks: Tensor,
        clicks: Tensor,
        draws: Tensor,
    ) -> Tensor:
        """Tire, drift and be remembered after a visit; also for shoppers who click in other ways.

        Args:
            state: The hidden state, which is moved to the next visit.
            slates: (B, K) int64.
            shown: (B, K) bool.
            looks: (B, K) float32, the chance that each position was looked at.
            clicks: (B, K) bool.
            draws: (B, D) float32, uniform in [0, 1), of the drift.

        Returns:
            The chance to leave after the visit: (B,) float32.
        """
        leaving = self.leaving(state, *self.boredom(state, slates, looks), clicks.any(dim=1))
        self.tire(state, slates, looks, clicks)
        state.interest = self.drifted(state, draws)
        state.profile.record(slates, shown, clicks, self.catalog.category, self.catalog.embedding)
        state.day = state.day + 1
        return leaving

    def describe(self, state: MarketState, row: int) -> Description:
        """Tell the clicks in each category so far; hidden: the traits and the satiation."""
        traits = ("speed", "variety", "patience", "examination")
        clicks, satiation = state.profile.clicked[row, :, EVER], state.satiation[row]
        names = self.catalog.categories
        most = clicks.argsort(descending=True, stable=True)[:8].tolist()
        sated = [
            c
            for c in satiation.argsort(descending=True, stable=True)[:8].tolist()
            if satiation[c] > 0
        ]
        return {
            "date": f"visit {int(state.day[row]) + 1}",
            "store": "market",
            "history": [
                f"{counted(int(clicks[c]), 'click')} · {names[c]}" for c in most if clicks[c] > 0
            ],
            "hidden": [
                ", ".join(f"{name} {float(getattr(state, name)[row]):.2f}" for name in traits),
                *(f"satiation {float(satiation[c]):.1f} with {names[c]}" for c in sated),
            ],
        }

    # ---- the truth, for oracles ------------------------------------------------------------------

    def log_odds(self, state: MarketState, items: Tensor, interest: Tensor | None = None) -> Tensor:
        """Return the log-odds of a click on items (B, P) that are looked at: (B, P) float32.

        Args:
            state: The hidden state.
            items: (B, P) int64.
            interest: (B, D) what moves the shopper now; None means `state.interest`.
        """
        config = self.config
        moved = state.interest if interest is None else interest
        vectors = looked_up(self.catalog.embedding, items)
        liked = torch.bmm(vectors, moved.unsqueeze(2)).squeeze(2)
        sated = state.satiation.gather(
            1, looked_up(self.catalog.category, items)
        ) * state.variety.unsqueeze(1)
        tired = state.fatigue.gather(1, items)
        fixed = config.base + config.interest * liked + looked_up(self.quality, items)
        return fixed - config.satiation * sated - config.fatigue * tired

    def examined(self, state: MarketState) -> Tensor:
        """Return the chance to look at each position: (B, K) float32, 1 at the top."""
        return positions_examined(state.examination, self.slate_size)

    def market_state(self, state: MarketState) -> MarketState:
        """Return the state itself."""
        return state

    # ---- parts of a visit, of which other shoppers are made too ----------------------------------

    def boredom(self, state: MarketState, slates: Tensor, looks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the satiation that a slate was met with, and the looks that met it: (B,) each.

        Args:
            state: The hidden state.
            slates: (B, K) int64.
            looks: (B, K) float32, the chance that each position is looked at.
        """
        sated = state.satiation.gather(1, looked_up(self.catalog.category, slates))
        return (looks * sated).sum(dim=1), looks.sum(dim=1)

    def leaving(self, state: MarketState, sated: Tensor, looks: Tensor, clicked: Tensor) -> Tensor:
        """Return the chance to leave after a visit: (B,) float32.

        Args:
            state: The hidden state.
            sated: (B,) float32 of `boredom`, of the whole visit.
            looks: (B,) float32 of `boredom`, of the whole visit.
            clicked: (B,) bool, whether anything was clicked in the visit.
        """
        config = self.config
        boredom = sated / looks.clamp(min=1e-6) * state.variety
        return torch.sigmoid(
            config.leave_base
            - state.patience
            + config.leave_bored * boredom
            + config.leave_unsatisfied * (~clicked).float()
        )

    def tire(
        self,
        state: MarketState,
        slates: Tensor,
        looks: Tensor,
        clicks: Tensor,
        begins: Tensor | None = None,
    ) -> None:
        """Add a slate to satiation and fatigue, in place.

        Args:
            state: The hidden state.
            slates: (B, K) int64.
            looks: (B, K) float32, the chance that each position is looked at.
            clicks: (B, K) bool.
            begins: (B,) bool, whether the slate is the first of a visit, so that some of what was
                left is gone; None means that every one is.
        """
        config, category = self.config, looked_up(self.catalog.category, slates)
        kept: list[Any] = [config.satiation_decay, config.fatigue_decay]
        if begins is not None:
            one = torch.ones_like(state.speed)
            kept = [torch.where(begins, share * one, one).unsqueeze(1) for share in kept]
        gained = config.satiation_exposure * looks + config.satiation_click * clicks.to(looks.dtype)
        state.satiation = (kept[0] * state.satiation).scatter_add(
            1, category, gained * state.speed.unsqueeze(1)
        )
        state.fatigue.mul_(kept[1]).scatter_add_(1, slates, looks)

    def drifted(self, state: MarketState, draws: Tensor) -> Tensor:
        """Return the interest (B, D) at the next visit, from uniform numbers (B, D)."""
        return torch.nn.functional.normalize(
            state.interest + self.config.drift * normal(draws), dim=1
        )
