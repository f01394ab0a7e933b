"""Several fitted models in one household shopper: their mean, their doubt, and their folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gymnasium
import pytest
import torch
from torch import Tensor

import recsim_env  # noqa: F401  (registers the ids)
from benchmarks.data import finetune
from recsim_env.catalog import Catalog
from recsim_env.shoppers.gaps import GapBins, back_by
from recsim_env.shoppers.household.features import RECENCIES, SHARES, repeat_bucket
from recsim_env.shoppers.household.fit import new_shopper
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.new_items import PROPOSALS
from recsim_env.shoppers.household.options import ShopperOptions
from recsim_env.shoppers.household.peaks import SHOP_FILES
from recsim_env.shoppers.household.population import LearnedShopper, load_shopper
from recsim_env.shoppers.household.states import REMEMBERED
from recsim_env.shoppers.members import agreed
from recsim_env.simulator import SlateSimulator
from recsim_env.trees import pick, put
from recsim_env.types import Response, Step
from tests.support.fake_log import FACTS, ITEMS, write_shop
from tests.support.fake_shoppers import SMALL, member, plain

CPU = torch.device("cpu")
K, BINS, BUCKETS = 10, len(GapBins()), SHARES * RECENCIES


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log")
    write_shop(path)
    return path


def shop(
    log: Path,
    folder: Path,
    members: Sequence[SlateShopper],
    *,
    pessimism: float = 0.0,
    ensemble: int | None = None,
) -> LearnedShopper:
    """The shopper of a new folder with these models."""
    folder.mkdir()
    for number, model in enumerate(members):
        model.save_pretrained(folder / f"model{number}" if number else folder)
    for name in SHOP_FILES[2:]:
        shutil.copy(log / name, folder / name)
    return opened(folder, ensemble or len(members), pessimism)


def opened(folder: Path, ensemble: int, pessimism: float = 0.0) -> LearnedShopper:
    return load_shopper(
        folder,
        CPU,
        K,
        population="all",
        start_days=(60, 80),
        ensemble=ensemble,
        pessimism=pessimism,
    )


def play(shopper: LearnedShopper, seeds: Tensor, visits: int = 8) -> list[Step]:
    """Visits under the same seeds; who is gone starts again."""
    simulator = SlateSimulator(shopper)
    simulator.reset(seeds)
    steps = []
    for _ in range(visits):
        steps.append(simulator.step(simulator.candidates[:, :K]))
        if steps[-1].ended.any():
            simulator.reset_rows(steps[-1].ended.nonzero()[:, 0])
    return steps


def assert_same(left: Step, right: Step) -> None:
    for name, value in left.observation.items():
        assert torch.equal(value, right.observation[name]), name
    for name, value in left.info.items():
        assert torch.equal(value, right.info[name]), name
    assert torch.equal(left.reward, right.reward)
    assert torch.equal(left.terminated, right.terminated)


def arranged(shopper: LearnedShopper, visits: int) -> list[Response]:
    """Visits that are alike for every model: three items and some staples, back the same day."""
    state = shopper.start(torch.linspace(0, 0.99, 6).unsqueeze(1))
    draws = torch.ones(6, shopper.visit_draws)
    draws[:, :3] = draws[:, K : K + 2] = 0.0
    draws[:, -PROPOSALS - 4] = draws[:, -3:] = 0.0
    answers = []
    for _ in range(visits):
        slates = shopper.candidates(state)[:, :K]
        answers.append(shopper.respond(state, slates, slates >= 0, draws))
    return answers


def test_two_identical_members_are_one(log: Path, tmp_path: Path) -> None:
    one = shop(log, tmp_path / "one", [member(log, 1)])
    two = shop(log, tmp_path / "two", [member(log, 1), member(log, 1)], pessimism=2.0)
    assert len(two.shop.members) == 2
    for left, right in zip(play(one, torch.arange(12)), play(two, torch.arange(12)), strict=True):
        assert_same(left, right)


def test_a_single_member_knows_no_doubt(log: Path, tmp_path: Path) -> None:
    sure = shop(log, tmp_path / "shop", [member(log, 1), member(log, 2)], ensemble=1)
    sentence = r"^pessimism is 3.0, but it must be 0 where ensemble is 1: it counts deviations"
    with pytest.raises(ValueError, match=sentence):
        opened(tmp_path / "shop", ensemble=1, pessimism=3.0)
    with pytest.raises(ValueError, match=sentence):
        LearnedShopper(sure.shop, K, ShopperOptions(ensemble=2, pessimism=3.0))
    assert opened(tmp_path / "shop", ensemble=2, pessimism=3.0).options.pessimism == 3.0


def test_chances_are_the_mean_of_members_that_each_remember_every_visit(
    log: Path, tmp_path: Path
) -> None:
    apart = [
        arranged(shop(log, tmp_path / str(seed), [member(log, seed)]), 5) for seed in (1, 2, 3)
    ]
    together = shop(log, tmp_path / "all", [member(log, seed) for seed in (1, 2, 3)])
    for visit, answer in enumerate(arranged(together, 5)):
        alone = [answers[visit] for answers in apart]
        every = torch.stack([one.probability for one in alone])
        assert every.std(dim=0).max() > 0.05
        torch.testing.assert_close(answer.probability, every.mean(dim=0))
        assert all(torch.equal(answer.clicks, one.clicks) for one in alone)
        leaving = torch.stack([one.leaving for one in alone if one.leaving is not None])
        assert leaving.std(dim=0).max() > 0.01
        assert answer.leaving is not None
        torch.testing.assert_close(answer.leaving, leaving.mean(dim=0))


@pytest.mark.parametrize(
    ("pessimism", "chance", "leaving"),
    [
        (0.0, (0.2 + 0.6) / 2, (0.1 + 0.3) / 2),
        (
            0.5,
            0.4 - 0.5 * 0.2,
            0.2 + 0.5 * 0.1,
        ),  # the deviation of two numbers is half their difference
        (9.0, 0.0, 1.0),
    ],
)
def test_clicks_lose_and_leaving_gains_so_many_deviations(
    log: Path, tmp_path: Path, pessimism: float, chance: float, leaving: float
) -> None:
    models = [plain(log, 0.2, 0.1, 1e-9), plain(log, 0.6, 0.3, 1e-9)]
    shopper = shop(log, tmp_path / "shop", models, pessimism=pessimism)
    state = shopper.start(torch.tensor([[0.1], [0.8]]))
    slates = shopper.candidates(state)[:, :K]
    shown = torch.tensor([True] * 9 + [False]).expand(2, -1)
    answer = shopper.respond(state, slates, shown, torch.full((2, shopper.visit_draws), 0.5))
    torch.testing.assert_close(answer.probability, torch.tensor([[chance] * 9 + [0.0]] * 2))
    assert answer.leaving is not None
    torch.testing.assert_close(answer.leaving, torch.full((2,), leaving))
    assert answer.left.tolist() == [pessimism == 9.0] * 2


@pytest.mark.parametrize("pessimism", [0.0, 0.5])
def test_what_is_bought_elsewhere_has_the_members_mean(
    log: Path, tmp_path: Path, pessimism: float
) -> None:
    """What is bought again by the draw at which it begins; new items by how many shoppers buy."""
    models = [plain(log, 0.2, 0.1, 0.005), plain(log, 0.6, 0.3, 0.015)]
    shopper = shop(log, tmp_path / "shop", models, pessimism=pessimism)
    crowd = 4000
    start = shopper.start(torch.full((crowd, 1), 0.1))
    slates = shopper.candidates(start)[:, :K]
    known = set(start.memory.items[0].tolist()) - {-1}
    outside = len(known - set(slates[0].tolist()))
    new = ITEMS - len(known | set(slates[0].tolist()))
    assert min(outside, new) > 0

    def elsewhere(repeat: float, explore: Tensor) -> Tensor:
        state = shopper.start(torch.full((crowd, 1), 0.1))
        draws = torch.full((crowd, shopper.visit_draws), 0.5)
        draws[:, K : K + REMEMBERED] = repeat
        draws[:, K + REMEMBERED : -3] = explore
        return shopper.respond(state, slates, slates >= 0, draws).elsewhere

    nothing = torch.zeros(crowd, 1 + PROPOSALS)
    assert elsewhere(0.39, nothing).eq(outside).all()
    assert elsewhere(0.41, nothing).eq(0).all()
    mean = new * (1 - math.exp(-(0.005 + 0.015) / 2))
    bought = (
        elsewhere(0.41, torch.rand(nothing.shape, generator=torch.Generator().manual_seed(0)))
        .mean()
        .item()
    )
    assert bought == pytest.approx(mean, abs=4 * math.sqrt(mean / crowd))


def test_days_until_the_next_visit_share_what_leaving_does_not_take() -> None:
    hazards = torch.tensor([[0.5] * BINS, [0.1] * BINS])
    logits = [torch.logit(one).unsqueeze(0) for one in hazards]
    bins = torch.stack([one * (1 - one) ** torch.arange(BINS) for one in hazards])
    lapse = torch.tensor([0.5**BINS, 0.9**BINS])
    mean, deviation = lapse.mean(), (lapse[1] - lapse[0]) / 2
    for pessimism in (0.0, 1.0):
        back, leaving = back_by(logits, pessimism)
        torch.testing.assert_close(leaving[0], mean + pessimism * deviation)
        expected = bins.mean(dim=0) * (1 - mean - pessimism * deviation) / (1 - mean)
        torch.testing.assert_close(
            back[0].diff(prepend=torch.zeros(1)), expected, rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(back[:, -1] + leaving, torch.ones(1))


def test_deviations_are_those_of_the_whole_ensemble() -> None:
    chances = [torch.tensor([0.1]), torch.tensor([0.2]), torch.tensor([0.6])]
    spread = math.sqrt(((0.1 - 0.3) ** 2 + (0.2 - 0.3) ** 2 + (0.6 - 0.3) ** 2) / 3)
    assert agreed(chances, -1.0).item() == pytest.approx(0.3 - spread)
    assert agreed(chances, 2.0).item() == pytest.approx(0.3 + 2 * spread)


def test_nobody_leaves_where_nobody_may_even_if_leaving_is_certain(
    log: Path, tmp_path: Path
) -> None:
    models = [plain(log, 0.2, 0.1, 1e-9), plain(log, 0.2, 0.9, 1e-9)]
    shopper = shop(log, tmp_path / "shop", models, pessimism=5.0)
    shopper = shopper.staying()
    state = shopper.start(torch.tensor([[0.1], [0.8]]))
    slates = shopper.candidates(state)[:, :K]
    answer = shopper.respond(state, slates, slates >= 0, torch.full((2, shopper.visit_draws), 0.5))
    assert answer.leaving is not None
    assert answer.leaving.tolist() == [1.0, 1.0]
    assert not answer.left.any()


def test_a_batch_is_its_shoppers_one_by_one(log: Path, tmp_path: Path) -> None:
    shopper = shop(log, tmp_path / "shop", [member(log, 1), member(log, 2)], pessimism=1.0)
    seeds = torch.arange(5)
    together = play(shopper, seeds)
    for row in range(5):
        for many, one in zip(together, play(shopper, seeds[row : row + 1]), strict=True):
            for name in ("clicks", "gap_days", "elsewhere", "day"):
                assert torch.equal(many.info[name][row : row + 1], one.info[name]), name
            assert torch.equal(
                many.observation["candidates"][row : row + 1], one.observation["candidates"]
            )


def test_rows_are_selected_and_replaced_with_every_members_cache(log: Path, tmp_path: Path) -> None:
    shopper = shop(log, tmp_path / "shop", [member(log, 1), member(log, 2)])
    who = torch.tensor([[0.1], [0.4], [0.9]])
    slates, shown = torch.arange(K).expand(3, -1), torch.ones(3, K, dtype=torch.bool)
    state = shopper.start(who)
    draws = torch.rand(3, shopper.visit_draws, generator=torch.Generator().manual_seed(0))
    shopper.respond(state, slates, shown, draws)
    picked = pick(state, torch.tensor([2, 0]))
    put(state, torch.tensor([1]), shopper.start(torch.tensor([[0.7]])))
    fresh = shopper.start(torch.tensor([[0.7]]))
    for cache, of_fresh, of_picked in zip(state.caches, fresh.caches, picked.caches, strict=True):
        for name in ("day", "count", "state"):
            assert torch.equal(getattr(cache, name)[1:2], getattr(of_fresh, name)), name
            assert torch.equal(getattr(cache, name)[[2, 0]], getattr(of_picked, name)), name
        for name in ("keys", "values"):
            assert torch.equal(getattr(cache, name)[:, 1:2], getattr(of_fresh, name)), name
            assert torch.equal(getattr(cache, name)[:, [2, 0]], getattr(of_picked, name)), name
    assert not torch.equal(state.caches[0].state, state.caches[1].state)
    after = shopper.respond(state, slates, shown, draws)
    alone = shopper.respond(fresh, slates[:1], shown[:1], draws[1:2])
    some = shopper.respond(picked, slates[:2], shown[:2], draws[[2, 0]])
    torch.testing.assert_close(after.probability[1:2], alone.probability)
    torch.testing.assert_close(after.probability[[2, 0]], some.probability)


def test_a_simulation_goes_on_with_some_rows_only(log: Path, tmp_path: Path) -> None:
    shopper = shop(log, tmp_path / "shop", [member(log, 1), member(log, 2)])
    shopper = shopper.staying()
    whole, part = (
        SlateSimulator(shopper, horizon_days=1e6),
        SlateSimulator(shopper, horizon_days=1e6),
    )
    rows = torch.tensor([4, 1])
    for simulator in (whole, part):
        simulator.reset(torch.arange(6))
        simulator.step(simulator.candidates[:, :K])
    part.keep(rows)
    expected, found = whole.step(whole.candidates[:, :K]), part.step(part.candidates[:, :K])
    for name, value in found.observation.items():
        torch.testing.assert_close(value, expected.observation[name][rows])


def test_what_does_not_fit_together_is_refused(log: Path, tmp_path: Path) -> None:
    shop(log, tmp_path / "shop", [member(log, 1), member(log, 2)])
    with pytest.raises(ValueError, match=r"^ensemble is 3, but '.*shop' holds 2 models\.$"):
        opened(tmp_path / "shop", ensemble=3)
    for bad in (0, True, 1.5):
        with pytest.raises(
            ValueError, match=rf"^ensemble is {bad}, but it must be a whole number of 1 or more\.$"
        ):
            opened(tmp_path / "shop", ensemble=bad)  # type: ignore[arg-type]
    for wrong in (-1.0, math.inf, True):
        with pytest.raises(
            ValueError,
            match=rf"^pessimism is {wrong}, but it must be a finite number from 0 to 1000000\.0\.$",
        ):
            opened(tmp_path / "shop", ensemble=2, pessimism=wrong)
    other = new_shopper(Catalog.synthetic(7, 5, 8, torch.Generator().manual_seed(0)), SMALL, FACTS)
    with pytest.raises(ValueError, match=r"model1 holds a model of 7 items, but catalog has 40\."):
        shop(log, tmp_path / "unlike", [member(log, 1), other])
    (tmp_path / "shop" / "model1" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model1.model\.safetensors is missing"):
        load_shopper(tmp_path / "shop", CPU, K, ensemble=2)


def test_further_members_are_fitted_beside_the_first(log: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    untrained = replace(SMALL, pretrain_epochs=0, epochs=0, seed=7)
    for members in (1, 2):
        output = tmp_path / str(members)
        finetune.main(
            finetune.Config(
                shopper=untrained, log=log, output=output, members=members, threads=threads
            )
        )
    one, two = tmp_path / "1" / "shopper", tmp_path / "2" / "shopper"
    for name in ("config.json", "model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert {path.name for path in (two / "model1").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    assert not (one / "model1").exists()
    first, second = (found.model for found in opened(two, ensemble=2).shop.members)
    fresh = new_shopper(Catalog.load(log), replace(untrained, seed=8), FACTS)
    assert torch.equal(second.items.id_embedding.weight, fresh.items.id_embedding.weight)
    assert not torch.equal(first.items.id_embedding.weight, fresh.items.id_embedding.weight)
    assert "full exposure, mean of 2" in (two / "README.md").read_text()
    with pytest.raises(
        ValueError, match="members is 0, but it must be a whole number from 1 to 1000000000"
    ):
        finetune.main(finetune.Config(log=log, output=tmp_path / "0", members=0))


def test_the_shipped_ensemble_opens() -> None:
    env = gymnasium.make(
        "recsim_env/CompleteJourney-v0", ensemble=2, pessimism=1.0, population="evaluation"
    )
    observation, _ = env.reset(seed=0)
    bought = 0
    for _ in range(5):
        observation, _, terminated, truncated, info = env.step(observation["candidates"][:K])
        assert env.observation_space.contains(observation)
        bought += int(info["clicks"] + info["elsewhere"])
        if terminated or truncated:
            observation, _ = env.reset()
    assert bought > 0


def test_nothing_is_bought_again_above_its_ceiling(log: Path, tmp_path: Path) -> None:
    """The draw at which a purchase begins is its chance, or a lower ceiling of its bucket."""
    model = plain(log, 0.4, 0.1, 1e-9)
    shares = torch.arange(BUCKETS) // RECENCIES
    ceilings = tuple(torch.where(shares < 6, 0.3, 0.9).tolist())
    model.config.repeat_ceilings = (ceilings, (0.0,) * BUCKETS)
    shopper = shop(log, tmp_path / "shop", [model])
    start = shopper.start(torch.linspace(0, 0.99, 12).unsqueeze(1))
    slates = shopper.candidates(start)[:, :K]
    rows, columns = (start.memory.items >= 0).nonzero(as_tuple=True)
    items = start.memory.items[rows, columns]
    outside = ~(items.unsqueeze(1) == slates[rows]).any(1)
    share = start.memory.purchases()[rows, columns] / start.memory.tallies[rows, 0]
    often = share >= (6 / SHARES) ** 2
    rarer, more = int((outside & ~often).sum()), int((outside & often).sum())
    assert min(rarer, more) > 0

    def elsewhere(repeat: float) -> float:
        draws = torch.full((12, shopper.visit_draws), 0.5)
        draws[:, K : K + REMEMBERED] = repeat
        draws[:, K + REMEMBERED] = 0.0
        state = shopper.start(torch.linspace(0, 0.99, 12).unsqueeze(1))
        return shopper.respond(state, slates, slates >= 0, draws).elsewhere.sum().item()

    assert [elsewhere(draw) for draw in (0.29, 0.31, 0.39, 0.41)] == [rarer + more, more, more, 0]


def test_the_ceilings_are_those_of_promotions_where_there_are_some(
    log: Path, tmp_path: Path
) -> None:
    model = plain(log, 0.4, 0.1, 1e-9)
    model.config.repeat_ceilings = ((0.1,) * BUCKETS, (0.2,) * BUCKETS)
    shop(log, tmp_path / "shop", [model])
    for promoted, ceiling in ((False, 0.1), (True, 0.2)):
        shopper = load_shopper(
            tmp_path / "shop",
            CPU,
            K,
            population="all",
            start_days=(60, 80),
            store_promotions=promoted,
        )
        start = shopper.start(torch.tensor([[0.1]]))
        slates = torch.full((1, K), -1)
        held = (start.memory.items >= 0).sum()
        for draw, considered in ((ceiling - 0.01, held), (ceiling + 0.01, 0)):
            assert (
                shopper._considered(start, slates, torch.full((1, REMEMBERED), draw)) >= 0
            ).sum() == considered


@pytest.mark.parametrize(
    ("purchases", "visits", "since", "share", "recency"),
    [
        (0, 20, 1000, 0, 3),
        (1, 1, 0, 15, 0),
        (1, 4, 9, 8, 0),  # sqrt(1/4) * 16
        (1, 4, 10, 8, 1),
        (3, 16, 39, 6, 1),  # sqrt(3/16) * 16 = 6.9
        (3, 16, 40, 6, 2),
        (3, 16, 90, 6, 3),
        (2, 0, 1, 15, 0),  # more often than it was there
    ],
)
def test_the_bucket_of_a_ceiling(
    purchases: float, visits: float, since: float, share: int, recency: int
) -> None:
    bucket = repeat_bucket(*(torch.tensor(float(value)) for value in (purchases, visits, since)))
    assert divmod(int(bucket), RECENCIES) == (share, recency)


def test_a_ceiling_spares_questions_and_changes_nothing_below_it(log: Path, tmp_path: Path) -> None:
    models = [member(log, 0), member(log, 0)]
    models[1].config.repeat_ceilings = ((0.999,) * BUCKETS,) * 2
    without, spared = (
        shop(log, tmp_path / str(number), [model]) for number, model in enumerate(models)
    )
    for left, right in zip(
        play(without, torch.arange(4)), play(spared, torch.arange(4)), strict=True
    ):
        assert_same(left, right)


def test_the_highest_ceiling_of_an_ensemble_counts(log: Path, tmp_path: Path) -> None:
    models = [plain(log, 0.4, 0.1, 1e-9), plain(log, 0.4, 0.1, 1e-9)]
    models[0].config.repeat_ceilings = ((0.1,) * BUCKETS,) * 2
    models[1].config.repeat_ceilings = ((0.2,) * BUCKETS,) * 2
    shopper = shop(log, tmp_path / "shop", models)
    start = shopper.start(torch.tensor([[0.1]]))
    slates = torch.full((1, K), -1)
    held = (start.memory.items >= 0).sum()
    for draw, considered in ((0.15, held), (0.25, 0)):
        draws = torch.full((1, REMEMBERED), draw)
        assert (shopper._considered(start, slates, draws) >= 0).sum() == considered


def test_ceilings_of_another_version_are_said_in_one_sentence(log: Path, tmp_path: Path) -> None:
    model = plain(log, 0.4, 0.1, 1e-9)
    model.config.repeat_ceilings = (1.0,) * 16  # type: ignore[assignment]
    with pytest.raises(
        ValueError,
        match=r"shop/config\.json: repeat_ceilings is \[1\.0, .*\], "
        r"but it must be a list of 2 values\.$",
    ):
        shop(log, tmp_path / "shop", [model])
