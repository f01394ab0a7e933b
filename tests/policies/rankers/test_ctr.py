"""The CTR model sees equal numbers in log and decision, is calibrated, and survives saving."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from benchmarks.data.train_ranker import KEYS, Slates, popularity_table, replay_slates
from policies import POLICIES
from policies.rankers.ctr import (
    WEIGHTS,
    CTRModel,
    CTRRanker,
    RankerConfig,
    config_for,
    load_model,
    pair_inputs,
    save_model,
)
from policies.rankers.ctr_fit import (
    FitConfig,
    PairExamples,
    calibrate,
    fit,
    predict,
    shown_examples,
)
from policies.rankers.pair_features import (
    DAYS,
    PAIR_FEATURES,
    Pairs,
    RankerCatalog,
    of_slates,
    pair_codes_for,
    pair_features_for,
)
from recsim_env.files import write_tensors
from recsim_env.logs import complete_journey
from recsim_env.logs.schema import read_baskets, read_popularity
from recsim_env.shoppers.household.fit import FinetuneConfig, new_shopper
from recsim_env.shoppers.household.memory import NEVER, Keys
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.household.replay import Visits
from recsim_env.types import Observation
from tests.policies.test_composer import some_visits
from tests.support.fake_log import FACTS as SHOP_FACTS
from tests.support.fake_log import write_shop
from tests.support.policy_toys import TOY_FACTS, toy_inputs
from tests.support.toys import toy_catalog, toy_simulator


def all_inputs(observation: Observation, items: RankerCatalog) -> tuple[Tensor, Tensor]:
    return pair_inputs(
        Pairs.of(observation, items),
        pair_features_for(set(observation)),
        pair_codes_for(set(observation)),
    )


# ---- numbers ----


def test_a_shown_slate_has_the_numbers_of_the_same_items_among_the_candidates() -> None:
    simulator = toy_simulator(items=40)
    items = RankerCatalog.of(simulator.catalog, TOY_FACTS.placements)
    seen = some_visits(simulator)
    slates = seen["candidates"][:, [7, 2, 11, 5]]
    numbers, codes = all_inputs(seen, items)
    pairs = Pairs.of(seen, items)
    rows = pairs.spread(torch.arange(len(numbers)).double())[:, [7, 2, 11, 5]].flatten().long()
    shown_numbers, shown_codes = all_inputs(of_slates(seen, slates), items)
    assert torch.equal(shown_numbers, numbers[rows])
    assert torch.equal(shown_codes, codes[rows])


def test_an_item_that_was_no_candidate_makes_no_row() -> None:
    simulator = toy_simulator(items=40)
    seen = some_visits(simulator)
    slates = seen["candidates"][:, :4].clone()
    slates[:, 1] = next(item for item in range(40) if item not in seen["candidates"][0].tolist())
    narrow = of_slates(seen, slates)
    assert int(narrow["candidates"][0, 1]) == -1
    examples = shown_examples(
        seen,
        slates,
        torch.ones_like(slates).bool(),
        RankerCatalog.of(simulator.catalog, TOY_FACTS.placements),
        ("popularity",),
        ("item",),
    )
    assert len(examples) == int((narrow["candidates"] >= 0).sum()) < slates.numel()


def test_own_history_of_a_hand_made_shopper() -> None:
    catalog = toy_catalog(items=5, categories=2)
    observation = {
        "candidates": torch.tensor([[3, 0]]),
        "bought_items": torch.tensor([[0, -1, 4]]),
        "bought_counts": torch.tensor([[2.0, 0.0, 1.0]]),
        "bought_days": torch.tensor([[7.0, 0.0, 1.0]]),
    }
    numbers = PAIR_FEATURES["own"].values(
        Pairs.of(observation, RankerCatalog.of(catalog, complete_journey.FACTS.placements))
    )
    expected = [math.log(3), 1.0, math.log(8), *(math.exp(-7 / scale) for scale in DAYS)]
    torch.testing.assert_close(numbers, torch.tensor([[0.0] * 7, expected]))


def small_log() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three shoppers and their baskets, and one slate shown at most of the visits."""
    generator = torch.Generator().manual_seed(0)
    baskets: list[dict[str, Any]] = []
    slates: list[dict[str, Any]] = []
    for shopper, visits in enumerate((6, 1, 4)):
        day = 0
        for rank in range(visits):
            day += int(torch.randint(0, 9, (), generator=generator))
            items = torch.randperm(12, generator=generator)[
                : int(torch.randint(0, 5, (), generator=generator))
            ]
            slate = torch.randperm(12, generator=generator)[:4]
            common = {
                "shopper": shopper,
                "visit": len(baskets),
                "day": day,
                "week": 1 + day // 7,
                "store": 0,
            }
            baskets.append(
                {**common, "items": items.tolist(), "gap": None, "follow_up": 9, "split": "train"}
            )
            if rank > 0:
                bought = [item in items.tolist() for item in slate.tolist()]
                row = {
                    "slate": slate.tolist(),
                    "placement": [3, 0, 14, 1],
                    "purchase": bought,
                    "split": "train",
                }
                slates.append({**common, **row})
    types: dict[str, Any] = {"items": pl.List(pl.Int32), "gap": pl.Int32}
    return pl.DataFrame(baskets, schema_overrides=types), pl.DataFrame(slates)


