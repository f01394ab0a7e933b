"""Trees of tensors, such as the hidden state of a shopper: their rows, and how they are written.

`pick` and `put` take and put rows of a tree whose tensors all have one row a shopper. It is made of
dataclasses, dictionaries, lists and tuples of tensors and None; any other part must be an object
that has rows (`Rows`).

`flat` writes a tree down as named tensors and an outline for JSON, and `restored` reads it. Such a
tree is made of dataclasses, dictionaries with strings as keys, lists, tuples, tensors, numpy arrays
of numbers, generators of torch (on the CPU), slices, numbers, strings and None. Nothing is pickled.
Only a class tells which dataclass stands where: `restored` takes it from a template, which is a
tree that was built in the same way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from recsim_env.checks import told
from recsim_env.tensors import copy_into

PLAIN = (bool, int, float, str, type(None))
"""Types of leaves that JSON holds as they are."""

T = TypeVar("T")


# ---- rows of a tree ------------------------------------------------------------------------------


@runtime_checkable
class Rows(Protocol):
    """A part of a tree that knows best how its rows are taken and put."""

    def __len__(self) -> int:
        """The number of rows."""

    def pick(self, rows: Tensor) -> Self:
        """Make a copy of some rows (R,), in that order."""

    def put(self, rows: Tensor, fresh: Self) -> None:
        """Write the rows of `fresh` into rows (R,), in place."""


def pick(tree: T, rows: Tensor) -> T:
    """Make a copy of some rows of a tree, in the order in which they are named.

    Args:
        tree: A tree of B rows.
        rows: (R,) int64, from 0 to B - 1.

    Raises:
        TypeError: If a part is none that has rows, or has another number of rows than the others;
            the message names its place.
    """
    picked: T = _picked(tree, rows, length(tree), "")
    return picked


def put(tree: T, rows: Tensor, fresh: T) -> None:
    """Write the rows of `fresh` into some rows of a tree, in place.

    Args:
        tree: A tree of B rows.
        rows: (R,) int64, distinct, from 0 to B - 1.
        fresh: A tree of R rows that is made alike.

    Raises:
        TypeError: As `pick`, or if `fresh` is made otherwise.
    """
    _put_rows(tree, rows, fresh, length(tree), "")


def moved(tree: T, device: torch.device) -> T:
    """Bring a tree to a device. Tensors that are there already are not copied."""
    return mapped(tree, lambda tensor: tensor.to(device))


def mapped(tree: T, function: Callable[[Tensor], Tensor], *, anything: bool = False) -> T:
    """Build a tree of the same kind in which every tensor is what a function makes of it.

    Args:
        tree: A tree of tensors.
        function: What is made of a tensor.
        anything: Whether other parts than those of a tree stay as they are.

    Raises:
        TypeError: If there is another part, unless it may be anything; the message names its place.
    """
    made: T = _mapped(tree, function, anything, "")
    return made


def overwrite(tree: T, fresh: T) -> None:
    """Copy the numbers of a tree into the tensors of another one that is made alike, in place.

    Args:
        tree: Its tensors are written to.
        fresh: A tree of tensors of the same shapes and types; some of them may be those of `tree`,
            at the same place or at another.

    Raises:
        TypeError: If `fresh` is made otherwise; the message names the place.
    """
    pairs = list(_pairs(tree, fresh, ""))
    written = {into.data_ptr() for into, new in pairs if into is not new}
    # what is read after its tensor was written to is put aside first
    aside = [(into, new.clone() if new.data_ptr() in written else new) for into, new in pairs]
    for into, new in aside:
        if into is not new:
            copy_into(into, new)


def length(tree: object) -> int:
    """The number of rows of a tree: those of the first part that has some.

    Raises:
        TypeError: If no part has rows, or if a part before has none.
    """
    for place, part in leaves(tree):
        return _rows_of(part, place) if isinstance(part, Tensor) else len(part)
    raise TypeError(f"state is {told(tree)}, but it must hold a tensor with a row a shopper.")


def leaves(tree: object, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield place and part of every tensor of a tree, and of every part with rows of its own."""
    if tree is None:
        return
    if isinstance(tree, Tensor) or _has_rows(tree):
        yield place, tree
        return
    for key, part in _parts(tree, place).items():
        yield from leaves(part, f"{place}/{key}")


