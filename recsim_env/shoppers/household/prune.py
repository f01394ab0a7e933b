"""Make a smaller household model out of a fitted one: fewer layers, heads and hidden units.

What may go is found by a first-order estimate of what it is worth: the change of the loss if all
weights of a unit became zero is the sum of gradient times weight, and the square of it, summed over
batches, is the unit's importance (Molchanov et al. 2019, "Importance estimation for neural network
pruning", equation 8; for attention heads it is that of Michel et al. 2019, "Are sixteen heads
really better than one?", equation 2). A layer is worth what the loss rises by without it.

Which axes of which tensors belong to a unit is not listed here. It is found by comparing the shapes
of a model with those of one that has a unit more, so a part that is added to the model is pruned as
well. Along an axis that units share with something else (the context behind a state), they come
first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.model import SlateShopper

GROWTH = {"hidden_size": 2, "num_attention_heads": 1, "intermediate_size": 1, "head_size": 2}
"""Sizes of a configuration whose units may go, and by how many they grow to find their axes: the
head size is halved in the second hidden layer of the slate head."""
SHARED = ("hidden_size",)
"""Sizes whose units are the same in all parts of the model."""
QKV = re.compile(r"\.qkv\.(weight|bias)$")
"""Tensors that hold queries, keys and values of all heads, one after the other."""
BLOCK = re.compile(r"^blocks\.(\d+)\.")

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Axis:
    """An axis of a tensor along which the units of a group lie.

    Each unit has `width` places side by side, and the units lie there `copies` times.
    """

    tensor: str
    axis: int
    width: int
    copies: int


@dataclass(frozen=True)
class Group:
    """Units of which some may go, `units` of them: those of a size in one part of the model."""

    size: str
    units: int
    axes: tuple[Axis, ...]


def groups(config: SlateShopperConfig) -> dict[str, Group]:
    """Find the groups of units of a configuration, by name."""
    base = _shapes(config)
    found: dict[tuple[str, str, int], list[Axis]] = {}
    for size, more in GROWTH.items():
        grown = _shapes(config, **{size: getattr(config, size) + more})
        for name, shape in base.items():
            copies = 3 if QKV.search(name) and size == "num_attention_heads" else 1
            for axis, (before, after) in enumerate(zip(shape, grown[name], strict=True)):
                if after == before:
                    continue
                # a unit of heads is as wide as a head; half as many units, half the growth
                heads = size == "num_attention_heads"
                width = (after - before) // copies if heads else 1
                units = (
                    config.num_attention_heads if heads else _units(config, size, after - before)
                )
                part = "" if size in SHARED else name.rsplit(".", 2)[0]
                key = (size, part, units)
                found.setdefault(key, []).append(Axis(name, axis, width, copies))
    return {
        ".".join(filter(None, (part, size, str(units)))): Group(size, units, tuple(axes))
        for (size, part, units), axes in found.items()
    }


def _units(config: SlateShopperConfig, size: str, growth: int) -> int:
    return int(getattr(config, size)) * growth // GROWTH[size]


def _shapes(config: SlateShopperConfig, **changes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a model of this configuration with some sizes changed."""
    with torch.device("meta"):
        model = SlateShopper(resized(config, **changes))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def resized(config: SlateShopperConfig, **changes: object) -> SlateShopperConfig:
    """Copy a configuration with some values changed; heads keep their width.

    Raises:
        ValueError: If a value is out of its range.
    """
    values = {name: getattr(config, name) for name in SlateShopperConfig.own_keys()}
    return SlateShopperConfig(**values | {"head_width": config.width_of_head} | changes)


