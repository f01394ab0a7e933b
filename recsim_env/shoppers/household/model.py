"""The fine-tuned shopper: a causal transformer over visits, counters, and heads for slate, basket and return.

    visit -> token -> encoder -> state -+-> slate head   chance of a response for each shown item
                                        +-> explore head purchase rate of items never bought before
                                        +-> gap head     hazard of coming back after d days

Items bought before are scored by the slate head too ("repeat or explore", Ren et al. 2019,
RepeatNet, eq. 1), so the three heads together give the likelihood of a whole basket.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from recsim_env import checks
from recsim_env.shoppers.encoder import EncoderConfig, VisitEncoder
from recsim_env.shoppers.household.memory import (
    COUNT,
    INTERVAL,
    LEVELS,
    NEVER,
    RECENT,
    RHYTHM,
    SINCE,
)
from recsim_env.shoppers.weights import MOST, check_categories
from recsim_env.tensors import constant

GAP_EDGES = (
    *range(15),
    15,
    18,
    21,
    25,
    28,
    35,
    42,
    49,
)  # first day of each hazard bin; the last ends on LAPSE_DAYS
LAPSE_DAYS = 56  # a shopper who stayed away longer is gone
DISPLAYS, MAILERS = 10, 11  # placement = display * MAILERS + mailer
CONTEXT = RHYTHM + 7 + 1  # rhythm (memory.tally), day of the week, log days since the last visit
ITEM_CONTEXT = 2  # trailing popularity and discount of an item in a week
SINCE_BUCKETS = (
    29 + 12
)  # single days up to four weeks, then steps of a quarter octave; the last is "never"
SHARES, RECENCIES = (
    16,
    4,
)  # what `SlateShopperConfig.repeat_ceilings` tells apart, see `repeat_bucket`
ROW_KINDS = ("case_control", "policy", "uniform", "repeat")  # where a scored row comes from
LOSS_WEIGHTS = {
    "case_control": 1.0,
    "policy": 1.0,
    "uniform": 0.1,
    "repeat": 1.0,
    "gap": 0.5,
    "explore": 0.02,
}
LOGIT = 50.0  # no calibration moves a logit or a log rate further: its exponential would leave float32's range in sums


class SlateShopperConfig(EncoderConfig):
    """Configuration of `SlateShopper`.

    Args:
        n_items, n_categories: size of the catalogue
        text_width: width of the text embeddings that the item vectors start from
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the encoder over
            visits
        window: visits that a visit can attend to, itself among them
        head_size: width of the slate head
        use_text, use_counters: False removes the input (ablations)
        dropout, gap_dropout, id_dropout, unknown_dropout: training only; chance to hide activations
            of the encoder and of the gap head, an item's id, an item's whole past
        slate_calibration: scale and shift of the slate logits, fitted on validation weeks
        explore_calibration, gap_calibration: shift of the log rates and of the log hazards,
            likewise
        repeat_ceilings: most that the chance to buy an item again outside a slate can be, by
            `repeat_bucket`: where nothing outside is promoted, and where promotions are as in the
            log; likewise
    """

    model_type = "slate_shopper"

    def __init__(
        self,
        n_items: int = 8,
        n_categories: int = 2,
        text_width: int = 384,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        intermediate_size: int = 256,
        window: int = 64,
        head_size: int = 64,
        use_text: bool = True,
        use_counters: bool = True,
        dropout: float = 0.1,
        gap_dropout: float = 0.1,
        id_dropout: float = 0.15,
        unknown_dropout: float = 0.1,
        slate_calibration: tuple[float, float] = (1.0, 0.0),
        explore_calibration: float = 0.0,
        gap_calibration: float = 0.0,
        repeat_ceilings: tuple[tuple[float, ...], ...] = ((1.0,) * SHARES * RECENCIES,) * 2,
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
        self.text_width = checks.whole("text_width", text_width, 1, MOST["width"])
        self.head_size = checks.whole("head_size", head_size, 2, MOST["width"])
        self.use_text = checks.flag("use_text", use_text)
        self.use_counters = checks.flag("use_counters", use_counters)
        self.gap_dropout = checks.number("gap_dropout", gap_dropout, 0, 1)
        self.id_dropout = checks.number("id_dropout", id_dropout, 0, 1)
        self.unknown_dropout = checks.number("unknown_dropout", unknown_dropout, 0, 1)
        scale, shift = checks.several("slate_calibration", slate_calibration, 2)
        self.slate_calibration = (
            checks.number("slate_calibration[0]", scale, -LOGIT, LOGIT),
            checks.number("slate_calibration[1]", shift, -LOGIT, LOGIT),
        )
        self.explore_calibration = checks.number(
            "explore_calibration", explore_calibration, -LOGIT, LOGIT
        )
        self.gap_calibration = checks.number("gap_calibration", gap_calibration, -LOGIT, LOGIT)
        unpromoted, promoted = checks.several("repeat_ceilings", repeat_ceilings, 2)
        self.repeat_ceilings: tuple[tuple[float, ...], ...] = (
            _ceilings(0, unpromoted),
            _ceilings(1, promoted),
        )


def _ceilings(row: int, values: object) -> tuple[float, ...]:
    name = f"repeat_ceilings[{row}]"
    several = checks.several(name, values, SHARES * RECENCIES)
    return tuple(
        checks.number(f"{name}[{place}]", value, 0, 1) for place, value in enumerate(several)
    )


class ItemTower(nn.Module):
    """Item vectors: text + category + an id of its own for items seen in training.

    Shapes: N items. `text` (N, text_width) and `known` (N,) are buffers; returns (N, hidden).
    """

    text: Tensor
    category: Tensor
    known: Tensor

    def __init__(self, config: SlateShopperConfig) -> None:
        super().__init__()
        n, d = config.n_items, config.hidden_size
        self.config = config
        self.register_buffer("text", torch.zeros(n, config.text_width))
        self.register_buffer("category", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("known", torch.ones(n))
        self.text_projection = nn.Linear(config.text_width, d, bias=False)
        self.category_embedding = nn.Embedding(config.n_categories, d)
        self.id_embedding = nn.Embedding(n, d)
        self.norm = nn.LayerNorm(d)

    def forward(self, id_kept: Tensor | None = None, text: Tensor | None = None) -> Tensor:
        """Vectors of all items; `id_kept` (N,) 0/1 hides ids, `text` (N, text_width) replaces the stored embeddings."""
        kept = self.known if id_kept is None else self.known * id_kept
        vectors = (
            self.category_embedding(self.category) + kept.unsqueeze(1) * self.id_embedding.weight
        )
        if self.config.use_text:
            vectors = vectors + self.text_projection(self.text if text is None else text)
        normed: Tensor = self.norm(vectors)
        return normed


class SlateHead(nn.Module):
    """Chance of a response: shopper state x item vector, counters, placement; each position on its own.

    One logit a position and no softmax over the slate: a visit often has several purchases.
    """

    def __init__(self, config: SlateShopperConfig) -> None:
        super().__init__()
        d, h = config.hidden_size, config.head_size
        self.config = config
        self.query = nn.Linear(d + CONTEXT, d)
        self.of_shopper = nn.Linear(d + CONTEXT, h)
        self.of_item = nn.Linear(d, h, bias=False)
        self.of_stats = nn.Linear(LEVELS * 4 + 1, h, bias=False)
        self.of_item_context = nn.Linear(ITEM_CONTEXT, h, bias=False)
        self.of_codes = nn.Embedding(
            DISPLAYS + MAILERS + LEVELS * (SINCE_BUCKETS + 1), h
        )  # one table, summed
        self.middle = nn.Linear(h, h // 2)
        self.last = nn.Linear(h // 2, 1)
        self.item_bias = nn.Embedding(config.n_items, 1)

    def shoppers(self, state: Tensor) -> Tensor:
        """What all items of a shopper share: query and hidden part, (..., D + CONTEXT) -> (..., D + head)."""
        query = self.query(state) / math.sqrt(self.config.hidden_size)
        return torch.cat([query, self.of_shopper(state)], dim=-1)

    def items(self, vectors: Tensor, id_shown: Tensor) -> Tensor:
        """What all shoppers share of an item: vector, hidden part and bias, (N, D) -> (N, D + head + 1).

        `id_shown` (N,) is 0 for items that have no bias of their own.
        """
        bias = self.item_bias.weight * id_shown.unsqueeze(1)
        return torch.cat([vectors, self.of_item(vectors), bias], dim=1)

    def forward(
        self,
        shopper: Tensor,
        item: Tensor,
        stats: Tensor,
        item_context: Tensor,
        placement: Tensor,
        known: Tensor | None = None,
    ) -> Tensor:
        """Logits (...,).

        Shapes: shopper (..., D + head) from `shoppers`, item (..., D + head + 1) from `items`,
        stats (..., LEVELS, STATS), item_context (..., ITEM_CONTEXT), placement (...,) int64, known
        (...,) 0 where the item's own past is hidden.
        """
        d, h = self.config.hidden_size, self.config.head_size
        query, of_shopper = shopper.split([d, h], dim=-1)
        vector, of_item, bias = item.split([d, h, 1], dim=-1)
        if known is not None:
            item_context = item_context * known.unsqueeze(-1)
        given = [item_context]
        weights = [self.of_item_context.weight]
        if self.config.use_counters:
            given.append(self._features(stats, known))
            weights.append(self.of_stats.weight)
        hidden = F.linear(torch.cat(given, dim=-1), torch.cat(weights, dim=1))
        hidden = (
            hidden.to(of_shopper.dtype)
            .add_(of_shopper)
            .add_(of_item)
            .add_(self._codes(stats, placement, known))
        )
        score: Tensor = (self.last(F.gelu(self.middle(F.gelu(hidden)))) + bias).squeeze(-1) + (
            query * vector
        ).sum(-1)
        return score

    def _features(self, stats: Tensor, known: Tensor | None) -> Tensor:
        """(..., LEVELS * 4 + 1): counter features, the item's own hidden where it is unknown, and if it is known."""
        features = counter_features(stats)
        own = (
            features.new_ones(features.shape[:-2])
            if known is None
            else known.expand(features.shape[:-2])
        )
        mine = features[..., 0, :] * own.unsqueeze(-1)
        return torch.cat([mine, features[..., 1:, :].flatten(-2), own.unsqueeze(-1)], dim=-1)

    def _codes(self, stats: Tensor, placement: Tensor, known: Tensor | None) -> Tensor:
        """Sum of the embeddings of display, mailer and, per level, the bucket of days since the last purchase."""
        codes = torch.stack([placement // MAILERS, DISPLAYS + placement % MAILERS], dim=-1)
        if self.config.use_counters:
            bucket = since_bucket(stats[..., SINCE])
            if known is not None:
                own = bucket[..., 0].where(known > 0, SINCE_BUCKETS)
                bucket = torch.cat([own.unsqueeze(-1), bucket[..., 1:]], dim=-1)
            level = torch.arange(LEVELS, device=bucket.device) * (SINCE_BUCKETS + 1)
            codes = torch.cat([codes, DISPLAYS + MAILERS + level + bucket], dim=-1)
        total: Tensor = F.embedding_bag(codes.flatten(0, -2), self.of_codes.weight, mode="sum")
        return total.view(*codes.shape[:-1], total.shape[-1])


class GapHead(nn.Module):
    """Censored discrete hazard of the next visit (Tutz & Schmid 2016, eq. 3.1): one logit a bin of days."""

    def __init__(self, config: SlateShopperConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.hidden_size + CONTEXT, config.head_size)
        self.outer = nn.Linear(config.head_size, len(GAP_EDGES))
        self.dropout = nn.Dropout(config.gap_dropout)  # the head that learns the log by heart first

    def forward(self, state: Tensor) -> Tensor:
        """Hazard logits (..., bins) from states (..., D + CONTEXT)."""
        logits: Tensor = self.outer(self.dropout(F.gelu(self.inner(self.dropout(state)))))
        return logits


class SlateShopper(VisitEncoder):
    """Transformer shopper; `benchmarks.data.finetune` trains it, `recsim_env.shoppers.household.population` lets it shop.

    See the module docstring for the parts. In `eval()` mode the probabilities are calibrated.
    """

    config_class = SlateShopperConfig
    config: SlateShopperConfig
    main_input_name = "token"

    def __init__(self, config: SlateShopperConfig) -> None:
        super().__init__(config)
        d = config.hidden_size
        self.items = ItemTower(config)
        self.of_size = nn.Linear(1, d)
        self.of_context = nn.Linear(CONTEXT, d)
        self.add_encoder()
        self.slate_head = SlateHead(config)
        self.explore_query = nn.Linear(d + CONTEXT, d)
        self.explore_bias = nn.Embedding(config.n_items, 1)
        self.explore_shift = nn.Parameter(torch.full((1,), -8.0))
        self.explore_placement = nn.Linear(1, 1, bias=False)
        self.explore_season = nn.Linear(ITEM_CONTEXT, 1, bias=False)
        self.gap_head = GapHead(config)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def check_tables(self) -> None:
        """Raise ValueError where an item has no such category."""
        check_categories("items.category", self.items.category, self.config.n_categories)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5 / math.sqrt(module.in_features))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, SlateShopper):
            nn.init.constant_(module.explore_shift, -8.0)
            nn.init.zeros_(module.newcomer)
            nn.init.constant_(module.slate_head.last.bias, -4.0)

    # ---- visits in, states out -------------------------------------------------------------------------------------

    def token(self, vectors: Tensor, basket: Tensor, context: Tensor) -> Tensor:
        """Token of a visit: what was bought and when.

        Shapes: vectors (N, D), basket (..., L) int64 padded with -1, context (..., CONTEXT).
        Returns (..., D).
        """
        bought = (basket >= 0).to(vectors.dtype)
        size = bought.sum(-1, keepdim=True)
        flat, weights = basket.clamp(min=0).flatten(0, -2), bought.flatten(0, -2)
        total = F.embedding_bag(flat, vectors, mode="sum", per_sample_weights=weights)
        return self._token(total.view(*size.shape[:-1], total.shape[-1]), size, context)

    def tokens(self, vectors: Tensor, items: Tensor, size: Tensor, context: Tensor) -> Tensor:
        """Tokens (P, D) of visits whose baskets are written one after the other, as `token` but for rounding.

        Shapes: vectors (N, D), items (Z,) int64, size (P,) int64 items of each visit, context (P,
        CONTEXT).
        """
        total = F.embedding_bag(items, vectors, size.cumsum(0) - size, mode="sum")
        return self._token(total, size.unsqueeze(1).to(vectors.dtype), context)

    def _token(self, total: Tensor, size: Tensor, context: Tensor) -> Tensor:
        mean = total / size.clamp(min=1).sqrt()
        token: Tensor = self.dropout(
            mean + self.of_size(torch.log1p(size)) + self.of_context(context)
        )
        return token

    def forward(self, text: Tensor | None = None, **batch: Tensor) -> dict[str, Tensor]:
        """Losses of a batch of whole histories; `finetune.Collator` makes it.

        Shapes: B shoppers, T visits (padded), R scored rows, Z first purchases. basket (B, T, L)
            int64; day, since (B, T) float32; rhythm (B, T, RHYTHM); present, learn (B, T) bool,
            `learn` where losses count; gap, follow_up (B, T) float32 days; row_at (R,) int64 index
            b * T + t; row_item, row_placement, row_kind (R,) int64; row_label, row_offset (R,)
            float32, the offset being the log of how much rarer non-responses were sampled;
            row_stats (R, LEVELS, STATS); row_context (R, ITEM_CONTEXT); first_visit (B, N) rank of
            the first purchase; promoted (B * T, N) bool; new_at, new_item (Z,) int64; week (B, T)
            int64; item_context (weeks, N, ITEM_CONTEXT) text (N, text_width): replaces the stored
            text embeddings, to train a text encoder
        Returns `loss` (), its parts, `logits` (R,) uncalibrated and `gap_logits` (B, T, bins).
        """
        id_kept, known = self._hidden_items(batch["row_item"])
        vectors = self.items(id_kept, text)
        before, after = self.states(vectors, batch)
        logits = self._row_logits(vectors, id_kept, known, before.flatten(0, 1), batch, text)
        gap_logits = self.gap_head(after)
        losses = self._row_losses(logits, batch)
        likelihood = gap_log_likelihood(gap_logits, batch["gap"], batch["follow_up"])
        losses["gap"] = -likelihood[batch["learn"]].mean()
        if "new_at" in batch:
            losses["explore"] = self._explore_loss(vectors, before.flatten(0, 1), batch)
        loss = sum(
            (LOSS_WEIGHTS[name] * value for name, value in losses.items()),
            torch.zeros((), device=self.device),
        )
        return {"loss": loss, **losses, "logits": logits, "gap_logits": gap_logits}

    def states(self, vectors: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """States before and after each visit, with the visit's context: (B, T, D + CONTEXT) each."""
        context = visit_context(batch["rhythm"], batch["day"], batch["since"])
        after = self.encode(
            self.token(vectors, batch["basket"], context), batch["day"], batch["present"]
        )
        before = torch.cat([self.newcomer.expand(len(after), 1, -1), after[:, :-1]], dim=1)
        return torch.cat([before, context], dim=-1), torch.cat([after, context], dim=-1)

    def _hidden_items(self, row_item: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Training only: which ids are hidden in this step (N,), and rows (R,) whose item is wholly unknown (0)."""
        if not self.training:
            return None, None
        keep = torch.rand(self.config.n_items, device=self.device) >= self.config.id_dropout
        known = torch.rand(row_item.shape, device=self.device) >= self.config.unknown_dropout
        return keep.float(), known.float()

    def _row_logits(
        self,
        vectors: Tensor,
        id_kept: Tensor | None,
        known: Tensor | None,
        states: Tensor,
        batch: dict[str, Tensor],
        text: Tensor | None,
    ) -> Tensor:
        items, at, stats = batch["row_item"], batch["row_at"], batch["row_stats"]
        known = batch.get("row_known", known)
        id_shown = self.items.known if id_kept is None else self.items.known * id_kept
        parts = self.slate_head.items(vectors, id_shown)
        if known is not None:
            nobody = torch.zeros_like(id_shown)
            parts = torch.cat([parts, self.slate_head.items(self.items(nobody, text), nobody)])
            items = items.where(known > 0, items + len(vectors))
            stats = torch.where((known > 0).view(-1, 1, 1), stats, without_item(stats))
        logits: Tensor = self.slate_head(
            self.slate_head.shoppers(states).index_select(0, at),
            F.embedding(items, parts),
            stats,
            batch["row_context"],
            batch["row_placement"],
            known,
        )
        return logits

    def _row_losses(self, logits: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean binary cross-entropy of each kind of row; sampled non-responses are put right by the offset."""
        counted = batch["learn"].flatten()[batch["row_at"]].to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(
            logits + batch["row_offset"], batch["row_label"], reduction="none"
        )
        kinds = batch["row_kind"]
        total = torch.zeros(len(ROW_KINDS), device=logits.device).index_add(
            0, kinds, each * counted
        )
        number = torch.zeros(len(ROW_KINDS), device=logits.device).index_add(0, kinds, counted)
        return dict(zip(ROW_KINDS, (total / number.clamp(min=1)).unbind(), strict=True))

    def _explore_loss(self, vectors: Tensor, states: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Negative log likelihood a visit of a Poisson process over the items not bought before."""
        learn = batch["learn"].flatten()
        log_rate, fresh = self.explore_rates(vectors, states, batch)
        position = learn.long().cumsum(0) - 1
        bought = learn[batch["new_at"]]
        hits = log_rate[position[batch["new_at"][bought]], batch["new_item"][bought]].sum()
        return ((log_rate.exp() * fresh).sum() - hits) / learn.sum().clamp(min=1)

    def explore_rates(
        self, vectors: Tensor, states: Tensor, batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Log rates and which items were never bought, (V, N) each, of the V visits in a batch that are learnt from."""
        learn = batch["learn"].flatten()
        times = torch.arange(batch["learn"].shape[1], device=states.device)
        fresh = (batch["first_visit"].unsqueeze(1) >= times.view(1, -1, 1)).flatten(0, 1)[learn]
        base = (
            self.explore_base() + self.season(batch["item_context"])[batch["week"].flatten()[learn]]
        )
        promoted = batch["promoted"][learn].to(states.dtype)
        return self.explore_log_rate(states[learn], vectors, base, promoted), fresh

    # ---- states in, behaviour out ----------------------------------------------------------------------------------

    def calibrated(self, logits: Tensor) -> Tensor:
        """Slate logits after recalibration on the validation weeks."""
        scale, shift = self.config.slate_calibration
        return logits * scale + shift

    def season(self, item_context: Tensor) -> Tensor:
        """What the trailing popularity and discount of items (..., N, ITEM_CONTEXT) add to their log rates (..., N)."""
        added: Tensor = self.explore_season(item_context).squeeze(-1)
        return added

    def explore_base(self) -> Tensor:
        """Log rates (N,) of items that neither shopper nor week changes."""
        bias = self.items.known * self.explore_bias.weight.squeeze(1) + self.explore_shift
        base: Tensor = bias + self.config.explore_calibration
        return base

    def explore_log_rate(
        self, state: Tensor, vectors: Tensor, base: Tensor, promoted: Tensor | None = None
    ) -> Tensor:
        """Log rate at which a shopper buys each item for the first time in a visit.

        Shapes: state (B, D + CONTEXT), vectors (N, D), base (B, N) from `explore_base` and
        `season`, promoted (B, N) 0/1 or None for nothing promoted. Returns (B, N).
        """
        rate = torch.addmm(base, self.explore_queries(state), vectors.T)
        return rate if promoted is None else rate + promoted * self.promotion()

    def explore_queries(self, state: Tensor) -> Tensor:
        """What a shopper looks for among new items, (B, D): its product with an item's vector is added to the log rate.

        Shapes: state (B, D + CONTEXT).
        """
        query: Tensor = self.explore_query(state) / math.sqrt(self.config.hidden_size)
        return query

    def promotion(self) -> Tensor:
        """What a promotion adds to the log rate of a new item, ()."""
        return self.explore_placement.weight.squeeze()


def counter_features(stats: Tensor) -> Tensor:
    """(..., LEVELS, STATS) raw counters -> (..., LEVELS, 4): log count, log recent count, log days since, phase.

    The phase is days since the last purchase over the usual interval, at most 4; 0 before the
    second purchase.
    """
    count, recent = stats[..., COUNT], stats[..., RECENT]
    since, interval = stats[..., SINCE], stats[..., INTERVAL]
    phase = torch.where(interval > 0, (since / interval.clamp(min=0.5)).clamp(max=4.0), 0.0)
    gone = torch.log1p(since.clamp(min=0.0, max=400.0)) / 3.0
    return torch.stack([torch.log1p(count), torch.log1p(recent) * 1.5, gone, phase], dim=-1)


def without_item(stats: Tensor) -> Tensor:
    """Counters (..., LEVELS, STATS) as if the item itself had never been bought.

    An item nobody has sold yet has no share in the counters of its kind and category. Counts are
    exact; the days since the last purchase stay unless the item alone made them.
    """
    others = stats.clone()
    others[..., COUNT] = stats[..., COUNT] - stats[..., :1, COUNT]
    others[..., RECENT] = (stats[..., RECENT] - stats[..., :1, RECENT]).clamp(min=0.0)
    none = others[..., COUNT] <= 0
    others[..., RECENT] = others[..., RECENT].masked_fill(none, 0.0)
    others[..., SINCE] = stats[..., SINCE].masked_fill(none, NEVER)
    others[..., INTERVAL] = stats[..., INTERVAL].masked_fill(none, 0.0)
    return others


def since_bucket(since: Tensor) -> Tensor:
    """Bucket of days since a purchase: single days to four weeks, then quarter octaves, the last one = never."""
    late = 29 + (torch.log2(since.clamp(min=29.0) / 29.0) * 4.0)
    bucket = torch.where(since < 29, since.clamp(min=0.0), late.clamp(max=SINCE_BUCKETS - 2.0))
    return bucket.where(since < NEVER, SINCE_BUCKETS - 1.0).long()


def repeat_bucket(purchases: Tensor, visits: Tensor, since: Tensor) -> Tensor:
    """Bucket of how often an item was bought in so many visits, and of the days since: 0 to `SHARES * RECENCIES` - 1.

    Buckets of shares begin at (b / SHARES)^2, those of days at 10 b^2: rare and recent ones are
    told apart best.
    """
    share = (purchases / visits.clamp(min=1.0)).sqrt_().mul_(SHARES).clamp_(max=SHARES - 0.5)
    recency = (since / 10.0).sqrt_().clamp_(max=RECENCIES - 0.5)
    return share.long() * RECENCIES + recency.long()


def visit_context(rhythm: Tensor, day: Tensor, gap: Tensor) -> Tensor:
    """What surrounds a visit: rhythm (..., RHYTHM) from the memory, day (...,), days since the last visit (...,).

    Returns (..., CONTEXT) float32. Day 0 is the log's first day, a Sunday in the Complete Journey
    data.
    """
    weekday = F.one_hot((day % 7).long(), 7).to(rhythm.dtype)
    return torch.cat(
        [rhythm, weekday, torch.log1p(gap.clamp(min=0.0, max=120.0)).unsqueeze(-1)], dim=-1
    )


def gap_log_likelihood(logits: Tensor, gap: Tensor, follow_up: Tensor) -> Tensor:
    """Log likelihood of the next visit: `gap` days away, or (gap < 0) not within `follow_up` days.

    Shapes: logits (..., bins), gap and follow_up (...,) in days; returns (...,). A gap beyond
    `LAPSE_DAYS` counts as surviving all bins. A censored visit survives the bins that ended before
    the follow-up did.
    """
    edges = constant((*GAP_EDGES, LAPSE_DAYS + 1), gap)
    stay = F.logsigmoid(-logits)
    bins = torch.arange(len(GAP_EDGES), device=gap.device)
    seen = gap >= 0
    last = torch.where(seen, gap, follow_up)
    # first bin that the visit did not survive; for a censored one, the first that was not watched
    # to its end
    end = torch.bucketize(torch.where(seen, last, last + 1), edges, right=True) - 1
    survived = (stay * (bins < end.unsqueeze(-1))).sum(-1)
    returned = seen & (end < len(GAP_EDGES))
    hit = (
        F.logsigmoid(logits).gather(-1, end.clamp(max=len(GAP_EDGES) - 1).unsqueeze(-1)).squeeze(-1)
    )
    return survived + torch.where(returned, hit, 0.0)


AutoConfig.register(SlateShopperConfig.model_type, SlateShopperConfig, exist_ok=True)
AutoModel.register(SlateShopperConfig, SlateShopper, exist_ok=True)
