"""Whole visits: funnel, pairs and prices by hand, what a scenario changes, and the control."""

from __future__ import annotations

import dataclasses
import math
import re

import polars as pl
import pytest
import torch
from torch import Tensor

from policies.heuristics import Uniform
from policies.oracles import oracle_specs
from policies.truth import Told
from recsim_env import make_simulator
from recsim_env.env import SlateEnv
from recsim_env.logs import schema
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import PRESETS
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import CONTROL, MARKET, MarketConfig
from recsim_env.shoppers.visits.config import VISITS, VISITS_CONTROL, VisitsConfig
from recsim_env.shoppers.visits.pages import CART, HOME, SEARCH, put_into
from recsim_env.shoppers.visits.pairs import complements, met
from recsim_env.shoppers.visits.population import VisitsShopper, VisitsState, make_visits
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_shopper
from recsim_env.types import Response

CPU = torch.device("cpu")
SIZES = {"items": 40, "categories": 5, "width": 8}
SMALL = VisitsConfig(market=MarketConfig(**SIZES), cart_size=4)
STAYING = dataclasses.replace(SMALL, market=dataclasses.replace(SMALL.market, leave_base=-math.inf))
"""The same with shoppers who never leave for good."""
SIZE = 3


def newcomers(config: VisitsConfig = SMALL, rows: int = 1) -> tuple[VisitsShopper, VisitsState]:
    """Shoppers on the home page of their first visit."""
    shopper = VisitsShopper(CPU, SIZE, config=config)
    state = shopper.start(torch.full((rows, shopper.start_draws), 0.6))
    state.visit.scenario.fill_(HOME)
    state.visit.sought.fill_(-1)
    return shopper, state


def page(
    shopper: VisitsShopper,
    state: VisitsState,
    slate: list[int],
    *,
    click: float = 0.0,
    put: float = 0.0,
    end: float = 0.99,
    pay: float = 0.0,
    turn: float = 0.99,
) -> Response:
    """Show a page, with one draw for each kind of decision: 0 lets it happen, nearly 1 does not."""
    told = ((click, SIZE), (put, SIZE), (end, 1), (pay, 1))
    draws = [torch.full((1, count), value) for value, count in told]
    rest = shopper.visit_draws - 2 * SIZE - 2
    further = torch.full((1, rest), 0.99)
    further[:, -shopper._pages.draws] = turn
    slates = torch.tensor([slate])
    shown = torch.ones_like(slates, dtype=torch.bool)
    return shopper.respond(state, slates, shown, torch.cat([*draws, further], dim=1))


def of_category(shopper: VisitsShopper, category: int) -> list[int]:
    return (shopper.catalog.category == category).nonzero().flatten().tolist()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---- the funnel, by hand ----


def test_what_is_clicked_is_put_into_the_cart_and_bought_at_the_checkout() -> None:
    shopper, state = newcomers()
    first = page(shopper, state, [0, 1, 2])
    assert first.clicks.tolist() == [[True, True, True]]
    assert (first.days.item(), first.left.item()) == (0.0, False)
    assert not first.purchases.any()  # type: ignore[union-attr]
    assert shopper.observe(state)["cart"].tolist() == [[0, 1, 2, -1]]
    assert shopper.observe(state)["page"].tolist() == [[1]]

    second = page(shopper, state, [3, 1, 4], end=0.0)  # 1 is there, and 4 has no place left
    assert second.clicks.tolist() == [[True, True, True]]
    assert second.purchases.tolist() == [[True, False, False]]  # type: ignore[union-attr]
    assert second.carried.tolist() == [[0, 1, 2, -1]]  # type: ignore[union-attr]
    assert second.basket.tolist() == [[0, 1, 2, 3]]  # type: ignore[union-attr]
    assert (second.days.item(), second.elsewhere.item()) == (1.0, 3.0)
    assert shopper.observe(state)["cart"].tolist() == [[-1] * 4]
    assert shopper.observe(state)["page"].tolist() == [[0]]


