"""A transformer user model for impression logs: slates, clicks by position, and leaving.

    visit -> token -> causal encoder -> state -+-> click head  chance of a click at each position
                                               +-> leave head  chance of leaving after the visit

Every position is looked at, and what is looked at is clicked or not,

    p_j = look_j(state, z) sigmoid(base(state) + query(state) . v_i + bias_i - weariness_i + spread(state) z)

with look_1 = 1 and look_j falling from position to position: the position-based model (Craswell et al. 2008, "An
experimental comparison of click position-bias models", section 3.2) with a depth of the shopper's own. z is the mood of
the visit, a standard normal number that all positions share: what the model cannot know of a shopper makes the clicks
of a slate go together, and without it slates that nothing is clicked in are too rare. Its likelihood is a sum over
Gauss-Hermite nodes, as in any logistic model with a random effect (Bock & Aitkin 1981, equation 8). Weariness grows
with how often the item and its category were shown and clicked before (`Weariness`); that of what was looked at also
makes the shopper leave,

    P(leaves) = mean over z of sigmoid(rest(state, clicks) + exp(spread'(state) z) slopes(state) . weariness)

where z says that how much weariness a shopper bears is not known either: without it the chance rises with weariness
as steeply as for the average shopper, too late and then too fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from recsim_env.shoppers.memory import NEVER
from recsim_env.shoppers.profile import DECAYS
from recsim_env.shoppers.session_memory import CATEGORY_COUNTERS, COUNTERS, context_size, faded
from recsim_env.shoppers.transformer import Block, Cache, lag_bucket

WEARY = (len(DECAYS) + 1, 2 * len(DECAYS) + 1, CATEGORY_COUNTERS)
"""Which counters make weary: of the category, showings by position and responses of the last ten visits or so (decay
0.9); of the item, showings of the last few. On held-out visits of a market's log these did as well as all thirteen, and
with all of them the weights are shared out among counters that are alike in the log and not elsewhere."""
LEAVE_WEIGHT = 2.0  # of the leave loss: leaving is rare, and its gradient would drown in that of the clicks
MOODS = (-2.8569700139, -1.3556261800, 0.0, 1.3556261800, 2.8569700139)  # nodes of the standard normal
MOOD_CHANCES = (0.0112574113, 0.2220759220, 0.5333333333, 0.2220759220, 0.0112574113)  # their weights
CLICK_EDGE = 1e-6  # a click is never surer than 1 - this, so that its likelihood stays finite


class SessionShopperConfig(PreTrainedConfig):
    """Configuration of `SessionShopper`.

    Args:
        n_items, n_categories: size of the catalogue
        width: dimensions of the item embeddings
        slate_size: positions in a slate
        declared: numbers that a newcomer tells of its interest; 0 where shops do not ask
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the encoder over visits
        window: visits that a visit can attend to, itself among them
        head_size: width of the heads
        dropout, state_dropout: training only; chance to hide activations of the encoder, and of the states that the
            heads see, so that they lean on the counters
        click_calibration, leave_calibration: scale and shift of the log-odds of a click and of leaving, fitted on
            held-out episodes
    """

    model_type = "session_shopper"

    def __init__(
        self,
        n_items: int = 8,
        n_categories: int = 2,
        width: int = 4,
        slate_size: int = 3,
        declared: int = 0,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        intermediate_size: int = 128,
        window: int = 64,
        head_size: int = 64,
        dropout: float = 0.05,
        state_dropout: float = 0.1,
        click_calibration: tuple[float, float] = (1.0, 0.0),
        leave_calibration: tuple[float, float] = (1.0, 0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.n_items = n_items
        self.n_categories = n_categories
        self.width = width
        self.slate_size = slate_size
        self.declared = declared
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.window = window
        self.head_size = head_size
        self.dropout = dropout
        self.state_dropout = state_dropout
        self.click_calibration = click_calibration
        self.leave_calibration = leave_calibration


class Weariness(nn.Module):
    """How weary a shopper is of what is shown: of its category, and of the item itself.

    Both grow in proportion to how often it was met, as in McAlister 1982, equation 1: the counters of `WEARY` with
    weights >= 0 that all shoppers share, times a factor >= 0 of the shopper's own. So a policy that repeats itself more
    than anyone did in the log is answered by a slope, and not by wherever a network happens to run off to.
    """

    def __init__(self, config: SessionShopperConfig) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(len(WEARY)))
        self.factors = nn.Linear(config.hidden_size, 2)

    def forward(self, state: Tensor, amounts: Tensor) -> Tensor:
        """(..., K, 2) log-odds >= 0, of category and item; state (..., D), amounts (..., K, COUNTERS) >= 0."""
        met = amounts[..., WEARY] * F.softplus(self.weights)
        common = torch.stack([met[..., :2].sum(dim=-1), met[..., 2]], dim=-1)
        return common * F.softplus(self.factors(state)).unsqueeze(-2)


class LeaveHead(nn.Module):
    """Log-odds of leaving after a visit: rising with weariness, plus what is bounded. See the module docstring."""

    def __init__(self, config: SessionShopperConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.slopes = nn.Linear(d, 2)
        self.spread = nn.Linear(d, 1)
        self.inner = nn.Linear(d + 4, config.head_size // 2)
        self.outer = nn.Linear(config.head_size // 2, 1)

    def forward(self, state: Tensor, weary: Tensor, clicks: Tensor) -> Tensor:
        """state (..., D) before the visit, weary (..., 2) >= 0 of the slate, clicks (..., K) -> (..., M) by mood."""
        number = clicks.float().sum(dim=-1, keepdim=True)
        seen = torch.cat([state, weary, (number == 0).float(), torch.log1p(number)], dim=-1)
        bounded: Tensor = self.outer(torch.tanh(self.inner(seen)))
        rising = (F.softplus(self.slopes(state)) * weary).sum(dim=-1, keepdim=True)
        return bounded + rising * torch.exp(F.softplus(self.spread(state)) * state.new_tensor(MOODS))


class SessionShopper(PreTrainedModel):
    """Transformer user model; `session_fit` fits it, `learned_market` lets it shop. See the module docstring.

    `embedding` (N, E) and `category` (N,) are the catalogue's; `counter_mean`, `counter_scale` (2 * COUNTERS,) bring
    the counter features to order 1. Dimensions: B shoppers, T visits, K positions, D hidden.
    """

    config_class = SessionShopperConfig
    config: SessionShopperConfig
    main_input_name = "slates"
    embedding: Tensor
    category: Tensor
    counter_mean: Tensor
    counter_scale: Tensor

    def __init__(self, config: SessionShopperConfig) -> None:
        super().__init__(config)
        d = config.hidden_size
        self.register_buffer("embedding", torch.zeros(config.n_items, config.width))
        self.register_buffer("category", torch.zeros(config.n_items, dtype=torch.int64))
        self.register_buffer("counter_mean", torch.zeros(2 * COUNTERS))
        self.register_buffer("counter_scale", torch.ones(2 * COUNTERS))
        size = 2 * config.width + config.slate_size + 2 + 4 * COUNTERS + context_size(config.width)
        size += config.declared
        self.token_in = nn.Linear(size, 2 * d)
        self.token_out = nn.Linear(2 * d, d)
        self.blocks = nn.ModuleList([Block(cast(Any, config)) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(d)
        self.newcomer = nn.Parameter(torch.zeros(d))  # state of a shopper without visits,
        self.of_declared = nn.Linear(max(config.declared, 1), d, bias=False)  # moved by what the shopper declared
        self.query = nn.Linear(d, config.width)
        self.base = nn.Linear(d, 1)
        self.item_bias = nn.Embedding(config.n_items, 1)
        self.weariness = Weariness(config)
        self.look_step = nn.Parameter(torch.zeros(config.slate_size - 1))
        self.look_depth = nn.Linear(d, 1)
        self.mood = nn.Linear(d, 2)  # what it adds to the log-odds of a click, before softplus, and to those of a look
        self.leave_head = LeaveHead(config)
        self.state_dropout = nn.Dropout(config.state_dropout)
        self.post_init()  # type: ignore[no-untyped-call]

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
            nn.init.constant_(module.base.bias, -2.0)
            nn.init.constant_(module.look_step, 1.5)
            nn.init.zeros_(module.look_depth.weight)
            nn.init.zeros_(module.mood.weight)
            nn.init.constant_(module.weariness.weights, -2.0)
            nn.init.constant_(module.weariness.factors.bias, 0.5)
            nn.init.zeros_(module.leave_head.slopes.bias)
            nn.init.constant_(module.leave_head.spread.bias, -1.0)
            nn.init.constant_(module.leave_head.outer.bias, -3.0)

    # ---- visits in, states out -------------------------------------------------------------------------------------

    def features(self, counters: Tensor) -> Tensor:
        """Counters (..., COUNTERS) as inputs of order 1, plain and logged: (..., 2 * COUNTERS)."""
        both = torch.cat([counters, torch.log1p(counters)], dim=-1)
        return (both - self.counter_mean) / self.counter_scale

    def welcome(self, declared: Tensor) -> Tensor:
        """States (B, D) of shoppers without visits; declared (B, config.declared)."""
        if self.config.declared == 0:
            return self.newcomer.expand(len(declared), -1)
        state: Tensor = self.newcomer + self.of_declared(declared)
        return state

    def token(
        self, slates: Tensor, shown: Tensor, clicks: Tensor, counters: Tensor, context: Tensor, declared: Tensor
    ) -> Tensor:
        """Tokens (..., D) of visits.

        Shapes: slates (..., K) int64 without padding; shown, clicks (..., K) bool; counters (..., K, COUNTERS) of the
        shown items before the visit; context (..., C) of the memory after it;
        declared (..., config.declared) of the shopper.
        """
        features, clicked = self.features(counters), clicks.float()
        weight = shown * faded(slates.shape[-1], slates.device)
        weight = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        vectors = self.embedding[slates]
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
        return token

    def encode(self, token: Tensor) -> Tensor:
        """States after each visit, all at once: token (B, T, D), one visit a day; returns (B, T, D).

        A visit sees itself and the `window` - 1 before it, so padding at the end changes nothing before it.
        """
        order = torch.arange(token.shape[1], device=token.device)
        distance = order.unsqueeze(1) - order.unsqueeze(0)
        visible = ((distance >= 0) & (distance < self.config.window)).unsqueeze(0)
        lag = lag_bucket(distance.float()).unsqueeze(0)
        x = token
        for block in cast(Iterable[Block], self.blocks):
            x = block(x, *block.project(x), lag, visible)
        states: Tensor = self.final_norm(x)
        return states

    def empty_cache(self, declared: Tensor) -> Cache:
        """Cache of shoppers without visits; declared (B, config.declared)."""
        shoppers = len(declared)
        c, device = self.config, self.device
        shape = (c.num_hidden_layers, shoppers, c.window, c.hidden_size)
        return Cache(
            torch.zeros(shape, device=device),
            torch.zeros(shape, device=device),
            torch.full((shoppers, c.window), -math.inf, device=device),
            torch.zeros(shoppers, dtype=torch.int64, device=device),
            self.welcome(declared).detach().clone(),
        )

    def advance(self, cache: Cache, token: Tensor) -> None:
        """Add one visit to each shopper, in place: token (B, D). The cost does not grow with the history."""
        rows = torch.arange(len(token), device=token.device)
        place = cache.count % self.config.window
        day = cache.count.float()
        cache.day[rows, place] = day
        lag = lag_bucket((day.unsqueeze(1) - cache.day).clamp(max=NEVER)).unsqueeze(1)
        visible = cache.day.isfinite().unsqueeze(1)
        x = token.unsqueeze(1)
        for layer, block in enumerate(cast(Iterable[Block], self.blocks)):
            query, key, value = block.project(x)
            cache.keys[layer, rows, place] = key.squeeze(1)
            cache.values[layer, rows, place] = value.squeeze(1)
            x = block(x, query, cache.keys[layer], cache.values[layer], lag, visible)
        cache.count += 1
        cache.state = self.final_norm(x.squeeze(1))

    # ---- states in, behaviour out ----------------------------------------------------------------------------------

    def log_looks(self, state: Tensor) -> Tensor:
        """Log-probability that each position is looked at in each of the M `MOODS`, 0 at the top and falling.

        Shapes: state (..., D) -> (..., M, K).
        """
        nodes = state.new_tensor(MOODS).unsqueeze(1)
        lean = self.mood(state)[..., 1:].unsqueeze(-2)
        depth = self.look_depth(state).unsqueeze(-2) + lean * nodes  # (..., M, 1)
        return F.pad(F.logsigmoid(self.look_step + depth).cumsum(dim=-1), (1, 0))

    def looks(self, state: Tensor) -> Tensor:
        """(..., K) the chance that each position is looked at."""
        return over_moods(self.log_looks(state).exp())

    def in_moods(self, state: Tensor, logits: Tensor) -> Tensor:
        """Log-odds (..., K) of a click once looked at, in each mood: (..., M, K)."""
        spread = F.softplus(self.mood(state)[..., :1]).unsqueeze(-1)
        return logits.unsqueeze(-2) + spread * logits.new_tensor(MOODS).unsqueeze(1)

    def answer(self, state: Tensor, slates: Tensor, counters: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds (..., K) of a click once looked at, uncalibrated, and weariness (..., K, 2) of category and item.

        Shapes: state (..., D) before the visit, slates (..., K) int64 without padding, counters (..., K, COUNTERS).
        """
        weary = self.weariness(state, counters / self.counter_scale[:COUNTERS])
        liked = torch.einsum("...e,...ke->...k", self.query(state), self.embedding[slates])
        return self.base(state) + liked + self.item_bias(slates).squeeze(-1) - weary.sum(dim=-1), weary

    def click_probability(self, state: Tensor, logits: Tensor, shown: Tensor) -> Tensor:
        """(..., M, K) calibrated chance of a click in each mood; 0 where `shown` is False. logits from `answer`."""
        scale, shift = self.config.click_calibration
        chance = torch.exp(self.log_looks(state) + F.logsigmoid(scale * self.in_moods(state, logits) + shift))
        return chance * shown.unsqueeze(-2)

    def leave_logits(self, state: Tensor, weary: Tensor, clicks: Tensor, shown: Tensor) -> Tensor:
        """(..., M) log-odds of leaving after the visit in each mood, uncalibrated; weary (..., K, 2) from `answer`."""
        weight = self.looks(state) * shown
        weight = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        mean = torch.einsum("...k,...kr->...r", weight, weary)
        logits: Tensor = self.leave_head(state, mean, clicks)
        return logits

    def leave_probability(self, state: Tensor, weary: Tensor, clicks: Tensor, shown: Tensor) -> Tensor:
        """(...,) calibrated chance of leaving after the visit; as `leave_logits`."""
        scale, shift = self.config.leave_calibration
        return mean_mood(torch.sigmoid(scale * self.leave_logits(state, weary, clicks, shown) + shift))

    # ---- learning --------------------------------------------------------------------------------------------------

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Losses of a batch of whole episodes; `session_fit.Visits.batch` makes it.

        Shapes: B episodes, T visits (padded at the end), V real visits among them.
            real (B, T) bool; declared (B, config.declared); and of the real visits, episode by episode: slates (V, K)
            int64 without padding; shown, clicks (V, K) bool; counters (V, K, COUNTERS) before the visit; context (V, C)
            after it; leaves (V,) float32
        Returns `loss` () its parts `click` and `leave`, and `click_logits`, `log_looks` (V, M, K) by mood and
        `leave_logits` (V, M), uncalibrated.
        """
        real, slates, shown, clicks = (batch[name] for name in ("real", "slates", "shown", "clicks"))
        said = batch["declared"].unsqueeze(1).expand(-1, real.shape[1], -1)[real]
        token = self.token(slates, shown, clicks, batch["counters"], batch["context"], said)
        padded = token.new_zeros(*real.shape, token.shape[1]).masked_scatter(real.unsqueeze(2), token)
        after = self.encode(padded)
        before = torch.cat([self.welcome(batch["declared"]).unsqueeze(1), after[:, :-1]], dim=1)[real]
        state = self.state_dropout(before)
        logits, weary = self.answer(state, slates, batch["counters"])
        log_looks, click_logits = self.log_looks(state), self.in_moods(state, logits)
        leave = self.leave_logits(state, weary, clicks, shown)
        losses = {
            "click": -slate_log_likelihood(log_looks, click_logits, clicks, shown).mean(),
            "leave": -leave_log_likelihood(leave, batch["leaves"]).mean(),
        }
        loss = losses["click"] + LEAVE_WEIGHT * losses["leave"]
        return {"loss": loss, **losses, "click_logits": click_logits, "log_looks": log_looks, "leave_logits": leave}


def slate_log_likelihood(log_looks: Tensor, click_logits: Tensor, clicks: Tensor, shown: Tensor) -> Tensor:
    """Log-likelihood (V,) of the answers to slates: in a mood positions are independent, moods are summed over.

    Shapes: log_looks, click_logits (V, M, K) by mood; clicks, shown (V, K) bool.
    """
    log_click = (log_looks + F.logsigmoid(click_logits)).clamp(max=-CLICK_EDGE)
    of_position = torch.where(clicks.unsqueeze(1), log_click, torch.log1p(-log_click.exp()))
    of_mood = (of_position * shown.unsqueeze(1)).sum(dim=2)
    return torch.logsumexp(of_mood + of_mood.new_tensor(MOOD_CHANCES).log(), dim=1)


def leave_log_likelihood(leave_logits: Tensor, leaves: Tensor) -> Tensor:
    """Log-likelihood (V,) of staying or leaving, moods summed over: leave_logits (V, M), leaves (V,) 0 or 1."""
    of_mood = F.logsigmoid(torch.where(leaves.unsqueeze(1) > 0, leave_logits, -leave_logits))
    return torch.logsumexp(of_mood + of_mood.new_tensor(MOOD_CHANCES).log(), dim=1)


def mean_mood(values: Tensor) -> Tensor:
    """The mean over moods of values (..., M): (...,)."""
    return values @ values.new_tensor(MOOD_CHANCES)


def over_moods(values: Tensor) -> Tensor:
    """The mean over moods of values (..., M, K): (..., K)."""
    return torch.einsum("...mk,m->...k", values, values.new_tensor(MOOD_CHANCES))
