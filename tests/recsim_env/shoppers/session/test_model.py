"""The session model: what it counts, what it says, and that it learns a log."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.gaps import GapBins
from recsim_env.shoppers.session.fit import (
    SessionFitConfig,
    fit_session,
    learn_and_check,
    new_session_shopper,
    use_symmetric_root,
)
from recsim_env.shoppers.session.heads import (
    DEEP,
    KEEN,
    OF_CATEGORIES,
    OF_CATEGORY,
    OF_ITEM,
    OF_ITEMS,
    PATIENT,
    TEMPERAMENT,
)
from recsim_env.shoppers.session.likelihood import (
    MOOD_CHANCES,
    MOODS,
    episode_log_likelihood,
    over_moods,
    slate_log_likelihood,
)
from recsim_env.shoppers.session.memory import CATEGORY_COUNTERS, FADE, SessionMemory, age_of
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.scores import predict, score
from recsim_env.shoppers.session.visits import Visits, spread_out

ITEMS, GROUPS, WIDTH, SIZE, DECLARED = 12, 3, 4, 3, 2


def catalog() -> Catalog:
    return Catalog.synthetic(ITEMS, GROUPS, WIDTH, torch.Generator().manual_seed(5))


def log(
    episodes: int = 6,
    visits: int = 7,
    seed: int = 0,
    declared: int = DECLARED,
    purchases: bool = True,
) -> Sessions:
    """Random slates, clicks, purchases and days, episodes of different lengths; every other shopper
    left, and the others were seen again."""
    generator = torch.Generator().manual_seed(seed)
    slates = torch.rand(episodes, visits, ITEMS, generator=generator).argsort(dim=2)[:, :, :SIZE]
    clicks = torch.rand(slates.shape, generator=generator) < 0.4
    length = torch.arange(episodes) % visits + 1
    real = torch.arange(visits) < length.unsqueeze(1)
    bought = clicks & (torch.rand(slates.shape, generator=generator) < 0.5)
    gaps = torch.randint(0, 4, (episodes, visits), generator=generator).float()
    days = (gaps.cumsum(dim=1) - gaps[:, :1]).where(real, 0).cummax(dim=1).values
    left = torch.arange(episodes) % 2 == 0
    return Sessions(
        slates=slates.masked_fill(~real.unsqueeze(2), -1),
        clicks=clicks & real.unsqueeze(2),
        purchases=bought & real.unsqueeze(2) if purchases else None,
        days=days,
        watched=torch.full((episodes,), 2.0),
        back=torch.where(left, -1.0, 2.0),
        length=length,
        left=left,
        propensity=torch.full((episodes, visits), torch.nan),
        policy=torch.zeros(episodes, visits, dtype=torch.int64),
        declared=torch.randn(episodes, declared, generator=generator),
        policies=("random",),
    )


BINS = GapBins((0, 1, 2, 3), 5)


def model(
    seed: int = 0, declared: int = DECLARED, purchases: bool = False, bins: GapBins = BINS
) -> SessionShopper:
    """Unfitted, in eval mode, with every weight away from zero."""
    config = SessionFitConfig(hidden_size=16, head_size=8)
    made = new_session_shopper(
        catalog(), SIZE, config, seed=seed, declared=declared, purchases=purchases, gap_bins=bins
    )
    generator = torch.Generator().manual_seed(100 + seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
    made.train(False)
    return made


# ---- memory ----


def test_the_memory_counts_by_hand() -> None:
    category, embedding = torch.tensor([0, 0, 1]), torch.eye(3)
    memory = SessionMemory.empty(1, 3, 2, 3, torch.device("cpu"))
    shown = torch.tensor([[True, True]])
    memory.record(torch.tensor([[0, 1]]), shown, torch.tensor([[False, True]]), category, embedding)
    memory.record(torch.tensor([[2, 0]]), shown, torch.tensor([[True, False]]), category, embedding)
    first, other = memory.look(torch.tensor([[0, 2]]), category)[0]
    by_decay = [[d * 2 + 1, d * (1 + FADE) + FADE, d * 1] for d in (0.7, 0.9, 1.0)]
    expected = [by_decay[d][kind] for kind in range(3) for d in range(3)]
    assert first[:CATEGORY_COUNTERS].tolist() == pytest.approx(expected)
    assert first[CATEGORY_COUNTERS:].tolist() == pytest.approx([0.7 + FADE, 0.9 + FADE, 0.0, 0.0])
    assert other.tolist() == pytest.approx([1.0] * CATEGORY_COUNTERS + [1.0] * 4)
    assert memory.liked[0, 0].tolist() == pytest.approx([0, 0.9, 1.0, 1.9])
    assert memory.visits.tolist() == [2.0]


def test_counters_age_with_the_days() -> None:
    """A page later, a day later, a week later: half a visit, one and three."""
    category, embedding = torch.tensor([0, 0, 1]), torch.eye(3)
    shown = torch.ones(1, 2, dtype=torch.bool)
    slates, clicks = torch.tensor([[0, 1]]), torch.tensor([[True, False]])
    assert age_of(torch.tensor([0.0, 1.0, 3.0, 7.0])).tolist() == [0.5, 1.0, 2.0, 3.0]
    for days, age in ((0.0, 0.5), (1.0, 1.0), (7.0, 3.0)):
        memory = SessionMemory.empty(1, 3, 2, 3, torch.device("cpu"))
        memory.record(slates, shown, clicks, category, embedding)
        memory.wait(torch.tensor([days]))
        seen = memory.look(torch.tensor([[0]]), category)[0, 0]
        assert seen[:3].tolist() == pytest.approx([2 * d ** (age - 1) for d in (0.7, 0.9, 1.0)])
        assert seen[-2:].tolist() == pytest.approx([d ** (age - 1) for d in (0.7, 0.9)])
        memory.record(slates, shown, clicks, category, embedding)
        seen = memory.look(torch.tensor([[0]]), category)[0, 0]
        assert seen[:3].tolist() == pytest.approx([2 + 2 * d**age for d in (0.7, 0.9, 1.0)])
        assert memory.liked[0, :, 0].tolist() == pytest.approx([1 + 0.9**age, 2.0])


def test_visits_of_a_log_are_its_visits() -> None:
    sessions = log()
    visits = Visits.of(sessions, catalog())
    assert len(visits.slates) == sessions.n_slates
    ends = visits.length.cumsum(0) - 1
    assert visits.leaves[ends].tolist() == sessions.left.float().tolist()
    assert visits.leaves.sum() == sessions.left.sum()
    starts = visits.length.cumsum(0) - visits.length
    assert (visits.counters[starts] == 0).all()  # nothing is known at a first visit
    assert (visits.since[starts] == 1).all()
    assert torch.equal(visits.gap[ends], sessions.back)
    inside = torch.ones(len(visits.gap), dtype=torch.bool).index_fill(0, ends, False)
    after = torch.ones_like(inside).index_fill(0, starts, False)
    assert torch.equal(visits.gap[inside], visits.since[after])
    assert torch.equal(visits.days[after] - visits.days[inside], visits.gap[inside])


def test_visits_of_many_episodes_are_those_of_each() -> None:
    """Episodes are replayed side by side with others of their length, and come back in order."""
    sessions = log(episodes=20)
    whole, first = Visits.of(sessions, catalog()), 0
    for row in range(20):
        alone = Visits.of(sessions.take(torch.tensor([row])), catalog())
        here = slice(first, first + len(alone.slates))
        for name in ("slates", "clicks", "counters", "context", "days", "since", "gap"):
            assert torch.equal(getattr(whole, name)[here], getattr(alone, name)), name
        first = here.stop


def test_an_item_that_the_catalogue_lacks_is_named() -> None:
    sessions = log()
    sessions.slates[0, 0, 0] = ITEMS
    with pytest.raises(ValueError, match=f"shows item {ITEMS}, but the catalogue has {ITEMS}"):
        Visits.of(sessions, catalog())


# ---- the model ----


def drawn(episodes: int, temperaments: int = 4, seed: int = 3) -> Tensor:
    return torch.randn(
        episodes, temperaments, TEMPERAMENT, generator=torch.Generator().manual_seed(seed)
    )


@torch.no_grad()
def whole(shopper: SessionShopper, visits: Visits, normal: Tensor) -> dict[str, Tensor]:
    """Every episode at once."""
    found: dict[str, Tensor] = shopper(**visits.batch(torch.arange(len(visits))), normal=normal)
    return found


@torch.no_grad()
def stepped(
    shopper: SessionShopper, visits: Visits, episode: int, normal: Tensor
) -> tuple[Tensor, Tensor]:
    """Click and leave logits of one episode, a visit at a time."""
    batch = visits.batch(torch.tensor([episode]))
    cache = shopper.empty_cache(shopper.welcome(batch["declared"]))
    known = shopper.interest.newcomers(batch["declared"])
    temperament = shopper.temperament(normal[episode : episode + 1])
    clicks, leaves = [], []
    names = ("slates", "shown", "clicks", "counters", "context", "since", "purchases")
    for t in range(len(batch["slates"])):
        slates, shown, clicked, counters, context, since, bought = (
            batch[name][t : t + 1] for name in names
        )
        state = shopper.arrive(cache.state, since)
        wanted = shopper.wanted(state, known.mean)
        logits, weary = shopper.answer(state, wanted, temperament, slates, counters)
        gap = batch["gap"][t : t + 1].clamp(min=0)
        told = batch["declared"]
        known = shopper.follow(known, state, slates, shown, clicked, counters, told, gap)
        clicks.append(logits)
        leaves.append(shopper.leave_logits(state, temperament, weary, clicked, shown))
        token = shopper.token(slates, shown, clicked, counters, context, told, since, bought)
        shopper.append_visit(cache, token, batch["days"][0, t : t + 1])
    return torch.cat(clicks), torch.cat(leaves)


@pytest.mark.parametrize("declared", [0, DECLARED])
def test_a_visit_at_a_time_is_the_whole_episode_at_once(declared: int) -> None:
    shopper = model(declared=declared, purchases=True)
    visits = Visits.of(log(declared=declared), catalog())
    normal = drawn(len(visits))
    found = whole(shopper, visits, normal)
    parts = [stepped(shopper, visits, episode, normal) for episode in range(len(visits))]
    torch.testing.assert_close(
        torch.cat([p[0] for p in parts]), found["click_logits"], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        torch.cat([p[1] for p in parts]), found["leave_logits"], rtol=0, atol=1e-5
    )


def test_beyond_its_window_a_visit_is_forgotten_alike() -> None:
    shopper = model()
    shopper.config.window = 3
    visits = Visits.of(log(episodes=7), catalog())
    normal = drawn(len(visits))
    last = stepped(shopper, visits, 6, normal)[0]
    torch.testing.assert_close(
        last, whole(shopper, visits, normal)["click_logits"][-7:], rtol=0, atol=1e-5
    )


def test_a_batch_is_its_episodes_one_by_one() -> None:
    shopper, visits = model(), Visits.of(log(), catalog())
    normal = drawn(len(visits))
    together = whole(shopper, visits, normal)
    for episode in range(len(visits)):
        rows = torch.tensor([episode])
        with torch.no_grad():
            alone = shopper(**visits.batch(rows), normal=normal[rows])
        here = slice(int(visits.length[:episode].sum()), int(visits.length[: episode + 1].sum()))
        for name in ("log_likelihood", "click_logits", "log_looks", "leave_logits", "hazards"):
            torch.testing.assert_close(together[name][here], alone[name], rtol=0, atol=1e-5)


def test_gradients_reach_every_part() -> None:
    shopper, visits = model(purchases=True), Visits.of(log(), catalog())
    shopper.train()
    shopper(**visits.batch(torch.arange(len(visits))), normal=drawn(len(visits)))["loss"].backward()
    without = [
        name
        for name, weight in shopper.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert without == []


def test_looks_start_at_one_and_fall() -> None:
    state = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    looks = model().log_looks(state, drawn(50)).exp()
    assert (looks[..., 0] == 1).all()
    assert (looks.diff(dim=2) < 0).all()
    assert (looks > 0).all()


def test_probabilities_stay_in_range_however_often_things_were_shown() -> None:
    shopper, state = model(), torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    slates, shown = torch.tensor([[0, 1, 2]] * 4), torch.tensor([[True, True, False]] * 4)
    temperament = 5.0 * drawn(4)
    for amount in (0.0, 1.0, 1e4):
        logits, weary = shopper.answer(
            state, torch.ones(4, WIDTH), temperament, slates, torch.full((4, SIZE, 13), amount)
        )
        click = shopper.click_probability(state, temperament, logits, shown)
        leave = torch.sigmoid(shopper.leave_logits(state, temperament, weary, shown, shown))
        for chance in (click, leave):
            assert bool(((chance >= 0) & (chance <= 1)).all())
        assert (click[..., 2] == 0).all()


def one_temperament(**numbers: float) -> Tensor:
    """(1, 1, TEMPERAMENT), 0 where nothing is said."""
    places = {
        "keen": KEEN,
        "of_category": OF_CATEGORY,
        "of_item": OF_ITEM,
        "patient": PATIENT,
        "deep": DEEP,
    }
    made = torch.zeros(1, 1, TEMPERAMENT)
    for name, number in numbers.items():
        made[0, 0, places[name]] = number
    return made


def test_weariness_by_hand() -> None:
    shopper = model()
    counters, places = torch.zeros(1, 1, 13), [*OF_CATEGORIES, *OF_ITEMS]
    counters[0, 0, places] = torch.tensor([3.0, 2.0, 5.0, 4.0, 6.0, 8.0])
    counters[0, 0, 0] = 1e3  # is not one of them
    shopper.counter_scale[places] = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 4.0])
    temperament = one_temperament(of_category=math.log(3.0), of_item=math.log(0.1))
    with torch.no_grad():
        shopper.weariness.of_category.copy_(
            torch.tensor([0.5, 1.0]).expm1().log()
        )  # softplus of it is .5, 1
        shopper.weariness.recent.fill_(math.log(0.25 / 0.75))
        shopper.weariness.of_item.copy_(torch.tensor([2.0, 3.0]).expm1().log())
        state, wanted = torch.zeros(1, 16), torch.zeros(1, WIDTH)
        weary = shopper.answer(state, wanted, temperament, torch.tensor([[0]]), counters)[1]
    of_category, of_item = 3.0 * (0.5 * 2.25 + 1.0 * 4.25 / 2), 0.1 * (2.0 * 6 / 3 + 3.0 * 8 / 4)
    assert weary[0, 0, 0].tolist() == pytest.approx([of_category, of_item], rel=1e-5)


def test_a_temperament_moves_clicks_and_looks_by_its_numbers() -> None:
    shopper, state = model(), torch.zeros(1, 16)
    slates, counters = torch.tensor([[0, 1, 2]]), torch.zeros(1, 3, 13)
    wanted = torch.ones(1, WIDTH)
    plain, moved = one_temperament(), one_temperament(keen=0.7, deep=-0.4)
    with torch.no_grad():
        before, after = (
            shopper.answer(state, wanted, t, slates, counters)[0] for t in (plain, moved)
        )
        step = shopper.look_step[0] + shopper.look_depth(state)[0, 0]
        looks = shopper.log_looks(state, moved).exp()[0, 0]
    torch.testing.assert_close(after, before + 0.7)
    assert looks[1].item() == pytest.approx(torch.sigmoid(step - 0.4).item(), rel=1e-5)


def test_leaving_by_hand() -> None:
    shopper, shown = model(), torch.tensor([[True, False, False]])
    weary = torch.tensor(
        [[[[0.4, 1.0], [9.0, 9.0], [9.0, 9.0]]]]
    )  # only the first position is shown
    head = shopper.leave_head
    with torch.no_grad():
        head.outer.weight.zero_()
        head.answered.weight.zero_()
        head.answered.bias.fill_(-1.0)
        head.slopes.copy_(torch.tensor([2.0, 0.5]).expm1().log())
        none = torch.zeros(1, 3, dtype=torch.bool)
        logit = shopper.leave_logits(
            torch.zeros(1, 16), one_temperament(patient=0.4), weary, none, shown
        )
    assert logit.item() == pytest.approx(-1.0 + 2.0 * 0.4 + 0.5 * 1.0 - 0.4, abs=1e-6)


def test_the_likelihood_of_an_answer_by_hand() -> None:
    looks = torch.tensor([1.0, 0.5]).expand(1, 1, 2)
    logits = torch.zeros(1, 1, len(MOODS), 2)
    logits[0, 0, 2] = 100.0  # in the rarest mood, whatever is looked at is clicked
    shown = torch.tensor([[True, True]])
    found = slate_log_likelihood(looks.log(), logits, torch.tensor([[True, False]]), shown)
    rare = MOOD_CHANCES[2]
    assert found.exp().item() == pytest.approx(
        (1 - rare) * 0.5 * (1 - 0.5 * 0.5) + rare * 1.0 * (1 - 0.5), rel=1e-4
    )
    hidden = slate_log_likelihood(
        looks.log(), logits, torch.tensor([[True, False]]), torch.tensor([[True, False]])
    )
    assert hidden.exp().item() == pytest.approx((1 - rare) * 0.5 + rare * 1.0, rel=1e-4)


def test_one_visit_a_day_is_nothing_to_mention() -> None:
    """Days change neither states nor tokens where everybody comes once a day."""
    shopper, generator = model(), torch.Generator().manual_seed(4)
    state, one = torch.randn(3, 16, generator=generator), torch.ones(3)
    assert torch.equal(shopper.arrive(state, one), state)
    assert not torch.equal(shopper.arrive(state, 0 * one), state)
    assert not torch.equal(shopper.arrive(state, 7 * one), state)


def test_purchases_have_a_likelihood_of_their_own() -> None:
    """The loss with purchases is that of clicks and returns, and that of buying what is clicked."""
    shopper, visits = model(purchases=True), Visits.of(log(), catalog())
    normal = drawn(len(visits))
    found = whole(shopper, visits, normal)
    buying = torch.sigmoid(found["purchase_logits"])
    assert visits.purchases is not None
    chance = torch.where(visits.purchases, buying, 1 - buying).log() * visits.clicks
    torch.testing.assert_close(
        found["log_likelihood"],
        found["click_log_likelihood"]
        + found["return_log_likelihood"]
        + chance.sum(dim=1, keepdim=True),
    )
    predicted = predict(shopper, visits)
    assert predicted.purchases is not None
    torch.testing.assert_close(predicted.purchases, predicted.clicks * buying)
    scores = score(shopper, visits)
    assert scores.purchase_ratio == pytest.approx(
        float(predicted.purchases.sum() / visits.purchases.sum())
    )
    with pytest.raises(ValueError, match="visits has no purchases, but the model was fitted"):
        predict(shopper, Visits.of(log(purchases=False), catalog()))


def test_the_likelihood_of_an_episode_by_hand() -> None:
    of_visit = torch.tensor(
        [[0.2, 0.6], [0.5, 0.1], [0.9, 0.3]]
    )  # two visits of the first shopper, one of the second
    found = episode_log_likelihood(of_visit.log(), torch.tensor([0, 0, 1]), 2).exp()
    assert found.tolist() == pytest.approx([(0.2 * 0.5 + 0.6 * 0.1) / 2, (0.9 + 0.3) / 2])


def test_what_is_predicted_of_an_episode_multiplies_up_to_its_likelihood() -> None:
    shopper, visits = model(), Visits.of(log(), catalog())
    found = predict(shopper, visits)
    batch = visits.batch(torch.arange(len(visits)))
    normal = spread_out(len(visits), 128, torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = shopper(**batch, normal=normal)["loss"].item()
    assert found.nll == pytest.approx(loss, abs=1e-5)
    single = Visits.of(log(), catalog())
    assert bool(((found.leaves > 0) & (found.leaves < 1)).all())
    first = single.length.cumsum(0) - single.length
    alone = torch.stack([answered(shopper, visits, normal, row) for row in first.tolist()])
    torch.testing.assert_close(found.clicks[first], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def answered(shopper: SessionShopper, visits: Visits, normal: Tensor, row: int) -> Tensor:
    """(K,) chance of a click at a first visit: the plain mean over temperaments."""
    episode = int((visits.length.cumsum(0) - visits.length == row).nonzero()[0, 0])
    temperament = shopper.temperament(normal[episode : episode + 1])
    state = shopper.welcome(visits.declared[episode : episode + 1])
    slates, shown = visits.slates[row : row + 1], visits.shown[row : row + 1]
    known = shopper.interest.newcomers(visits.declared[episode : episode + 1])
    wanted = shopper.wanted(state, known.mean)
    logits, _ = shopper.answer(state, wanted, temperament, slates, visits.counters[row : row + 1])
    return over_moods(shopper.click_probability(state, temperament, logits, shown)).mean(dim=1)[0]


def test_a_patient_past_is_a_patient_future() -> None:
    """Of two kinds of shoppers, those who stayed long stay, though nothing else differs."""
    of_visit, leaves = torch.tensor([[0.9, 0.5]] * 10).log(), torch.tensor([0.1, 0.5])
    weight = of_visit.sum(dim=0).softmax(dim=0)
    assert float(weight @ leaves) < 0.11 < float(leaves.mean())


def test_moods_are_a_standard_normal() -> None:
    nodes = torch.tensor(MOODS, dtype=torch.float64).unsqueeze(1)
    moments = [over_moods(nodes**power).item() for power in range(5)]
    assert moments == pytest.approx([1.0, 0.0, 1.0, 0.0, 3.0], abs=1e-6)


def test_temperaments_are_drawn_evenly_and_standard_normal() -> None:
    normal = spread_out(200, 64, torch.Generator().manual_seed(0))
    assert normal.shape == (200, 64, TEMPERAMENT)
    flat = normal.flatten(0, 1)
    torch.testing.assert_close(flat.mean(dim=0), torch.zeros(TEMPERAMENT), rtol=0, atol=0.02)
    torch.testing.assert_close(flat.T.cov(), torch.eye(TEMPERAMENT), rtol=0, atol=0.03)
    assert float(normal.mean(dim=1).std()) < 0.5 / 64**0.5  # chance alone would give 1 / 8


def test_the_symmetric_root_keeps_the_covariance_and_undoes_rotations() -> None:
    shopper, turned = model(), model()
    rotation = torch.linalg.qr(
        torch.randn(TEMPERAMENT, TEMPERAMENT, generator=torch.Generator().manual_seed(0))
    ).Q
    with torch.no_grad():
        turned.temper.weight.copy_(shopper.temper.weight @ rotation)
    before = shopper.temper.weight @ shopper.temper.weight.T
    for one in (shopper, turned):
        use_symmetric_root(one)
        root = one.temper.weight
        torch.testing.assert_close(root, root.T, rtol=0, atol=1e-5)
        torch.testing.assert_close(root @ root.T, before, rtol=0, atol=1e-5)
    torch.testing.assert_close(turned.temper.weight, shopper.temper.weight, rtol=0, atol=1e-5)


def test_clicks_that_go_together_leave_more_slates_without_any() -> None:
    shopper, state, temperament = model(), torch.zeros(1, 16), one_temperament()
    with torch.no_grad():
        shopper.mood.bias.fill_(3.0)
        logits, _ = shopper.answer(
            state,
            torch.zeros(1, WIDTH),
            temperament,
            torch.tensor([[0, 1, 2]]),
            torch.zeros(1, 3, 13),
        )
        chance = shopper.click_probability(
            state, temperament, logits, torch.ones(1, 3, dtype=torch.bool)
        )
    none = (1 - chance).prod(dim=3, keepdim=True)  # in each mood
    alone = (1 - over_moods(chance)).prod()
    assert over_moods(none).item() > 1.2 * alone.item()


def test_what_is_saved_comes_back(tmp_path: object) -> None:
    shopper, visits = model(), Visits.of(log(), catalog())
    shopper.save_pretrained(str(tmp_path))
    again = SessionShopper.from_pretrained(str(tmp_path))
    weights = again.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in shopper.state_dict().items())
    assert again.config.gap_bins == shopper.config.gap_bins
    torch.testing.assert_close(
        predict(again, visits).clicks, predict(shopper, visits).clicks, rtol=0, atol=1e-6
    )


# ---- learning ----


def known_log(episodes: int = 1500, visits: int = 10) -> Sessions:
    """Position j is looked at with chance 0.6^j; what is looked at is clicked with chance 0.7,
    items of category 0 with 0.2; nobody who clicked leaves, anybody else leaves with chance 0.3."""
    generator = torch.Generator().manual_seed(0)
    slates = torch.rand(episodes, visits, ITEMS, generator=generator).argsort(dim=2)[:, :, :SIZE]
    chance = torch.where(catalog().category[slates] == 0, 0.2, 0.7) * 0.6 ** torch.arange(SIZE)
    clicks = torch.rand(slates.shape, generator=generator) < chance
    leaves = (torch.rand(episodes, visits, generator=generator) < 0.3) & ~clicks.any(dim=2)
    left = leaves.any(dim=1)
    length = torch.where(left, leaves.int().argmax(dim=1) + 1, visits)
    real = torch.arange(visits) < length.unsqueeze(1)
    unknown = torch.full((episodes, visits), torch.nan)
    nobody = torch.zeros(episodes, visits, dtype=torch.int64)
    slates, clicks = slates.masked_fill(~real.unsqueeze(2), -1), clicks & real.unsqueeze(2)
    return Sessions(
        slates, clicks, length, left, unknown, nobody, torch.zeros(episodes, 0), ("known",)
    )


@pytest.mark.slow
def test_a_known_log_is_learned_and_no_global_generator_moves() -> None:
    sessions, config = (
        known_log(),
        SessionFitConfig(
            epochs=5, batch_episodes=16, hidden_size=16, head_size=16, layers=1, state_dropout=0.0
        ),
    )
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]  # noqa: NPY002
    shopper = fit_session(sessions, catalog(), config)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])

    visits = Visits.of(learn_and_check(sessions)[1], catalog())
    found = predict(shopper, visits)
    liked = catalog().category[visits.slates] != 0
    for position in range(SIZE):
        for group, chance in ((liked, 0.7), (~liked, 0.2)):
            of_group = found.clicks[:, position][group[:, position]]
            assert float(of_group.mean()) == pytest.approx(chance * 0.6**position, abs=0.06)
    leave = found.leaves
    nothing = ~visits.clicks.any(dim=1)
    assert float(leave[nothing].mean()) == pytest.approx(0.3, abs=0.08)
    assert float(leave[~nothing].mean()) < 0.03
    scores = score(shopper, visits)
    assert scores.click_ratio == pytest.approx(1.0, abs=0.05)
    assert scores.leave_ratio == pytest.approx(1.0, abs=0.25)
    assert scores.click_ne < 0.95
    assert scores.leave_ne < 0.8


def panel_log(episodes: int = 3000, visits: int = 12) -> Sessions:
    """Two kinds of shoppers who look at everything: half click whatever they see with chance 0.6
    and leave with chance 0.02, the others with 0.2 and 0.2."""
    generator = torch.Generator().manual_seed(1)
    kind = torch.rand(episodes, 1, generator=generator) < 0.5
    slates = torch.rand(episodes, visits, ITEMS, generator=generator).argsort(dim=2)[:, :, :SIZE]
    clicks = torch.rand(slates.shape, generator=generator) < torch.where(kind, 0.6, 0.2).unsqueeze(
        2
    )
    leaves = torch.rand(episodes, visits, generator=generator) < torch.where(kind, 0.02, 0.2)
    left = leaves.any(dim=1)
    length = torch.where(left, leaves.int().argmax(dim=1) + 1, visits)
    real = torch.arange(visits) < length.unsqueeze(1)
    unknown = torch.full((episodes, visits), torch.nan)
    slates, clicks = slates.masked_fill(~real.unsqueeze(2), -1), clicks & real.unsqueeze(2)
    nobody = torch.zeros(episodes, visits, dtype=torch.int64)
    return Sessions(
        slates, clicks, length, left, unknown, nobody, torch.zeros(episodes, 0), ("panel",)
    )


@pytest.mark.slow
def test_keen_shoppers_who_stay_are_told_from_the_others() -> None:
    sessions = panel_log()
    config = SessionFitConfig(epochs=6, batch_episodes=32, hidden_size=16, head_size=16, layers=1)
    shopper = fit_session(sessions, catalog(), config)
    root = shopper.temper.weight.detach()
    covariance = root @ root.T
    keen_and_patient = float(
        covariance[KEEN, PATIENT] / (covariance[KEEN, KEEN] * covariance[PATIENT, PATIENT]) ** 0.5
    )
    assert float(covariance[KEEN, KEEN]) ** 0.5 == pytest.approx(
        0.9, abs=0.35
    )  # logit .6 - logit .2 = 1.8 apart
    assert keen_and_patient > 0.6


def test_a_log_too_small_to_hold_out_is_refused() -> None:
    with pytest.raises(ValueError, match="too few to hold out"):
        fit_session(log(episodes=2), catalog())