def test_a_cart_is_abandoned_where_the_visit_ends_without_a_checkout() -> None:
    shopper, state = newcomers()
    page(shopper, state, [0, 1, 2])
    gone = page(shopper, state, [3, 4, 5], end=0.0, pay=0.999)
    assert gone.days.item() == 1.0
    assert not gone.purchases.any()  # type: ignore[union-attr]
    assert gone.basket is not None
    assert (gone.basket == -1).all()
    assert (shopper.observe(state)["cart"] == -1).all()


def test_what_is_not_wanted_stays_out_of_the_cart_and_an_empty_cart_is_not_paid_for() -> None:
    shopper, state = newcomers()
    seen = page(shopper, state, [0, 1, 2], put=0.999, end=0.0)
    assert seen.clicks.all()
    assert not seen.purchases.any()  # type: ignore[union-attr]
    assert shopper.paying(torch.tensor([[-1, -1]])).item() == 0


def test_a_visit_ends_and_is_paid_for_with_the_chances_that_are_written() -> None:
    shopper, _ = newcomers()
    clicks = torch.tensor([[False, True, False], [False, False, False]])
    expected = [sigmoid(SMALL.end), sigmoid(SMALL.end + SMALL.end_unsatisfied)]
    torch.testing.assert_close(shopper.ending(clicks), torch.tensor(expected))
    carts = torch.tensor([[7, -1, -1], [7, 8, 9]])
    expected = [sigmoid(SMALL.checkout), sigmoid(SMALL.checkout + 2 * SMALL.checkout_item)]
    torch.testing.assert_close(shopper.paying(carts), torch.tensor(expected))


def test_items_are_put_into_a_cart_in_their_order_as_long_as_there_is_room() -> None:
    cart = torch.tensor([[5, -1, -1], [5, 6, -1], [1, 2, 3]])
    slates = torch.tensor([[9, 5, 7], [4, 8, 9], [7, 8, 9]])
    wanted = torch.tensor([[True, True, True], [False, True, True], [True, True, True]])
    found, new = put_into(cart, slates, wanted)
    assert found.tolist() == [[5, 9, 7], [5, 6, 8], [1, 2, 3]]
    assert new.tolist() == [[True, False, True], [False, True, False], [False] * 3]


def test_purchases_and_revenue_pay_the_whole_cart_at_the_checkout() -> None:
    shopper = VisitsShopper(CPU, SIZE, config=SMALL)
    simulator = SlateSimulator(shopper, {"purchases": 1.0, "revenue": 1.0})
    simulator.reset(torch.arange(200))
    price, bought = shopper.catalog.price.double(), 0
    for at in range(12):
        slates = (torch.arange(3) + 3 * at).remainder(40).expand(200, -1)
        outcome = simulator.advance(slates)
        basket = outcome.response.basket
        assert basket is not None
        paid = (price[basket.clamp(min=0)] * (basket >= 0)).sum(dim=1)
        torch.testing.assert_close(outcome.info["reward_terms/revenue"].double(), paid)
        count = (basket >= 0).sum(dim=1)
        assert torch.equal(outcome.info["reward_terms/purchases"].long(), count)
        assert not (count > 0)[outcome.response.days == 0].any()
        bought += int(count.sum())
    assert bought > 50


# ---- pages ----


