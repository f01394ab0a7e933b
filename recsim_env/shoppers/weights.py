"""Models in folders: safetensors in, and nothing that the folder lacks.

A folder may come from anybody. Its `config.json` may hold known keys only, each of a known type and
size, and its `model.safetensors` the tensors that a model of this configuration has, each of finite
numbers. No other file is looked at, no code is fetched, and sizes are compared before anything is
allocated.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from recsim_env import checks, files
from recsim_env.waiting import waiting

with waiting("importing transformers, which takes some seconds once a process"):
    from transformers import PreTrainedConfig, PreTrainedModel

CONFIG, WEIGHTS, ADAPTER = "config.json", "model.safetensors", "adapter_config.json"
MODEL_FILES = (CONFIG, WEIGHTS)
WRITTEN = (
    "_commit_hash",
    "architectures",
    "dtype",
    "model_type",
    "transformers_version",
    "use_cache",
)
"""Keys that transformers writes beside a model's own, or adds when it reads them."""
FOLLOWED = {
    "adapter_config",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "quantization_config",
}
"""Keys of other models' configurations that have transformers fetch code or read another file."""
MOST = {"layers": 64, "width": 2**16, "hidden": 2**12, "window": 512, "items": 10**7}
"""Largest sizes of a configuration: what a visit or a start state needs of memory grows with
each."""


class CheckedConfig(PreTrainedConfig):
    """A configuration in which every number is checked, and which is read from known keys only."""

    @classmethod
    def own_keys(cls) -> list[str]:
        """List the names of the arguments of this configuration."""
        return [
            name
            for name, one in inspect.signature(cls).parameters.items()
            if one.kind is not one.VAR_KEYWORD
        ]

    @classmethod
    def values_before(cls) -> dict[str, Any]:
        """Return the values of keys that configurations of earlier versions lack, by key."""
        return {}

    @classmethod
    def keys_before(cls) -> tuple[str, ...]:
        """Return the keys of configurations of earlier versions that nothing reads any more."""
        return ()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Make a configuration from the content of a `config.json`, as in transformers.

        Raises:
            ValueError: As in `check_keys`.
        """
        check_keys(cls, config_dict)
        made: Self = super().from_dict(cls.values_before() | config_dict, **kwargs)
        return made


class CheckedModel(PreTrainedModel):
    """A model whose numbers are finite however it was loaded."""

    config_class: type[CheckedConfig]

    def check_tables(self) -> None:
        """Check the tensors that are no weights, such as the items' categories.

        Raises:
            ValueError: If one holds something impossible.
        """

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as in transformers, from any of its formats; `load_model` is stricter.

        Raises:
            ValueError: If a tensor holds a number that is not finite.
        """
        read: Any = super().from_pretrained
        loaded = read(*args, **kwargs)
        _check_numbers(
            loaded[0] if isinstance(loaded, tuple) else loaded,
            str(args[0]) if args else cls.__name__,
        )
        return loaded

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # type: ignore[override]
        """Upload configuration, weights and a card to the Hugging Face Hub.

        Arguments, errors and what is returned are those of `recsim_env.shoppers.hub.push`.
        """
        from recsim_env.shoppers.hub import push

        return push(self, repo_id, **options)


