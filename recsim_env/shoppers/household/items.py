"""Item vectors of the household model: text, category, and an id of their own for known items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsim_env.shoppers.household.config import SlateShopperConfig


class ItemTower(nn.Module):
    """Makes item vectors from text, category, and an id of its own for each item seen in training.

    Shapes: N items, D hidden.
        text: (N, text_width) buffer, text embeddings
        category: (N,) int64 buffer
        known: (N,) buffer, 0 for items without an id of their own
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
        """Compute the vectors (N, D) of all items.

        Args:
            id_kept: (N,) 0 or 1; 0 hides the id of an item
            text: (N, text_width) embeddings in place of the stored ones
        """
        kept = self.known if id_kept is None else self.known * id_kept
        vectors = (
            self.category_embedding(self.category) + kept.unsqueeze(1) * self.id_embedding.weight
        )
        if self.config.use_text:
            vectors = vectors + self.text_projection(self.text if text is None else text)
        normed: Tensor = self.norm(vectors)
        return normed