def test_a_visit_has_no_more_pages_than_there_may_be() -> None:
    shopper, state = newcomers(dataclasses.replace(SMALL, pages=3))
    days = [page(shopper, state, [0, 1, 2], put=0.999).days.item() for _ in range(7)]
    assert days == [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert make_visits(CPU, SIZE, config=SMALL, pages=1).config.pages == 1


def test_with_one_page_and_nothing_else_a_visit_is_one_of_the_market() -> None:
    plain = dataclasses.replace(VISITS_CONTROL, market=MarketConfig(**SIZES), price_click=0.0)
    simulators = (
        SlateSimulator(make_visits(CPU, SIZE, config=plain, pages=1), {"clicks": 1.0}),
        SlateSimulator(make_market(CPU, SIZE, config=plain.market), {"clicks": 1.0}),
    )
    slates = torch.tensor([[0, 7, 13]]).expand(64, -1)
    for simulator in simulators:
        simulator.reset(torch.arange(64))
    first, other = (simulator.hidden for simulator in simulators)
    for name in ("interest", "speed", "variety", "patience", "examination"):
        setattr(first.market, name, getattr(other, name).clone())
    for _ in range(3):
        one, two = (simulator.advance(slates) for simulator in simulators)
        torch.testing.assert_close(one.response.probability, two.response.probability)
        assert (one.response.days == 1).all()
        other.satiation.copy_(first.market.satiation)  # clicks were drawn otherwise
        other.interest.copy_(first.market.interest)


def test_boredom_decays_from_visit_to_visit_and_not_from_page_to_page() -> None:
    shopper, state = newcomers()
    config, category = SMALL.market, int(shopper.catalog.category[0])
    state.market.speed.fill_(1.0)
    state.market.satiation[0, category] = 1.0
    state.market.examination.fill_(0.5)
    gained = config.satiation_exposure * 1.0 + config.satiation_click
    apart = next(i for i in range(40) if int(shopper.catalog.category[i]) != category)
    page(shopper, state, [0, apart, apart + 5])
    expected = config.satiation_decay + gained
    assert state.market.satiation[0, category].item() == pytest.approx(expected, rel=1e-5)
    before = state.market.interest.clone()
    page(shopper, state, [0, apart, apart + 5])
    assert state.market.satiation[0, category].item() == pytest.approx(expected + gained, rel=1e-5)
    assert torch.equal(state.market.interest, before)  # it drifts between visits
    page(shopper, state, [0, apart, apart + 5], end=0.0)
    assert not torch.equal(state.market.interest, before)


def test_who_leaves_leaves_at_the_end_of_a_visit_out_of_all_its_pages() -> None:
    shopper, state = newcomers()
    went_on = page(shopper, state, [0, 1, 2], click=0.999)
    assert went_on.leaving.item() == 0  # type: ignore[union-attr]
    page(shopper, state, [0, 1, 2])
    ended = page(shopper, state, [3, 4, 5], click=0.999, end=0.0)
    assert 0 < ended.leaving.item() < sigmoid(-2.0)  # type: ignore[union-attr]
    unsatisfied = page(shopper, state, [6, 7, 8], click=0.999, end=0.0)
    assert unsatisfied.leaving.item() > ended.leaving.item()  # type: ignore[union-attr]


def test_pages_have_the_shares_that_are_written() -> None:
    simulator = SlateSimulator(VisitsShopper(CPU, SIZE, config=STAYING), {"clicks": 1.0})
    seen = simulator.reset(torch.arange(2000))
    assert float((seen["scenario"] == SEARCH).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert not (seen["scenario"] == CART).any()  # nothing is in it
    shares = []
    for _ in range(4):
        seen = simulator.step(torch.tensor([[0, 1, 2]]).expand(2000, -1)).observation
        full = seen["cart"][:, 0] >= 0
        shares.append((seen["scenario"][full] == CART).float().mean().item())
        assert not (seen["scenario"][~full] == CART).any()
        searching = (seen["scenario"] == SEARCH).squeeze(1)
        length = seen["query"].norm(dim=1)
        torch.testing.assert_close(length[searching], torch.ones(int(searching.sum())))
        assert (length[~searching] == 0).all()
    assert sum(shares) / 4 == pytest.approx(0.3, abs=0.04)


# ---- what a scenario, a cart and a price change ----


def test_prices_move_clicks_and_carts_by_hand() -> None:
    shopper, state = newcomers()
    state.sensitivity.fill_(2.0)
    items = torch.tensor([of_category(shopper, 0)[:4]])
    price = shopper.catalog.price[shopper.catalog.category == 0].log()
    dear = (shopper.catalog.price[items].log() - price.mean()) * 2.0
    none = dataclasses.replace(SMALL, price_click=0.0)
    free = VisitsShopper(CPU, SIZE, config=none).log_odds(state, items)
    torch.testing.assert_close(free - shopper.log_odds(state, items), SMALL.price_click * dear)
    torch.testing.assert_close(shopper.put_log_odds(state, items), SMALL.put - dear)


def test_the_cart_page_asks_for_what_goes_together_and_not_for_more_of_the_same() -> None:
    shopper, state = newcomers()
    partner = int(shopper.together[0].argmax())
    stranger = int((shopper.together[0] + torch.eye(5)[0]).argmin())
    items = torch.tensor([[of_category(shopper, c)[3] for c in (0, partner, stranger)]])
    empty, put = shopper.log_odds(state, items), shopper.put_log_odds(state, items)
    state.visit.cart[0, 0] = of_category(shopper, 0)[0]
    assert torch.equal(shopper.log_odds(state, items), empty)  # at home the cart does nothing
    moved = torch.tensor([[-1.0, 1.0, 0.0]])
    torch.testing.assert_close(shopper.put_log_odds(state, items) - put, SMALL.put_together * moved)
    state.visit.scenario.fill_(CART)
    beside = torch.tensor([[-SMALL.substitute, SMALL.complement, 0.0]])
    torch.testing.assert_close(shopper.log_odds(state, items) - empty, beside)
    assert torch.equal(shopper.log_odds(state, items, pairs=False), empty)


def test_every_category_goes_together_with_two_others_of_its_world() -> None:
    pairs = complements(0, 20)
    assert torch.equal(pairs, pairs.T)
    assert pairs.sum(dim=1).tolist() == [2] * 20
    assert not pairs.diagonal().any()
    assert not torch.equal(pairs, complements(1, 20))
    assert [int(complements(0, n).sum()) for n in (1, 2, 3)] == [0, 2, 6]
    together, held = met(
        torch.tensor([[0, 2, -1], [-1, -1, -1]]),
        torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]),
        torch.tensor([0, 1, 2]),
    )
    assert together.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert held.tolist() == [[1, 0, 1], [0, 0, 0]]


