"""Completion of a cart: the chance that an item is in the rest of a basket known in part.

    cart items, taste, visit -> tokens -> attention -> query and hidden part
    counters, lift with the cart, popularity, placement of an item -> hidden part
    logit = MLP(both hidden parts) + query . item vector + bias

The part that is known is drawn at random in training: a masked basket, as words are masked in BERT
(Devlin et al. 2019, section 3.1), with attention among all items of a cart, whose order tells
nothing (Lee et al. 2019, "Set Transformer", equation 7). A pair is scored on its own, without a
softmax over the catalogue, because the rest of a basket often has several items.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsim_env import checks
from recsim_env.shoppers.carts.lift import CART_FEATURES
from recsim_env.shoppers.household.features import (
    CONTEXT,
    COUNTER_FEATURES,
    ITEM_CONTEXT,
    counter_features,
)
from recsim_env.shoppers.household.memory import LEVELS
from recsim_env.shoppers.weights import MOST, CheckedConfig, CheckedModel, begin_layer

FIRST_LOGIT = -6.0
"""Logit of every item before training: an item is in about one rest of a basket in 400."""
TOGETHER = 32_768
"""Most visits whose carts are read together: from 65,536 on torch's attention on a GPU reads memory
that is not its own."""


class CompletionConfig(CheckedConfig):
    """The configuration of `CartCompletion`.

    Args:
        n_items: N, size of the catalogue
        text_width: width of the text embeddings that the item vectors start from
        hidden_size: width of the item vectors and of the attention
        num_attention_heads: heads of the attention
        head_size: width of the hidden part
        dropout: share of activations that are hidden in training
        use_cart: False hides the cart (ablation)
        use_lift: False hides lift, kinds and categories of the cart (ablation)
    """

    model_type = "cart_completion"

    def __init__(
        self,
        n_items: int = 8,
        text_width: int = 384,
        hidden_size: int = 48,
        num_attention_heads: int = 4,
        head_size: int = 48,
        dropout: float = 0.1,
        use_cart: bool = True,
        use_lift: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.n_items = checks.whole("n_items", n_items, 1, MOST["items"])
        self.text_width = checks.whole("text_width", text_width, 1, MOST["width"])
        self.hidden_size = checks.whole("hidden_size", hidden_size, 1, MOST["hidden"])
        heads = checks.whole("num_attention_heads", num_attention_heads, 1, self.hidden_size)
        if self.hidden_size % heads:
            raise ValueError(
                f"num_attention_heads is {heads}, but it must divide hidden_size, which is "
                f"{self.hidden_size}."
            )
        self.num_attention_heads = heads
        self.head_size = checks.whole("head_size", head_size, 2, MOST["width"])
        self.dropout = checks.number("dropout", dropout, 0, 1)
        self.use_cart = checks.flag("use_cart", use_cart)
        self.use_lift = checks.flag("use_lift", use_lift)


class CartCompletion(CheckedModel):
    """Scores items for the rest of a basket; see the module.

    Shapes: B visits, L items of a cart, M items bought before, P scored items, N items, D width.
    """

    config_class = CompletionConfig
    config: CompletionConfig
    main_input_name = "cart"

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__(config)
        d, h = config.hidden_size, config.head_size
        self.id_embedding = nn.Embedding(config.n_items, d)
        self.text_projection = nn.Linear(config.text_width, d, bias=False)
        self.norm = nn.LayerNorm(d)
        self.of_context = nn.Linear(CONTEXT + 1, d)
        self.of_taste = nn.Linear(d, d)
        self.attention = nn.TransformerEncoderLayer(
            d, config.num_attention_heads, 2 * d, config.dropout, batch_first=True, norm_first=True
        )
        self.query = nn.Linear(d, d)
        self.of_visit = nn.Linear(d, h)
        given = LEVELS * COUNTER_FEATURES + CART_FEATURES + ITEM_CONTEXT + 1
        self.of_item = nn.Linear(given, h, bias=False)
        self.middle = nn.Linear(h, h // 2)
        self.last = nn.Linear(h // 2, 1)
        self.item_bias = nn.Embedding(config.n_items, 1)
        self.checkout = nn.Parameter(torch.zeros(d + CONTEXT + 2))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        begin_layer(module)
        if isinstance(module, CartCompletion):
            nn.init.constant_(module.last.bias, FIRST_LOGIT)

    def vectors(self, text: Tensor) -> Tensor:
        """Compute the item vectors (N, D) from text embeddings (N, text_width)."""
        vectors: Tensor = self.norm(self.id_embedding.weight + self.text_projection(text))
        return vectors

    def visit(
        self, vectors: Tensor, context: Tensor, held: Tensor, counts: Tensor, cart: Tensor
    ) -> Tensor:
        """Compute what all items of a visit share: (B, D), from household and cart.

        Args:
            vectors: (N, D) from `vectors`
            context: (B, CONTEXT) of the visit
            held: (B, M) int64 items bought before, padded with -1
            counts: (B, M) float32 how often
            cart: (B, L) int64, padded with -1
        """
        if not self.config.use_cart:
            cart = cart[:, :0]
        size = (cart >= 0).sum(dim=1, keepdim=True).to(context.dtype).log1p()
        weight = counts.log1p() * (held >= 0)
        taste = F.embedding_bag(held.clamp(min=0), vectors, mode="sum", per_sample_weights=weight)
        taste = self.of_taste(taste / weight.sum(dim=1, keepdim=True).clamp(min=1))
        first = self.of_context(torch.cat([context, size], dim=1))
        inside = F.embedding(cart.clamp(min=0), vectors)
        tokens = torch.cat([first.unsqueeze(1), taste.unsqueeze(1), inside], dim=1)
        padding = F.pad(cart < 0, (2, 0), value=False)
        parts = zip(tokens.split(TOGETHER), padding.split(TOGETHER), strict=True)
        return torch.cat(
            [self.attention(rows, src_key_padding_mask=mask)[:, 0] for rows, mask in parts]
        )

    def complete(self, visit: Tensor, context: Tensor, cart: Tensor) -> Tensor:
        """Compute the logits (B,) that nothing more comes into the basket.

        Shapes: visit (B, D) from `visit`; context (B, CONTEXT); cart (B, L) int64, -1 padded.
        """
        return self.complete_features(visit, context, cart) @ self.checkout

    def complete_features(self, visit: Tensor, context: Tensor, cart: Tensor) -> Tensor:
        """Join what `complete` weighs: visit, context, log size of the cart, and a one.

        Returns:
            (B, D + CONTEXT + 2) float32; the arguments are those of `complete`.
        """
        size = (cart >= 0).sum(dim=1, keepdim=True).to(visit.dtype).log1p()
        return torch.cat([visit, context, size, torch.ones_like(size)], dim=1)

    def forward(
        self,
        vectors: Tensor,
        visit: Tensor,
        items: Tensor,
        stats: Tensor,
        item_context: Tensor,
        promoted: Tensor,
        cart_features: Tensor,
    ) -> Tensor:
        """Compute the logits (B, P) that items are in the rest of the basket.

        Args:
            vectors: (N, D) from `vectors`
            visit: (B, D) from `visit`
            items: (B, P) int64
            stats: (B, P, LEVELS, STATS) counters before the visit
            item_context: (B, P, ITEM_CONTEXT) of the items in this week
            promoted: (B, P) bool whether the store promotes them
            cart_features: (B, P, CART_FEATURES) from `PairLift.of_carts`
        """
        if not (self.config.use_cart and self.config.use_lift):
            cart_features = torch.zeros_like(cart_features)
        given = torch.cat(
            [
                counter_features(stats).flatten(-2),
                cart_features,
                item_context,
                promoted.unsqueeze(-1).to(visit.dtype),
            ],
            dim=-1,
        )
        hidden = self.of_item(given) + self.of_visit(visit).unsqueeze(1)
        own = self.last(F.gelu(self.middle(F.gelu(hidden)))).squeeze(-1)
        query = self.query(visit) / math.sqrt(self.config.hidden_size)
        liked = torch.bmm(F.embedding(items, vectors), query.unsqueeze(2)).squeeze(2)
        bias = F.embedding(items, self.item_bias.weight).squeeze(-1)
        logits: Tensor = own + liked + bias
        return logits
