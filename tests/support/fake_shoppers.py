"""Models of a fake log that nobody fitted: with chances far apart, or with chances that are
known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from recsim_env.catalog import Catalog
from recsim_env.shoppers.gaps import GapBins
from recsim_env.shoppers.household.fit import FinetuneConfig, new_shopper
from recsim_env.shoppers.household.model import SlateShopper
from tests.support.fake_log import FACTS

SMALL = FinetuneConfig(hidden_size=16, layers=1, window=8, head_size=16)


def member(log: Path, seed: int) -> SlateShopper:
    """An unfitted model whose chances lie far from those of another seed."""
    model = new_shopper(Catalog.load(log), replace(SMALL, seed=seed), FACTS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.slate_head.parameters():
            parameter.normal_(std=0.2, generator=generator)
        model.gap_head.outer.weight.normal_(std=0.5, generator=generator)
        model.gap_head.outer.bias.normal_(mean=-3.0, generator=generator)
        model.explore_shift.fill_(-6.0 + seed)
    return model


def plain(log: Path, chance: float, lapse: float, rate: float) -> SlateShopper:
    """A model that answers everything with one chance, lapses with one, and buys each new item at
    one rate."""
    model = new_shopper(Catalog.load(log), SMALL, FACTS)
    with torch.no_grad():
        for part in (
            model.gap_head.outer,
            model.explore_query,
            model.explore_bias,
            model.explore_season,
        ):
            for parameter in part.parameters():
                parameter.zero_()
        model.explore_shift.zero_()
    model.config.slate_calibration = (0.0, math.log(chance / (1 - chance)))
    hazard = 1 - lapse ** (1 / len(GapBins()))
    model.config.gap_calibration = math.log(hazard / (1 - hazard))
    model.config.explore_calibration = math.log(rate)
    return model
