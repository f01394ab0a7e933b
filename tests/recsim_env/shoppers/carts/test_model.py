"""The completion: what it may see, what it is saved as, and that it learns which items go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsim_env.shoppers.carts.fit import CompletionFit
from recsim_env.shoppers.carts.lift import CART_FEATURES
from recsim_env.shoppers.carts.model import CartCompletion, CompletionConfig
from recsim_env.shoppers.household.features import CONTEXT, ITEM_CONTEXT
from recsim_env.shoppers.household.memory import LEVELS, STATS
from recsim_env.shoppers.weights import load_model, save_model

N, P, M, TEXT = 12, 5, 3, 8
CONFIG = CompletionConfig(N, TEXT, hidden_size=8, num_attention_heads=2, head_size=6)


def inputs(batch: int, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "context": torch.rand(batch, CONTEXT, generator=draw),
        "held": torch.randint(-1, N, (batch, M), generator=draw),
        "counts": torch.rand(batch, M, generator=draw) * 5,
        "items": torch.randint(N, (batch, P), generator=draw),
        "stats": torch.rand(batch, P, LEVELS, STATS, generator=draw),
        "item_context": torch.rand(batch, P, ITEM_CONTEXT, generator=draw),
        "promoted": torch.rand(batch, P, generator=draw) < 0.5,
        "cart_features": torch.rand(batch, P, CART_FEATURES, generator=draw),
        "text": torch.rand(N, TEXT, generator=draw),
    }


def scores(model: CartCompletion, given: dict[str, Tensor], cart: Tensor) -> Tensor:
    with torch.no_grad():
        vectors = model.vectors(given["text"])
        visit = model.visit(vectors, given["context"], given["held"], given["counts"], cart)
        found: Tensor = model(
            vectors,
            visit,
            *(given[name] for name in ("items", "stats", "item_context", "promoted")),
            given["cart_features"],
        )
    return found


@pytest.fixture
def model() -> CartCompletion:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = CartCompletion(CONFIG)
    made.train(False)
    return made


def test_neither_the_order_of_a_cart_nor_its_padding_counts(model: CartCompletion) -> None:
    given = inputs(1)
    one = scores(model, given, torch.tensor([[1, 5, 9, -1]]))
    for other in ([[9, 1, 5, -1, -1]], [[5, -1, 9, 1]]):
        torch.testing.assert_close(scores(model, given, torch.tensor(other)), one)
    assert not torch.allclose(scores(model, given, torch.tensor([[1, 5, 8, -1]])), one)


def test_a_batch_is_its_rows(model: CartCompletion) -> None:
    given, cart = inputs(4), torch.tensor([[1, 5], [2, -1], [-1, -1], [7, 8]])
    together = scores(model, given, cart)
    for row in range(4):
        own = {
            name: value if name == "text" else value[row : row + 1] for name, value in given.items()
        }
        torch.testing.assert_close(scores(model, own, cart[row : row + 1])[0], together[row])


def test_many_visits_are_read_in_parts(
    model: CartCompletion, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, cart = inputs(5), torch.tensor([[1, 5], [2, -1], [-1, -1], [7, 8], [3, 3]])
    together = scores(model, given, cart)
    monkeypatch.setattr("recsim_env.shoppers.carts.model.TOGETHER", 2)
    torch.testing.assert_close(scores(model, given, cart), together)


@pytest.mark.parametrize("hidden", ["use_cart", "use_lift"])
def test_what_is_hidden_changes_nothing(model: CartCompletion, hidden: str) -> None:
    config = CompletionConfig(
        N, TEXT, hidden_size=8, num_attention_heads=2, head_size=6, **{hidden: False}
    )
    blind = CartCompletion(config)
    blind.load_state_dict(model.state_dict())
    blind.train(False)
    given, cart = inputs(2), torch.tensor([[1, 5], [2, 3]])
    changed = given | {"cart_features": given["cart_features"] + 1}
    assert torch.equal(scores(blind, given, cart), scores(blind, changed, cart))
    assert not torch.equal(scores(model, given, cart), scores(model, changed, cart))
    same = torch.equal(scores(blind, given, cart), scores(blind, given, torch.tensor([[4], [4]])))
    assert same == (hidden == "use_cart")


def test_a_model_is_read_as_it_was_saved(model: CartCompletion, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    read = load_model(CartCompletion, tmp_path)
    given, cart = inputs(2), torch.tensor([[1, 5], [2, -1]])
    assert torch.equal(scores(read, given, cart), scores(model, given, cart))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_items": 0}, "n_items is 0"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5, but it must divide hidden_size"),
        ({"dropout": 2}, "dropout is 2"),
        ({"use_cart": "yes"}, "use_cart is 'yes'"),
    ],
)
def test_a_bad_configuration_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompletionConfig(**changes)  # type: ignore[arg-type]


def test_bad_settings_of_a_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs is 0"):
        replace(CompletionFit(), epochs=0)
