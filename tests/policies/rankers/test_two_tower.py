"""The two-tower ranker finds the truth of a made-up log, and scores each row alone."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies.rankers.slate_examples import examples_of
from policies.rankers.two_tower import (
    TwoTowerConfig,
    TwoTowerRanker,
    load_two_tower,
    save_two_tower,
    tower_inputs,
)
from policies.rankers.two_tower_fit import fit_two_tower, go_on, loss_of, predictions
from recsim_env.catalog import Catalog
from recsim_env.files import read_tensors, write_tensors
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.types import Observation

ITEMS, GROUPS, WIDTH, SIZE = 24, 4, 5, 3
LOOKS = (1.0, 0.6, 0.3)
"""True chance to look at each position."""
QUICK = TwoTowerConfig(width=4, hidden=16, category_hidden=4, epochs=1, batch_size=256)
GOOD = TwoTowerConfig(
    width=8, hidden=32, category_hidden=8, epochs=6, batch_size=512, own_decay=0.01
)


def catalog() -> Catalog:
    return Catalog.synthetic(ITEMS, GROUPS, WIDTH, torch.Generator().manual_seed(4))


def truth(declared: Tensor) -> Tensor:
    """(S, N) log-odds of a response once looked at: what was declared is what is liked."""
    return -0.5 + 2.5 * declared @ catalog().embedding.T


def made_up_log(episodes: int, visits: int = 4, shown: int = ITEMS, seed: int = 0) -> Sessions:
    """Uniform slates of the first `shown` items; responses follow `LOOKS` and `truth`."""
    generator = torch.Generator().manual_seed(seed)
    slates = torch.rand(episodes, visits, shown, generator=generator).argsort(dim=2)[:, :, :SIZE]
    declared = torch.nn.functional.normalize(
        torch.randn(episodes, WIDTH, generator=generator), dim=1
    )
    log_odds = truth(declared).unsqueeze(1).expand(-1, visits, -1).gather(2, slates)
    chance = torch.tensor(LOOKS) * torch.sigmoid(log_odds)
    return Sessions(
        slates=slates,
        clicks=torch.rand(chance.shape, generator=generator) < chance,
        length=torch.full((episodes,), visits),
        left=torch.zeros(episodes, dtype=torch.bool),
        propensity=torch.full((episodes, visits), torch.nan),
        policy=torch.zeros(episodes, visits, dtype=torch.int64),
        declared=declared,
        policies=("uniform",),
    )


def seen_in(sessions: Sessions, visit: int = 2) -> Observation:
    """The observation of every shopper at a visit."""
    return next(
        moment for moment in replay(sessions, catalog()) if moment.visit == visit
    ).observation


@lru_cache(maxsize=1)
def good_ranker() -> TwoTowerRanker:
    return fit_two_tower(made_up_log(12_000), catalog(), SIZE, GOOD)


@lru_cache(maxsize=1)
def quick_ranker() -> TwoTowerRanker:
    return fit_two_tower(made_up_log(100), catalog(), SIZE, QUICK)


# --- the truth is found ---


@pytest.mark.slow
def test_the_chance_to_look_at_each_position_is_found() -> None:
    found = good_ranker().model.examined()
    assert found[0].item() == 1
    assert found.tolist() == pytest.approx(LOOKS, abs=0.06)


@pytest.mark.slow
def test_new_shoppers_preferences_are_found() -> None:
    fresh = made_up_log(300, seed=9)
    true = truth(fresh.declared)
    for visit, alike in (
        (0, 0.97),
        (2, 0.92),
    ):  # later visits bring counters that say nothing here, and so noise
        logits = good_ranker().logits(seen_in(fresh, visit))
        assert torch.corrcoef(torch.stack([logits.flatten(), true.flatten()]))[0, 1] > alike
        # of an item that is looked at, wherever it stood in the log
        assert (logits.sigmoid() - true.sigmoid()).abs().mean() < 0.08
        chosen = true.gather(1, logits.topk(SIZE, dim=1).indices).mean()
        best, any_item = true.topk(SIZE, dim=1).values.mean(), true.mean()
        assert chosen - any_item > 0.85 * (best - any_item)


@pytest.mark.slow
def test_an_item_shown_again_and_again_is_worth_less_where_the_log_says_so() -> None:
    """Responses of the first exposure only: what was shown lately is not responded to."""
    sessions = made_up_log(1500, visits=3, shown=8)
    again = torch.zeros_like(sessions.clicks)
    for visit in (1, 2):
        before = sessions.slates[:, :visit].flatten(1)
        again[:, visit] = (sessions.slates[:, visit].unsqueeze(2) == before.unsqueeze(1)).any(dim=2)
    worn = dataclasses.replace(sessions, clicks=sessions.clicks & ~again)
    fatigue = fit_two_tower(
        worn, catalog(), SIZE, dataclasses.replace(GOOD, batch_size=256)
    ).model.fatigue
    assert fatigue[0] < -1


# --- what comes out ---


def test_shapes_and_padding() -> None:
    ranker, seen = quick_ranker(), seen_in(made_up_log(5))
    whole = ranker.logits(seen)
    assert (whole.shape, whole.dtype) == ((5, ITEMS), torch.float32)
    assert bool(whole.isfinite().all())
    few = torch.tensor(
        [[7, 0, 3, -1], [5, -1, -1, -1], [23, 22, 21, 20], [-1, -1, -1, -1], [2, 1, 0, -1]]
    )
    narrow = ranker.logits({**seen, "candidates": few})
    for row in range(5):
        for at, item in enumerate(few[row].tolist()):
            expected = whole[row, item].item() if item >= 0 else -torch.inf
            assert narrow[row, at].item() == expected


def test_the_logits_are_those_of_the_fitted_model() -> None:
    """The ranker's logits of the catalogue against those that the fit computes for a slate."""
    sessions, ranker = made_up_log(6), fit_two_tower(made_up_log(100), catalog(), SIZE, QUICK)
    with torch.no_grad():
        ranker.model.fatigue.copy_(torch.tensor([-0.3, 0.2]))
        examples = examples_of(sessions, catalog())
        whole, by_category = examples.inputs(torch.arange(len(examples)))
        fitted = ranker.model.log_odds(
            whole.float(), by_category.float(), examples.slates, examples.fatigue.float()
        )
    scored = [
        ranker.logits(moment.observation).gather(1, moment.slates)
        for moment in replay(sessions, catalog())
    ]  # in the order of the examples
    torch.testing.assert_close(
        torch.cat(scored), fitted, rtol=0, atol=5e-3
    )  # the examples are kept as float16


