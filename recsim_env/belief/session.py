"""The belief that a session model gives: a posterior of each shopper's temperament.

The model is that of `recsim_env.shoppers.session.model`. Its encoder, its counters and its Gaussian
of the interest are functions of what was shown and clicked, so a shop can run them for every
shopper. Hidden is the temperament
a, which is normal over shoppers. The belief holds it as particles: points a_s that are the same for
all shoppers and cover the fitted normal evenly, with weights of each shopper's own (importance
sampling from the prior; Robert & Casella 2004, "Monte Carlo statistical methods", section 3.3),

    w_s is proportional to the product over visits of P(clicks | a_s) (1 - P(leaves | a_s)),

for who is seen again has not left. The days between two visits say nothing of the temperament. The
chance of a click is the mean over particles and moods, and goes back to log-odds:

    belief(i) = logit sum_s w_s sum_z P(z) sigmoid(x_i + keen_s - weariness_i(a_s) + mood z)

with x_i the part of the log-odds that temperaments share (`SessionBelief._of_catalog` says how this
is computed for a whole catalogue).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env import checks
from recsim_env.belief.base import Belief, SeenVisit
from recsim_env.catalog import Catalog
from recsim_env.noise import normal
from recsim_env.shop_file import SESSION
from recsim_env.shoppers.base import Past
from recsim_env.shoppers.encoder import Cache
from recsim_env.shoppers.session.heads import (
    KEEN,
    MAX_LOG_FACTOR,
    OF_CATEGORIES,
    OF_CATEGORY,
    OF_ITEM,
    OF_ITEMS,
    TEMPERAMENT,
)
from recsim_env.shoppers.session.interest import Interest
from recsim_env.shoppers.session.likelihood import CLICK_EDGE, MOOD_CHANCES, MOODS
from recsim_env.shoppers.session.memory import (
    ALL_DECAYS,
    CATEGORY_COUNTERS,
    SessionMemory,
)
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.weights import load_model, member_folders
from recsim_env.tensors import constant, filled_up, numbered, shared
from recsim_env.types import Observation

PARTICLES = 32
"""Number of temperaments. On held-out visits of a market, 24 to 128 predict clicks equally well, to
.0001 nats a shown item, and equal weights worse by .005; a second and third model would gain .0001,
so that one is enough."""
PAST_VISITS = 16
"""Most visits before an episode that are followed, each of which costs an update. Of 384 regulars
of `MarketRegulars-v0`, the ten best items by a belief fitted to 20,000 slates were clicked with a
mean chance of .305 at a first visit of which nothing before was known, .323 with 8 visits, .327
with 16, and .330 with 64."""
FEWEST = 0.5
"""Share of the particles that the weights must be worth, as an effective sample size; below it the
particles of that shopper are spread anew."""
LEAST_VARIANCE = 1e-3
"""Share of the variance over shoppers that particles are spread over at least."""
NEAR = 0.002
"""Largest difference of a number of two embeddings of the same catalogue: files hold half the
digits."""
NODES = (1.0, 0.5, -0.5, -1.0)
"""Places in the range of a shopper's log-odds at which chances are averaged, from 1, the highest,
to -1; a polynomial through them gives all others. These are Chebyshev's, at which its error is
small over the whole range."""
USUAL = 4
"""The place among nodes and moods at which the slopes of the particles' chances are compared: in
the upper half of the log-odds, where items are chosen, in the middle mood."""
LARGEST = 50.0
"""Log-odds beyond this are cut; padding stands at minus this."""
LEAST = 1e-30
"""Chances are no less, so that their logarithms are finite."""
MOST = 1e6
"""Bound of every other number in the observation space."""
AT_ONCE, AT_ONCE_ELSEWHERE = 128, 2048
"""Shoppers whose items are scored together on a CPU, so that all of it stays in the cache, and on
other devices, where this bounds the memory."""


@dataclass
class SessionBeliefState:
    """The belief about B shoppers."""

    cache: Cache
    """The visits so far, encoded."""
    interest: Interest
    """What is known of the interest."""
    memory: SessionMemory
    """Counters of what was shown and clicked."""
    declared: Tensor
    """(B, D) float32, what the shopper said of its interest before the first visit."""
    day: Tensor
    """(B,) float32 days since the shopper's first visit."""
    since: Tensor
    """(B,) float32 days since the last visit, 1 where there was none."""
    temperaments: Tensor
    """(B, S, TEMPERAMENT) float32, the particles."""
    log_weight: Tensor
    """(B, S) float32, the log of the weight of each particle; the weights sum to 1."""