def test_the_replayed_log_is_what_the_baskets_say() -> None:
    """Counters of every slate against a dictionary kept by hand."""
    baskets, log = small_log()
    catalog = toy_catalog(items=12, categories=3)
    visits = Visits.of(baskets)
    slates = Slates.of([log, log], baskets)
    popularity = torch.rand(20, 12, generator=torch.Generator().manual_seed(1))
    checked = 0
    for rows, seen in replay_slates(
        visits, slates, Keys.of(catalog.kind, catalog.category), popularity, complete_journey.FACTS
    ):
        assert set(seen) == KEYS | {"candidates"}
        for at, row in enumerate(rows.tolist()):
            visit = int(slates.visit[row])
            now = baskets.row(visit, named=True)
            past = baskets.filter((pl.col("shopper") == now["shopper"]) & (pl.col("visit") < visit))
            counts: dict[int, list[int]] = {}
            for day, items in past.select("day", "items").iter_rows():
                for item in items:
                    counts.setdefault(item, []).append(day)
            known = seen["bought_items"][at]
            assert sorted(known[known >= 0].tolist()) == sorted(counts)
            for item, count, since in zip(
                known.tolist(), seen["bought_counts"][at], seen["bought_days"][at], strict=True
            ):
                assert float(count) == len(counts.get(item, []))
                assert float(since) == (now["day"] - max(counts[item]) if item >= 0 else NEVER)
            for group in range(3):
                days = [
                    day
                    for item, when in counts.items()
                    if int(catalog.category[item]) == group
                    for day in when
                ]
                assert float(seen["category_counts"][at, group]) == len(days)
                assert float(seen["category_days"][at, group]) == (
                    now["day"] - max(days) if days else NEVER
                )
            assert seen["candidates"][at].tolist() == slates.items[row].tolist()
            assert seen["placement"][at].tolist() == [3, 0, 14, 1]
            expected = popularity[now["week"], slates.items[row]]
            assert torch.equal(seen["popularity"][at], expected)
            checked += 1
    assert checked == len(slates.visit) == 2 * len(log)


def test_the_replayed_log_is_what_the_simulator_observes(tmp_path: Path) -> None:
    """At the start of an episode the log's replay and `LearnedShopper.observe` agree."""
    catalog = write_shop(tmp_path)
    keys = Keys.of(catalog.kind, catalog.category)
    new_shopper(
        catalog, FinetuneConfig(hidden_size=16, layers=1, window=8, head_size=16), SHOP_FACTS
    ).save_pretrained(tmp_path)
    shopper = load_shopper(tmp_path, torch.device("cpu"), slate_size=4, population="all")
    starts = shopper.shop.starts
    state = shopper.start(
        (torch.arange(len(starts.shopper)) + 0.5).unsqueeze(1) / len(starts.shopper)
    )
    simulated = {**shopper.observe(state), "candidates": shopper.candidates(state)}
    baskets = read_baskets(tmp_path / "baskets.parquet", len(catalog))
    visits = Visits.of(baskets)
    same = (visits.shopper == starts.shopper.unsqueeze(1)) & (visits.day == state.day.unsqueeze(1))
    items = simulated["candidates"][:, :4]  # as if these were the logged slates
    slates = Slates(
        same.to(torch.int8).argmax(dim=1),
        items,
        simulated["placement"][:, :4],
        torch.zeros_like(items).bool(),
        torch.zeros(len(items), dtype=torch.int64),
        torch.zeros(len(items), dtype=torch.int64),
    )
    popularity = popularity_table(
        read_popularity(tmp_path / "popularity.parquet", len(catalog)), len(catalog)
    )
    blocks, codes = pair_features_for(KEYS), pair_codes_for(KEYS)
    known, checked = RankerCatalog.of(catalog, SHOP_FACTS.placements), 0
    for rows, replayed in replay_slates(visits, slates, keys, popularity, SHOP_FACTS):
        expected = of_slates({name: value[rows] for name, value in simulated.items()}, items[rows])
        for name in KEYS - {
            "bought_items",
            "bought_counts",
            "bought_days",
        }:  # these three may come in another order
            torch.testing.assert_close(replayed[name], expected[name])
        for one, other in zip(
            *(pair_inputs(Pairs.of(seen, known), blocks, codes) for seen in (replayed, expected)),
            strict=True,
        ):
            torch.testing.assert_close(one, other)
        checked += len(rows)
    assert checked == len(starts.shopper) > 40


