"""What a command leaves in a folder, without clocks, processes and numbers of events."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors import safe_open

CLOCKS = ("date", "minutes", "seconds", "command", "commit", "dirty", "train_runtime")
"""Columns and keys that tell when, how fast and from which commit something was done."""
STAMP = re.compile(r"/runs/[A-Z][a-z]{2}\d{2}_[^/]*")
"""Folders of a Trainer's events are named by the clock."""
SUMMARY = ("train/epoch", "train/total_flos", "train/train_")
"""What a Trainer says at its end of the part that it trained, which is another after a kill."""
PASSED_BY = (".lock", "training_args.bin", "figure.png", "README.md")
"""Files that hold such clocks, or nothing."""


def left(folder: Path) -> dict[str, Any]:
    """Name -> content of every file; of TensorBoard events, every point once."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name in PASSED_BY:
            continue
        if "tfevents" in path.name:
            for tag, points in _points(path).items():
                place = f"{STAMP.sub('', path.parent.relative_to(folder).as_posix())}/{tag}"
                found[place] = sorted({*map(tuple, found.get(place, [])), *map(tuple, points)})
            continue
        found[name] = _content(path)
    return {name: json.loads(json.dumps(value)) for name, value in found.items()}


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            tensors = {name: _digest(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no mapping
            return {"tensors": tensors, "metadata": dict(sorted((file.metadata() or {}).items()))}
    if path.suffix == ".parquet":
        return _short(_without_clocks(pl.read_parquet(path).to_dict(as_series=False)))
    if path.suffix == ".csv":
        return _short(
            _without_clocks(pl.read_csv(path, infer_schema_length=None).to_dict(as_series=False))
        )
    if path.suffix == ".json":
        return _short(_without_clocks(json.loads(path.read_text())))
    if path.suffix in (".pt", ".pth"):
        with torch.serialization.safe_globals(_numpys()):
            return _told(torch.load(path, weights_only=True))
    return hashlib.blake2b(path.read_bytes()).hexdigest()


def _short(content: Any) -> str:
    """How it begins, and a digest of the whole."""
    text = json.dumps(content, default=str)
    return f"{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()} {text[:300]}"


def _numpys() -> list[Any]:
    """What a Trainer's state of numpy's generator is made of."""
    import numpy as np

    kinds = [type(np.dtype(kind)) for kind in (np.uint32, np.float64, np.int64)]
    return [np._core.multiarray._reconstruct, np.ndarray, np.dtype, *kinds]  # type: ignore[attr-defined]


def _digest(tensor: torch.Tensor) -> str:
    content = (
        tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    )
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    return f"{tensor.dtype} {tuple(tensor.shape)} {digest}"


def _told(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _digest(value)
    if isinstance(value, dict):
        return {str(key): _told(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(part) for part in value]
    return str(value)


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clocks(part) for key, part in value.items() if key not in CLOCKS}
    if isinstance(value, list):
        return [_without_clocks(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _points(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of the scalars in a file of events."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[str, list[tuple[int, float]]] = {}
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            passed_by = value.tag.startswith(("time/", "_hparams", *SUMMARY))
            if not passed_by and (value.HasField("simple_value") or value.tensor.float_val):
                number = (
                    value.simple_value
                    if value.HasField("simple_value")
                    else value.tensor.float_val[0]
                )
                found.setdefault(value.tag, []).append((event.step, float(number)))
    return found