class SessionBelief(Belief[SessionBeliefState]):
    """The belief of a shop whose log a session model was fitted to.

    Of newcomers the shop knows what they declared. Of shoppers whom it knew before, it follows the
    last `PAST_VISITS` visits. Observation:

        belief_logits:  (C,) log-odds of a click on each candidate that is looked at
        belief_spread:  (C,) standard deviation of these log-odds, by what is not known of the
            shopper's interest; 0 at padding
        belief_weary:   (G,) expected weariness of each category, in log-odds
        belief_traits:  (2 * TEMPERAMENT,) mean and standard deviation of each number of the
            temperament: log-odds of a click, log of how weary of categories and of items, log-odds
            to stay, and log-odds to look further
        belief_looks:   (K,) chance that each position is looked at
        belief_leaving: (2,) chance to leave after a slate that the shopper is not weary of, without
            a click and with one

    The chance of a click at a position is about the product of its look and the item's chance, and
    exactly so at the top.

    Args:
        model: The fitted model; it is moved to the device and frozen.
        device: Where the belief lives.
        slate_size: K, at most that of the model; None means as many.
        numbers: (S, TEMPERAMENT) standard normal numbers of the particles; None means `PARTICLES`
            points of `even_normals`.

    Raises:
        ValueError: If a slate has more positions than the model knows, or `numbers` is not as said.
    """

    kind = SESSION

    def __init__(
        self,
        model: SessionShopper,
        device: torch.device | str,
        *,
        slate_size: int | None = None,
        numbers: Tensor | None = None,
        renews: bool = True,
    ) -> None:
        most = model.config.slate_size
        super().__init__(most if slate_size is None else slate_size, device)
        if self.slate_size > most:
            raise ValueError(
                f"slate_size is {self.slate_size}, but the model knows slates of {most} positions "
                "at most."
            )
        points = even_normals(PARTICLES) if numbers is None else numbers
        checks.tensor("numbers", points, ("S", TEMPERAMENT), torch.float32)
        frozen: SessionShopper = model.to(self.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        self.model = frozen
        self.past_visits = PAST_VISITS
        self.renews = checks.flag("renews", renews)
        self._points = points.to(self.device)
        with torch.no_grad():
            self.prior = self.model.temperament(self._points)  # (S, TEMPERAMENT)
        self._least = LEAST_VARIANCE * torch.diag(self.prior.var(dim=0, correction=0))
        self._everything = torch.arange(model.config.n_items, device=self.device)
        along = self.model.embedding @ self.model.directions  # (N, D)
        row, column = torch.triu_indices(along.shape[1], along.shape[1])
        twice = torch.where(row == column, 1.0, 2.0).to(self.device)
        self._pairs = (row * along.shape[1] + column).to(self.device)
        self._products = (along[:, row] * along[:, column] * twice).T.contiguous()
        self._polynomial = torch.linalg.inv(  # from values at NODES to powers, lowest first
            torch.tensor(NODES, dtype=torch.float64).unsqueeze(1) ** torch.arange(len(NODES))
        ).to(self.device, torch.float32)

    # ---- what a simulator asks ----

    def check_fits(
        self, catalog: Catalog, slate_size: int, known: Mapping[str, gymnasium.Space[Any]]
    ) -> None:
        """Check that the model is about these items, slates and observations.

        Raises:
            ValueError: If it is not.
        """
        if slate_size != self.slate_size:
            raise ValueError(
                f"belief is about slates of {self.slate_size} positions, but the shoppers answer "
                f"{slate_size}."
            )
        embedding, config = self.model.embedding, self.model.config
        alike = embedding.shape == catalog.embedding.shape
        alike = alike and len(catalog.categories) == config.n_categories
        if alike and not embedding.is_meta:  # where tensors have numbers
            near = (embedding - catalog.embedding.to(embedding.device)).abs().max() <= NEAR
            same = self.model.category == catalog.category.to(embedding.device)
            alike = bool(near & same.all())
        if not alike:
            raise ValueError(
                f"belief is about a catalog of {config.n_items} items that are not those of the "
                f"shoppers, whose catalog has {len(catalog)}."
            )
        declared = known.get("declared")
        told = 0 if declared is None or declared.shape is None else declared.shape[0]
        if config.declared not in (0, told):
            raise ValueError(
                f"belief reads {config.declared} numbers that a shopper declares, but the shoppers "
                f"declare {told}."
            )

    def spaces(self, candidates: int) -> dict[str, gymnasium.Space[Any]]:
        """Return the space of each key of `observe`, for one shopper."""

        def box(low: float, high: float, *shape: int) -> gymnasium.spaces.Box:
            return gymnasium.spaces.Box(low, high, shape, np.float32)

        return {
            "belief_logits": box(-LARGEST, LARGEST, candidates),
            "belief_spread": box(0, MOST, candidates),
            "belief_weary": box(0, MOST, self.model.config.n_categories),
            "belief_traits": box(-MOST, MOST, 2 * TEMPERAMENT),
            "belief_looks": box(0, 1, self.slate_size),
            "belief_leaving": box(0, 1, 2),
        }

    def start(self, observation: Observation, past: Past | None = None) -> SessionBeliefState:
        """Return the belief about shoppers, who may have declared something."""
        if self.model.config.declared:
            state = self._newcomers(observation["declared"].to(self.device, torch.float32))
        else:
            batch = len(next(iter(observation.values())))
            state = self._newcomers(torch.zeros(batch, 0, device=self.device))
        if past is not None:
            self.follow(state, past)
        return state

    def blank(self, batch: int) -> SessionBeliefState:
        """Return the belief about newcomers who declared zeros."""
        return self._newcomers(torch.zeros(batch, self.model.config.declared, device=self.device))

    @torch.no_grad()
    def _newcomers(self, declared: Tensor) -> SessionBeliefState:
        config, batch = self.model.config, len(declared)
        none = torch.zeros(batch, dtype=torch.float32, device=self.device)
        sizes = (config.n_items, config.n_categories, config.width)
        particles = len(self.prior)
        return SessionBeliefState(
            cache=self.model.empty_cache(self.model.welcome(declared)),
            interest=self.model.interest.newcomers(declared),
            memory=SessionMemory.empty(batch, *sizes, self.device),
            declared=declared.clone(),
            day=none,
            since=torch.ones_like(none),
            temperaments=self.prior.repeat(batch, 1, 1),
            log_weight=none.new_zeros(batch, particles).log_softmax(dim=1),
        )

    @torch.no_grad()
    def update(self, state: SessionBeliefState, visit: SeenVisit) -> None:
        """Weigh the particles by what the shopper did, and remember the visit, in place."""
        # What every particle says of the clicks, and of coming back.
        model, memory = self.model, state.memory
        shown, clicks = self._wide(visit.shown), self._wide(visit.clicks)
        slates = self._wide(visit.slates)
        counters = memory.look(slates, model.category)
        before = self._before(state)
        wanted = model.wanted(before, state.interest.mean)
        of_visit = self.log_likelihood(
            before, wanted, state.temperaments, slates, counters, clicks, shown
        )
        state.log_weight = (state.log_weight + of_visit).log_softmax(dim=1)
        if self.renews:
            self._renew(state)

        # The visit, as the model's own shoppers remember it.
        state.interest = model.follow(
            state.interest, before, slates, shown, clicks, counters, state.declared, visit.days
        )
        bought = None if visit.purchases is None else self._wide(visit.purchases)
        memory.record(slates, shown, clicks, model.category, model.embedding)
        token = model.token(
            slates, shown, clicks, counters, memory.context(), state.declared, state.since, bought
        )
        model.append_visit(state.cache, token, state.day)
        memory.wait(visit.days)
        state.since, state.day = visit.days.clone(), state.day + visit.days

    @torch.no_grad()
    def log_likelihood(
        self,
        before: Tensor,
        wanted: Tensor,
        tempers: Tensor,
        slates: Tensor,
        counters: Tensor,
        clicks: Tensor,
        shown: Tensor,
    ) -> Tensor:
        """Compute the log-likelihood (B, S) of clicks and of coming back, in each particle.

        It is that of `SessionShopper.forward`, up to what all particles share: the days until the
        next visit, and what was bought.

        Shapes: before (B, D), wanted (B, E), tempers (B, S, TEMPERAMENT), slates (B, K), counters
        (B, K, COUNTERS); clicks, shown (B, K) bool.
        """
        # Temperaments share all but keenness and the two factors of weariness.
        model = self.model
        mean = torch.zeros_like(tempers[:, :1])
        logits, worn = model.answer(before, wanted, mean, slates, counters)
        worn = worn.squeeze(1)  # (B, K, 2) at factors of 1
        common = logits.squeeze(1) + worn.sum(dim=2).unsqueeze(1)  # (B, M, K)
        factors = _factors(tempers[..., OF_CATEGORY : OF_ITEM + 1])
        own = tempers[..., KEEN].unsqueeze(1) - worn @ factors.mT  # (B, K, S)

        # Clicks in each mood, by position; moods are summed over.
        looks = (model.log_looks(before, tempers).exp() * shown.unsqueeze(1)).mT.contiguous()
        chance = (common.unsqueeze(3) + own.unsqueeze(1)).sigmoid_()
        chance = chance.mul_(looks.unsqueeze(1)).clamp_(max=1 - CLICK_EDGE)
        answered = chance.sub_(clicks.logical_not().float()[:, None, :, None]).abs_()  # p, or 1 - p
        of_mood = answered.clamp_(min=LEAST).log_().sum(dim=2)  # (B, M, S)
        chances = constant(MOOD_CHANCES, of_mood).log().unsqueeze(1)
        of_clicks = torch.logsumexp(of_mood + chances, dim=1)

        # Who was seen again has not left; weariness of what was looked at makes shoppers leave.
        seen = worn.mT @ (looks / looks.sum(dim=1, keepdim=True).clamp(min=1e-6))  # (B, 2, S)
        leave = model.leave_head(before, tempers, seen.mT * factors, clicks)
        return of_clicks + F.logsigmoid(-leave)

    @torch.no_grad()
    def observe(self, state: SessionBeliefState, candidates: Tensor) -> Observation:
        """Tell the log-odds of all candidates, and what is believed of weariness and traits."""
        before, weight, tempers = self._before(state), state.log_weight.exp(), state.temperaments
        mean, away = _centred(tempers, weight)
        deviation = torch.einsum("bs,bsr->br", _unbiased(weight), away.square()).sqrt()
        factors = _factors(tempers[..., OF_CATEGORY])
        looks = self.model.log_looks(before, tempers)[..., : self.slate_size].exp()
        worn = self._worn_categories(state)
        return {
            "belief_logits": self._of_candidates(self.logits(state), candidates, -LARGEST),
            "belief_spread": self._of_candidates(self.spreads(state), candidates, 0.0),
            "belief_weary": worn * (weight * factors).sum(dim=1, keepdim=True),
            "belief_traits": torch.cat([mean, deviation], dim=1),
            "belief_looks": torch.einsum("bs,bsk->bk", weight, looks).clamp(max=1),
            "belief_leaving": self._leaving(before, tempers, weight),
        }

    # ---- for the whole catalogue ----

    @torch.no_grad()
    def logits(self, state: SessionBeliefState) -> Tensor:
        """Compute the log-odds (B, N) of a click on every item, looked at: see the module."""
        size = AT_ONCE if self.device.type == "cpu" else AT_ONCE_ELSEWHERE
        whole = (
            self._before(state),
            state.interest.mean,
            state.temperaments,
            state.log_weight.exp(),
            self._worn_categories(state),
            self._worn_items(state),
        )
        parts = zip(*(values.split(size) for values in whole), strict=True)
        found = [self._of_catalog(*part) for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    @torch.no_grad()
    def spreads(self, state: SessionBeliefState) -> Tensor:
        """Compute the standard deviation (B, N) of the log-odds of a click on every item.

        It is that of the interest alone, and leaves temperaments out.
        """
        followed = self.model.directions.shape[1]
        covariance = state.interest.covariance[:, :followed, :followed]
        variance = covariance.flatten(1)[:, self._pairs] @ self._products
        return variance.clamp_(min=0).sqrt_().clamp_(max=MOST)

    def _of_catalog(
        self,
        before: Tensor,
        interest: Tensor,
        tempers: Tensor,
        weight: Tensor,
        worn_categories: Tensor,
        worn_items: Tensor,
    ) -> Tensor:
        """Compute the log-odds (B, N).

        Keenness and weariness of a category differ between particles. Their mean chance is computed
        in each category at a few log-odds x, and what it moves the log-odds by is a smooth function
        of x: a polynomial gives it for every item. Weariness of the item itself moves x, by the
        first two cumulants of its factor (`_of_items`). So all of it is exact but for the
        polynomial where particles share that factor.

        Shapes: before (B, D), interest (B, R), tempers (B, S, TEMPERAMENT), weight (B, S),
        worn_categories (B, G), worn_items (B, N).
        """
        model = self.model
        of_category, of_item = _factors(tempers[..., OF_CATEGORY : OF_ITEM + 1]).unbind(dim=2)
        common = model.base(before) + model.wanted(before, interest) @ model.embedding.T
        common = common + model.item_bias.weight.squeeze(-1)  # (B, N)
        lowest = common.amin(dim=1, keepdim=True)
        most = worn_items.amax(dim=1, keepdim=True) * (weight * of_item).sum(dim=1, keepdim=True)
        lowest = lowest - most
        highest = common.amax(dim=1, keepdim=True)
        middle, half = (lowest + highest) / 2, ((highest - lowest) / 2).clamp(min=1e-3)

        # The mean chance in each category at the nodes, (B, X, G).
        nodes = middle + half * constant(NODES, common)  # (B, X)
        mood = F.softplus(model.mood(before)) * constant(MOODS, common)  # (B, M)
        odds = (nodes.unsqueeze(2) + mood.unsqueeze(1)).flatten(1).exp()  # (B, X * M)
        keen = tempers[..., KEEN].unsqueeze(1)
        times = torch.exp(keen - worn_categories.unsqueeze(2) * of_category.unsqueeze(1))
        weighted = weight.unsqueeze(1) * times  # (B, G, S)
        share = (odds.unsqueeze(2) * times.flatten(1).unsqueeze(1)).add_(1).reciprocal_()
        share = share.unflatten(2, times.shape[1:])  # (B, X * M, G, S): 1 - sigmoid
        tired = self._of_items(weighted * share[:, USUAL].square(), of_item, worn_items)
        chance = share.mul_(weighted.unsqueeze(1)).sum(dim=3)
        chance = (chance * odds.unsqueeze(2)).unflatten(1, (len(NODES), len(MOODS)))
        chance = torch.einsum("bxmg,m->bxg", chance, constant(MOOD_CHANCES, common))
        moved = chance.clamp(LEAST, 1 - 1e-7).logit() - nodes.unsqueeze(2)

        # From the nodes to the items, by Horner's rule.
        powers = self._to_items(torch.einsum("bxg,px->bpg", moved, self._polynomial))
        common = common - tired
        place = (common - middle) / half
        shift = powers[:, -1]
        for power in reversed(range(len(NODES) - 1)):
            shift = torch.addcmul(powers[:, power], shift, place)
        found: Tensor = (common + shift).clamp(-LARGEST, LARGEST)
        return found

    def _of_items(self, tilt: Tensor, factors: Tensor, worn: Tensor) -> Tensor:
        """Compute by how much weariness of items (B, N) moves the log-odds.

        Args:
            tilt: (B, G, S) how much each particle counts in each category: its weight times the
                slope p (1 - p) of its chance, which makes the first order exact
            factors: (B, S) of weariness of items
            worn: (B, N) at a factor of 1
        """
        tilt = tilt / tilt.sum(dim=2, keepdim=True).clamp(min=LEAST)
        moments = tilt @ torch.stack([factors, factors.square()], dim=2)  # (B, G, 2)
        mean = moments[..., 0]
        variance = (moments[..., 1] - mean.square()).clamp(min=1e-9)
        mean, variance = self._to_items(torch.stack([mean, variance], dim=1)).unbind(dim=1)
        worn = worn.minimum(mean / variance)  # beyond it the parabola would fall
        return worn * (mean - 0.5 * variance * worn)

    def _to_items(self, values: Tensor) -> Tensor:
        """Give items (B, X, N) the values (B, X, G) of their categories."""
        return values.gather(2, self.model.category.expand(*values.shape[:2], -1))

    def _worn_categories(self, state: SessionBeliefState) -> Tensor:
        """Compute the weariness of categories (B, G) at a factor of 1."""
        weights, _ = self.model.weariness.weights()
        return self._worn(state.memory, state.memory.category, OF_CATEGORIES, 0, weights)

    def _worn_items(self, state: SessionBeliefState) -> Tensor:
        """Compute the weariness of items (B, N) at a factor of 1."""
        _, weights = self.model.weariness.weights()
        return self._worn(state.memory, state.memory.item, OF_ITEMS, CATEGORY_COUNTERS, weights)

    def _worn(
        self,
        memory: SessionMemory,
        counters: Tensor,
        which: tuple[int, ...],
        first: int,
        weights: Tensor,
    ) -> Tensor:
        """Sum some counters of a memory as they are at this visit: (B, G) or (B, N).

        Args:
            memory: the memory
            counters: (B, C, G) or (B, C, N) of it
            which: the counters among all of the model's
            first: number of the first one in `counters`
            weights: of the model's `Weariness`, one a counter
        """
        decays = constant(tuple(ALL_DECAYS[at] for at in which), counters)
        faded = decays ** (memory.age - 1).unsqueeze(1)
        scale = self.model.counter_scale.index_select(0, numbered(which, weights.device))
        amounts = faded * weights / scale
        own = counters.index_select(1, numbered(tuple(at - first for at in which), weights.device))
        return torch.bmm(amounts.unsqueeze(1), own).squeeze(1)

    # ---- inside ----

    def _renew(self, state: SessionBeliefState) -> None:
        """Spread the particles of a shopper anew where few of them carry most of the weight."""
        weight = state.log_weight.exp()
        few = weight.square().sum(dim=1) * len(self.prior) > 1 / FEWEST  # 1 / sum w^2 is the number
        mean, away = _centred(state.temperaments, weight)
        covariance = (away * _unbiased(weight).unsqueeze(2)).mT @ away + self._least
        root = torch.linalg.cholesky_ex(covariance).L  # does not wait for a GPU
        fresh = mean.unsqueeze(1) + self._points @ root.mT
        state.temperaments = fresh.where(few[:, None, None], state.temperaments)
        even = -math.log(len(self.prior))
        state.log_weight = state.log_weight.masked_fill(few.unsqueeze(1), even)

    def _before(self, state: SessionBeliefState) -> Tensor:
        """Compute the encoder's states (B, D) as the shoppers arrive."""
        return self.model.arrive(state.cache.state, state.since)

    def _of_candidates(self, values: Tensor, candidates: Tensor, empty: float) -> Tensor:
        """Take values (B, C) of candidates (B, C) from those of the catalogue (B, N)."""
        if not shared(candidates):
            return values.gather(1, candidates.clamp(min=0)).where(candidates >= 0, empty)
        ids = candidates[0]
        if ids.is_cpu and torch.equal(ids, self._everything):
            return values  # as they stand: to look is cheap where it is no synchronisation
        return values.index_select(1, ids.clamp(min=0)).where(ids >= 0, empty)

    def _leaving(self, before: Tensor, tempers: Tensor, weight: Tensor) -> Tensor:
        """Compute the chances (B, 2) to leave without a click and with one, nothing being worn."""
        clicks = before.new_zeros(2, self.model.config.slate_size)
        clicks[1, 0] = 1
        fresh = before.new_zeros(1, 1, 2)
        chances = [
            torch.sigmoid(
                self.model.leave_head(before, tempers, fresh, one.expand(len(before), -1))
            )
            for one in clicks
        ]
        found = torch.einsum("tbs,bs->bt", torch.stack(chances), weight)
        return found.clamp(max=1)

    def _wide(self, values: Tensor) -> Tensor:
        """Pad values (B, K) to the positions of the model; nothing is shown there."""
        return filled_up(values, self.model.config.slate_size)


def _factors(logs: Tensor) -> Tensor:
    """Turn logs of factors of weariness into factors, as the model does."""
    return logs.clamp(max=MAX_LOG_FACTOR).exp()


def _centred(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean (B, R) of particles (B, S, R), and what each is away from it."""
    mean = torch.einsum("bs,bsr->br", weight, values)
    return mean, values - mean.unsqueeze(1)


def _unbiased(weight: Tensor) -> Tensor:
    """Scale weights (B, S) so that they give covariances without the bias of few particles.

    Around its own mean a sample of n scatters by (1 - 1 / n) of the variance, and weights are worth
    n = 1 / sum w^2. Points of equal weights have the right covariance as they are.
    """
    equal = 1 - 1 / weight.shape[1]
    scattered = 1 - weight.square().sum(dim=1, keepdim=True)
    return weight * (equal / scattered.clamp(min=0.1)).clamp(min=1)


@functools.cache
def even_normals(count: int) -> Tensor:
    """Return points (S, TEMPERAMENT) that cover the standard normal distribution evenly.

    They are a scrambled Sobol sequence (Owen 1998, "Scrambling Sobol' and Niederreiter-Xing
    points"), moved and turned so that their mean is exactly 0 and their covariance exactly 1.

    Raises:
        ValueError: If there are too few points to have a covariance of full rank.
    """
    checks.whole("count", count, 2 * TEMPERAMENT)
    engine = torch.quasirandom.SobolEngine(TEMPERAMENT, scramble=True, seed=1)
    points = normal(engine.draw(count)).double()
    points = points - points.mean(dim=0)
    root = torch.linalg.cholesky(points.T @ points / count)
    whitened: Tensor = torch.linalg.solve_triangular(root, points.T, upper=False).T
    return whitened.float().contiguous()


def load_session_belief(
    folder: str | os.PathLike[str], device: torch.device | str, slate_size: int | None = None
) -> SessionBelief:
    """Open the belief of a folder of `save_session`: that of its first model.

    Args:
        folder: The folder.
        device: Where the belief lives.
        slate_size: Number of slate positions; None means those of the model.

    Raises:
        FileNotFoundError: If the folder holds no model.
        ValueError: If the model is broken, or knows shorter slates.
    """
    there = member_folders(Path(folder), 0)
    if not there:
        raise FileNotFoundError(f"{os.fspath(folder)} has no model0, but a belief needs a model.")
    return SessionBelief(load_model(SessionShopper, there[0]), device, slate_size=slate_size)
