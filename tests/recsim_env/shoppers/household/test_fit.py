"""From a log to a shopper: rows that are learned from, a fit that must learn, a shop that opens."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.data import finetune as benchmark
from benchmarks.lab.logs import Log
from benchmarks.lab.settings import remember_settings
from recsim_env.logs.record import record
from recsim_env.logs.schema import BASKETS, IMPRESSIONS, check_table
from recsim_env.metrics import auc
from recsim_env.shoppers.household import fit as fitting
from recsim_env.shoppers.household.examples import Collator, Examples
from recsim_env.shoppers.household.features import repeat_bucket, visit_context
from recsim_env.shoppers.household.fit import (
    CEILING_TAIL,
    FinetuneConfig,
    Packs,
    calibrate,
    ceiling_of,
    first_purchases,
    fit,
    new_shopper,
    score,
)
from recsim_env.shoppers.household.memory import COUNT, SINCE
from recsim_env.shoppers.household.model import ROW_KINDS
from recsim_env.shoppers.household.peaks import SHOP_FILES
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.training import KEPT, PARTS, checkpoints, newest_whole
from recsim_env.simulator import SlateSimulator
from tests.support.fake_log import ITEMS, SHOPPERS, write_shop
from tests.support.toys import FunctionPolicy

SMALL = FinetuneConfig(hidden_size=16, layers=1, window=8, head_size=16, batch_visits=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log")
    write_shop(path)
    return path


@pytest.fixture(scope="module")
def log(folder: Path) -> Log:
    return Log.load(folder)


@pytest.fixture(scope="module")
def examples(log: Log) -> Examples:
    return log.examples(cold_hidden=True)


@pytest.fixture(scope="module")
def shop(folder: Path, log: Log) -> Path:
    """A shop with an unfitted shopper."""
    path = folder / "shop"
    path.mkdir()
    new_shopper(log.catalog, SMALL, log.facts).save_pretrained(path)
    for name in SHOP_FILES[2:]:
        shutil.copy(folder / name, path / name)
    return path


def test_counters_of_a_row_are_those_of_earlier_visits(log: Log, examples: Examples) -> None:
    rng = np.random.default_rng(0)
    for row in rng.integers(0, len(examples.row_item), 60).tolist():
        visit, item = int(examples.row_visit[row]), int(examples.row_item[row])
        now = log.baskets.row(visit, named=True)
        before = log.baskets[:visit].filter(
            pl.col("shopper") == now["shopper"], pl.col("items").list.contains(item)
        )
        assert examples.row_stats[row, 0, COUNT] == len(before)
        if len(before):
            assert examples.row_stats[row, 0, SINCE] == now["day"] - before["day"].max()


def test_the_future_changes_no_row(log: Log, examples: Examples) -> None:
    cut = log.baskets["day"] >= 100
    shuffled = log.baskets["items"].to_list()
    changed = log.baskets.with_columns(
        items=pl.Series(
            [[0] if late else items for items, late in zip(shuffled, cut, strict=True)],
            dtype=pl.List(pl.Int32),
        )
    )
    other = replace(log, baskets=changed).examples(cold_hidden=True)
    first = {"early": log.baskets["day"].to_numpy() <= 100}["early"]
    early = torch.from_numpy(first.copy())
    torch.testing.assert_close(examples.rhythm[early], other.rhythm[early])
    mine, theirs = (x.row_kind != ROW_KINDS.index("repeat") for x in (examples, other))
    mine, theirs = mine & early[examples.row_visit], theirs & early[other.row_visit]
    torch.testing.assert_close(examples.row_stats[mine], other.row_stats[theirs])


def test_repeat_rows_stand_for_all_items_bought_before(examples: Examples) -> None:
    repeat = examples.row_kind == ROW_KINDS.index("repeat")
    assert (examples.row_stats[repeat, 0, COUNT] > 0).all()
    negative = repeat & (examples.row_label == 0)
    weights = torch.zeros(len(examples.visits)).index_add(
        0, examples.row_visit[negative], examples.row_weight[negative]
    )
    past = examples.first.to(torch.int64)[examples.visits.shopper] < examples.visits.rank.unsqueeze(
        1
    )
    bought = torch.zeros(len(examples.visits)).index_add(
        0, examples.row_visit[repeat], examples.row_label[repeat]
    )
    seen = weights > 0
    torch.testing.assert_close(weights[seen], (past.sum(1) - bought)[seen])


def test_every_shopper_is_packed_once() -> None:
    lengths = torch.tensor([5, 0, 90, 3, 40, 41])
    packs = Packs(lengths, 100, torch.Generator().manual_seed(0))
    assert sorted(shopper for pack in packs.packs for shopper in pack) == [0, 2, 3, 4, 5]
    assert all(sum(int(lengths[s]) for s in pack) <= 100 for pack in packs.packs)


def test_a_simulated_visit_equals_one_replayed_from_its_own_log(shop: Path) -> None:
    """States after a simulation are the states that are computed from its baskets."""
    shopper = load_shopper(shop, torch.device("cpu"), population="all", start_days=(60, 80))
    state = shopper.start(torch.linspace(0, 0.99, 6).unsqueeze(1))
    model, generator = shopper.shop.model, torch.Generator().manual_seed(0)
    days, baskets, contexts, first = [], [], [], state.cache.count.clone()
    for _ in range(12):
        context = visit_context(state.memory.tally(state.day), state.day, state.since)
        days.append(state.day)
        contexts.append(context)
        slates = shopper.candidates(state)[:, :10]
        draws = torch.rand(6, shopper.visit_draws, generator=generator)
        response = shopper.respond(state, slates, slates >= 0, draws)
        assert response.basket is not None
        baskets.append(response.basket)
    # the encoder sees only the last `window` visits, all of them simulated
    assert len(days) >= SMALL.window
    assert int(first.min()) > 0
    with torch.no_grad():
        token = model.token(shopper.shop.vectors, torch.stack(baskets, 1), torch.stack(contexts, 1))
        whole = model.encode(token, torch.stack(days, 1), torch.ones(6, 12, dtype=torch.bool))
    torch.testing.assert_close(state.cache.state, whole[:, -1], rtol=1e-5, atol=1e-5)


def test_on_offer_is_what_is_among_the_candidates(shop: Path) -> None:
    shopper = load_shopper(shop, torch.device("cpu"), population="all", start_days=(60, 80))
    state = shopper.start(torch.linspace(0, 0.99, 6).unsqueeze(1))
    candidates, everything = shopper.candidates(state), torch.arange(ITEMS).expand(6, -1)
    among = (everything.unsqueeze(2) == candidates.unsqueeze(1)).any(2)
    assert 0 < among.sum() < among.numel()
    assert torch.equal(shopper.on_offer(state, everything), among)
    assert (
        shopper.on_offer(state, everything.where(among, -1)).where(among, False).sum()
        == among.sum()
    )


def test_a_recorded_simulation_is_a_log_and_nobody_buys_twice_in_a_visit(shop: Path) -> None:
    shopper = load_shopper(shop, torch.device("cpu"), start_days=(60, 80))
    simulator = SlateSimulator(shopper, horizon_days=60)
    policy = FunctionPolicy(lambda seen, _: seen["candidates"][:, :10])
    slates, baskets = record(simulator, policy, torch.arange(20))
    check_table(IMPRESSIONS, slates, "slates", ITEMS)
    check_table(BASKETS, baskets, "baskets", ITEMS)
    assert slates["shopper"].n_unique() == 20
    assert (baskets["items"].list.len() == baskets["items"].list.unique().list.len()).all()
    for slate, bought, basket in zip(
        slates["slate"], slates["purchase"], baskets["items"], strict=True
    ):
        assert {item for item, b in zip(slate, bought, strict=True) if b} <= set(basket)


def test_training_and_evaluation_shoppers_are_disjoint(shop: Path) -> None:
    found = [
        set(load_shopper(shop, torch.device("cpu"), population=name).shop.starts.shopper.tolist())
        for name in ("train", "evaluation", "all")
    ]
    assert not found[0] & found[1]
    assert found[0] | found[1] == found[2]
    assert all(shopper % 5 == 0 for shopper in found[1])


def test_bad_options_are_said_in_one_sentence(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="population is 'everyone', but it must be one of 'train', 'evaluation', 'all'",
    ):
        load_shopper(shop, torch.device("cpu"), population="everyone")
    with pytest.raises(
        ValueError,
        match="examination has 2 numbers, but it must have one for each of the 10 positions",
    ):
        load_shopper(shop, torch.device("cpu"), examination=(1.0, 0.5))
    with pytest.raises(
        ValueError, match=r"start_days\[1\] is 60, but it must be a whole number from 80 to 36500"
    ):
        load_shopper(shop, torch.device("cpu"), start_days=(80, 60))
    with pytest.raises(
        ValueError, match=r"start_days\[0\] is -1, but it must be a whole number from 0 to 36500"
    ):
        load_shopper(shop, torch.device("cpu"), start_days=(-1, 60))
    with pytest.raises(
        ValueError,
        match=r"start_days is \(900, 901\), but no shopper of population 'train' starts then",
    ):
        load_shopper(shop, torch.device("cpu"), start_days=(900, 901))
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_shopper(tmp_path, torch.device("cpu"))


@pytest.mark.slow
def test_fine_tuning_beats_popularity_and_is_calibrated(
    log: Log, examples: Examples, tmp_path: Path
) -> None:
    model = new_shopper(log.catalog, SMALL, log.facts)
    config = replace(SMALL, pretrain_epochs=4, epochs=25, learning_rate=1e-2)
    fit(model, examples, config, tmp_path, stage="pretrain")
    fit(model, examples, config, tmp_path, stage="finetune")
    calibrate(model, examples, examples)
    scores = score(model, examples, "test", kinds=("uniform",))
    label = examples.row_label[scores.row].double().numpy()

    def area(logit: torch.Tensor) -> float:
        return auc(torch.sigmoid(logit.double()).numpy(), label)

    popularity = torch.bincount(examples.visits.items, minlength=ITEMS).float()
    assert area(scores.logit) > area(popularity[examples.row_item[scores.row]] / 1000) + 0.2
    assert float(torch.sigmoid(scores.logit).mean()) == pytest.approx(label.mean(), rel=0.15)
    bought, expected = first_purchases(model, examples, "test")
    assert 0.3 < bought / expected < 3.0
    assert examples.n_shoppers == SHOPPERS
    assert set(Collator(examples)([0])) >= {"basket", "row_item", "new_item"}


@pytest.mark.parametrize(
    ("cut", "ceiling"), [(0.0, 0.5), (0.37, 0.5), (0.38, 0.2), (0.62, 0.2), (0.63, 0.1)]
)
def test_a_ceiling_cuts_no_more_than_its_share(
    monkeypatch: pytest.MonkeyPatch, cut: float, ceiling: float
) -> None:
    """Of .5 + .2 + 2 x .05 = .8 purchases lie .3 above .2 and .4 + .1 = .5 above .1."""
    monkeypatch.setattr(fitting, "CEILING_TAIL", cut)
    chance = torch.tensor([0.2, 0.05, 0.5, 0.1], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    assert ceiling_of(chance, weight) == pytest.approx(ceiling)


@pytest.mark.parametrize("promoted", [False, True])
def test_of_every_buckets_purchases_the_ceilings_cut_at_most_a_share(
    log: Log, examples: Examples, promoted: bool
) -> None:
    model = new_shopper(log.catalog, SMALL, log.facts)
    with torch.no_grad():
        for parameter in model.slate_head.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    calibrate(model, examples, examples)
    if not promoted:
        examples = replace(examples, row_placement=torch.zeros_like(examples.row_placement))
    scores = score(model, examples, "valid", kinds=("repeat",))
    chance, weight = torch.sigmoid(scores.logit).double(), examples.row_weight[scores.row].double()
    item, visits = (
        examples.row_stats[scores.row, 0].float(),
        examples.rhythm[examples.row_visit[scores.row], 0].expm1().round(),
    )
    bucket = repeat_bucket(item[:, COUNT], visits, item[:, SINCE])
    ceilings = torch.tensor(model.config.repeat_ceilings[promoted], dtype=torch.float64)
    assert len(bucket.unique()) > 10
    for number in range(len(ceilings)):
        own = bucket == number
        expected = ceiling_of(chance[own], weight[own]) if own.any() else 1.0
        assert ceilings[number].item() == pytest.approx(expected)
        over = (weight[own] * (chance[own] - ceilings[number]).clamp(min=0)).sum()
        assert over <= CEILING_TAIL * (weight[own] * chance[own]).sum() + 1e-9


# ---- interrupted fine-tunings ----

QUICK = replace(SMALL, pretrain_epochs=0, epochs=2.0)


def weights_of(log: Log, examples: Examples, folder: Path) -> dict[str, torch.Tensor]:
    """Of a model after its fine-tuning, which goes on from what lies in the folder."""
    model = new_shopper(log.catalog, QUICK, log.facts)
    fit(model, examples, QUICK, folder, stage="finetune")
    return model.state_dict()


@pytest.mark.slow
def test_a_fine_tuning_that_was_cut_off_amid_a_checkpoint_goes_on_from_the_one_before(
    log: Log, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = weights_of(log, examples, tmp_path / "unbroken")
    steps = [path.name for path in checkpoints(tmp_path / "unbroken" / "finetune")]
    assert len(steps) == KEPT == 2
    really, saved = torch.save, []

    def save(content: object, path: object, *arguments: object, **options: object) -> None:
        """The disk is full at the optimizer of the third checkpoint, after its weights."""
        if str(path).endswith("optimizer.pt"):
            saved.append(path)
            if len(saved) == 3:
                Path(str(path)).write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(content, path, *arguments, **options)  # type: ignore[arg-type]

    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(
            OSError, match=r"could not be written \(No space left.*; the checkpoint before is whole"
        ):
            weights_of(log, examples, folder)
    left = checkpoints(folder / "finetune")
    assert len(left) == 3
    assert newest_whole(folder / "finetune") == left[1]
    assert checkpoints(folder / "finetune") == left[:2]
    resumed = weights_of(log, examples, folder)
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
    assert [path.name for path in checkpoints(folder / "finetune")] == steps
    again = weights_of(log, examples, folder)  # after the end
    assert all(torch.equal(value, again[name]) for name, value in unbroken.items())


@pytest.mark.slow
def test_a_fine_tuning_that_ended_within_an_epoch_goes_no_further(
    log: Log, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Trainer would make one step more at every call where the last ends no epoch."""
    monkeypatch.setitem(globals(), "QUICK", replace(QUICK, epochs=0.5))
    first = weights_of(log, examples, tmp_path)
    steps = [path.name for path in checkpoints(tmp_path / "finetune")]
    again = weights_of(log, examples, tmp_path)
    assert [path.name for path in checkpoints(tmp_path / "finetune")] == steps
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_only_whole_checkpoints_count_and_the_others_go(tmp_path: Path) -> None:
    def checkpoint(step: int, state: str | None, *missing: str) -> None:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"a": torch.ones(9)}, folder / "model.safetensors")
        for name in (*PARTS, "rng_state.pth"):
            (folder / name).write_text("there")
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
        for name in missing:
            (folder / name).unlink()

    assert newest_whole(tmp_path) is None
    checkpoint(8, '{"global_step": 8}')
    checkpoint(10, '{"global_step": 10}')
    checkpoint(12, None)  # killed before the state
    checkpoint(14, '{"global_step": 1')  # in the middle of it
    checkpoint(16, '{"global_step": 15}')
    checkpoint(18, '{"global_step": 18}', "scheduler.pt")
    checkpoint(20, '{"global_step": 20}', "model.safetensors")
    checkpoint(21, '{"global_step": 21}', "rng_state.pth")
    checkpoint(22, '{"global_step": 22}')
    cut = tmp_path / "checkpoint-22" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-4])
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-10",
        "checkpoint-8",
        "checkpoint-best",
    ]


def test_a_folder_of_another_fine_tuning_is_refused(folder: Path, tmp_path: Path) -> None:
    config = benchmark.Config(QUICK, log=folder, output=tmp_path)
    remember_settings(tmp_path, {"shopper": {"epochs": 3.0}})
    with pytest.raises(
        ValueError, match=r"config\.json differs in \['log', 'shopper', 'tables', 'text_encoder'\]"
    ):
        benchmark.main(config)
