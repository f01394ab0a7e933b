"""What regular customers do at a visit, and what it does to them.

A shopper with interest u (unit vector) looks at position j = 0 .. K-1 with chance e^j, and clicks
there on item i of category c with chance

    p = e^j sigmoid(base + interest u . v_i + quality_i
                    + habit_click h k_c - sated s_c - fatigue f_i),   k_c = 1 - exp(-m_c)

where h is the shopper's habit, of either sign, m_c remembers its clicks in the category, and k_c
says how familiar that is. State dependence that is inertia for one shopper and variety-seeking for
another: Bawa 1990, "Modeling inertia and variety seeking tendencies in brand choice behavior".
Then, with w_j = e^j for shown positions and 0 else, and d days until the next visit,

    s_c <- 2^(-d / recovery) (s_c + speed sum over j of [category c]
                              (sated_exposure w_j + sated_click click_j))
    m_c <- familiar_decay m_c + clicks in c
    f_i <- fatigue_decay f_i + w_j for the items shown
    u   <- unit(u + drift noise)
    S   <- memory S + (1 - memory) ([any click] + habit_pleased h (F - 1/2))
    leaves with chance sigmoid(leave_base - patience - leave_satisfied S)

where F is the mean of k_c over the slate as it was met, weighted by w_j. A need that was met and
recovers: McAlister 1982, "A dynamic attribute satiation model of variety-seeking behavior",
equation 1. Satisfaction that the next slate adds to, and that decides who stays: as in Ie et al.
2019, "RecSim", section 4 (its long-term satisfaction).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.noise import normal
from recsim_env.shoppers.profile import Profile
from recsim_env.shoppers.regulars.config import RegularsConfig
from recsim_env.shoppers.regulars.traits import Traits
from recsim_env.shoppers.worlds import positions_examined
from recsim_env.tensors import looked_up


@dataclass
class RegularsState:
    """The hidden state of B shoppers.

    Shapes: D interest width, G categories, N items.
    """

    who: Tensor
    """(B,) int64, which of the regulars that the shop knows."""
    traits: Traits
    """What the shopper keeps for good."""
    interest: Tensor
    """(B, D) float32 of unit length."""
    declared: Tensor
    """(B, D) float32 of unit length, what the shopper said of its interest at registration."""
    clicked: Tensor
    """(B, G) float32 >= 0, remembered clicks in each category."""
    sated: Tensor
    """(B, G) float32 >= 0, satiation."""
    fatigue: Tensor
    """(B, N) float32 >= 0."""
    satisfaction: Tensor
    """(B,) float32, 0 is neither pleased nor displeased."""
    profile: Profile
    """What the shop remembers."""
    day: Tensor
    """(B,) float32, days since the episode began."""


@dataclass
class Visit:
    """What came of a visit of B shoppers to K positions."""

    clicks: Tensor
    """(B, K) bool."""
    probability: Tensor
    """(B, K) float32, the chance of each click."""
    leaving: Tensor
    """(B,) float32, the chance to leave after the visit."""
    days: Tensor
    """(B,) float32, days until the next visit, 1 or more."""


class Behaviour:
    """The closed form: see the module.

    Args:
        config: The parameters.
        catalog: The items.
        quality: (N,) float32 log-odds that an item has for every shopper.
        slate_size: K.
    """

    def __init__(
        self, config: RegularsConfig, catalog: Catalog, quality: Tensor, slate_size: int
    ) -> None:
        self.config, self.catalog, self.slate_size = config, catalog, slate_size
        self.quality = quality.to(catalog.device)
        self.draws = slate_size + config.width + 1
        """Uniform numbers that a visit takes."""

    def log_odds(self, state: RegularsState, items: Tensor) -> Tensor:
        """Return the log-odds of a click on items (B, P) that are looked at: (B, P) float32."""
        config, category = self.config, looked_up(self.catalog.category, items)
        vectors = looked_up(self.catalog.embedding, items)
        liked = torch.bmm(vectors, state.interest.unsqueeze(2)).squeeze(2)
        fixed = config.base + config.interest * liked + looked_up(self.quality, items)
        needs = self._needs(state).gather(1, category)
        return fixed + needs - config.fatigue * state.fatigue.gather(1, items)

    def log_odds_of_all(self, state: RegularsState) -> Tensor:
        """Return those of the whole catalogue, (B, N), in a fraction of the time."""
        config = self.config
        liked = state.interest @ self.catalog.embedding.T
        fixed = config.base + config.interest * liked + self.quality
        needs = self._needs(state).index_select(1, self.catalog.category)
        return fixed + needs - config.fatigue * state.fatigue

    def _needs(self, state: RegularsState) -> Tensor:
        """Return what the state of each category adds to the log-odds of a click: (B, G)."""
        wanted = self.config.habit_click * state.traits.habit.unsqueeze(1) * self.familiar(state)
        return wanted - self.config.sated * state.sated

    def familiar(self, state: RegularsState) -> Tensor:
        """Return how familiar each category is: (B, G) float32 from 0 to 1."""
        return -torch.expm1(-state.clicked)

    def examined(self, state: RegularsState) -> Tensor:
        """Return the chance to look at each position: (B, K) float32, 1 at the top."""
        return positions_examined(state.traits.examination, self.slate_size)

    def visit(self, state: RegularsState, slates: Tensor, shown: Tensor, draws: Tensor) -> Visit:
        """Click, be pleased or not, and move `state` in place to the next visit.

        Args:
            state: The hidden state.
            slates: (B, K) int64 items.
            shown: (B, K) bool.
            draws: (B, `draws`) float32, uniform in [0, 1).
        """
        config, category = self.config, looked_up(self.catalog.category, slates)
        click_draw, drift_draw, gap_draw = draws.split([self.slate_size, config.width, 1], dim=1)
        looks = self.examined(state) * shown
        probability = looks * torch.sigmoid(self.log_odds(state, slates))
        clicks = click_draw < probability

        # pleased by a click, and by what is familiar or new
        met = self.familiar(state).gather(1, category)
        known = (looks * met).sum(dim=1) / looks.sum(dim=1).clamp(min=1e-6)
        pleased = config.habit_pleased * state.traits.habit * (known - 0.5) * shown.any(dim=1)
        memory = state.traits.memory
        pleasure = clicks.any(dim=1).to(pleased.dtype) + pleased
        state.satisfaction.mul_(memory).add_((1 - memory) * pleasure)
        leaving = torch.sigmoid(
            config.leave_base - state.traits.patience - config.leave_satisfied * state.satisfaction
        )

        # needs that were met, and recover until the next visit
        mean = state.traits.rhythm - 0.5  # of whole days, rounded up
        days = torch.ceil(-mean * torch.log1p(-gap_draw.squeeze(1))).clamp(min=1)
        gained = config.sated_exposure * looks + config.sated_click * clicks.to(looks.dtype)
        left = torch.exp2(-days / state.traits.recovery).unsqueeze(1)
        state.sated.scatter_add_(1, category, gained * state.traits.speed.unsqueeze(1)).mul_(left)
        clicked = clicks.to(looks.dtype)
        state.clicked.mul_(config.familiar_decay).scatter_add_(1, category, clicked)
        state.fatigue.mul_(config.fatigue_decay).scatter_add_(1, slates, looks)
        drifted = state.interest + config.drift * normal(drift_draw)
        state.interest.copy_(torch.nn.functional.normalize(drifted, dim=1))
        state.profile.record(slates, shown, clicks, self.catalog.category, self.catalog.embedding)
        state.day += days
        return Visit(clicks, probability, leaving, days)