def _has_rows(node: Any) -> bool:
    """Tell whether a part takes and puts its rows itself."""
    return not isinstance(node, (dict, list, tuple)) and isinstance(node, Rows)


def _rows_of(value: Any, place: str) -> int:
    if not isinstance(value, Tensor) or value.ndim == 0:
        raise TypeError(f"state{place} is {told(value)}, but it must have a row a shopper.")
    return len(value)


def _picked(node: Any, rows: Tensor, batch: int, place: str) -> Any:
    if node is None:
        return None
    if isinstance(node, Tensor):
        _check_rows(node, batch, place)
        return node[rows]
    if _has_rows(node):
        _check_rows(node, batch, place)
        return node.pick(rows)
    parts = _parts(node, place)
    return _built(
        node, {key: _picked(part, rows, batch, f"{place}/{key}") for key, part in parts.items()}
    )


def _put_rows(node: Any, rows: Tensor, fresh: Any, batch: int, place: str) -> None:
    if (node is None) is not (fresh is None) or type(node) is not type(fresh):
        raise TypeError(f"state{place} is {told(node)}, but the fresh rows have {told(fresh)}.")
    if node is None:
        return
    if isinstance(node, Tensor):
        _check_rows(node, batch, place)
        _check_rows(fresh, len(rows), place)
        if node.dtype is not fresh.dtype or node.shape[1:] != fresh.shape[1:]:
            raise TypeError(f"state{place} is {told(node)}, but the fresh rows have {told(fresh)}.")
        node[rows] = fresh
    elif _has_rows(node):
        _check_rows(node, batch, place)
        node.put(rows, fresh)
    else:
        for inside, part, other in _parts_of_both(node, fresh, place):
            _put_rows(part, rows, other, batch, inside)


def _mapped(node: Any, function: Callable[[Tensor], Tensor], anything: bool, place: str) -> Any:
    if isinstance(node, Tensor):
        return function(node)
    if isinstance(node, (*PLAIN, slice)):
        return node
    if anything and not (isinstance(node, (dict, list, tuple)) or is_dataclass(node)):
        return node
    parts = {
        key: _mapped(part, function, anything, f"{place}/{key}")
        for key, part in _parts(node, place).items()
    }
    return _built(node, parts)


def _pairs(node: Any, fresh: Any, place: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tensors of two trees that stand at the same places."""
    if type(node) is not type(fresh):
        raise TypeError(f"state{place} is {told(node)}, but the fresh rows have {told(fresh)}.")
    if isinstance(node, Tensor):
        if node.dtype is not fresh.dtype or node.shape != fresh.shape:
            raise TypeError(f"state{place} is {told(node)}, but the fresh rows have {told(fresh)}.")
        yield node, fresh
    elif isinstance(node, (*PLAIN, slice)):
        if node != fresh:
            raise TypeError(f"state{place} is {told(node)}, but the fresh rows have {told(fresh)}.")
    else:
        for inside, part, other in _parts_of_both(node, fresh, place):
            yield from _pairs(part, other, inside)


def _parts_of_both(node: Any, fresh: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the place of each part of a container, the part, and that of a fresh container."""
    parts, others = _parts(node, place), _parts(fresh, place)
    if parts.keys() != others.keys():
        raise TypeError(
            f"state{place} has the parts {sorted(parts)}, but the fresh rows have {sorted(others)}."
        )
    for key, part in parts.items():
        yield f"{place}/{key}", part, others[key]


def _check_rows(value: Any, batch: int, place: str) -> None:
    found = _rows_of(value, place) if isinstance(value, Tensor) else len(value)
    if found != batch:
        raise TypeError(f"state{place} has {found} rows, but it must have {batch}, one a shopper.")


def _parts(node: Any, place: str) -> dict[str, Any]:
    """Return the parts of a container by name."""
    if isinstance(node, dict):
        return {str(key): part for key, part in node.items()}
    if isinstance(node, (list, tuple)):
        return {str(at): part for at, part in enumerate(node)}
    if is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in fields(node)}
    raise TypeError(
        f"state{place} is {told(node)}, but it must be a tensor with a row a shopper, None, a "
        "dataclass, mapping, list or tuple of such, or an object with the methods of "
        "`recsim_env.trees.Rows`."
    )


