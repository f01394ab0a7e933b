"""The household model: cached equals recomputed, features by hand, a save is what was saved."""

from pathlib import Path

import pytest
import torch

from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.features import (
    CONTEXT,
    since_bucket,
    visit_context,
    without_item,
)
from recsim_env.shoppers.household.memory import RHYTHM
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.weights import load_model
from tests.support.fake_log import FACTS


def small_model(window: int = 5) -> SlateShopper:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SlateShopper(
            SlateShopperConfig(
                n_items=20,
                n_categories=4,
                text_width=8,
                hidden_size=16,
                num_attention_heads=2,
                window=window,
                facts=FACTS.to_json(),
            )
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.train(False)
    return model


@pytest.mark.parametrize("window", [1, 3, 5, 64])
def test_a_cached_visit_equals_the_recomputed_history(window: int) -> None:
    model = small_model(window)
    generator = torch.Generator().manual_seed(0)
    shoppers, visits = 3, 13
    basket = torch.randint(-1, 20, (shoppers, visits, 6), generator=generator)
    day = torch.randint(0, 12, (shoppers, visits), generator=generator).cumsum(1).float()
    since = torch.diff(day, dim=1, prepend=day[:, :1])
    context = visit_context(torch.rand(shoppers, visits, RHYTHM, generator=generator), day, since)
    with torch.no_grad():
        token = model.token(model.items(), basket, context)
        whole = model.encode(token, day, torch.ones_like(day, dtype=torch.bool))
        cache = model.empty_cache(model.newcomers(shoppers))
        for visit in range(visits):
            model.append_visit(cache, token[:, visit], day[:, visit])
            torch.testing.assert_close(cache.state, whole[:, visit], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [3, 64])
def test_whole_histories_at_once_are_their_visits_one_by_one(window: int) -> None:
    """Of shoppers with many visits, few, and none, of whose baskets some are empty."""
    model = small_model(window)
    generator = torch.Generator().manual_seed(3)
    visits = torch.tensor([2, 0, 9, 70])
    size = torch.randint(0, 4, (int(visits.sum()),), generator=generator)
    items = torch.randint(0, 20, (int(size.sum()),), generator=generator)
    day = torch.cat(
        [torch.randint(0, 9, (n,), generator=generator).cumsum(0) for n in visits.tolist()]
    ).float()
    context = torch.randn(len(day), CONTEXT, generator=generator)
    with torch.no_grad():
        found = model.prefill(model.tokens(model.items(), items, size, context), day, visits)
        expected, visit = model.empty_cache(model.newcomers(4)), 0
        for shopper, number in enumerate(visits.tolist()):
            alone = model.empty_cache(model.newcomers(1))
            for _ in range(number):
                basket = items[int(size[:visit].sum()) :][: int(size[visit])].tolist() or [-1]
                token = model.token(
                    model.items(), torch.tensor([basket]), context[visit : visit + 1]
                )
                model.append_visit(alone, token, day[visit : visit + 1])
                visit += 1
            for name in ("day", "count", "state"):
                getattr(expected, name)[shopper] = getattr(alone, name)[0]
            expected.keys[:, shopper], expected.values[:, shopper] = (
                alone.keys[:, 0],
                alone.values[:, 0],
            )
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-5, atol=1e-5, msg=name)


def test_padding_does_not_change_what_comes_before() -> None:
    model = small_model()
    generator = torch.Generator().manual_seed(1)
    token, day = torch.randn(2, 6, 16, generator=generator), torch.arange(6.0).expand(2, 6)
    present = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    with torch.no_grad():
        padded = model.encode(token, day, present)
        alone = model.encode(token[1:, :4], day[1:, :4], present[1:, :4])
    torch.testing.assert_close(padded[1:, :4], alone)
    assert padded.isfinite().all()


def test_days_since_fall_into_their_own_bucket_for_four_weeks() -> None:
    days = torch.arange(29.0)
    assert since_bucket(days).tolist() == list(range(29))
    late = since_bucket(torch.tensor([29.0, 40.0, 80.0, 300.0, 1000.0]))
    assert late.diff().min() > 0


def test_save_and_load_give_the_same_shopper(tmp_path: Path) -> None:
    model = small_model()
    model.items.known[3] = 0
    model.config.slate_calibration = (1.25, -0.5)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again = load_model(SlateShopper, tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.calibrated(torch.tensor(2.0)).item() == pytest.approx(2.0)
    state = torch.randn(2, 16 + CONTEXT, generator=torch.Generator().manual_seed(5))
    season = torch.zeros(20)
    torch.testing.assert_close(
        model.new_item_log_rates(state, model.items(), season),
        again.new_item_log_rates(state, again.items(), season),
    )


def test_an_unknown_item_has_no_share_in_the_counters_above_it() -> None:
    own, kind, category = [2.0, 1.5, 3.0, 7.0], [2.0, 1.5, 3.0, 7.0], [5.0, 2.0, 1.0, 4.0]
    nothing = [0.0, 0.0, 1000.0, 0.0]
    found = without_item(torch.tensor([own, kind, category]))
    assert found.tolist() == [nothing, nothing, [3.0, 0.5, 1.0, 4.0]]