# ---- the model ----


def toy_examples(
    shoppers: int = 600, visits: int = 4
) -> tuple[PairExamples, RankerCatalog, tuple[str, ...], tuple[str, ...]]:
    """Rows from uniform slates in the toy shop, where only the generic keys are looked at."""
    simulator = toy_simulator(items=30, lapse=0.0, horizon_days=1e5)
    items = RankerCatalog.of(simulator.catalog, TOY_FACTS.placements)
    uniform = POLICIES["uniform"].build(toy_inputs(simulator))
    blocks, codes = ("recent", "category"), ("item",)
    seen, generator, parts = (
        simulator.reset(torch.arange(shoppers)),
        torch.Generator().manual_seed(0),
        [],
    )
    for _ in range(visits):
        slates = uniform(seen, torch.rand(shoppers, uniform.draws, generator=generator))
        step = simulator.step(slates)
        clicks = step.observation["recent_clicks"][:, 0].bool()
        parts.append(shown_examples(seen, slates, clicks, items, blocks, codes))
        seen = step.observation
    return PairExamples.join(parts), items, blocks, codes


def test_a_fitted_model_knows_who_likes_what_and_how_often() -> None:
    examples, items, blocks, codes = toy_examples()
    model = fit(examples, items, blocks, codes, FitConfig(epochs=6, batch_size=512))
    chance = torch.sigmoid(predict(model, examples))
    assert float(chance.mean()) == pytest.approx(float(examples.labels.mean()), rel=0.05)
    loss = torch.nn.functional.binary_cross_entropy(chance, examples.labels)
    base = examples.labels.mean()
    entropy = -(base * base.log() + (1 - base) * (1 - base).log())
    assert float(loss) < 0.98 * float(entropy)
    liked = examples.numbers[:, 3] > 0  # a recent response in the item's category
    assert float(chance[liked].mean()) > 1.3 * float(chance[~liked].mean())


