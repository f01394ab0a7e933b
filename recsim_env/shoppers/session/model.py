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

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from recsim_env.shoppers.encoder import VisitEncoder
from recsim_env.shoppers.gaps import GapHead, all_back, return_log_likelihood
from recsim_env.shoppers.session.config import SessionShopperConfig
from recsim_env.shoppers.session.heads import (
    DEEP,
    KEEN,
    TEMPERAMENT,
    LeaveHead,
    PurchaseHead,
    Weariness,
)
from recsim_env.shoppers.session.interest import (
    MOST_DIRECTIONS,
    Interest,
    InterestFilter,
)
from recsim_env.shoppers.session.likelihood import (
    MOODS,
    episode_log_likelihood,
    slate_log_likelihood,
)
from recsim_env.shoppers.session.memory import (
    COUNTERS,
    age_of,
    context_size,
    position_weights,
)
from recsim_env.shoppers.weights import check_categories
from recsim_env.tensors import constant, looked_up, running_sums

ARRIVAL = 2  # whether it is the same day as the visit before, and the log of the days since


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
        """Compute the loss of a batch of whole episodes, as `session.visits.Visits.batch` makes it.

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


AutoConfig.register(SessionShopperConfig.model_type, SessionShopperConfig, exist_ok=True)
AutoModel.register(SessionShopperConfig, SessionShopper, exist_ok=True)