def wanted(shopper: VisitsShopper, state: VisitsState) -> Tensor:
    """The mean vector (B, D) of the catalogue, weighted by the chance of a click."""
    items = torch.arange(len(shopper.catalog)).expand(len(state.sensitivity), -1)
    chance = shopper.log_odds(state, items).sigmoid()
    return chance @ shopper.catalog.embedding / chance.sum(dim=1, keepdim=True)


def test_after_a_search_clicks_are_less_like_the_click_before() -> None:
    """The similarity of what is clicked on a page to what was clicked at home before."""
    shopper = make_visits(CPU, SIZE, alike=True)
    draws = torch.rand(400, shopper.start_draws, generator=torch.Generator().manual_seed(0))
    state = shopper.start(draws)
    searching = state.visit.scenario == SEARCH
    assert 80 < int(searching.sum()) < 160
    after = wanted(shopper, state)[searching]
    state.visit.scenario.fill_(HOME)
    before = wanted(shopper, state)[searching]
    similar = (after * before).sum(dim=1).mean() / (before * before).sum(dim=1).mean()
    assert float(similar) == pytest.approx(4.9 / 8.0, abs=0.05)

    # and they are nearer to what was searched for
    sought = shopper._pages.centres[state.visit.sought[searching]]
    near, far = ((mean * sought).sum(dim=1).mean() for mean in (after, before))
    assert float(near) > 2 * float(far)


def test_in_the_control_neither_scenario_nor_cart_changes_a_chance() -> None:
    config = dataclasses.replace(VISITS_CONTROL, market=dataclasses.replace(CONTROL, **SIZES))
    shopper, state = newcomers(config, rows=3)
    items = torch.arange(40).expand(3, -1)
    clicks, puts = shopper.log_odds(state, items), shopper.put_log_odds(state, items)
    state.visit.cart[:, :2] = torch.tensor([3, 7])
    for scenario in (HOME, SEARCH, CART):
        state.visit.scenario.fill_(scenario)
        state.visit.sought.fill_(2 if scenario == SEARCH else -1)
        assert torch.equal(shopper.log_odds(state, items), clicks)
        assert torch.equal(shopper.put_log_odds(state, items), puts)
    some = torch.tensor([[True, False, False], [False] * 3])
    assert shopper.ending(some).unique().numel() == 1
    assert PRESETS["recsim_env/MarketVisitControl-v0"].shopper_options["config"] == VISITS_CONTROL
    assert PRESETS["recsim_env/MarketVisit-v0"].shopper_options["config"] == VISITS
    assert VISITS.market == MARKET


