"""New items by thinning: what is bought has the true rates, whatever the envelope."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from recsim_env import make_simulator, tensors
from recsim_env.logs.schema import read_popularity, write_popularity
from recsim_env.shoppers.household import memory, new_items, population
from recsim_env.shoppers.household.new_items import MARGIN, PROPOSALS, Envelope, poisson
from recsim_env.shoppers.household.population import MOST_NEW_ITEMS, LearnedShopper, load_shopper
from recsim_env.shoppers.household.states import REMEMBERED, LearnedState
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import Places, listed
from tests.support.fake_log import ITEMS as FAKE_ITEMS
from tests.support.fake_log import write_shop
from tests.support.fake_shoppers import member, plain

WEEKS, ITEMS, WIDTH, MEMBERS = 3, 40, 4, 2
LAST = 1.0 - 2.0**-24  # the largest draw


def model(seed: int, shoppers: int = 20) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Base (W, N) with about .5 purchases a visit, vectors (N, D), queries (S, D); one a member."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    base = [normal(WEEKS, ITEMS) - 5.0 for _ in range(MEMBERS)]
    return base, [normal(ITEMS, WIDTH) for _ in base], [0.7 * normal(shoppers, WIDTH) for _ in base]


def rates(base: list[Tensor], vectors: list[Tensor], queries: list[Tensor]) -> Tensor:
    """(B, W, N), worked out in full."""
    own = zip(base, vectors, queries, strict=True)
    return torch.stack(
        [(one + (query @ vector.T).unsqueeze(1)).exp() for one, vector, query in own]
    ).mean(0)


def heights(envelope: Envelope) -> Tensor:
    """Of each item in each week, (W, N)."""
    width = envelope.edges.diff().view(WEEKS, ITEMS)
    return (width * envelope.total.unsqueeze(1)).float()


def hits(envelope: Envelope, queries: list[Tensor], week: Tensor, seed: int) -> Tensor:
    """How many proposals hit each item below its rate: (N,)."""
    draws = torch.rand(len(week), 1 + PROPOSALS, generator=torch.Generator().manual_seed(seed))
    proposals = envelope.propose(envelope.scale(queries), week, draws)
    rate = torch.stack([one.exp() for one in envelope.log_rates(queries, week, proposals)]).mean(0)
    return torch.bincount(proposals.items[proposals.heights < rate], minlength=ITEMS)


def test_the_envelope_lies_above_whom_it_was_made_for() -> None:
    base, vectors, queries = model(0)
    envelope = Envelope.over(base, vectors, queries)
    above = envelope.scale(queries).view(-1, 1, 1) * heights(envelope)
    share = (rates(base, vectors, queries) / above).amax(0)
    assert share.max() <= math.exp(-MARGIN) + 1e-4
    alone = Envelope.over(
        base[:1], vectors[:1], queries[:1]
    )  # of one member somebody touches it everywhere
    above = alone.scale(queries[:1]).view(-1, 1, 1) * heights(alone)
    touched = (rates(base[:1], vectors[:1], queries[:1]) / above).amax(0)
    torch.testing.assert_close(touched, torch.full((WEEKS, ITEMS), math.exp(-MARGIN)))


@pytest.mark.parametrize("week", range(WEEKS))
def test_items_are_hit_at_their_rates(week: int) -> None:
    base, vectors, queries = model(1)
    envelope, crowd = Envelope.over(base, vectors, queries), 40_000
    same = [query[:1].expand(crowd, -1).contiguous() for query in queries]
    true = crowd * rates(base, vectors, [query[:1] for query in queries])[0, week]
    found = hits(envelope, same, torch.full((crowd,), week), seed=2)
    deviations = (found - true) / true.sqrt()
    assert true.sum() > 5_000
    assert deviations.abs().max() < 4.5
    assert deviations.square().mean() == pytest.approx(1.0, abs=4.5 * math.sqrt(2 / ITEMS))


def test_what_lies_above_the_envelope_is_cut_off() -> None:
    base, vectors, queries = model(3)
    envelope, crowd = Envelope.over(base, vectors, queries), 20_000
    far = [1.5 * query[:1].expand(crowd, -1).contiguous() for query in queries]
    scale = envelope.scale([one[:1] for one in far])
    rate, bound = rates(base, vectors, [one[:1] for one in far])[0, 0], scale * heights(envelope)[0]
    assert (rate > bound).any()
    true = crowd * torch.minimum(rate, bound)
    deviations = (
        hits(envelope, far, torch.zeros(crowd, dtype=torch.int64), seed=4) - true
    ) / true.sqrt()
    assert deviations.abs().max() < 4.5


@pytest.mark.parametrize("week", range(WEEKS))
@pytest.mark.parametrize(("draw", "item"), [(0.0, 0), (LAST, ITEMS - 1)])
def test_the_first_and_last_draw_hit_the_first_and_last_item_of_their_week(
    week: int, draw: float, item: int
) -> None:
    base, vectors, queries = model(5)
    envelope = Envelope.over(base, vectors, queries)
    draws = torch.full((1, 1 + PROPOSALS), draw)
    draws[:, 0] = LAST
    proposals = envelope.propose(torch.ones(1), torch.tensor([week]), draws)
    assert len(proposals.items) > 1
    assert proposals.items.eq(item).all()
    assert (
        (proposals.heights >= 0) & (proposals.heights <= heights(envelope)[week, item] * 1.001)
    ).all()


def test_numbers_of_purchases_by_hand() -> None:
    """Of rate 1 the chances of 0, 0 to 1 and 0 to 2 are .368, .736 and .920."""
    draw = torch.tensor([0.0, 0.36, 0.37, 0.73, 0.74, 0.91, 0.93]).unsqueeze(1)
    assert poisson(torch.ones_like(draw), draw, 16).flatten().tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert poisson(torch.ones(1, 1), torch.tensor([[LAST]]), 2).item() == 2
    assert poisson(torch.zeros(1, 1), torch.tensor([[0.999]]), 16).item() == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop")
    write_shop(path)
    popularity = read_popularity(
        path / "popularity.parquet", FAKE_ITEMS
    )  # every week has discounts of its own
    popularity = popularity.with_columns(
        discount=((pl.col("week") * 7 + pl.col("item") * 3) % 5 / 5).cast(pl.Float32)
    )
    write_popularity(popularity, path / "popularity.parquet", FAKE_ITEMS)
    for number in range(MEMBERS):
        model = member(path, 1 + number)
        with torch.no_grad():
            model.explore_placement.weight.fill_(0.7 + 0.3 * number)
            model.explore_season.weight.fill_(1.5 - number)
            model.explore_shift.fill_(-5.5 - number)
        model.save_pretrained(path / f"model{number}" if number else path)
    return path


@pytest.mark.parametrize("beyond", [2, 10_000])
def test_lists_of_fixed_length_say_what_lists_of_the_real_pairs_say(
    monkeypatch: pytest.MonkeyPatch, folder: Path, beyond: int
) -> None:
    """On a GPU lists are filled up, and what fills them does not count."""

    def played() -> list[Tensor]:
        shopper = load_shopper(
            folder, torch.device("cpu"), population="all", start_days=(60, 80), ensemble=MEMBERS
        )
        simulator = SlateSimulator(shopper)
        simulator.reset(torch.arange(16))
        kept: list[Tensor] = []
        for _ in range(6):
            step = simulator.step(simulator.candidates[:, :10], validate=False)
            kept += [
                *step.observation.values(),
                *step.info.values(),
                step.reward,
                simulator.hidden.memory.table.clone(),
            ]
        return kept

    def as_on_a_gpu(mask: Tensor, usual: int | None = None) -> Places:
        found = listed(mask, int(mask.sum()) + beyond)
        assert bool(found.fits)
        return found.places

    as_on_a_cpu = played()
    for module in (population, memory, new_items):
        assert module.places is tensors.places
        monkeypatch.setattr(module, "places", as_on_a_gpu)
    for left, right in zip(as_on_a_cpu, played(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def rates_in_full(shopper: LearnedShopper, state: LearnedState, promoted: bool) -> Tensor:
    """Of every item for every shopper of a state, (B, N), one by one as the model says them."""
    on_promotion = (shopper.shop.promotions.placement[state.row] > 0).float() if promoted else None
    found = []
    for one, inside in zip(shopper.shop.members, state.inside(state.context()), strict=True):
        base = (one.model.new_item_base() + one.model.season(shopper.shop.promotions.item_context))[
            state.week
        ]
        found.append(one.model.new_item_log_rates(inside, one.vectors, base, on_promotion).exp())
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("promoted", [False, True])
def test_new_items_are_bought_at_the_members_mean_rates(folder: Path, promoted: bool) -> None:
    """By shoppers in weeks of their own; what they know and what their slate shows is not new."""
    shopper = load_shopper(
        folder,
        torch.device("cpu"),
        population="all",
        start_days=(60, 80),
        ensemble=MEMBERS,
        store_promotions=promoted,
    )
    state = shopper.start(torch.linspace(0, 0.99, 12).unsqueeze(1))
    slates = shopper.candidates(state)[:, :10]
    assert len(state.week.unique()) > 1
    new = torch.ones(len(slates), len(shopper.catalog) + 1, dtype=torch.bool)
    new = new.scatter(1, torch.cat([state.memory.items, slates], dim=1) % new.shape[1], False)[
        :, :-1
    ]
    chance = (1.0 - torch.exp(-rates_in_full(shopper, state, promoted))) * new
    times, bought = 4000, torch.zeros_like(chance)
    inside = state.inside(state.context())
    generator = torch.Generator().manual_seed(0)
    width = shopper.visit_draws - 10 - REMEMBERED - 3
    for _ in range(times):
        tried = shopper._new_items(
            state, inside, slates, torch.rand(len(slates), width, generator=generator)
        )
        bought.scatter_add_(1, tried.clamp(min=0), (tried >= 0).float())
    spread = (times * chance * (1 - chance)).sqrt()
    assert bought[~new].sum() == 0
    assert bought.sum() > 5_000
    off = ((bought - times * chance)[new] / spread[new]).abs()
    assert off.max() < 5.0
    assert off.square().mean() == pytest.approx(1.0, abs=5 * math.sqrt(2 / len(off)))


def test_no_visit_has_more_new_items_than_its_room_nor_one_twice(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    eager = plain(folder, 0.2, 0.1, 0.5)
    eager.save_pretrained(tmp_path)
    shopper = load_shopper(tmp_path, torch.device("cpu"), population="all", start_days=(60, 80))
    state = shopper.start(torch.linspace(0, 0.99, 200).unsqueeze(1))
    inside = state.inside(state.context())
    nothing = torch.full((200, 10), -1)
    tried = shopper._new_items(
        state,
        inside,
        nothing,
        torch.rand(200, 1 + PROPOSALS, generator=torch.Generator().manual_seed(0)),
    )
    assert (tried >= 0).sum(1).max() == MOST_NEW_ITEMS
    assert all(
        len(set(row)) == len(row) for row in ([i for i in row if i >= 0] for row in tried.tolist())
    )


@pytest.mark.parametrize("promoted", [False, True])
def test_the_shipped_shoppers_lose_less_than_a_thousandth_of_their_new_items(
    promoted: bool,
) -> None:
    """They lose them to the envelope and to the limit of proposals, late in their episodes too."""
    simulator = make_simulator(
        "recsim_env/CompleteJourney-v0", device="cpu", store_promotions=promoted
    )
    simulator.reset(torch.arange(512))
    shopper = simulator.shopper
    assert isinstance(shopper, LearnedShopper)
    proposals = shopper.visit_draws - simulator.slate_size - REMEMBERED - 4
    envelope, (single,) = shopper.shop.envelope, shopper.shop.members
    width = envelope.edges.diff().view(len(envelope.total), -1)
    for _ in range(4):
        for _ in range(10):
            step = simulator.step(simulator.candidates[:, :10], validate=False)
            simulator.reset_rows(step.ended.nonzero().flatten())
        state = simulator.hidden
        rate = rates_in_full(shopper, state, promoted)
        (inside,) = state.inside(state.context())
        scale = envelope.scale([single.model.new_item_queries(inside)])
        promotion = single.model.promotion().exp() if promoted else 1.0
        thrown = scale * promotion * envelope.total[state.week]
        bound = width[state.week].float() * thrown.unsqueeze(1)
        assert (rate - bound).clamp(min=0).sum() < 1e-3 * rate.sum()
        number = torch.poisson(thrown.expand(100, -1), generator=torch.Generator().manual_seed(0))
        assert thrown.mean() < proposals / 3
        assert (number - proposals).clamp(min=0).sum() < 1e-4 * number.sum()
