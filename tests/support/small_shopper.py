"""A toy household model and a toy log, for tests of what makes shoppers smaller."""

import functools
import tempfile
from pathlib import Path

import torch

from benchmarks.lab.logs import Log
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.model import SlateShopper
from tests.support.fake_log import FACTS, ITEMS, write_shop


@functools.cache
def toy_log() -> Log:
    """The log of `fake_log`."""
    with tempfile.TemporaryDirectory() as folder:
        write_shop(Path(folder))
        return Log.load(Path(folder))


@functools.cache
def toy_examples() -> Examples:
    """The examples of that log."""
    return toy_log().examples(cold_hidden=False)


def fitted_model() -> SlateShopper:
    """A model of random weights for that log: two layers, four heads of width 4."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        catalog = toy_log().catalog
        model = SlateShopper(
            SlateShopperConfig(
                n_items=ITEMS,
                n_categories=int(catalog.category.max()) + 1,
                text_width=catalog.embedding.shape[1],
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=32,
                window=8,
                head_size=8,
                facts=FACTS.to_json(),
            )
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.items.text.copy_(catalog.embedding)
    model.items.category.copy_(catalog.category)
    model.train(False)
    return model
