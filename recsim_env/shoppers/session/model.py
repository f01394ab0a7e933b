"""A transformer user model for impression logs: slates, clicks by position, leaving, coming back.

    slate -> token -> causal encoder -> state -+-> click head     chance of a click at each position
                                               +-> purchase head  chance of buying what is clicked
                                               +-> leave head     chance of leaving for good
                                               +-> gap head       days until the next slate

A step, here called a visit, is one slate; the next page of a visit comes after 0 days. Every
position is looked at, and what is looked at is clicked or not,

    p_j = look_j(state, a) sigmoid(base(state) + (interest + query(state)) . v_i + bias_i + a_keen -
    weariness_i(a) + mood(state) z)

with the interest that of `recsim_env.shoppers.session.interest`, a Gaussian that begins at what was
declared, drifts, and is moved by every slate and its clicks, look_1 = 1 and look_j falling from
position to position: the position-based model (Craswell et al. 2008, "An experimental comparison of
click position-bias models", section 3.2) with a depth of the shopper's own. Weariness grows with
how often the item and its category were shown and clicked before (`Weariness`); that of what was
looked at also makes the shopper leave,

    P(leaves) = sigmoid(rest(state, clicks) + slopes . weariness(a) - a_patient)

Who does not leave comes back after some days, by hazards over bins (`recsim_env.shoppers.gaps`).
The attention knows the days between visits, the state those since the last one. Where the log has
purchases beside clicks, what is clicked is bought with a chance of its own.

Two things are hidden and drawn: the *temperament* a of a shopper, normal with a mean and a
covariance that are fitted, the same from the first visit to the last; and the *mood* z of a visit,
standard normal, which all positions share, so that the clicks of a slate go together. Both are what
a mixed logit model has for panels (Train 2009, "Discrete choice methods with simulation", section
6.7). The likelihood of an episode is the mean over temperaments of the product over its visits, by
simulation (there, chapter 10), and in it that of a visit a sum over moods at Gauss-Hermite nodes
(Bock & Aitkin 1981, equation 8). So those who stay are those who are patient and slow to tire, as
they are: a model that has to tell this from the visits so far alone answers policies that nobody
logged 5-15 % too kindly.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from recsim_env import checks
from recsim_env.shoppers.encoder import EncoderConfig, VisitEncoder
from recsim_env.shoppers.gaps import GapBins, GapHead, all_back, return_log_likelihood
from recsim_env.shoppers.profile import DECAYS
from recsim_env.shoppers.session.interest import (
    MOST_DIRECTIONS,
    Interest,
    InterestFilter,
)
from recsim_env.shoppers.session.memory import (
    CATEGORY_COUNTERS,
    COUNTERS,
    age_of,
    context_size,
    position_weights,
)
from recsim_env.shoppers.weights import MOST, check_categories
from recsim_env.tensors import constant, looked_up, numbered, running_sums

OF_CATEGORIES = (len(DECAYS), len(DECAYS) + 1, 2 * len(DECAYS), 2 * len(DECAYS) + 1)
"""Counters that make weary of a category: showings by position, and responses, each of the last few
visits (decay 0.7) and of the last ten (0.9). How much of the recent and of the older counts is
learned once for both, for counters that are alike in the log need not be alike elsewhere: weights
of all nine, each learned by itself, do no better on held-out visits."""
OF_ITEMS = (CATEGORY_COUNTERS, CATEGORY_COUNTERS + 1)
"""Counters that make weary of an item: showings of the last few visits (decay 0.7) and of the last
ten (0.9)."""
MOODS = (-math.sqrt(3), 0.0, math.sqrt(3))  # nodes of the standard normal
MOOD_CHANCES = (1 / 6, 2 / 3, 1 / 6)  # their weights
TEMPERAMENT = 5
"""Numbers of a temperament: log-odds of a click, log of how weary of categories and of items,
log-odds to stay, and log-odds to look further."""
KEEN, OF_CATEGORY, OF_ITEM, PATIENT, DEEP = range(TEMPERAMENT)
MAX_LOG_FACTOR = 4.0  # of weariness: a likelihood that runs off in a batch comes back
ARRIVAL = 2  # whether it is the same day as the visit before, and the log of the days since
CLICK_EDGE = 1e-6  # a click is never surer than 1 - this, so that its likelihood stays finite
LEAST = 1e-30  # no answer is less likely, so that its logarithm is finite


class SessionShopperConfig(EncoderConfig):
    """The configuration of the session model, `SessionShopper`.

    Args:
        n_items, n_categories: size of the catalogue
        width: dimensions of the item embeddings
        slate_size: positions in a slate
        declared: numbers that a newcomer tells of its interest; 0 where shops do not ask
        purchases: whether there are purchases beside the clicks
        gap_edges, lapse_days: the bins of the days between visits, see `GapBins`
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the encoder over
            visits
        window: visits that a visit can attend to, itself among them
        head_size: width of the heads
        dropout, state_dropout: training only; chance to hide activations of the encoder, and of the
            states that the heads see, so that they lean on the counters
    """

    model_type = "session_shopper"

    def __init__(
        self,
        n_items: int = 8,
        n_categories: int = 2,
        width: int = 4,
        slate_size: int = 3,
        declared: int = 0,
        purchases: bool = False,
        gap_edges: tuple[int, ...] = (0, 1),
        lapse_days: int = 1,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        intermediate_size: int = 128,
        window: int = 64,
        head_size: int = 64,
        dropout: float = 0.05,
        state_dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_sizes(
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            window=window,
            dropout=dropout,
        )
        self.n_items = checks.whole("n_items", n_items, 1, MOST["items"])
        self.n_categories = checks.whole("n_categories", n_categories, 1, MOST["items"])
        self.width = checks.whole("width", width, 1, MOST["width"])
        self.slate_size = checks.whole("slate_size", slate_size, 1, MOST["width"])
        self.declared = checks.whole("declared", declared, 0, MOST["width"])
        self.purchases = checks.flag("purchases", purchases)
        bins = GapBins(gap_edges, lapse_days)
        self.gap_edges, self.lapse_days = bins.edges, bins.lapse_days
        if len(bins) < 2:
            raise ValueError(
                f"gap_edges is {checks.told(gap_edges)}, but there must be two bins or more."
            )
        self.head_size = checks.whole("head_size", head_size, 2, MOST["width"])
        self.state_dropout = checks.number("state_dropout", state_dropout, 0, 1)

    @property
    def gap_bins(self) -> GapBins:
        """The bins of the days between two visits."""
        return GapBins(self.gap_edges, self.lapse_days)


class Weariness(nn.Module):
    """How weary a shopper is of what is shown: of its category, and of the item itself.

    Both grow in proportion to how often it was met, as in McAlister 1982, equation 1: the counters
    above with weights >= 0 that all shoppers share, times a factor > 0 of the shopper's own. So a
    policy that repeats itself more than any policy of the log is answered by a slope, and not by a
    network outside of its training data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_category = nn.Parameter(torch.zeros(2))
        self.recent = nn.Parameter(torch.zeros(()))  # log-odds of the share of the faster decay
        self.of_item = nn.Parameter(torch.zeros(2))

    def weights(self) -> tuple[Tensor, Tensor]:
        """Compute the weights >= 0 of `OF_CATEGORIES` and of `OF_ITEMS`."""
        share = torch.stack([self.recent.sigmoid(), (-self.recent).sigmoid()])
        of_category = F.softplus(self.of_category).unsqueeze(1) * share
        return of_category.flatten(), F.softplus(self.of_item)

    def forward(self, amounts: Tensor, temperament: Tensor) -> Tensor:
        """Compute weariness in log-odds >= 0, of the category and of the item.

        Shapes: amounts (V, K, COUNTERS) >= 0, temperament (V, S, R) -> (V, S, K, 2).
        """
        weights = self.weights()
        of_category, of_item = (
            amounts.index_select(-1, numbered(columns, amounts.device)) @ weight
            for columns, weight in zip((OF_CATEGORIES, OF_ITEMS), weights, strict=True)
        )
        common = torch.stack([of_category, of_item], dim=-1)
        factors = temperament[..., OF_CATEGORY : OF_ITEM + 1].clamp(max=MAX_LOG_FACTOR).exp()
        return common.unsqueeze(1) * factors.unsqueeze(2)


