"""The encoder of both learned families: a causal transformer over visits.

    tokens of visits -> blocks (attention over the last `window` visits, feed-forward) -> states

The attention knows the days between two visits. `VisitEncoder.encode` reads whole histories, as
training does. `append_visit` adds one visit to a `Cache` of keys and values, as a simulation does,
at a cost that does not grow with the history. `prefill` makes the cache of whole histories. All
three give the same states but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsim_env import checks
from recsim_env.shoppers.weights import MOST, CheckedConfig, CheckedModel
from recsim_env.tensors import constant, large_zeros, looked_up

LAG_EDGES = (1, 2, 3, 5, 8, 14, 21, 35, 70, 140)
"""First number of days of each bucket of lags but the first, as the attention tells them apart."""
PREFILLED = 64
"""Shoppers with similar numbers of visits whose histories are encoded together."""


class EncoderSizes(Protocol):
    """The fields of a configuration that an encoder over visits reads."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    window: int
    dropout: float

    @property
    def width_of_head(self) -> int:
        """Width of each attention head."""


class EncoderConfig(CheckedConfig):
    """A configuration with the sizes of an encoder over visits."""

    @property
    def width_of_head(self) -> int:
        """Width of each attention head: its own, or its share of the hidden size where it is 0."""
        own: int = getattr(self, "head_width", 0)  # a field here would be a key of every family
        return own or self.hidden_size // self.num_attention_heads

    def set_sizes(
        self,
        hidden_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        intermediate_size: int,
        window: int,
        dropout: float,
        head_width: int | None = None,
    ) -> None:
        """Check and store what `EncoderSizes` lists.

        `head_width` is 0 where heads share the hidden size, and None where a configuration has no
        such key.

        Raises:
            ValueError: If a size is below 1 or above `weights.MOST`, if the number of heads does
                not divide the hidden size that they share, or if `dropout` is no share.
        """
        self.hidden_size = checks.whole("hidden_size", hidden_size, 1, MOST["hidden"])
        heads = checks.whole("num_attention_heads", num_attention_heads, 1, self.hidden_size)
        if head_width is not None:
            most = MOST["hidden"] // heads
            self.head_width = checks.whole("head_width", head_width, 0, most)
        if not head_width and self.hidden_size % heads:
            raise ValueError(
                f"num_attention_heads is {heads}, but it must divide hidden_size, which is "
                f"{self.hidden_size}."
            )
        self.num_attention_heads = heads
        self.num_hidden_layers = checks.whole(
            "num_hidden_layers", num_hidden_layers, 1, MOST["layers"]
        )
        self.intermediate_size = checks.whole(
            "intermediate_size", intermediate_size, 1, MOST["width"]
        )
        self.window = checks.whole("window", window, 1, MOST["window"])
        self.dropout = checks.number("dropout", dropout, 0, 1)


@dataclass
class Cache:
    """Keys and values of the last visits of each shopper, in a ring of W = `window` places.

    Shapes: A layers, B shoppers, H heads of width E, D hidden.
        keys, values: (A, B, H, W, E) float32, or bfloat16 at that precision
        day: (B, W) float32 day of the visit in each place, -inf where the place is empty
        count: (B,) int64 number of visits so far
        state: (B, D) encoder output after the last visit
    """

    keys: Tensor
    values: Tensor
    day: Tensor
    count: Tensor
    state: Tensor

    @classmethod
    def empty(cls, sizes: EncoderSizes, state: Tensor, *, large: bool = False) -> Cache:
        """Make the cache of shoppers without visits whose states are `state` (B, D).

        With `large`, keys and values come from `large_zeros`: for tables that are kept.
        """
        heads, width = sizes.num_attention_heads, sizes.width_of_head
        shape = (sizes.num_hidden_layers, len(state), heads, sizes.window, width)
        keys, values = (
            large_zeros(shape, state.device) if large else state.new_zeros(shape) for _ in range(2)
        )
        return cls(
            keys,
            values,
            state.new_full((len(state), sizes.window), -math.inf),
            torch.zeros(len(state), dtype=torch.int64, device=state.device),
            state,
        )

    def __len__(self) -> int:
        """Return the number of shoppers B."""
        return len(self.day)

    def pick(self, rows: Tensor) -> Cache:
        """Copy some rows (R,) of shoppers, in that order."""
        return Cache(
            self.keys[:, rows],
            self.values[:, rows],
            self.day[rows],
            self.count[rows],
            self.state[rows],
        )

    def put(self, rows: Tensor, fresh: Cache) -> None:
        """Write the shoppers of `fresh` into rows (R,), in place."""
        self.keys[:, rows], self.values[:, rows] = fresh.keys, fresh.values
        self.day[rows], self.count[rows], self.state[rows] = fresh.day, fresh.count, fresh.state

    def to(self, dtype: torch.dtype) -> Cache:
        """Convert keys and values to a type."""
        return replace(self, keys=self.keys.to(dtype), values=self.values.to(dtype))

    def write(self, layer: int, rows: Tensor, place: Tensor, key: Tensor, value: Tensor) -> None:
        """Put a visit's key and value (B, H, 1, E) into places (B,) of the shoppers rows (B,)."""
        self.keys[layer][rows, :, place] = key.squeeze(2).to(self.keys.dtype)
        self.values[layer][rows, :, place] = value.squeeze(2).to(self.values.dtype)


