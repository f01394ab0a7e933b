"""The household model as a ranker: run on the card alone, and near to what the shoppers do."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import pytest
import torch

from agents.places import Site, open_place, seeds
from policies import POLICIES
from policies.rankers.files import kind_of, load_ranker, save_ranker
from policies.rankers.household import KEYS, HouseholdRanker
from recsim_env import SlateSimulator
from recsim_env.shop_file import HOUSEHOLD
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.weights import save_model
from recsim_env.types import Observation
from tests.support.fake_log import write_shop
from tests.support.fake_shoppers import member
from tests.support.toys import toy_catalog

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    save_model(member(folder, 1), folder)
    return folder


@pytest.fixture(scope="module")
def simulator(folder: Path) -> SlateSimulator:
    shopper = load_shopper(folder, CPU, 3, population="all", start_days=(60, 80))
    return SlateSimulator(shopper, horizon_days=60)


@pytest.fixture(scope="module")
def ranker(simulator: SlateSimulator) -> HouseholdRanker:
    return HouseholdRanker(simulator.catalog, simulator.shopper.shop.model)  # type: ignore[attr-defined]


def observed(simulator: SlateSimulator, shoppers: int = 6) -> Observation:
    seen = simulator.reset(torch.arange(shoppers))
    for _ in range(2):
        seen = simulator.step(seen["candidates"][:, :3], validate=False).observation
    return seen


def test_a_batch_is_its_shoppers_one_by_one(
    simulator: SlateSimulator, ranker: HouseholdRanker
) -> None:
    seen = observed(simulator)
    logits = ranker.logits(seen)
    assert torch.equal(logits == -math.inf, seen["candidates"] < 0)
    assert logits[seen["candidates"] >= 0].std() > 0.1
    for row in range(6):
        one = {name: value[row : row + 1] for name, value in seen.items()}
        torch.testing.assert_close(ranker.logits(one)[0], logits[row], rtol=0, atol=1e-4)
    bare = {name: value for name, value in seen.items() if name != "bought_days"}
    with pytest.raises(ValueError, match="it must have 'bought_days' too"):
        ranker.logits(bare)


def test_its_file_holds_the_model(
    simulator: SlateSimulator, ranker: HouseholdRanker, tmp_path: Path
) -> None:
    path, space = tmp_path / "ranker.safetensors", simulator.observation_space
    save_ranker(ranker, path)
    assert kind_of(path) == HOUSEHOLD
    again = load_ranker(path, simulator.catalog, space, 3)
    seen = observed(simulator)
    assert torch.equal(again.logits(seen), ranker.logits(seen))
    bare = gymnasium.spaces.Dict({"candidates": space["candidates"]})
    with pytest.raises(
        ValueError, match=f"reads a loyalty card, but the observation lacks.*{KEYS[0]}"
    ):
        load_ranker(path, simulator.catalog, bare, 3)
    with pytest.raises(ValueError, match="not those of the catalogue, which has 31"):
        load_ranker(path, toy_catalog(), space, 3)
    with pytest.raises(TypeError, match="holds a CTRRanker, a TwoTowerRanker, a BeliefRanker or a"):
        save_ranker(object(), path)  # type: ignore[arg-type]


def test_a_folder_of_households_is_a_belief_where_shoppers_have_a_card(folder: Path) -> None:
    with pytest.raises(ValueError, match="household shoppers, but beliefs are registered for"):
        open_place("recsim_env/Market-v0", belief=folder, device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"belief is .*: model is about 40 items that are not"):
        shipped(belief=folder)


def shipped(**options: str | Path) -> Site:
    env = "recsim_env/CompleteJourney-v0"
    return open_place(env, device="cpu", progress=False, **options)  # type: ignore[arg-type]


def test_the_shipped_model_on_the_card_tells_what_shoppers_do() -> None:
    plain, site = shipped(), shipped(belief="own")
    assert isinstance(site.inputs.ranker, HouseholdRanker)
    assert site.belief is None
    assert site.inputs.per_category == 0
    simulator = site.simulator()
    seen = simulator.reset(seeds(0, 24))
    greedy = POLICIES["greedy_ctr"].build(site.inputs)
    errors: dict[str, list[float]] = {"card": [], "ctr": []}
    for _ in range(3):
        slates = greedy(seen, torch.zeros(24, 0))
        at = (seen["candidates"].unsqueeze(1) == slates.unsqueeze(2)).int().argmax(dim=2)
        guesses = {
            name: one.inputs.need_ranker("x").logits(seen).gather(1, at)
            for name, one in (("card", site), ("ctr", plain))
        }
        step = simulator.step(slates)
        for name, logits in guesses.items():
            missed = logits.sigmoid() - step.response.probability
            errors[name].append(float(missed.abs().mean()))
        seen = step.observation
    card, ctr = (sum(errors[name]) / 3 for name in ("card", "ctr"))
    assert card < 0.03
    assert card < ctr / 2
