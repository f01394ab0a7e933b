"""Train the pretrained text encoder together with the shopper, end to end.

Encoding every text in every step would take most of a minute, so a step encodes a sample of the
texts with gradients and takes the others from the last time they were encoded (cache and refresh).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import trange

from recsim_env.logs.complete_journey.encoder import open_encoder
from recsim_env.shoppers.household.model import SlateShopper

TEXT_MODES = ("frozen", "lora", "full")


class TextTunedShopper(nn.Module):
    """A shopper whose item texts are encoded inside the training step.

    Args:
        shopper: the shopper; its stored text embeddings are the cache
        texts: N sentences, one an item
        encoder_folder: folder of the pretrained encoder and its tokenizer (mean pooling, unit
            length)
        mode: "lora" (rank-8 adapters on queries and values, Hu et al. 2021) or "full"
        refreshed: texts encoded with gradients in a step

    Raises:
        ValueError: If `mode` is another, or the encoder's folder points to code or files elsewhere.
    """

    def __init__(
        self,
        shopper: SlateShopper,
        texts: tuple[str, ...],
        encoder_folder: Path,
        mode: str,
        refreshed: int = 32,
    ) -> None:
        super().__init__()
        if mode not in TEXT_MODES[1:]:
            raise ValueError(
                f"mode is {mode!r}, but it must be one of {', '.join(TEXT_MODES[1:])}."
            )
        self.shopper = shopper
        self.refreshed = refreshed
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        place = {text: i for i, text in enumerate(distinct)}
        self.register_buffer(
            "text_of_item", torch.tensor([place[text] for text in texts]), persistent=False
        )
        tokenizer, encoder = open_encoder(encoder_folder)
        tokens = tokenizer(distinct, padding=True, return_tensors="pt")
        self.register_buffer("tokens", tokens["input_ids"], persistent=False)
        self.register_buffer("attention", tokens["attention_mask"], persistent=False)
        self.encoder = _trainable(encoder, mode)

    text_of_item: Tensor
    tokens: Tensor
    attention: Tensor

    def encode(self, texts: Tensor) -> Tensor:
        """Compute unit-length embeddings (R, width) of distinct texts (R,) int64."""
        mask = self.attention[texts]
        width = int(mask.sum(1).max())
        hidden = self.encoder(
            input_ids=self.tokens[texts, :width], attention_mask=mask[:, :width]
        ).last_hidden_state
        weight = mask[:, :width].unsqueeze(2).to(hidden.dtype)
        return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Compute the losses of `SlateShopper.forward` with some texts encoded anew."""
        cache = self.shopper.items.text
        chosen = torch.randperm(len(self.tokens), device=cache.device)[: self.refreshed]
        fresh = self.encode(chosen)
        row = torch.full((len(self.tokens),), -1, device=cache.device)
        row[chosen] = torch.arange(len(chosen), device=cache.device)
        row_of_item = row[self.text_of_item]
        text = torch.where((row_of_item >= 0).unsqueeze(1), fresh[row_of_item.clamp(min=0)], cache)
        cache.copy_(text.detach())
        out: dict[str, Tensor] = self.shopper(text=text, **batch)
        return out

    @torch.no_grad()
    def refresh(self, batch_size: int = 64) -> None:
        """Encode every text once more, and store the embeddings in the shopper."""
        self.eval()
        starts = trange(0, len(self.tokens), batch_size, desc="encoding texts", leave=False)
        every = torch.arange(len(self.tokens), device=self.tokens.device)
        vectors = torch.cat([self.encode(every[start : start + batch_size]) for start in starts])
        self.shopper.items.text.copy_(vectors[self.text_of_item])


def _trainable(encoder: nn.Module, mode: str) -> nn.Module:
    if mode == "full":
        return encoder
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], lora_dropout=0.0)
    adapted: nn.Module = get_peft_model(encoder, lora)
    return adapted