def _built(like: Any, parts: dict[str, Any]) -> Any:
    """Build a container of the kind of `like`, of other parts."""
    if isinstance(like, dict):
        return type(like)(zip(like, parts.values(), strict=True))
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*parts.values())
    if isinstance(like, (list, tuple)):
        return type(like)(parts.values())
    fresh = copy.copy(like)
    for key, part in parts.items():
        object.__setattr__(fresh, key, part)
    return fresh


# ---- a tree written down -------------------------------------------------------------------------


@dataclass(frozen=True)
class Flat:
    """A tree that was written down; it may itself be a leaf of another tree."""

    tensors: dict[str, Tensor]
    """Copies on the CPU, by their place in the tree: `episodes/seed`."""
    outline: Any
    """Everything else: nested lists and dictionaries that `json` can write."""


def flat(tree: object, name: str = "state") -> Flat:
    """Write a tree down.

    Args:
        tree: The tree.
        name: What messages call it.

    Raises:
        TypeError: If the tree holds anything else than the module says; the message names the
            place.
    """
    tensors: dict[str, Tensor] = {}
    return Flat(tensors, _outline(tree, "", name, tensors))


def restored(template: Any, written: Flat, device: torch.device | str = "cpu") -> Any:
    """Build the tree that was written down, with every tensor where the template's is.

    Args:
        template: A tree of the same dataclasses, and of tensors of the same shapes and types. Where
            it has None or an empty list or dictionary, anything that needs no dataclass may stand.
            It is not changed.
        written: The tree as `flat` wrote it down.
        device: The device of tensors that the template does not have.

    Raises:
        ValueError: If names, shapes or types differ; the message names the place.
    """
    return _Reader(written.tensors, torch.device(device)).tree(template, written.outline, "")