class Block(nn.Module):
    """Pre-norm attention with a bias for the days between two visits, then feed-forward.

    Shapes: B shoppers, T queries, S places, D hidden, H heads of width E.
        x (B, T, D); query (B, H, T, E); key, value (B, H, S, E); returns (B, T, D)
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        d = sizes.hidden_size
        self.heads = sizes.num_attention_heads
        self.attention_norm = nn.LayerNorm(d)
        inner = self.heads * sizes.width_of_head
        self.qkv = nn.Linear(d, 3 * inner)
        self.out = nn.Linear(inner, d)
        self.lag_bias = nn.Embedding(len(LAG_EDGES) + 1, self.heads)
        self.feed_norm = nn.LayerNorm(d)
        self.feed_in = nn.Linear(d, sizes.intermediate_size)
        self.feed_out = nn.Linear(sizes.intermediate_size, d)
        self.dropout = nn.Dropout(sizes.dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values of visits, (B, H, T, E) each."""
        parts = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value

    def forward(
        self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, lag: Tensor, visible: Tensor
    ) -> Tensor:
        """Attend and transform; lag (B, T, S) int64 buckets of days, visible (B, T, S) bool."""
        # simulated rows are looked up the faster way; training keeps the gradient of `nn.Embedding`
        learning = torch.is_grad_enabled()
        bias = self.lag_bias(lag) if learning else looked_up(self.lag_bias.weight, lag)
        bias = bias.permute(0, 3, 1, 2).masked_fill(~visible.unsqueeze(1), -math.inf)
        seen = attended(query, key, value, bias)
        x = x + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.dropout(self.feed_out(F.gelu(self.feed_in(self.feed_norm(x)))))
        return out


