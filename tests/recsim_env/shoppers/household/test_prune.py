"""Pruning: units are found, those worth nothing go without a trace, sizes are those asked for."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.examples import Collator, Examples
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.prune import (
    folded,
    groups,
    importance,
    least_layer,
    pruned,
    resized,
    without_layer,
)
from tests.support.small_shopper import fitted_model, toy_examples


@pytest.fixture(scope="module")
def examples() -> Examples:
    return toy_examples()


@pytest.fixture
def model() -> SlateShopper:
    """Two layers, four heads of width 4, 16 hidden units and 8 in the heads."""
    return fitted_model()


def blocks(model: SlateShopper) -> list[Any]:
    """The layers of a model, whose parts are not typed as such."""
    return list(model.blocks)


def batch_of(examples: Examples) -> dict[str, Tensor]:
    return Collator(examples, splits=("valid",))(range(8))


@torch.no_grad()
def answers(model: SlateShopper, examples: Examples) -> dict[str, Tensor]:
    model.train(False)
    found: dict[str, Tensor] = model(**batch_of(examples))
    return found


def test_units_are_found_in_every_part(model: SlateShopper) -> None:
    found = groups(model.config)
    assert {name: group.units for name, group in found.items()} == {
        "hidden_size.16": 16,
        "blocks.0.num_attention_heads.4": 4,
        "blocks.1.num_attention_heads.4": 4,
        "blocks.0.intermediate_size.32": 32,
        "blocks.1.intermediate_size.32": 32,
        "slate_head.head_size.8": 8,
        "slate_head.head_size.4": 4,
        "gap_head.head_size.8": 8,
        "cold_head.head_size.8": 8,
        "cold_head.head_size.4": 4,
    }
    heads = {
        axis.tensor: (axis.axis, axis.width, axis.copies)
        for axis in found["blocks.1.num_attention_heads.4"].axes
    }
    assert heads == {
        "blocks.1.qkv.weight": (0, 4, 3),
        "blocks.1.qkv.bias": (0, 4, 3),
        "blocks.1.out.weight": (1, 4, 1),
        "blocks.1.lag_bias.weight": (1, 1, 1),
    }
    state = {axis.tensor for axis in found["hidden_size.16"].axes}
    # all that states and item vectors pass through, but no layer behind a hidden one
    assert {"newcomer", "items.id_embedding.weight", "explore_query.weight"} <= state
    assert "gap_head.outer.weight" not in state


def test_importance_is_the_square_of_gradient_times_weight(
    model: SlateShopper, examples: Examples
) -> None:
    batch = batch_of(examples)
    found = importance(model, [batch])["blocks.0.intermediate_size.32"]
    model.requires_grad_(True)
    model(**batch)["loss"].backward()
    block = blocks(model)[0]
    by_hand = (
        (block.feed_in.weight.grad * block.feed_in.weight).sum(1)
        + block.feed_in.bias.grad * block.feed_in.bias
        + (block.feed_out.weight.grad * block.feed_out.weight).sum(0)
    ) ** 2
    torch.testing.assert_close(found, by_hand.detach())
    assert not model.training


def test_importance_leaves_the_model_as_it_was(model: SlateShopper, examples: Examples) -> None:
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    importance(model, [batch_of(examples)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(value.requires_grad or value.grad is not None for value in model.parameters())


def test_a_head_that_is_worth_nothing_goes_without_a_trace(
    model: SlateShopper, examples: Examples
) -> None:
    """Head 2 of the first layer and head 0 of the second: nothing reads or feeds them."""
    with torch.no_grad():
        for layer, head in ((0, 2), (1, 0)):
            block, places = blocks(model)[layer], slice(4 * head, 4 * head + 4)
            block.out.weight[:, places] = 0
            for part in range(3):
                block.qkv.weight[16 * part :][places] = 0
                block.qkv.bias[16 * part :][places] = 0
            block.lag_bias.weight[:, head] = 0
    worth = importance(model, [batch_of(examples)])
    assert worth["blocks.0.num_attention_heads.4"].argmin() == 2
    assert worth["blocks.0.num_attention_heads.4"][2] == 0
    smaller = pruned(model, worth, {"num_attention_heads": 3})
    assert smaller.config.num_attention_heads == 3
    assert smaller.config.width_of_head == 4
    assert blocks(smaller)[0].qkv.weight.shape == (36, 16)
    full, less = answers(model, examples), answers(smaller, examples)
    for name in ("logits", "gap_logits"):
        torch.testing.assert_close(less[name], full[name], rtol=1e-5, atol=1e-5)


def test_hidden_units_that_are_worth_nothing_go_without_a_trace(
    model: SlateShopper, examples: Examples
) -> None:
    with torch.no_grad():
        for block in blocks(model):
            block.feed_out.weight[:, 5:21] = 0
            block.feed_in.weight[5:21] = 0
            block.feed_in.bias[5:21] = 0
    smaller = pruned(model, importance(model, [batch_of(examples)]), {"intermediate_size": 16})
    assert torch.equal(
        blocks(smaller)[1].feed_in.bias,
        torch.cat([blocks(model)[1].feed_in.bias[:5], blocks(model)[1].feed_in.bias[21:]]),
    )
    full, less = answers(model, examples), answers(smaller, examples)
    torch.testing.assert_close(less["logits"], full["logits"], rtol=1e-5, atol=1e-5)


def test_sizes_are_those_that_are_asked_for(model: SlateShopper, examples: Examples) -> None:
    sizes = {
        "hidden_size": 6,
        "num_attention_heads": 2,
        "intermediate_size": 10,
        "head_size": 4,
    }
    smaller = pruned(model, importance(model, [batch_of(examples)]), sizes)
    assert {name: getattr(smaller.config, name) for name in sizes} == sizes
    assert smaller.config.facts == model.config.facts
    fresh = SlateShopper(smaller.config).state_dict()
    assert {name: value.shape for name, value in fresh.items()} == {
        name: value.shape for name, value in smaller.state_dict().items()
    }
    # what states share with the context lies behind them, and stays
    context = model.explore_query.weight.shape[1] - 16
    assert smaller.explore_query.weight.shape == (6, 6 + context)
    assert answers(smaller, examples)["logits"].isfinite().all()


def test_what_cannot_be_pruned_is_refused(model: SlateShopper, examples: Examples) -> None:
    worth = importance(model, [batch_of(examples)])
    with pytest.raises(ValueError, match="sizes is 'window'"):
        pruned(model, worth, {"window": 2})
    with pytest.raises(ValueError, match="hidden_size is 17"):
        pruned(model, worth, {"hidden_size": 17})
    with pytest.raises(ValueError, match="layer is 2"):
        without_layer(model, 2)
    with pytest.raises(ValueError, match="num_hidden_layers is 1"):
        without_layer(without_layer(model, 0), 0)


def test_a_layer_that_does_nothing_goes_without_a_trace(
    model: SlateShopper, examples: Examples
) -> None:
    with torch.no_grad():
        for name in ("out", "feed_out"):
            getattr(blocks(model)[0], name).weight.zero_()
            getattr(blocks(model)[0], name).bias.zero_()

    def batches() -> Iterator[dict[str, Tensor]]:
        yield batch_of(examples)

    losses = [float(answers(without_layer(model, layer), examples)["loss"]) for layer in (0, 1)]
    assert losses[0] == pytest.approx(float(answers(model, examples)["loss"]))
    assert least_layer(model, batches) == losses.index(min(losses))
    smaller = without_layer(model, 0)
    assert smaller.config.num_hidden_layers == 1
    full, less = answers(model, examples), answers(smaller, examples)
    torch.testing.assert_close(less["logits"], full["logits"], rtol=1e-5, atol=1e-5)


def test_folded_texts_answer_alike(model: SlateShopper, examples: Examples) -> None:
    """Also for rows whose item nobody knows, which its text alone describes."""
    wide = SlateShopper(resized(model.config, text_width=48))
    with torch.no_grad():
        for value in wide.state_dict().values():
            if value.is_floating_point():
                torch.nn.init.normal_(value, std=0.3)
        wide.items.known.fill_(1)
    smaller = folded(wide)
    assert smaller.config.text_width == 16
    batch = batch_of(examples)
    batch["row_known"] = (torch.arange(len(batch["row_item"])) % 2).float()
    wide.train(False)
    smaller.train(False)
    with torch.no_grad():
        torch.testing.assert_close(
            smaller(**batch)["logits"], wide(**batch)["logits"], rtol=1e-4, atol=1e-4
        )
    assert folded(smaller) is smaller


def test_a_copied_configuration_keeps_the_width_of_its_heads() -> None:
    config = SlateShopperConfig(hidden_size=16, num_attention_heads=4)
    assert resized(config, hidden_size=6).width_of_head == 4
    with pytest.raises(ValueError, match="head_width is -1"):
        resized(config, head_width=-1)
