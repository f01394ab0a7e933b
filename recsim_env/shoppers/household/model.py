"""The household model: a causal transformer over visits, counters, and three heads.

    visit -> token -> encoder -> state -+-> slate head  chance of a response to each shown item
                                        +-> new items   purchase rate of items never bought before
                                        +-> gap head    hazard of coming back after d days

Items bought before are scored by the slate head too ("repeat or explore", Ren et al. 2019,
RepeatNet, equation 1), so the three together give the likelihood of a whole basket. Weights and
saved keys of new items are named `explore_*`, as in that paper.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from recsim_env.shoppers.encoder import VisitEncoder
from recsim_env.shoppers.gaps import GapHead, gap_log_likelihood
from recsim_env.shoppers.household.cold_head import ColdHead
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.features import (
    CONTEXT,
    ITEM_CONTEXT,
    no_scale,
    scale_of,
    scaled,
    visit_context,
)
from recsim_env.shoppers.household.items import ItemTower
from recsim_env.shoppers.household.memory import HABIT
from recsim_env.shoppers.household.slate_head import SlateHead
from recsim_env.shoppers.weights import begin_layer, check_categories

ROW_KINDS = ("case_control", "policy", "uniform", "repeat")
"""Where a scored row comes from: three logs of slates, and items bought before."""
ITEM_STEP = 10.0
"""Factor on the random effects of items, which so learn faster than the layers do."""
ITEM_PRIOR = 0.002
"""Weight of their squares in the loss of a row: an item has about this share of the rows."""
READ = CONTEXT + 1 + HABIT
"""Numbers that the gap head reads with habits, see `habits_read`."""
LOSS_WEIGHTS = {
    "case_control": 1.0,
    "policy": 1.0,
    "uniform": 0.1,
    "repeat": 1.0,
    "cold": 1.0,
    "gap": 1.0,
    "new_items": 0.02,
}
"""Weight of each part of the loss."""


class SlateShopper(VisitEncoder):
    """Transformer model of a household; see the module docstring for its parts.

    `benchmarks.data.finetune` trains it, `recsim_env.shoppers.household.population` samples from
    it. Logits and rates are as fitted; `calibrated` and `new_item_base` apply the calibration.

    Dimensions: B shoppers, T visits, N items, D hidden.
    """

    habit_scale: Tensor
    """(2, READ) mean and standard deviation of what the gap head reads with habits."""
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
        if config.use_cold_head:
            self.cold_head = ColdHead(config)
        self.explore_query = nn.Linear(d + CONTEXT, d)
        self.explore_bias = nn.Embedding(config.n_items, 1)
        self.explore_shift = nn.Parameter(torch.full((1,), -8.0))
        self.explore_placement = nn.Linear(1, 1, bias=False)
        self.explore_season = nn.Linear(ITEM_CONTEXT, 1, bias=False)
        self.gap_head = GapHead(
            READ if config.use_habit else d + CONTEXT,
            config.head_size,
            len(config.gap_bins),
            config.gap_dropout,
        )
        if config.use_habit:
            self.register_buffer("habit_scale", no_scale(READ))
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def check_tables(self) -> None:
        """Check the categories of the items.

        Raises:
            ValueError: If an item has a category that the configuration does not have.
        """
        check_categories("items.category", self.items.category, self.config.n_categories)

    def _init_weights(self, module: nn.Module) -> None:
        begin_layer(module)
        if isinstance(module, SlateShopper):
            nn.init.constant_(module.explore_shift, -8.0)
            nn.init.zeros_(module.newcomer)
            nn.init.constant_(module.slate_head.last.bias, -4.0)

    # ---- visits in, states out ----

    def token(self, vectors: Tensor, basket: Tensor, context: Tensor) -> Tensor:
        """Compute the tokens (..., D) of visits from what was bought, and when.

        Args:
            vectors: (N, D) item vectors
            basket: (..., L) int64 items, padded with -1
            context: (..., CONTEXT) of the visits
        """
        bought = (basket >= 0).to(vectors.dtype)
        size = bought.sum(-1, keepdim=True)
        flat, weights = basket.clamp(min=0).flatten(0, -2), bought.flatten(0, -2)
        total = F.embedding_bag(flat, vectors, mode="sum", per_sample_weights=weights)
        return self._token(total.view(*size.shape[:-1], total.shape[-1]), size, context)

    def tokens(self, vectors: Tensor, items: Tensor, size: Tensor, context: Tensor) -> Tensor:
        """Compute the tokens (P, D) of baskets in one list; the same as `token` but for rounding.

        Args:
            vectors: (N, D) item vectors
            items: (Z,) int64, the items of one visit after those of another
            size: (P,) int64 number of items of each visit
            context: (P, CONTEXT) of the visits
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
        """Compute the losses of a batch of whole histories, as `examples.Collator` makes it.

        Shapes: B shoppers, T visits (padded), R scored rows, Z first purchases.
            basket: (B, T, L) int64, padded with -1
            day, since: (B, T) float32 day, and days since the last visit
            rhythm: (B, T, RHYTHM); habit: (B, T, HABIT)
            present, learn: (B, T) bool, False for padding, and where no loss counts
            gap, follow_up: (B, T) float32 days, see `gap_log_likelihood`
            row_at: (R,) int64 index b * T + t of the row's visit
            row_item, row_placement, row_kind: (R,) int64
            row_label, row_offset: (R,) float32; the offset is the log of how much rarer
                non-responses were sampled
            row_stats: (R, LEVELS, STATS)
            row_context: (R, ITEM_CONTEXT); row_prospect: (R, PROSPECT)
            row_known: optional (R,), 0 where the item counts as one that nobody knows

        With first purchases, the batch also holds
            first_visit: (B, N) rank of the visit of the first purchase
            promoted: (B * T, N) bool
            new_at, new_item: (Z,) int64 index b * T + t, and item, of first purchases
            week: (B, T) int64
            item_context: (weeks, N, ITEM_CONTEXT)

        Args:
            text: (N, text_width) embeddings in place of the stored ones, to train a text encoder
            **batch: the tensors above

        Returns:
            `loss` (), its parts by name, `logits` (R,) without calibration, and `gap_logits`
            (B, T, bins).
        """
        id_kept = self._kept_ids()
        vectors = self.items(id_kept, text)
        before, after = self.states(vectors, batch)
        logits = self._row_logits(vectors, id_kept, before.flatten(0, 1), batch)
        gap_logits = self.gap_logits(after, (batch["basket"] >= 0).sum(-1), batch["habit"])
        losses = self._row_losses(logits, batch)
        if self.config.use_cold_head:
            context = before.flatten(0, 1)[:, self.config.hidden_size :]
            unknown = self._cold_logits(context, batch)
            losses["cold"] = self._cold_loss(unknown, batch)
            if "row_known" in batch:
                logits = logits.where(batch["row_known"] > 0, unknown)
        likelihood = gap_log_likelihood(
            self.config.gap_bins, gap_logits, batch["gap"], batch["follow_up"]
        )
        losses["gap"] = -likelihood[batch["learn"]].mean()
        if "new_at" in batch:
            losses["new_items"] = self._new_item_loss(vectors, before.flatten(0, 1), batch)
        loss = sum(
            (LOSS_WEIGHTS[name] * value for name, value in losses.items()),
            torch.zeros((), device=self.device),
        )
        return {"loss": loss, **losses, "logits": logits, "gap_logits": gap_logits}

    def states(self, vectors: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the states before and after each visit, with the visit's context.

        Returns:
            Two tensors (B, T, D + CONTEXT); `batch` is that of `forward`.
        """
        context = visit_context(batch["rhythm"], batch["day"], batch["since"])
        after = self.encode(
            self.token(vectors, batch["basket"], context), batch["day"], batch["present"]
        )
        before = torch.cat([self.newcomers(len(after)).unsqueeze(1), after[:, :-1]], dim=1)
        return torch.cat([before, context], dim=-1), torch.cat([after, context], dim=-1)

    def _kept_ids(self) -> Tensor | None:
        """Draw which items (N,) keep their id, 0 or 1; all do, None, when nothing is learned."""
        if not self.training:
            return None
        drawn = torch.rand(self.config.n_items, device=self.device)
        return (drawn >= self.config.id_dropout).float()

    def _row_logits(
        self,
        vectors: Tensor,
        id_kept: Tensor | None,
        states: Tensor,
        batch: dict[str, Tensor],
    ) -> Tensor:
        """Compute the logits (R,) of the rows; the arguments are those of `forward`."""
        id_shown = self.items.known if id_kept is None else self.items.known * id_kept
        parts = self.slate_head.items(vectors, id_shown)
        logits: Tensor = self.slate_head(
            self.slate_head.shoppers(states).index_select(0, batch["row_at"]),
            F.embedding(batch["row_item"], parts),
            batch["row_stats"],
            batch["row_context"],
            batch["row_placement"],
        )
        return logits

    def _cold_logits(self, context: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Compute the logits (R,) of the rows as if nobody knew their items.

        Args:
            context: (B * T, CONTEXT) before each visit
            batch: that of `forward`
        """
        logits: Tensor = self.cold_head(
            context.index_select(0, batch["row_at"]),
            batch["row_stats"],
            batch["row_prospect"],
            batch["row_placement"],
            F.embedding(batch["row_item"], self.cold_head.text),
        )
        return logits

    def _cold_loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Compute the loss of the cold head, on rows that were chosen without looking at the past.

        Shapes: logits (R,) of `_cold_logits` -> ().

        What is left of items beyond what the head reads is learned beside it, drawn to 0 as a
        random effect is, so that the head need not tell items apart to explain it.
        """
        counted = batch["learn"].flatten()[batch["row_at"]]
        fair = torch.tensor([kind == "case_control" for kind in ROW_KINDS], device=counted.device)
        rows = (counted & fair[batch["row_kind"]]).float()
        own = self.cold_head.of_item(batch["row_item"]).squeeze(1) * ITEM_STEP
        each = F.binary_cross_entropy_with_logits(
            logits + own + batch["row_offset"],
            batch["row_label"],
            reduction="none",
        )
        loss: Tensor = ((each + ITEM_PRIOR * own.square()) * rows).sum() / rows.sum().clamp(min=1)
        return loss

    def _row_losses(self, logits: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average the binary cross-entropy over the rows of each kind.

        The offset corrects for the sampling of non-responses.
        """
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

    def _new_item_loss(self, vectors: Tensor, states: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Compute the negative log-likelihood a visit of a Poisson process over new items."""
        learn = batch["learn"].flatten()
        log_rate, fresh = self.new_item_rates(vectors, states, batch)
        position = learn.long().cumsum(0) - 1
        bought = learn[batch["new_at"]]
        hits = log_rate[position[batch["new_at"][bought]], batch["new_item"][bought]].sum()
        return ((log_rate.exp() * fresh).sum() - hits) / learn.sum().clamp(min=1)

    def new_item_rates(
        self, vectors: Tensor, states: Tensor, batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Compute the log rates of items, and find which are new, at the visits that count.

        Args:
            vectors: (N, D) item vectors
            states: (B * T, D + CONTEXT) before each visit
            batch: that of `forward`, with first purchases

        Returns:
            (V, N) log rates and (V, N) bool, for the V visits where `learn` is True.
        """
        learn = batch["learn"].flatten()
        times = torch.arange(batch["learn"].shape[1], device=states.device)
        fresh = (batch["first_visit"].unsqueeze(1) >= times.view(1, -1, 1)).flatten(0, 1)[learn]
        season = self.season(batch["item_context"])[batch["week"].flatten()[learn]]
        base = self.new_item_base() + season
        promoted = batch["promoted"][learn].to(states.dtype)
        return self.new_item_log_rates(states[learn], vectors, base, promoted), fresh

    # ---- states in, behaviour out ----

    def gap_logits(self, state: Tensor, size: Tensor, habit: Tensor) -> Tensor:
        """Compute the hazard logits (..., bins) of the next visit, without calibration.

        With habits the head reads nothing of what was bought: the states only made it overfit.

        Args:
            state: (..., D + CONTEXT) after the visit
            size: (...,) number of items bought
            habit: (..., HABIT) after the visit
        """
        if not self.config.use_habit:
            logits: Tensor = self.gap_head(state)
            return logits
        read = habits_read(state[..., self.config.hidden_size :], size, habit)
        logits = self.gap_head(scaled(read, self.habit_scale))
        return logits

    def scale_habits(self, read: Tensor) -> None:
        """Set the scale in which the gap head reads habits, from many visits (V, READ)."""
        self.habit_scale.copy_(scale_of(read))

    def calibrated(self, logits: Tensor, known: Tensor | None = None) -> Tensor:
        """Recalibrate logits (...,) as fitted on the validation weeks.

        Args:
            logits: of the slate head
            known: (...,) 0 where they are of the cold head; None where none are
        """
        scale, shift = self.config.slate_calibration
        found = logits * scale + shift
        if known is None or not self.config.use_cold_head:
            return found
        scale, shift = self.config.cold_calibration
        return found.where(known > 0, logits * scale + shift)

    def season(self, item_context: Tensor) -> Tensor:
        """Compute what popularity and discount add to the log rates of new items.

        Shapes: item_context (..., N, ITEM_CONTEXT) -> (..., N).
        """
        added: Tensor = self.explore_season(item_context).squeeze(-1)
        return added

    def new_item_base(self) -> Tensor:
        """Compute the part (N,) of the log rates that depends on neither shopper nor week."""
        bias = self.items.known * self.explore_bias.weight.squeeze(1) + self.explore_shift
        base: Tensor = bias + self.config.explore_calibration
        return base

    def new_item_log_rates(
        self, state: Tensor, vectors: Tensor, base: Tensor, promoted: Tensor | None = None
    ) -> Tensor:
        """Compute the log rates (B, N) at which shoppers buy items for the first time in a visit.

        Args:
            state: (B, D + CONTEXT) before the visit
            vectors: (N, D) item vectors
            base: (B, N) from `new_item_base` and `season`
            promoted: (B, N) 0 or 1; None where nothing is promoted
        """
        rate = torch.addmm(base, self.new_item_queries(state), vectors.T)
        return rate if promoted is None else rate + promoted * self.promotion()

    def new_item_queries(self, state: Tensor) -> Tensor:
        """Compute the queries (B, D) whose product with an item's vector is added to its log rate.

        Shapes: state (B, D + CONTEXT).
        """
        query: Tensor = self.explore_query(state) / math.sqrt(self.config.hidden_size)
        return query

    def promotion(self) -> Tensor:
        """Return what a promotion adds to the log rate of a new item, ()."""
        return self.explore_placement.weight.squeeze()


def habits_read(context: Tensor, size: Tensor, habit: Tensor) -> Tensor:
    """Join what the gap head reads of a visit with habits: (..., READ).

    Shapes: context (..., CONTEXT); size (...,) number of items bought; habit (..., HABIT).
    """
    bought = torch.log1p(size.to(habit.dtype)).unsqueeze(-1)
    return torch.cat([context, bought, habit], dim=-1)


AutoConfig.register(SlateShopperConfig.model_type, SlateShopperConfig, exist_ok=True)
AutoModel.register(SlateShopperConfig, SlateShopper, exist_ok=True)