class VisitEncoder(CheckedModel):
    """A model with an encoder over visits; a subclass adds tokens, heads and a likelihood.

    Shapes: B shoppers, T visits, D hidden.
        blocks: the transformer blocks
        final_norm: the layer norm of the states
        newcomer: (D,) state of a shopper without visits
    """

    config: EncoderConfig

    def add_encoder(self) -> None:
        """Create the encoder's weights; the order of a model's parts fixes their first values."""
        self.blocks = nn.ModuleList(
            [Block(self.config) for _ in range(self.config.num_hidden_layers)]
        )
        self.final_norm = nn.LayerNorm(self.config.hidden_size)
        self.newcomer = nn.Parameter(torch.zeros(self.config.hidden_size))

    def newcomers(self, shoppers: int) -> Tensor:
        """Return the states (B, D) of so many shoppers without visits."""
        return self.newcomer.expand(shoppers, -1)

    def encode(self, token: Tensor, day: Tensor, present: Tensor | None = None) -> Tensor:
        """Compute the states after each visit, all at once; a visit sees the last `window` visits.

        Args:
            token: (B, T, D) tokens of the visits
            day: (B, T) non-decreasing days, or (1, T) where all shoppers come on the same days
            present: (B, T) bool, False for padding at the end; None where none is masked, for
                padding at the end changes nothing before it

        Returns:
            (B, T, D) states.
        """
        order = torch.arange(day.shape[1], device=day.device)
        distance = order.unsqueeze(1) - order.unsqueeze(0)
        visible = ((distance >= 0) & (distance < self.config.window)).unsqueeze(0)
        if present is not None:
            # padding sees itself: no row of the softmax is empty
            visible = visible & present.unsqueeze(1) | (distance == 0).unsqueeze(0)
        lag = lag_bucket(day.unsqueeze(2) - day.unsqueeze(1))
        x = token
        for block in self._blocks():
            x = block(x, *block.project(x), lag, visible)
        states: Tensor = self.final_norm(x)
        return states

    def empty_cache(self, state: Tensor, *, large: bool = False) -> Cache:
        """Make the cache of shoppers without visits in the states (B, D); see `Cache.empty`."""
        return Cache.empty(self.config, state.detach().clone(), large=large)

    def append_visit(self, cache: Cache, token: Tensor, day: Tensor) -> None:
        """Add one visit of each shopper to a cache, in place: token (B, D), day (B,)."""
        rows = torch.arange(len(token), device=token.device)
        place = cache.count % self.config.window
        cache.day[rows, place] = day
        # an empty place is infinitely far away, and not visible
        lag = (day.unsqueeze(1) - cache.day).clamp(max=float(LAG_EDGES[-1]))
        bucket, visible = lag_bucket(lag).unsqueeze(1), cache.day.isfinite().unsqueeze(1)
        x = token.unsqueeze(1)
        for layer, block in enumerate(self._blocks()):
            query, key, value = block.project(x)
            cache.write(layer, rows, place, key, value)
            x = block(x, query, cache.keys[layer], cache.values[layer], bucket, visible)
        cache.count += 1
        cache.state = self.final_norm(x.squeeze(1)).float()

    def prefill(self, token: Tensor, day: Tensor, visits: Tensor) -> Cache:
        """Make the cache of whole histories: what `append_visit` gives, but for rounding.

        Shapes: P visits, those of one shopper after those of another.
            token (P, D), day (P,); visits (B,) int64 number of visits of each shopper
        """
        cache = self.empty_cache(self.newcomers(len(visits)))
        first = visits.cumsum(0) - visits
        for rows in visits.argsort(descending=True).split(PREFILLED):
            number = visits[rows]
            rows, number = rows[number > 0], number[number > 0]
            if len(rows):
                at = first[rows].unsqueeze(1) + torch.arange(int(number.max()), device=token.device)
                at = at.clamp(max=len(token) - 1)
                self._prefill(cache, rows, token[at], day[at], number)
        cache.count += visits
        return cache

    def _prefill(self, cache: Cache, rows: Tensor, x: Tensor, day: Tensor, number: Tensor) -> None:
        """Encode histories x (R, T, D) of shoppers rows (R,) into the cache.

        day (R, T) and x are padded beyond the number (R,) of visits.
        """
        # which visits see which, and how far they lie apart
        order = torch.arange(day.shape[1], device=day.device)
        distance = order.unsqueeze(1) - order.unsqueeze(0)
        visible = ((distance >= 0) & (distance < self.config.window)).unsqueeze(0)
        lag = lag_bucket(day.unsqueeze(2) - day.unsqueeze(1))

        # the last `window` visits of each shopper stay in the cache
        ends = number.unsqueeze(1)
        row, kept = ((order < ends) & (order >= ends - self.config.window)).nonzero(as_tuple=True)
        place = kept % self.config.window
        last = (torch.arange(len(number), device=day.device), number - 1)
        cache.day[rows[row], place] = day[row, kept]
        for layer, block in enumerate(self._blocks()):
            query, key, value = block.project(x)
            new_key, new_value = (part[row, :, kept].unsqueeze(2) for part in (key, value))
            cache.write(layer, rows[row], place, new_key, new_value)
            if layer == len(self.blocks) - 1:
                # the last block is asked for the state after the last visit only
                x, query = x[last].unsqueeze(1), query[last[0], :, last[1]].unsqueeze(2)
                lag, visible = lag[last].unsqueeze(1), visible.expand_as(lag)[last].unsqueeze(1)
            x = block(x, query, key, value, lag, visible)
        cache.state[rows] = self.final_norm(x.squeeze(1)).float()

    def _blocks(self) -> Iterable[Block]:
        return cast(Iterable[Block], self.blocks)


def attended(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend (B, H, T, E) with queries (B, H, T, E) to keys and values (B, H, S, E).

    A single query a shopper is worked out by two batched products on a GPU: the kernels of
    `scaled_dot_product_attention` are made for long queries, reach a tenth of the memory's
    bandwidth here, and in bfloat16 refuse 65,536 shoppers and more.

    Args:
        query: the queries
        key: the keys
        value: the values
        bias: (B, H, T, S), added to the scores
    """
    if query.is_cpu or query.shape[2] > 1:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return attended_once(query, key, value, bias)


def attended_once(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend as `attended` does, by batched products of matrices."""
    scores = torch.matmul(query / math.sqrt(query.shape[-1]), key.mT) + bias
    return torch.matmul(scores.softmax(dim=-1).to(value.dtype), value)


def lag_bucket(lag: Tensor) -> Tensor:
    """Map days between two visits to buckets 0 .. len(LAG_EDGES), of the same shape."""
    return torch.bucketize(lag.clamp(min=0.0), constant(LAG_EDGES, lag), right=True)
