"""Facts of a log lie in the model's configuration, and what depends on them asks there."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gymnasium import spaces

import recsim_env
from recsim_env.logs import complete_journey
from recsim_env.shoppers.gaps import GapBins
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.memory import Context
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.population import LearnedShopper, load_shopper
from recsim_env.shoppers.weights import load_model, read_config, save_model
from tests.support.fake_log import FACTS, write_shop
from tests.support.fake_shoppers import member

CPU = torch.device("cpu")
SHIPPED = Path(recsim_env.__file__).parent / "data" / "complete_journey"


def opened(folder: Path, ensemble: int = 1) -> LearnedShopper:
    return load_shopper(folder, CPU, 3, population="all", start_days=(60, 80), ensemble=ensemble)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    save_model(member(folder, 1), folder)
    return folder


def test_a_shopper_has_the_calendar_and_the_codes_of_its_own_log(shop: Path) -> None:
    shopper = opened(shop)
    assert shopper.facts == FACTS
    displays, mailers = FACTS.placements
    placement = shopper.spaces()["placement"]
    assert isinstance(placement, spaces.Box)
    assert placement.high.max() == displays * mailers - 1
    state = shopper.start(torch.tensor([[0.3], [0.8]]))
    week = shopper.observe(state)["context"][:, Context.WEEK_OF_YEAR]
    torch.testing.assert_close(week, state.week / FACTS.weeks_a_year)
    date = FACTS.day_zero + datetime.timedelta(days=int(state.day[0]))
    assert shopper.describe(state, 0)["date"] == date.strftime("%a %d %b %Y")


def test_a_saved_model_says_what_it_is_fitted_to(shop: Path) -> None:
    saved = json.loads((shop / "config.json").read_text())
    assert saved["facts"] == FACTS.to_json()
    assert (tuple(saved["gap_edges"]), saved["lapse_days"]) == (GapBins.edges, GapBins.lapse_days)
    assert load_model(SlateShopper, shop).config.log_facts == FACTS


def test_a_model_that_does_not_say_so_is_one_of_the_complete_journey_log(tmp_path: Path) -> None:
    """Models of earlier versions were fitted to nothing else."""
    told = json.loads((SHIPPED / "config.json").read_text())
    assert told.pop("facts") == complete_journey.FACTS.to_json()
    (tmp_path / "config.json").write_text(json.dumps(told))
    config = read_config(SlateShopperConfig, tmp_path / "config.json")
    assert config.log_facts == complete_journey.FACTS
    assert config.gap_bins == GapBins()


def test_members_of_different_logs_do_not_answer_together(shop: Path) -> None:
    other = member(shop, 2)
    other.config.facts = replace(FACTS, weeks_a_year=53).to_json()
    (shop / "model1").mkdir()
    save_model(other, shop / "model1")
    with pytest.raises(ValueError, match=r"model1 holds a model whose facts is .*, as in .*"):
        opened(shop, ensemble=2)