def importance(model: SlateShopper, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Estimate what the units of a fitted model are worth, see the module.

    Args:
        model: the model; it stays as it is
        batches: batches of `SlateShopper.forward`

    Returns:
        For each group, (units,) importances of 0 or more.
    """
    of_model = groups(model.config)
    total = {name: torch.zeros(group.units) for name, group in of_model.items()}
    fixed = [value for value in model.parameters() if not value.requires_grad]
    training = model.training
    model.train(False)
    model.requires_grad_(True)
    with torch.enable_grad():
        for batch in batches:
            model.zero_grad(set_to_none=True)
            model(**batch)["loss"].backward()
            change = {
                name: value.grad * value.detach()
                for name, value in model.named_parameters()
                if value.grad is not None
            }
            for name, group in of_model.items():
                total[name] += sum(
                    (
                        _by_unit(change[axis.tensor], axis, group)
                        for axis in group.axes
                        if axis.tensor in change
                    ),
                    torch.zeros(group.units),
                ).square()
    model.zero_grad(set_to_none=True)
    model.train(training)
    for value in fixed:
        value.requires_grad_(False)
    return total


def _by_unit(values: Tensor, axis: Axis, group: Group) -> Tensor:
    """Sum the values of a tensor over everything that belongs to a unit: (units,)."""
    along = values.movedim(axis.axis, 0).reshape(values.shape[axis.axis], -1).sum(1)
    own = along[: group.units * axis.width * axis.copies]
    return own.view(axis.copies, group.units, axis.width).sum((0, 2)).cpu()


def pruned(
    model: SlateShopper, worth: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> SlateShopper:
    """Copy a model with the most important units of each group only.

    Among equals those further to the front stay. Units stay in their order.

    Args:
        model: the model
        worth: (units,) importances of every group of `groups`
        sizes: how many units stay, by the size of the configuration; the others keep theirs

    Raises:
        ValueError: If a size is none of `GROWTH`, or no number from 1 to that of the model.
    """
    for name, size in sizes.items():
        checks.choice("sizes", name, GROWTH)
        checks.whole(name, size, 1, getattr(model.config, name))
    smaller = SlateShopper(resized(model.config, **sizes))
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for name, group in groups(model.config).items():
        if group.size not in sizes:
            continue
        kept_of = sizes[group.size] * group.units // getattr(model.config, group.size)
        order = worth[name].argsort(descending=True, stable=True)
        kept = order[:kept_of].sort().values
        for axis in group.axes:
            tensor = tensors[axis.tensor]
            at = _places(kept, axis, group, tensor.shape[axis.axis]).to(tensor.device)
            tensors[axis.tensor] = tensor.index_select(axis.axis, at)
    smaller.load_state_dict(tensors)
    smaller.train(model.training)
    return smaller


def _places(kept: Tensor, axis: Axis, group: Group, length: int) -> Tensor:
    """The places along an axis of units (R,) that stay, and of what lies behind all units."""
    copies = torch.arange(axis.copies).view(-1, 1, 1) * group.units * axis.width
    places = copies + kept.view(1, -1, 1) * axis.width + torch.arange(axis.width)
    behind = torch.arange(group.units * axis.width * axis.copies, length)
    return torch.cat([places.flatten(), behind])


def without_layer(model: SlateShopper, layer: int) -> SlateShopper:
    """Copy a model without one of its layers, which are numbered from 0.

    Raises:
        ValueError: If there is no such layer, or no other one.
    """
    layers = model.config.num_hidden_layers
    checks.whole("num_hidden_layers", layers, 2)
    checks.whole("layer", layer, 0, layers - 1)
    smaller = SlateShopper(resized(model.config, num_hidden_layers=layers - 1))
    tensors = {}
    for name, tensor in model.state_dict().items():
        found = BLOCK.match(name)
        number = int(found[1]) if found else -1
        if number == layer:
            continue
        tensors[BLOCK.sub(f"blocks.{number - (number > layer)}.", name)] = tensor.detach().clone()
    smaller.load_state_dict(tensors)
    smaller.train(model.training)
    return smaller


@torch.no_grad()
def least_layer(model: SlateShopper, batches: Callable[[], Iterable[Batch]]) -> int:
    """Find the layer without which the loss of some batches is the lowest."""
    losses = []
    for layer in range(model.config.num_hidden_layers):
        one = without_layer(model, layer)
        one.train(False)
        losses.append(sum(float(one(**batch)["loss"]) for batch in batches()))
    return min(range(len(losses)), key=losses.__getitem__)


@torch.no_grad()
def folded(model: SlateShopper) -> SlateShopper:
    """Copy a model whose text embeddings are projected once and for all.

    The items' texts are as wide as the hidden size then, their projection is the identity, and all
    answers are the same but for rounding. Nine tenths of the saved model are these embeddings.
    """
    items = model.items
    if model.config.text_width <= model.config.hidden_size:
        return model
    smaller = SlateShopper(resized(model.config, text_width=model.config.hidden_size))
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    tensors["items.text"] = items.text_projection(items.text)
    tensors["items.text_projection.weight"] = torch.eye(
        model.config.hidden_size, device=items.text.device
    )
    smaller.load_state_dict(tensors)
    smaller.train(model.training)
    return smaller