# ---- the shoppers at work ----


def test_shoppers_keep_their_promises() -> None:
    check_shopper(make_visits(CPU, SIZE, config=SMALL))
    check_shopper(make_visits(CPU, SIZE, config=SMALL, alike=True).staying())
    check_shopper(Told(make_visits(CPU, SIZE, config=SMALL)))


def test_episodes_are_the_same_whatever_the_batch_size() -> None:
    def played(seeds: Tensor) -> list[dict[str, Tensor]]:
        simulator = SlateSimulator(VisitsShopper(CPU, SIZE, config=STAYING), {"clicks": 1.0})
        simulator.reset(seeds)
        found = []
        for at in range(15):
            slates = torch.tensor([[at, at + 7, at + 11]]).expand(len(seeds), -1)
            step = simulator.step(slates)
            found.append({**step.observation, "left": step.terminated})
        return found

    together = played(torch.arange(6))
    for row in (0, 4):
        for batch, single in zip(together, played(torch.tensor([row])), strict=True):
            for name, value in single.items():
                torch.testing.assert_close(batch[name][row], value[0], msg=name)


def test_who_stays_does_what_they_did_but_for_leaving() -> None:
    config = dataclasses.replace(
        SMALL, market=dataclasses.replace(SMALL.market, leave_base=0.0, leave_unsatisfied=0.0)
    )
    left = []
    for staying in (False, True):
        simulator = SlateSimulator(VisitsShopper(CPU, SIZE, config=config), {"clicks": 1.0})
        simulator.reset(torch.arange(50), staying=staying)
        response = simulator.advance(torch.tensor([[0, 1, 2]]).expand(50, -1)).response
        left.append((int(response.left.sum()), response.clicks, response.leaving))
    assert left[0][0] > 0 == left[1][0]
    assert torch.equal(left[0][1], left[1][1])
    assert torch.equal(left[0][2], left[1][2])  # type: ignore[arg-type]


def test_the_oracle_that_knows_what_goes_together_earns_more_on_the_cart_page() -> None:
    shopper = VisitsShopper(CPU, SIZE, config=STAYING)
    simulator = SlateSimulator(shopper, {"clicks": 1.0})
    seen = simulator.reset(torch.arange(40))
    state = simulator.hidden
    state.visit.cart[:, 0] = torch.arange(40)
    state.visit.scenario[::2] = CART
    candidates = simulator.candidates
    oracle = oracle_specs(simulator)["oracle_myopic"].builder(None, None)  # type: ignore[arg-type]
    knowing = oracle(seen, torch.zeros(40, 0))
    not_knowing = candidates.gather(
        1, shopper.log_odds(state, candidates, pairs=False).topk(SIZE).indices
    )
    cart = state.visit.scenario == CART
    chances = [shopper.log_odds(state, slates).sigmoid() for slates in (knowing, not_knowing)]
    assert (chances[0] - chances[1])[cart].sum(dim=1).min() >= -1e-6
    assert (chances[0] - chances[1])[cart].sum() > 1
    torch.testing.assert_close(chances[0][~cart].sum(), chances[1][~cart].sum())
    for name, spec in oracle_specs(simulator).items():
        policy = spec.builder(None, spec.parameters())  # type: ignore[arg-type]
        assert policy(seen, torch.zeros(40, 0)).shape == (40, SIZE), name
        assert spec.lacking(None, shopper) is None  # type: ignore[arg-type]


# ---- logs and frames ----