def test_examples_laid_out_for_a_batch_are_what_the_shop_knew() -> None:
    """The compact storage against the inputs that are made of each observation as a whole."""
    sessions = made_up_log(7, visits=5)
    sessions = dataclasses.replace(
        sessions,
        length=torch.arange(7) % 5 + 1,
        slates=sessions.slates.masked_fill(torch.arange(105).view(7, 5, 3) % 4 == 3, -1),
    )
    sessions = dataclasses.replace(sessions, clicks=sessions.clicks & (sessions.slates >= 0))
    found = [tower_inputs(moment.observation) for moment in replay(sessions, catalog())]
    expected = [torch.cat(column).half() for column in zip(*found, strict=True)]
    examples = examples_of(sessions, catalog())
    for rows in (torch.arange(len(examples)), torch.tensor([9, 0, 3, 3])):
        for one, other in zip(examples.inputs(rows), expected, strict=True):
            assert torch.equal(one, other[rows])
    assert len(examples.category) < len(examples) * GROUPS  # what was never shown takes no room


def test_a_batch_is_its_shoppers_one_by_one() -> None:
    ranker, seen = quick_ranker(), seen_in(made_up_log(300))  # more than are scored at once
    together = ranker.logits(seen)
    for row in (0, 7, 255, 256, 299):
        alone = ranker.logits({name: value[row : row + 1] for name, value in seen.items()})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_empty_positions_are_no_examples() -> None:
    """Clicks and fatigue of a position that showed nothing change nothing."""
    sessions = made_up_log(60)
    sessions.slates[:, :, 2] = -1
    sessions.clicks[:, :, 2] = False
    sessions.clicks[0, 0, 0] = True
    found = fit_two_tower(sessions, catalog(), SIZE, QUICK).model.examination
    assert found[2].item() == 2.0  # as it was at first
    assert found[1].item() != 2.0


# --- the same again ---


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    ranker, seen = quick_ranker(), seen_in(made_up_log(8))
    save_two_tower(ranker, tmp_path / "folder" / "ranker.safetensors")
    again = load_two_tower(tmp_path / "folder" / "ranker.safetensors")
    assert torch.equal(again.logits(seen), ranker.logits(seen))
    assert again.model.config == QUICK
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["ranker.safetensors"]


