"""The sizes of a session model."""

from __future__ import annotations

from typing import Any

from recsim_env import checks
from recsim_env.shoppers.encoder import EncoderConfig
from recsim_env.shoppers.gaps import GapBins
from recsim_env.shoppers.weights import MOST


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