def test_the_pages_of_a_visit_are_one_visit_of_a_log() -> None:
    simulator = SlateSimulator(VisitsShopper(CPU, SIZE, config=SMALL), horizon_days=20)
    shown, baskets = record(simulator, Uniform(40, 40, SIZE), torch.arange(30), policy_name="even")
    schema.check_table(schema.IMPRESSIONS, shown, "impressions", 40)
    schema.check_table(schema.BASKETS, baskets, "baskets", 40)
    assert set(shown["scenario"]) == {"home", "search", "cart"}
    assert int(shown["page"].max()) > 1  # type: ignore[arg-type]
    assert (shown.group_by("visit").agg(pl.col("day").n_unique())["day"] == 1).all()
    assert len(baskets) == shown["visit"].n_unique() < len(shown)

    # what was bought is told on the page where it was clicked, whatever page it was paid at
    listed = shown.select("visit", "slate", "click", "purchase").explode(
        "slate", "click", "purchase"
    )
    assert listed.filter(pl.col("purchase") & ~pl.col("click")).is_empty()
    bought = listed.filter("purchase").group_by("visit").agg(pl.col("slate").unique().sort())
    paid = baskets.filter(pl.col("items").list.len() > 0).select(
        "visit", pl.col("items").list.sort().alias("slate")
    )
    assert bought.sort("visit").equals(paid.sort("visit"))
    # what was searched for, and what lay in the cart before the page
    searched = shown["scenario"] == "search"
    assert shown.filter(searched)["query"].str.contains(r"^category \d+$").all()
    assert shown.filter(~searched)["query"].null_count() == int((~searched).sum())
    assert shown["cart"].null_count() == 0
    assert (shown.filter(pl.col("page") == 0)["cart"].list.len() == 0).all()
    held = shown.filter(pl.col("scenario") == "cart")
    assert (held["cart"].list.len() > 0).all()
    log = Sessions.of(shown)
    assert log.purchases is not None
    assert int(log.purchases.sum()) > 10


def test_a_frame_tells_scenario_query_and_cart() -> None:
    env = SlateEnv("recsim_env/MarketVisit-v0", device="cpu", render_mode="ansi")
    env.reset(seed=3)
    frames = []
    for at in range(12):
        env.step(torch.arange(10 * at, 10 * at + 10).numpy())
        frames.append(str(env.render()))
    text = "\n".join(frames)
    assert {"scenario: home", "scenario: search"} <= set(text.splitlines())
    assert re.search(r"^query: category \d+$", text, re.MULTILINE)
    assert re.search(r"^cart: item \d+", text, re.MULTILINE)
    assert "cart: empty" in text
    assert "visit 1, page 1" in text
    assert "stays: the next slate comes on the same day" in text
    assert "sensitivity" not in text


def test_a_frame_tells_what_earlier_pages_sold() -> None:
    env = SlateEnv("recsim_env/MarketVisit-v0", device="cpu", render_mode="ansi")
    env.action_space.seed(0)
    env.reset(seed=13)
    info: dict[str, float] = {}
    while not info.get("elsewhere"):
        *_, info = env.step(env.action_space.sample())
    assert f"; {int(info['elsewhere'])} more bought from earlier pages" in str(env.render())


# ---- what is refused ----


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pages": 0}, "pages is 0, but it must be a whole number from 1 to 1000."),
        ({"cart_size": 2000}, "cart_size is 2000, but it must be a whole number from 1 to 1000."),
        ({"search": 1.5}, "search is 1.5, but it must be a finite number from 0.0 to 1.0."),
        ({"end": math.nan}, "end is nan, but it must be a finite number"),
        ({"market": 3}, "market is 3, but it must be a MarketConfig."),
        ({"search": 0.8, "cart_page": 0.3}, "search is 0.8 and cart_page is 0.3, but together"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="config is 3, but it must be a VisitsConfig"):
        make_visits(CPU, SIZE, config=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pages is 0"):
        make_simulator("recsim_env/MarketVisit-v0", device="cpu", pages=0)
    with pytest.raises(ValueError, match="alike is 2"):
        make_visits(CPU, SIZE, config=SMALL, alike=2)  # type: ignore[arg-type]
