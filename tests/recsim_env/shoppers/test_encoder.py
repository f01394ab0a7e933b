"""The encoder over visits: the states of the shipped weights, and the sizes that it accepts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import recsim_env
from recsim_env.shoppers.encoder import LAG_EDGES, Cache, VisitEncoder, lag_bucket
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.session.config import SessionShopperConfig
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.weights import load_model

DATA = Path(recsim_env.__file__).parent / "data"
APART = torch.tensor([[0.0, 0, 3, 9, 40, 200], [5, 6, 7, 8, 9, 10]])
DAILY = torch.arange(6.0).unsqueeze(0)


@pytest.fixture(scope="module", params=["household", "session"])
def shipped(request: pytest.FixtureRequest) -> VisitEncoder:
    if request.param == "household":
        return load_model(SlateShopper, DATA / "complete_journey")
    return load_model(SessionShopper, DATA / "market" / "model0")


def tokens(model: VisitEncoder) -> torch.Tensor:
    width = model.config.hidden_size
    return torch.linspace(-1, 1, 2 * 6 * width).view(2, 6, width).sin()


@torch.no_grad()
def test_shipped_households_have_the_states_that_they_had_when_they_were_shipped() -> None:
    household = load_model(SlateShopper, DATA / "complete_journey")
    states = household.encode(tokens(household), APART, torch.ones(2, 6, dtype=torch.bool))
    recorded = [
        [0.5281522274017334, -2.252502202987671, 1.3535836935043335, -0.5407472252845764],
        [0.5439502596855164, -2.247703790664673, 1.3919140100479126, -0.5549188256263733],
    ]
    torch.testing.assert_close(states[:, -1, :4], torch.tensor(recorded), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_visits_appended_one_by_one_give_the_states_of_the_whole_history(
    shipped: VisitEncoder,
) -> None:
    token = tokens(shipped)
    whole = shipped.encode(token, APART)
    cache = shipped.empty_cache(shipped.newcomers(2))
    for visit in range(6):
        shipped.append_visit(cache, token[:, visit], APART[:, visit])
        torch.testing.assert_close(cache.state, whole[:, visit], rtol=1e-4, atol=1e-5)
    assert cache.count.tolist() == [6, 6]


@torch.no_grad()
def test_histories_filled_in_at_once_give_the_cache_of_their_visits(shipped: VisitEncoder) -> None:
    token = tokens(shipped)
    one_by_one = shipped.empty_cache(shipped.newcomers(2))
    for visit in range(6):
        shipped.append_visit(one_by_one, token[:, visit], APART[:, visit])
    at_once = shipped.prefill(token.flatten(0, 1), APART.flatten(), torch.tensor([6, 6]))
    for name, value in vars(one_by_one).items():
        torch.testing.assert_close(
            getattr(at_once, name), value, rtol=1e-4, atol=1e-5, msg=f"{name} differs"
        )


def test_a_new_cache_is_empty_and_keeps_a_state_of_its_own() -> None:
    config = SessionShopperConfig(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=3, window=5
    )
    model = SessionShopper(config)
    cache = model.empty_cache(model.newcomers(4))
    assert cache.keys.shape == cache.values.shape == (3, 4, 2, 5, 4)
    assert torch.equal(cache.day, torch.full((4, 5), -math.inf))
    cache.state += 1.0
    assert torch.equal(model.newcomer, torch.zeros(8))
    assert cache.to(torch.bfloat16).keys.dtype == torch.bfloat16
    assert isinstance(cache, Cache)


def test_lags_fall_into_the_bucket_that_begins_at_or_before_them() -> None:
    days = torch.tensor([-3.0, 0.0, 0.5, 1.0, 2.9, 139.0, 140.0, 9999.0])
    expected = [sum(edge <= max(day, 0.0) for edge in LAG_EDGES) for day in days.tolist()]
    assert lag_bucket(days).tolist() == expected == [0, 0, 0, 1, 2, 9, 10, 10]


@pytest.mark.parametrize("kind", [SlateShopperConfig, SessionShopperConfig])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 6, "num_attention_heads": 4}, "must divide hidden_size, which is 6"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"window": 10**6}, "window"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_impossible_sizes_are_refused_by_both_families(
    kind: type, sizes: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**sizes)