def test_two_fits_with_one_seed_are_equal() -> None:
    examples, items, blocks, codes = toy_examples(60, 2)
    one, two = (
        fit(examples, items, blocks, codes, FitConfig(epochs=1, batch_size=64)) for _ in range(2)
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def test_fitting_without_a_response_says_so() -> None:
    examples, items, blocks, codes = toy_examples(4, 1)
    nothing = PairExamples(examples.numbers, examples.codes, torch.zeros_like(examples.labels))
    with pytest.raises(ValueError, match="no response"):
        fit(nothing, items, blocks, codes)


def test_calibration_finds_the_line_that_the_labels_were_drawn_from() -> None:
    examples, items, blocks, codes = toy_examples(200, 2)
    model = fit(examples, items, blocks, codes, FitConfig(epochs=1, batch_size=512))
    many = PairExamples(
        *(torch.cat([part] * 400) for part in (examples.numbers, examples.codes, examples.labels))
    )
    truth = 2.0 * predict(model, many) + 0.7
    drawn = torch.rand(len(many), generator=torch.Generator().manual_seed(0)) < torch.sigmoid(truth)
    before = predict(model, many)
    after = predict(calibrate(model, PairExamples(many.numbers, many.codes, drawn.float())), many)
    slope = float((after[0] - after[1]) / (before[0] - before[1]))
    assert slope == pytest.approx(2.0, abs=0.2)
    assert float(torch.sigmoid(after).mean()) == pytest.approx(
        float(drawn.float().mean()), abs=1e-5
    )


# ---- the ranker ----


def some_ranker() -> CTRRanker:
    examples, items, blocks, codes = toy_examples(100, 2)
    model = fit(examples, items, blocks, codes, FitConfig(epochs=1, batch_size=64))
    return CTRRanker(toy_simulator(items=30).catalog, model)


def test_logits_stand_where_their_candidates_do() -> None:
    ranker = some_ranker()
    seen = some_visits(toy_simulator(items=30))
    logits = ranker.logits(seen)
    assert logits.shape == seen["candidates"].shape
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = {
        **seen,
        **{name: seen[name][:, order] for name in ("candidates", "placement", "popularity")},
    }
    torch.testing.assert_close(ranker.logits(shuffled), logits[:, order])
    seen["candidates"][:, 3] = -1
    cut = ranker.logits(seen)
    assert bool((cut[:, 3] == -math.inf).all())
    torch.testing.assert_close(cut[:, 4:], logits[:, 4:])


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    ranker = some_ranker()
    save_model(ranker.model, tmp_path / "ranker.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["ranker.safetensors"]
    loaded = CTRRanker(toy_simulator(items=30).catalog, load_model(tmp_path / "ranker.safetensors"))
    seen = some_visits(toy_simulator(items=30))
    assert torch.equal(loaded.logits(seen), ranker.logits(seen))
    before = (tmp_path / "ranker.safetensors").read_bytes()
    save_model(ranker.model, tmp_path / "ranker.safetensors")
    assert (tmp_path / "ranker.safetensors").read_bytes() == before


def test_the_shapes_of_a_configuration_are_those_of_its_model() -> None:
    for config in (some_ranker().model.config, RankerConfig((), (), 3, (), hidden=5)):
        assert config.shapes == {
            name: tuple(value.shape) for name, value in CTRModel(config).state_dict().items()
        }


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (
            {"hidden": 7},
            "the tensor 'network.0.bias' is .* of shape \\(32,\\), but it must be .* \\(7\\)",
        ),
        ({"hidden": 10**12}, "hidden is 1000000000000, but it must be a whole number from 1 to"),
        ({"hidden": "32"}, "hidden is '32', but it must be a whole number"),
        (
            {"sizes": [10**8]},
            "the tensor 'tables.0' is .*shape \\(30,\\), but it must be .* \\(100000000\\)",
        ),
        ({"sizes": 5}, "sizes is 5, but it must be a list"),
        ({"codes": ["item", "item"]}, "sizes is \\[30\\], but it must be a list of 2 values"),
        ({"blocks": ["colour"]}, "blocks\\[0\\] is 'colour', but it must be one of"),
        ({"scale": math.nan}, "scale is nan, but it must be a finite number"),
        ({"colour": 1}, r"is described by \['blocks', 'codes', 'colour'"),
        ({"shift": None}, "shift is None, but it must be a finite number"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    path = tmp_path / "ranker.safetensors"
    model = some_ranker().model
    write_tensors(
        path, model.state_dict(), described("ctr_ranker", {**asdict(model.config), **changed})
    )
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{match}"):
        load_model(path)


def described(kind: str, told: object) -> dict[str, str]:
    """Metadata of a model's file."""
    return {"model": json.dumps({"kind": kind, "told": told})}


def test_a_file_that_is_no_ranker_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ranker.safetensors"
    with pytest.raises(FileNotFoundError, match=r"ranker\.safetensors"):
        load_model(path)
    with pytest.raises(TypeError, match=r"^path is 5, but it must be a path"):
        load_model(5)  # type: ignore[arg-type]
    model = some_ranker().model
    told = described("ctr_ranker", asdict(model.config))
    save_model(model, path)
    whole = path.read_bytes()
    for broken in (b"", whole[:200], whole[:-8], b"{" * 40_000, whole[:8] + b"x" + whole[9:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} "):
            load_model(path)
    for metadata in (
        None,
        {"model": "no JSON"},
        {"model": "[1]"},
        described("two_tower", {}),
        described("ctr_ranker", 3),
    ):
        write_tensors(path, model.state_dict(), metadata)
        with pytest.raises(
            ValueError, match=f"^{re.escape(str(path))} is no file of a ctr_ranker: "
        ):
            load_model(path)
    for number in (math.nan, math.inf, -math.inf):
        tensors = {name: value.clone() for name, value in model.state_dict().items()}
        tensors["network.2.bias"][3] = number
        write_tensors(path, tensors, told)
        with pytest.raises(
            ValueError,
            match=rf"^{re.escape(str(path))}: the tensor 'network.2.bias' holds {number} at \[3\]",
        ):
            load_model(path)
    for name in model.state_dict():
        write_tensors(
            path,
            {other: value for other, value in model.state_dict().items() if other != name},
            told,
        )
        with pytest.raises(
            ValueError, match=rf"^{re.escape(str(path))}: the tensor '{name}' is missing"
        ):
            load_model(path)
    write_tensors(path, {**model.state_dict(), "more": torch.zeros(1)}, told)
    with pytest.raises(ValueError, match="the tensor 'more' is not known"):
        load_model(path)
    write_tensors(path, {name: value.double() for name, value in model.state_dict().items()}, told)
    with pytest.raises(
        ValueError, match=r"the tensor 'deviation' is a float64 tensor .*, but it must be a float32"
    ):
        load_model(path)


def test_a_ranker_of_another_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="another one"):
        CTRRanker(toy_catalog(items=31), some_ranker().model)


def test_making_a_model_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    items = RankerCatalog.of(toy_catalog())
    CTRModel(config_for(items, ("own",), ("item",), 7))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_shipped_weights_are_for_the_keys_that_the_log_can_tell() -> None:
    model = load_model(WEIGHTS)
    assert set(model.config.blocks) == set(pair_features_for(KEYS))
    assert (
        "recent" not in model.config.blocks
    )  # the logged slates were never shown: nothing to learn from
    assert set(model.config.codes) == set(pair_codes_for(KEYS))
    assert WEIGHTS.stat().st_size < 200_000