def _outline(node: Any, place: str, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return the outline of a node at `place`; its tensors go into `tensors`."""
    if isinstance(node, (Tensor, np.ndarray, torch.Generator)):
        return {_kind(node): _keep(node, place, name, tensors)}
    if isinstance(node, PLAIN):
        return {"value": node}
    if isinstance(node, slice):
        return {"slice": [node.start, node.stop, node.step]}
    if isinstance(node, Flat):
        return {
            "flat": node.outline,
            "tensors": [_put(tensors, f"{place}/{k}", v) for k, v in node.tensors.items()],
        }
    if isinstance(node, (list, tuple)):
        kind = "list" if isinstance(node, list) else "tuple"
        return {
            kind: [_outline(part, f"{place}/{at}", name, tensors) for at, part in enumerate(node)]
        }
    if is_dataclass(node) and not isinstance(node, type):
        parts: Mapping[str, Any] = {field.name: getattr(node, field.name) for field in fields(node)}
        return {
            "fields": {
                key: _outline(part, f"{place}/{key}", name, tensors) for key, part in parts.items()
            }
        }
    if isinstance(node, dict) and all(isinstance(key, str) for key in node):
        return {
            "dict": {
                key: _outline(part, f"{place}/{key}", name, tensors) for key, part in node.items()
            }
        }
    raise TypeError(f"{name}{place} is {told(node)}, which cannot be written down.")


def _kind(node: object) -> str:
    kinds = {Tensor: "tensor", np.ndarray: "array", torch.Generator: "generator"}
    return next(
        (name for kind, name in kinds.items() if isinstance(node, kind)), type(node).__name__
    )


def _keep(node: Any, place: str, name: str, tensors: dict[str, Tensor]) -> str:
    """Put the numbers of a leaf into `tensors`, and return the name that they have there."""
    if isinstance(node, np.ndarray):
        if node.dtype.kind not in "biuf":
            raise TypeError(
                f"{name}{place} is an array of {node.dtype}, which cannot be written down."
            )
        node = torch.from_numpy(node)
    if isinstance(node, torch.Generator):
        node = node.get_state()
    return _put(tensors, place, node.detach().cpu().clone(memory_format=torch.contiguous_format))


def _put(tensors: dict[str, Tensor], place: str, value: Tensor) -> str:
    key = place.removeprefix("/")
    if key in tensors:
        raise ValueError(
            f"Two tensors are called {key!r}, but every one must have a name of its own."
        )
    tensors[key] = value
    return key


@dataclass(frozen=True)
class _Reader:
    """Builds a tree from its outline and its tensors.

    What stands there without a template goes to `device`.
    """

    tensors: Mapping[str, Tensor]
    device: torch.device

    def tree(self, template: Any, outline: Any, place: str) -> Any:
        """Build the node at `place`."""
        first: tuple[str, Any] = ("nothing", None)
        kind, held = next(iter(outline.items()), first) if isinstance(outline, dict) else first
        if kind in ("tensor", "array", "generator"):
            return self._leaf(template, kind, held)
        if kind == "value":
            if isinstance(template, PLAIN[:-1]) and type(held) is not type(template):
                raise ValueError(
                    f"{_at(place)} is {told(held)}, but it must be a {type(template).__name__}."
                )
            return held
        if kind == "slice":
            return slice(*held)
        if kind == "flat":
            start = f"{place.removeprefix('/')}/"
            return Flat(
                {key.removeprefix(start): self._tensor(key) for key in outline["tensors"]}, held
            )
        if kind in ("list", "tuple"):
            return self._sequence(template, kind, held, place)
        if kind in ("fields", "dict"):
            return self._named(template, kind, held, place)
        raise ValueError(
            f"The outline of {_at(place)} is {told(outline)}, but it must say what stands there."
        )

    def _tensor(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise ValueError(f"The tensor {key!r} is missing.")
        return self.tensors[key]

    def _leaf(self, template: Any, kind: str, key: str) -> Any:
        """Build a tensor, an array or a generator.

        It is a copy: what was read from a file may lie anywhere in memory.
        """
        value = self._tensor(key)
        wanted = "tensor" if template is None else _kind(template)
        if template is not None and wanted != kind:
            raise ValueError(f"{_at(key)} is a {kind}, but it must be a {wanted}.")
        if kind == "generator":
            return _generator(value, key)
        like = torch.from_numpy(template) if isinstance(template, np.ndarray) else template
        if like is not None and (like.shape != value.shape or like.dtype != value.dtype):
            raise ValueError(f"{_at(key)} is {told(value)}, but it must be {told(like)}.")
        if kind == "array":
            return value.numpy().copy()
        return value.to(self.device if like is None else like.device, copy=True)

    def _sequence(self, template: Any, kind: str, held: list[Any], place: str) -> Any:
        templates = (
            list(template)
            if isinstance(template, (list, tuple)) and template
            else [None] * len(held)
        )
        if len(templates) != len(held):
            raise ValueError(
                f"{_at(place)} has {len(held)} parts, but it must have {len(templates)}."
            )
        pairs = enumerate(zip(templates, held, strict=True))
        parts = [self.tree(like, part, f"{place}/{at}") for at, (like, part) in pairs]
        return parts if kind == "list" else tuple(parts)

    def _named(self, template: Any, kind: str, held: dict[str, Any], place: str) -> Any:
        if kind == "fields" and not is_dataclass(template):
            raise ValueError(
                f"{_at(place)} has the fields {sorted(held)}, but it must be {told(template)}."
            )
        templates: dict[str, Any] = (
            {field.name: getattr(template, field.name) for field in fields(template)}
            if is_dataclass(template)
            else template or dict.fromkeys(held)
        )
        if other := sorted(templates.keys() ^ held.keys()):
            raise ValueError(f"{_at(place)} differs in {other}: it must have {sorted(templates)}.")
        parts = {
            key: self.tree(templates[key], part, f"{place}/{key}") for key, part in held.items()
        }
        if kind == "dict":
            return parts
        fresh = copy.copy(template)
        for key, part in parts.items():
            object.__setattr__(fresh, key, part)
        return fresh


def _generator(state: Tensor, key: str) -> torch.Generator:
    try:
        return torch.Generator().set_state(state)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"{_at(key)} is {told(state)}, but it must be the state of a generator."
        ) from None


def _at(place: str) -> str:
    return repr(place.removeprefix("/") or "the whole")