class LeaveHead(nn.Module):
    """Log-odds of leaving after a visit: what clicks and weariness add, and a bounded network.

    See the module docstring for the equation. That those who stay are the patient ones shows as a
    chance to leave that falls from visit to visit, which a network that knows the number of visits
    could say as well, and then patience would not differ. So the network begins at 0 and learns
    more slowly than the numbers that all shoppers share.
    """

    def __init__(self, config: SessionShopperConfig) -> None:
        super().__init__()
        self.answered = nn.Linear(2, 1)
        self.slopes = nn.Parameter(torch.zeros(2))
        self.inner = nn.Linear(config.hidden_size + 2, config.head_size // 2)
        self.outer = nn.Linear(config.head_size // 2, 1, bias=False)

    def forward(self, state: Tensor, temperament: Tensor, weary: Tensor, clicks: Tensor) -> Tensor:
        """Compute the log-odds (V, S) of leaving.

        Shapes: state (V, D) before the visit, temperament (V, S, R), weary (V, S, 2), clicks (V,
        K).
        """
        number = clicks.float().sum(dim=-1, keepdim=True)
        counted = torch.cat([(number == 0).float(), torch.log1p(number)], dim=-1)
        bounded = self.outer(torch.tanh(self.inner(torch.cat([state, counted], dim=-1))))
        common: Tensor = self.answered(counted) + bounded
        return common + weary @ F.softplus(self.slopes) - temperament[..., PATIENT]


class PurchaseHead(nn.Module):
    """Log-odds that what is clicked is bought: a taste of its own, and each item's share."""

    def __init__(self, config: SessionShopperConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.width)
        self.base = nn.Linear(config.hidden_size, 1)
        self.item_bias = nn.Embedding(config.n_items, 1)
        self.token = nn.Linear(config.width + 1, config.hidden_size, bias=False)

    def forward(self, state: Tensor, slates: Tensor, vectors: Tensor) -> Tensor:
        """Compute the log-odds (V, K).

        Shapes: state (V, D) before the visit, slates (V, K), vectors (V, K, E) of their items.
        """
        liked = torch.einsum("ve,vke->vk", self.query(state), vectors)
        logits: Tensor = self.base(state) + liked + self.item_bias(slates).squeeze(-1)
        return logits

    def told(self, vectors: Tensor, purchases: Tensor) -> Tensor:
        """Compute what purchases (..., K) of items (..., K, E) add to a token: (..., D)."""
        bought = purchases.float()
        summed = torch.einsum("...k,...ke->...e", bought, vectors)
        added: Tensor = self.token(torch.cat([summed, bought.sum(dim=-1, keepdim=True)], dim=-1))
        return added


class SessionShopper(VisitEncoder):
    """Transformer user model; see the module docstring for its equations.

    `session.fit` fits it, `session.population` samples from it.

    Dimensions: B shoppers, T visits, V real visits, S temperaments, K positions, N items, D hidden.
        embedding: (N, E) of the catalogue
        category: (N,) int64 of the catalogue
        directions: (E, D) along which the interest is followed, see `interest.directions_of`
        counter_mean, counter_scale: (2 * COUNTERS,) that bring the counter features to order 1
    """

    config_class = SessionShopperConfig
    config: SessionShopperConfig
    main_input_name = "slates"
    embedding: Tensor
    category: Tensor
    directions: Tensor
    counter_mean: Tensor
    counter_scale: Tensor

    def __init__(self, config: SessionShopperConfig) -> None:
        super().__init__(config)
        d = config.hidden_size
        self.register_buffer("embedding", torch.zeros(config.n_items, config.width))
        self.register_buffer("category", torch.zeros(config.n_items, dtype=torch.int64))
        followed = min(config.width, MOST_DIRECTIONS)
        self.register_buffer("directions", torch.zeros(config.width, followed))
        self.register_buffer("counter_mean", torch.zeros(2 * COUNTERS))
        self.register_buffer("counter_scale", torch.ones(2 * COUNTERS))

        # The token of a visit, and the encoder.
        size = 2 * config.width + config.slate_size + 2 + 4 * COUNTERS + context_size(config.width)
        size += config.declared
        self.token_in = nn.Linear(size, 2 * d)
        self.token_out = nn.Linear(2 * d, d)
        self.add_encoder()
        self.of_declared = nn.Linear(
            max(config.declared, 1), d, bias=False
        )  # moved by what the shopper declared
        self.token_arrival = nn.Linear(ARRIVAL, d, bias=False)
        self.state_arrival = nn.Linear(ARRIVAL, d, bias=False)

        # Clicks, purchases, leaving and coming back.
        self.interest = InterestFilter(config.declared, followed)
        self.query = nn.Linear(d, config.width)
        self.base = nn.Linear(d, 1)
        self.item_bias = nn.Embedding(config.n_items, 1)
        self.weariness = Weariness()
        self.temper = nn.Linear(
            TEMPERAMENT, TEMPERAMENT
        )  # mean over shoppers, and a root of the covariance
        self.look_step = nn.Parameter(torch.zeros(config.slate_size - 1))
        self.look_depth = nn.Linear(d, 1)
        self.mood = nn.Linear(d, 1)  # what it adds to the log-odds of a click, before softplus
        self.leave_head = LeaveHead(config)
        self.gap_head = GapHead(
            d + 2, config.head_size // 2, len(config.gap_bins) - 1, config.dropout
        )
        self.purchase_head = PurchaseHead(config) if config.purchases else None
        self.state_dropout = nn.Dropout(config.state_dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def check_tables(self) -> None:
        """Check the categories of the items and the scales of the counters.

        Raises:
            ValueError: If an item has a category that the configuration does not have, or a counter
                has no scale.
        """
        check_categories("category", self.category, self.config.n_categories)
        if not bool((self.counter_scale > 0).all()):
            lowest = float(self.counter_scale.min())
            raise ValueError(f"counter_scale holds {lowest}, but every number must be above 0.")

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.7 / math.sqrt(module.in_features))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, SessionShopper):
            nn.init.zeros_(module.newcomer)
            module.interest.begin()
            nn.init.zeros_(module.query.weight)
            nn.init.zeros_(module.token_arrival.weight)
            nn.init.zeros_(module.state_arrival.weight)
            nn.init.zeros_(module.gap_head.outer.weight)
            nn.init.constant_(module.base.bias, -2.0)
            nn.init.constant_(module.look_step, 1.5)
            nn.init.zeros_(module.look_depth.weight)
            nn.init.zeros_(module.mood.weight)
            nn.init.constant_(module.weariness.of_category, -2.0)
            nn.init.constant_(module.weariness.recent, -2.0)
            nn.init.constant_(module.weariness.of_item, -2.0)
            nn.init.constant_(module.leave_head.slopes, -2.0)
            nn.init.zeros_(module.temper.bias)
            module.temper.weight.copy_(0.4 * torch.eye(TEMPERAMENT))
            nn.init.zeros_(module.leave_head.answered.weight)
            nn.init.constant_(module.leave_head.answered.bias, -3.0)
            nn.init.zeros_(module.leave_head.outer.weight)

    @torch.no_grad()
    def without_items(self, items: Tensor) -> SessionShopper:
        """Copy the model without what was learned of single items (N,) bool.

        They have the mean bias of the others; what the catalogue says of them is left.
        """
        other = copy.deepcopy(self)
        tables = [other.item_bias]
        if other.purchase_head is not None:
            tables.append(other.purchase_head.item_bias)
        for table in tables:
            others = table.weight[~items]
            table.weight[items] = others.mean() if len(others) else 0.0
        return other

    # ---- visits in, states out ----

    def features(self, counters: Tensor) -> Tensor:
        """Bring counters (..., COUNTERS) to order 1, plain and logged: (..., 2 * COUNTERS)."""
        both = torch.cat([counters, torch.log1p(counters)], dim=-1)
        return (both - self.counter_mean) / self.counter_scale

    def welcome(self, declared: Tensor) -> Tensor:
        """Compute the states (B, D) of newcomers from what they declared (B, declared)."""
        if self.config.declared == 0:
            return self.newcomers(len(declared))
        state: Tensor = self.newcomer + self.of_declared(declared)
        return state

    def arrive(self, state: Tensor, since: Tensor) -> Tensor:
        """Move states (..., D) after the visit before to those at arrival, days since (...,) later.

        One day changes nothing; the first visit counts as one.
        """
        moved: Tensor = state + self.state_arrival(arrival(since))
        return moved

    def token(
        self,
        slates: Tensor,
        shown: Tensor,
        clicks: Tensor,
        counters: Tensor,
        context: Tensor,
        declared: Tensor,
        since: Tensor,
        purchases: Tensor | None = None,
    ) -> Tensor:
        """Compute the tokens (..., D) of visits.

        Args:
            slates: (..., K) int64 without padding
            shown: (..., K) bool
            clicks: (..., K) bool
            counters: (..., K, COUNTERS) of the shown items before the visit
            context: (..., C) of the memory after the visit
            declared: (..., config.declared) of the shopper
            since: (...,) days since the visit before, 1 at the first
            purchases: (..., K) bool, needed where `config.purchases`
        """
        features, clicked = self.features(counters), clicks.float()
        weight = shown * position_weights(slates.shape[-1], slates.device)
        weight = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        vectors = looked_up(self.embedding, slates)
        number = clicked.sum(dim=-1, keepdim=True)
        of_clicked = clicked / number.clamp(min=1)
        parts = [
            torch.einsum("...k,...ke->...e", weight, vectors) * 2.0,
            torch.einsum("...k,...ke->...e", clicked, vectors),
            clicked,
            number,
            (number == 0).float(),
            torch.einsum("...k,...kf->...f", weight, features),
            torch.einsum("...k,...kf->...f", of_clicked, features),
            context,
            declared,
        ]
        token: Tensor = self.token_out(F.gelu(self.token_in(torch.cat(parts, dim=-1))))
        token = token + self.token_arrival(arrival(since))
        if self.purchase_head is not None:
            if purchases is None:
                raise ValueError("purchases is None, but this model needs them: it was fitted so.")
            token = token + self.purchase_head.told(vectors, purchases)
        return token

    # ---- states in, behaviour out ----

    def temperament(self, normal: Tensor) -> Tensor:
        """Turn standard normal numbers (..., TEMPERAMENT) into temperaments."""
        drawn: Tensor = self.temper(normal)
        return drawn

    def log_looks(self, state: Tensor, temperament: Tensor) -> Tensor:
        """Compute the log-probability that each position is looked at, 0 at the top and falling.

        Shapes: state (V, D), temperament (V, S, R) -> (V, S, K).
        """
        depth = self.look_depth(state) + temperament[..., DEEP]
        return F.pad(running_sums(F.logsigmoid(self.look_step + depth.unsqueeze(-1))), (1, 0))

    def wanted(self, state: Tensor, interest: Tensor) -> Tensor:
        """Compute what the log-odds of a click gain with each number of an embedding: (V, E).

        Shapes: state (V, D) before the visit, interest (V, R), the mean of an `Interest`.
        """
        along = interest[:, : self.directions.shape[1]]
        found: Tensor = self.query(state) + along @ self.directions.T
        return found

    def answer(
        self,
        state: Tensor,
        wanted: Tensor,
        temperament: Tensor,
        slates: Tensor,
        counters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute how shoppers would answer what they look at.

        Args:
            state: (V, D) before the visit
            wanted: (V, E) of the method of this name
            temperament: (V, S, R)
            slates: (V, K) int64 without padding
            counters: (V, K, COUNTERS) before the visit

        Returns:
            (V, S, M, K) log-odds of a click once looked at, in each mood, and (V, S, K, 2)
            weariness of category and item.
        """
        weary = self.weariness(counters / self.counter_scale[:COUNTERS], temperament)
        common = self._common(state, wanted, slates)
        logits = common.unsqueeze(1) + temperament[..., KEEN].unsqueeze(-1) - weary.sum(dim=-1)
        mood = F.softplus(self.mood(state)) * constant(MOODS, state)  # (V, M)
        return logits.unsqueeze(2) + mood[:, None, :, None], weary

    def _common(self, state: Tensor, wanted: Tensor, slates: Tensor) -> Tensor:
        """Compute the log-odds (V, K) of a shopper of mean temperament who is weary of nothing."""
        liked = torch.einsum("ve,vke->vk", wanted, looked_up(self.embedding, slates))
        common: Tensor = self.base(state) + liked + self.item_bias(slates).squeeze(-1)
        return common

    # ---- interest ----

    def follow(
        self,
        known: Interest,
        state: Tensor,
        slates: Tensor,
        shown: Tensor,
        clicks: Tensor,
        counters: Tensor,
        declared: Tensor,
        days: Tensor,
    ) -> Interest:
        """Learn of the interest from a visit, and let it drift until the next one.

        Shapes: state (V, D), slates (V, K) int64 without padding; shown, clicks (V, K) bool;
        counters (V, K, COUNTERS) before the visit, declared (V, declared), days (V,) until the next
        visit.
        """
        rows, offsets, looks = self.told_of_interest(state, slates, counters)
        learned = self.interest.answered(known, rows, offsets, looks, clicks, shown)
        return self.interest.waited(learned, self.interest.home(declared), age_of(days))

    def told_of_interest(
        self, state: Tensor, slates: Tensor, counters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what `InterestFilter.answered` needs, for shoppers of mean temperament.

        Returns:
            (V, K, R) rows, (V, K) offsets and (V, K) looks.
        """
        mean = state.new_zeros(len(state), 1, TEMPERAMENT)
        weary = self.weariness(counters / self.counter_scale[:COUNTERS], mean)
        weary = weary.squeeze(1).sum(dim=-1)
        offsets = self._common(state, self.query(state), slates) - weary
        along = looked_up(self.embedding, slates) @ self.directions
        rows = torch.cat([along, torch.stack([torch.ones_like(weary), -weary], dim=-1)], dim=-1)
        return rows, offsets, self.log_looks(state, mean).squeeze(1).exp()

    def interests(self, state: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, Interest]:
        """Follow the interests of whole episodes.

        Args:
            state: (V, D) before each visit
            given: a batch of `forward`

        Returns:
            (V, R) mean before each visit, and what is known after the last one and the days until
            the next.
        """
        real = given["real"]
        told = (
            *self.told_of_interest(state, given["slates"], given["counters"]),
            given["clicks"],
            given["shown"],
            age_of(given["gap"].clamp(min=0)),
        )

        def padded(values: Tensor) -> Tensor:
            values = values.float() if values.is_floating_point() else values
            empty = values.new_zeros(*real.shape, *values.shape[1:])
            return empty.index_put((real,), values)

        with torch.autocast(state.device.type, enabled=False):
            *parts, ages = (padded(values).unbind(dim=1) for values in told)
            home = self.interest.home(given["declared"])
            known, means = self.interest.newcomers(given["declared"]), []
            for *seen, age in zip(*parts, ages, strict=True):
                means.append(known.mean)
                known = self.interest.waited(self.interest.answered(known, *seen), home, age)
        return torch.stack(means, dim=1)[real], known

    def click_probability(
        self, state: Tensor, temperament: Tensor, logits: Tensor, shown: Tensor
    ) -> Tensor:
        """Compute the chance (V, S, M, K) of a click in each mood, 0 where `shown` (V, K) is False.

        Shapes: state (V, D), temperament (V, S, R), logits (V, S, M, K) from `answer`.
        """
        looks = self.log_looks(state, temperament).unsqueeze(2)
        return torch.exp(looks + F.logsigmoid(logits)) * shown[:, None, None]

    def leave_logits(
        self, state: Tensor, temperament: Tensor, weary: Tensor, clicks: Tensor, shown: Tensor
    ) -> Tensor:
        """Compute the log-odds (V, S) of leaving after the visit.

        Shapes: state (V, D), temperament (V, S, R), weary (V, S, K, 2) from `answer`; clicks, shown
        (V, K) bool.
        """
        weight = self.log_looks(state, temperament).exp() * shown.unsqueeze(1)
        weight = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        mean = torch.einsum("vsk,vskr->vsr", weight, weary)
        logits: Tensor = self.leave_head(state, temperament, mean, clicks)
        return logits

    def hazards(self, state: Tensor, clicks: Tensor) -> Tensor:
        """Compute the hazards (V, bins) of coming back, for those who do.

        Shapes: state (V, D) before the visit, clicks (V, K) bool.
        """
        number = clicks.float().sum(dim=-1, keepdim=True)
        seen = torch.cat([state, (number == 0).float(), torch.log1p(number)], dim=-1)
        return all_back(self.gap_head(seen))

    def purchase_logits(self, state: Tensor, slates: Tensor) -> Tensor | None:
        """Compute the log-odds (V, K) that what is clicked is bought; None without purchases.

        Shapes: state (V, D) before the visit, slates (V, K) int64 without padding.
        """
        if self.purchase_head is None:
            return None
        logits: Tensor = self.purchase_head(state, slates, looked_up(self.embedding, slates))
        return logits

    # ---- learning ----

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Compute the loss of a batch of whole episodes, as `session.fit.Visits.batch` makes it.

        Shapes: B episodes, T visits (padded at the end), V real visits among them, S temperaments.
            real: (B, T) bool
            declared: (B, config.declared)
            normal: (B, S, TEMPERAMENT) standard normal numbers
            slates: (V, K) int64 without padding, of real visits, episode by episode, as all below
            shown, clicks: (V, K) bool
            counters: (V, K, COUNTERS) before the visit
            context: (V, C) after it
            days: (B, T) since the first visit, or (1, T) where they are the same for all
            since: (V,) days since the visit before, 1 at the first
            gap: (V,) days until the next visit, below 0 where none was seen
            follow_up: (V,) days through which the shopper was watched
            purchases: (V, K) bool, where `config.purchases`

        Returns:
            `loss` (), the negative log-likelihood a visit in nats, its parts `clicks`, `returns`
            and `purchases` () for the eye (means over temperaments), of each visit and temperament
            `log_likelihood` and its parts `click_log_likelihood` and `return_log_likelihood`
            (V, S), `leave_logits` (V, S), `click_logits` (V, S, M, K) and `log_looks` (V, S, K);
            of each visit `hazards` (V, bins) and `purchase_logits` (V, K), and of each episode what
            is known of the interest behind it, `interest` (B, R) and `interest_covariance` (B, R,
            R).
        """
        # States before each visit.
        real, slates, shown, clicks = (
            batch[name] for name in ("real", "slates", "shown", "clicks")
        )
        episode = real.nonzero()[:, 0]
        bought, since = batch.get("purchases"), batch["since"]
        token = self.token(
            slates,
            shown,
            clicks,
            batch["counters"],
            batch["context"],
            batch["declared"][episode],
            since,
            bought,
        )
        padded = token.new_zeros(*real.shape, token.shape[1]).masked_scatter(
            real.unsqueeze(2), token
        )
        after = self.encode(padded, batch["days"])
        before = torch.cat([self.welcome(batch["declared"]).unsqueeze(1), after[:, :-1]], dim=1)

        # What the visits say, in each temperament.
        state = self.state_dropout(self.arrive(before[real], since))
        temperament = self.temperament(batch["normal"])[episode]
        interest, known = self.interests(state, batch)
        wanted = self.wanted(state, interest)
        logits, weary = self.answer(state, wanted, temperament, slates, batch["counters"])
        log_looks = self.log_looks(state, temperament)
        leave = self.leave_logits(state, temperament, weary, clicks, shown)
        hazards = self.hazards(state, clicks)

        # Their likelihood.
        of_clicks = slate_log_likelihood(log_looks, logits, clicks, shown)
        of_return = return_log_likelihood(
            self.config.gap_bins, hazards, leave, batch["gap"], batch["follow_up"]
        )
        of_visit = of_clicks + of_return
        found = {
            "clicks": -of_clicks.mean(),
            "returns": -of_return.mean(),
            "click_log_likelihood": of_clicks,
            "return_log_likelihood": of_return,
            "click_logits": logits,
            "log_looks": log_looks,
            "leave_logits": leave,
            "hazards": hazards,
            "interest": known.mean,
            "interest_covariance": known.covariance,
        }
        buying = self.purchase_logits(state, slates)
        if buying is not None and bought is not None:
            of_purchase = F.logsigmoid(torch.where(bought, buying, -buying)) * clicks
            of_visit = of_visit + of_purchase.sum(dim=1, keepdim=True)
            found |= {"purchases": -of_purchase.sum(dim=1).mean(), "purchase_logits": buying}
        of_episode = episode_log_likelihood(of_visit, episode, len(real))
        return {"loss": -of_episode.sum() / len(slates), "log_likelihood": of_visit} | found


def arrival(since: Tensor) -> Tensor:
    """Describe days since the last visit (...,): (..., ARRIVAL), zeros where it was one."""
    return torch.stack([(since < 1).float(), since.clamp(min=1).log()], dim=-1)


def slate_log_likelihood(
    log_looks: Tensor, click_logits: Tensor, clicks: Tensor, shown: Tensor
) -> Tensor:
    """Compute the log-likelihood (V, S) of the answers to slates.

    In a mood the positions are independent; moods are summed over.

    Shapes: log_looks (V, S, K), click_logits (V, S, M, K); clicks, shown (V, K) bool.
    """
    chance = (log_looks.exp().unsqueeze(2) * click_logits.sigmoid()).clamp(max=1 - CLICK_EDGE)
    answered = torch.where(clicks[:, None, None], chance, 1 - chance)
    of_mood = (answered.clamp(min=LEAST).log() * shown[:, None, None]).sum(dim=3)
    return torch.logsumexp(of_mood + constant(MOOD_CHANCES, of_mood).log(), dim=2)


def episode_log_likelihood(of_visit: Tensor, episode: Tensor, episodes: int) -> Tensor:
    """Compute the log-likelihood (B,) of episodes.

    It is that of the mean over temperaments of the product over visits.

    Args:
        of_visit: (V, S) log-likelihoods
        episode: (V,) int64 episode of each visit, 0 .. B - 1
        episodes: B
    """
    whole = of_visit.new_zeros(episodes, of_visit.shape[1]).index_add(0, episode, of_visit)
    return torch.logsumexp(whole, dim=1) - math.log(of_visit.shape[1])


def over_moods(values: Tensor) -> Tensor:
    """Average values (..., M, K) over moods: (..., K)."""
    return torch.einsum("...mk,m->...k", values, constant(MOOD_CHANCES, values))


AutoConfig.register(SessionShopperConfig.model_type, SessionShopperConfig, exist_ok=True)
AutoModel.register(SessionShopperConfig, SessionShopper, exist_ok=True)