def test_the_shapes_of_a_configuration_are_those_of_its_model() -> None:
    model = quick_ranker().model
    items, dims = model.vectors.shape
    expected = QUICK.shapes(
        items, dims, len(model.standardize.mean), len(model.standardize_category.mean), SIZE
    )
    assert expected == {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"config": {"depth": 3}}, "config has the fields .*'depth' is one too many or few"),
        (
            {"config": {"hidden": 10**12}},
            "hidden is 1000000000000, but it must be a whole number from 1 to",
        ),
        ({"config": {"hidden": 9}}, "the tensor 'of_shopper.0.bias' is .*, but it must be"),
        ({"config": {"own_decay": "much"}}, "own_decay is 'much', but it must be a finite number"),
        (
            {"width": 10**12},
            "the tensor 'of_shopper.0.weight' is .* but it must be .*1000000000000",
        ),
        ({"width": 0}, "width is 0, but it must be a whole number of 1 or more"),
        ({"slate_size": True}, "slate_size is True, but it must be a whole number"),
        ({"slate_size": 4}, r"the tensor 'examination' is .*, but it must be .* \(4\)"),
        ({"colour": 4}, "is described by"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    path = tmp_path / "ranker.safetensors"
    save_two_tower(quick_ranker(), path)
    tensors, metadata = read_tensors(path)
    told = json.loads(metadata["model"])["told"]
    config = {**told["config"], **changed.get("config", {})}
    write_tensors(
        path,
        tensors,
        {"model": json.dumps({"kind": "two_tower", "told": {**told, **changed, "config": config}})},
    )
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{match}"):
        load_two_tower(path)


def test_a_file_that_is_no_ranker_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ranker.safetensors"
    with pytest.raises(FileNotFoundError, match=r"ranker\.safetensors"):
        load_two_tower(path)
    save_two_tower(quick_ranker(), path)
    tensors, metadata = read_tensors(path)
    wrong: dict[str, Tensor | None] = {
        "bias": tensors["bias"] * torch.nan,
        "category": tensors["category"] + ITEMS,
        "fatigue": None,
        "vectors": None,
        "own": tensors["own"].half(),
    }
    for name, value in wrong.items():
        others = {other: tensor for other, tensor in tensors.items() if other != name}
        write_tensors(path, others if value is None else {**others, name: value}, metadata)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: the tensor '{name}' "):
            load_two_tower(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be read"):
        load_two_tower(path)


def weights(config: TwoTowerConfig) -> dict[str, Tensor]:
    return fit_two_tower(made_up_log(100), catalog(), SIZE, config).model.state_dict()


def test_a_seed_is_a_ranker() -> None:
    first, again, other = (
        weights(QUICK),
        weights(QUICK),
        weights(dataclasses.replace(QUICK, seed=1)),
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["of_item"], other["of_item"])


def test_no_global_generator_moves(tmp_path: Path) -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    ranker = fit_two_tower(made_up_log(40), catalog(), SIZE, QUICK)
    save_two_tower(ranker, tmp_path / "ranker.safetensors")
    load_two_tower(tmp_path / "ranker.safetensors").logits(seen_in(made_up_log(2)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]  # noqa: NPY002


def test_a_log_without_a_click_is_refused() -> None:
    sessions = made_up_log(10)
    sessions = dataclasses.replace(sessions, clicks=torch.zeros_like(sessions.clicks))
    with pytest.raises(
        ValueError, match=r"^sessions has 40 slates and no click, but a ranker needs some.$"
    ):
        fit_two_tower(sessions, catalog(), SIZE, QUICK)


def test_slates_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=f"slate_size is 9, but the log has slates of {SIZE}"):
        fit_two_tower(made_up_log(20), catalog(), 9, QUICK)


def test_going_on_begins_with_the_weights_that_are_there() -> None:
    ranker, log = quick_ranker(), examples_of(made_up_log(100, seed=5), catalog())
    before = {name: value.clone() for name, value in ranker.model.state_dict().items()}
    tiny = go_on(ranker, log, dataclasses.replace(QUICK, learning_rate=1e-9))
    further = go_on(ranker, log, dataclasses.replace(QUICK, epochs=3))
    for name, value in before.items():
        assert torch.equal(ranker.model.state_dict()[name], value)
        assert torch.allclose(tiny.model.state_dict()[name], value, atol=1e-6)
    every = torch.arange(len(log))
    losses = [float(loss_of(one.model, log, every).detach()) for one in (ranker, further)]
    assert losses[1] < losses[0]
    chance, clicks = predictions(further, log)
    by_hand = -torch.where(clicks, chance, 1 - chance).log().mean()
    assert float(by_hand) == pytest.approx(losses[1], abs=1e-5)
