"""Models in folders: safetensors in, and nothing that the folder lacks."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel
from transformers.utils import logging

Model = TypeVar("Model", bound=PreTrainedModel)


def load_model(kind: type[Model], folder: str | os.PathLike[str]) -> Model:
    """The model that `save_pretrained` wrote to a folder, in eval mode. Only safetensors are read.

    Errors: OSError where weights or configuration are missing; ValueError where the weights are those of another model,
    which transformers would leave at random numbers.
    """
    read: Any = kind.from_pretrained
    with no_progress_bar(), _no_warnings():
        loaded, found = read(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told of below
        )
    model: Model = loaded
    wrong = sorted({*found["missing_keys"], *found["unexpected_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if wrong:
        raise ValueError(f"folder is {os.fspath(folder)!r}, but its weights do not fit a {kind.__name__}: {wrong}.")
    model.train(False)
    return model


def member_folders(folder: Path, first: int) -> list[Path]:
    """Folders of an ensemble's members, `model<k>/` with k >= `first`, in order."""
    found = {}
    for child in folder.glob("model*"):
        number = child.name.removeprefix("model")
        if child.is_dir() and re.fullmatch(r"0|[1-9]\d*", number) and int(number) >= first:
            found[int(number)] = child
    return [found[number] for number in sorted(found)]


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """Without the bars of transformers: reading and writing a small model takes milliseconds."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Without a report of what did not fit: that is an error here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