def begin_layer(module: nn.Module) -> None:
    """Set the weights with which the layers of a household's models begin, before training."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.5 / math.sqrt(module.in_features))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


Model = TypeVar("Model", bound=CheckedModel)


def load_model(kind: type[Model], folder: Path | str) -> Model:
    """Load the model that `save_model` wrote to a folder, in eval mode, from `MODEL_FILES` only.

    Raises:
        FileNotFoundError: If weights or configuration are missing.
        ValueError: If a key of the configuration is unknown or has a bad value, or the weights are
            those of another model or not finite. The sentence names the file and the key or tensor.
    """
    folder = checks.path("folder", folder)
    _no_adapter(folder)
    config = read_config(kind.config_class, present(folder / CONFIG))
    path = present(folder / WEIGHTS)
    with torch.device("meta"):  # sizes only
        model = kind(config)
    expected = model.state_dict()
    tensors = read_tensors(path, lambda shapes: _check_shapes(path, kind, expected, shapes))
    _check_types(path, expected, tensors)
    model.load_state_dict(tensors, assign=True)
    _check_numbers(model, str(path))
    model.train(False)
    return model


def save_model(model: CheckedModel, folder: Path | str) -> None:
    """Write `MODEL_FILES`, the weights first: no configuration stands there without weights.

    Raises:
        OSError: If a file cannot be written; what stood there before is whole.
    """
    folder = checks.path("folder", folder)
    model.config.architectures, model.config.dtype = [type(model).__name__], torch.float32
    files.write_tensors(folder / WEIGHTS, model.state_dict(), {"format": "pt"})
    files.write_text(folder / CONFIG, model.config.to_json_string())


def check_plain(folder: Path) -> None:
    """Check that a pretrained model's folder names no code and no other file.

    Raises:
        ValueError: If transformers would fetch code or follow another file.
    """
    path = present(folder / CONFIG)
    keys = FOLLOWED & files.read_object(path).keys()
    if keys:
        raise ValueError(
            f"{path} has the keys {sorted(keys)}, but what they point to is not followed."
        )
    _no_adapter(folder)


def _no_adapter(folder: Path) -> None:
    if (folder / ADAPTER).exists():
        raise ValueError(
            f"{folder / ADAPTER} is there, but adapters are not followed: merge it into the "
            "weights."
        )


def read_config(kind: Any, path: Path) -> Any:
    """Read a configuration from a `config.json`.

    Keys that earlier versions lack have the values that they had then, see
    `CheckedConfig.values_before`.

    Raises:
        ValueError: If a key is missing or unknown, or has a bad value.
    """
    content = files.read_object(path)
    try:
        values = kind.values_before() | content
        check_keys(kind, values)
        missing = sorted(set(kind.own_keys()) - values.keys())
        if missing:
            raise ValueError(
                f"{missing} are missing; a {kind.__name__} of this version has these keys too."
            )
        own = {name: value for name, value in values.items() if name in kind.own_keys()}
        config = kind(**own)
        nothing = sorted(name for name, value in own.items() if value is None)
        if nothing:
            raise ValueError(f"{nothing[0]} is None, but it must have a value.")
        return config
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_keys(kind: type[CheckedConfig], values: Mapping[str, object]) -> None:
    """Check the keys of a configuration.

    What would have transformers fetch code or follow another file (`attn_implementation`,
    `auto_map`, `quantization_config`) is among the unknown keys.

    Raises:
        ValueError: If `values` has keys that a `kind` does not know, or is that of another model.
    """
    known = {*kind.own_keys(), *kind.keys_before(), *WRITTEN}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(
            f"{checks.told(unknown)} are no keys of a {kind.__name__}; known are {sorted(known)}."
        )
    checks.choice("model_type", values.get("model_type"), (kind.model_type,))
    dtype = values.get("dtype", "float32")
    checks.choice(
        "dtype",
        str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype,
        ("float32",),
    )
    checks.flag("use_cache", values.get("use_cache", False))
    checks.text("transformers_version", values.get("transformers_version", "?"))
    architectures = values.get("architectures", [])
    if not isinstance(architectures, list) or not all(
        isinstance(name, str) for name in architectures
    ):
        raise ValueError(
            f"architectures is {checks.told(architectures)}, but it must be a list of names."
        )


def present(path: Path) -> Path:
    """Return the path of a file that must be there.

    Raises:
        FileNotFoundError: If it is not.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but a shopper's folder must hold it.")
    return path


def read_tensors(
    path: Path, allowed: Callable[[dict[str, tuple[int, ...]]], None]
) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        path: the file
        allowed: sees the shapes before any tensor is read, and may raise

    Raises:
        ValueError: If the file is no readable safetensors.
    """
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            allowed({name: tuple(file.get_slice(name).get_shape()) for name in names})
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}.") from error


def _check_shapes(
    path: Path, kind: type[Any], expected: Mapping[str, Tensor], shapes: Mapping[str, Any]
) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    wrong = sorted(name for name in {*wanted, *shapes} if wanted.get(name) != shapes.get(name))
    if wrong:
        first = wrong[0]
        found, want = (sizes.get(first, "not there") for sizes in (shapes, wanted))
        raise ValueError(
            f"{path}: its tensors do not fit a {kind.__name__} of this {CONFIG}: "
            f"{checks.told(wrong)}; the first is "
            f"{found}, but it must be {want}."
        )


def _check_types(path: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        dtype = torch.float32 if expected[name].is_floating_point() else torch.int64
        if tensor.dtype != dtype:
            raise ValueError(
                f"{path}: {name} is {checks.told(tensor)}, but it must be {str(dtype)[6:]}."
            )


def _check_numbers(model: CheckedModel, source: str) -> None:
    """Check that the tensors of a model are finite and possible; raise ValueError if not."""
    try:
        for name, tensor in model.state_dict().items():
            checks.tensor(name, tensor, tuple(tensor.shape), tensor.dtype)
        model.check_tables()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def check_categories(name: str, category: Tensor, number: int) -> None:
    """Check the categories (N,) int64 of items.

    Raises:
        ValueError: If one is not below `number`.
    """
    wrong = ((category < 0) | (category >= number)).nonzero().flatten()
    if len(wrong):
        found = int(category[wrong[0]])
        raise ValueError(
            f"{name} holds {found} at [{int(wrong[0])}], but it must be a number from 0 to "
            f"{number - 1}."
        )


def member_folders(folder: Path, first: int) -> list[Path]:
    """List the folders of an ensemble's members, `model<k>/` with k >= `first`, in order."""
    found = {}
    for child in folder.glob("model*"):
        number = child.name.removeprefix("model")
        if child.is_dir() and re.fullmatch(r"0|[1-9]\d*", number) and int(number) >= first:
            found[int(number)] = child
    return [found[number] for number in sorted(found)]
