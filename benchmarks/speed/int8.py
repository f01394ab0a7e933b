"""A household model with whole numbers of one byte in its matrix products, for benchmarks.

Weights are rounded once, channel by channel, and what they are multiplied with in every call
(dynamic quantisation, Jacob et al. 2018, "Quantization and training of neural networks for
efficient integer-arithmetic-only inference", section 2). This is `torch.ao.quantization`, which
torch calls deprecated in favour of `torchao`; on a CPU without compilation the layers of torchao
0.18 take six to ten times as long as those of fp32 at these sizes.
"""

from __future__ import annotations

import copy
import warnings

from torch import nn

from recsim_env.shoppers.encoder import Block
from recsim_env.shoppers.gaps import GapHead
from recsim_env.shoppers.household.model import SlateShopper

OF_SLATES = ("query", "of_shopper", "middle", "last")
"""Layers of the slate head that are called as layers: it reads the weights of the others."""


def quantised_layers(model: SlateShopper) -> list[str]:
    """Name the layers that are multiplied in one byte: those of encoder and heads."""
    found = [f"slate_head.{name}" for name in OF_SLATES]
    for name, part in model.named_modules():
        if isinstance(part, Block | GapHead):
            found += [
                f"{name}.{layer}"
                for layer, child in part.named_children()
                if isinstance(child, nn.Linear)
            ]
    return found


def quantised(model: SlateShopper) -> SlateShopper:
    """Copy a model with its encoder and heads in int8, on a CPU."""
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    chosen = dict.fromkeys(quantised_layers(model), per_channel_dynamic_qconfig)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated is said above
        found: SlateShopper = quantize_dynamic(copy.deepcopy(model), chosen)
    return found


def saved_bytes(model: SlateShopper) -> int:
    """Bytes of quantised weights beyond those of one byte a number, which int8 saves."""
    layers = [model.get_submodule(name) for name in quantised_layers(model)]
    return sum(3 * layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear))
