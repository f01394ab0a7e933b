"""Properties of every policy in random shops; joining a registry puts a policy under test.
The shops have few items or many, twins among their vectors, visits with fewer candidates than
positions or none, and rankers that give NaN, inf and -inf.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("faiss")

from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.inputs import Ranker
from policies.learnable.kinds import LEARNABLE, ActorInputs, Learnable
from policies.learnable.sb3 import NetworkConfig
from policies.observations import candidates_of
from policies.parameters import NoParameters
from policies.rankers.ctr import RankerConfig
from policies.rankers.ctr_fit import FitConfig
from policies.rankers.two_tower import TwoTowerConfig
from policies.registry import PolicySpec, register_policy
from policies.serving.retrieval import IndexConfig
from recsim_env.catalog import Catalog
from recsim_env.registry import Registry
from recsim_env.types import Observation, Policy
from tests.support.policy_toys import TOY_FACTS, made_up_lift

SHOPPERS, HISTORY, MEMORY = 3, 3, 4
SHOPS = range(8)
PLACEMENTS = math.prod(TOY_FACTS.placements)
SMALL = ComposerConfig(offset_dims=2, summary_dims=2)


@dataclass
class OddRanker:
    """Logits by item, the same for everybody; `odd` says where a number stands in place of them."""

    table: Tensor
    odd: Tensor | None = None

    def logits(self, observation: Observation) -> Tensor:
        candidates = candidates_of(observation, len(self.table))
        table = self.table if self.odd is None else self.odd
        return table[candidates.clamp(min=0)].masked_fill(candidates < 0, -torch.inf)


@dataclass(frozen=True)
class OddShop:
    """A shop made up from a seed, and what is known of its shoppers."""

    inputs: PolicyInputs
    observation: Observation

    @property
    def candidates(self) -> list[list[int]]:
        """Of every shopper, without the padding."""
        padded = candidates_of(self.observation, len(self.inputs.catalog)).tolist()
        return [[item for item in row if item >= 0] for row in padded]

    def alone(self, row: int) -> Observation:
        return {name: value[row : row + 1] for name, value in self.observation.items()}


def whole(generator: torch.Generator, low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=generator)


def odd_shop(seed: int) -> OddShop:
    """Every third shop has no `candidates`, every second only the generic keys."""
    generator = torch.Generator().manual_seed(seed)
    items, size = int(whole(generator, 4, 40)), int(whole(generator, 1, 6))
    groups, width = int(whole(generator, 1, 4)), int(whole(generator, 2, 6))
    most = items if seed % 3 == 2 else int(whole(generator, 2, items))
    catalog = odd_catalog(items, groups, width, generator)
    history = (HISTORY, size)
    spaces: dict[str, gymnasium.Space[object]] = {
        "recent_slates": gymnasium.spaces.Box(-1, items - 1, history, np.int64),
        "recent_clicks": gymnasium.spaces.MultiBinary(history),
        "recent_days": gymnasium.spaces.Box(0, 1e6, (HISTORY,), np.float32),
        "candidates": gymnasium.spaces.Box(-1, items - 1, (most,), np.int64),
        "bought_items": gymnasium.spaces.Box(-1, items - 1, (MEMORY,), np.int64),
        "bought_counts": gymnasium.spaces.Box(0, 1e6, (MEMORY,), np.float32),
        "bought_days": gymnasium.spaces.Box(0, 1e6, (MEMORY,), np.float32),
        "popularity": gymnasium.spaces.Box(0, 1, (most,), np.float32),
        "placement": gymnasium.spaces.Box(0, PLACEMENTS - 1, (most,), np.int64),
        "context": gymnasium.spaces.Box(0, 1, (2,), np.float32),
    }
    observation: Observation = {
        "recent_slates": whole(generator, -1, items - 1, SHOPPERS, *history),
        "recent_clicks": whole(generator, 0, 1, SHOPPERS, *history).to(torch.int8),
        "recent_days": 100 * torch.rand(SHOPPERS, HISTORY, generator=generator),
        "candidates": some_candidates(seed, items, most, size, generator),
        "bought_items": whole(generator, -1, items - 1, SHOPPERS, MEMORY),
        "bought_counts": whole(generator, 0, 5, SHOPPERS, MEMORY).float(),
        "bought_days": 100 * torch.rand(SHOPPERS, MEMORY, generator=generator),
        "popularity": torch.rand(SHOPPERS, most, generator=generator),
        "placement": whole(generator, 0, PLACEMENTS - 1, SHOPPERS, most),
        "context": torch.rand(SHOPPERS, 2, generator=generator),
    }
    if seed % 2:
        spaces = {
            name: space
            for name, space in spaces.items()
            if name.startswith(("recent", "candidates"))
        }
    if seed % 3 == 2:
        del observation["candidates"]
    inputs = PolicyInputs(
        catalog=catalog,
        observation_space=gymnasium.spaces.Dict(spaces),
        slate_size=size,
        ranker=OddRanker(torch.randn(items, generator=generator)),
        popularity=torch.rand(items, generator=generator),
        pool=int(whole(generator, 1, items)),
        per_category=seed % 3,
        facts=TOY_FACTS,
        lift=made_up_lift(len(catalog.categories)),
    )
    return OddShop(inputs, {name: value for name, value in observation.items() if name in spaces})


def odd_catalog(items: int, groups: int, width: int, generator: torch.Generator) -> Catalog:
    """Half of the items share their vector with another one."""
    vectors = torch.nn.functional.normalize(
        torch.randn(items // 2 + 1, width, generator=generator), dim=1
    )
    paths = tuple(f"d/{item % groups}/t" for item in range(items))
    return Catalog(paths, paths, torch.ones(items), vectors[torch.arange(items) % len(vectors)])


def some_candidates(
    seed: int, items: int, most: int, size: int, generator: torch.Generator
) -> Tensor:
    """Three shoppers: with all candidates, with fewer than a slate, with one or none."""
    candidates = torch.rand(SHOPPERS, items, generator=generator).argsort(dim=1)[:, :most]
    present = torch.tensor([most, min(most, max(size - 1, 1)), seed % 2])
    return candidates.where(torch.arange(most) < present.unsqueeze(1), -1)


def learned(kind: Learnable, inputs: PolicyInputs, *, certain: bool) -> Policy:
    """What is learned acts at random weights."""
    composer = kind.composer_for(inputs, SMALL)
    width = width_of(inputs) + len(composer.goals)
    generator = torch.Generator().manual_seed(1)
    actor = kind.actor(ActorInputs(composer, inputs.catalog, width, (4,), generator), kind.config())
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(
                0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            )
    return kind.policy(composer, actor, deterministic=certain)


def width_of(inputs: PolicyInputs) -> int:
    """F, from an observation of zeros."""
    sound = dataclasses.replace(inputs, ranker=OddRanker(torch.zeros(len(inputs.catalog))))
    shapes = {name: (1, *(box.shape or ())) for name, box in inputs.observation_space.items()}
    zeros = {
        name: np.zeros(shapes[name], box.dtype) for name, box in inputs.observation_space.items()
    }
    return (
        Composer(sound, SMALL)
        .features({name: torch.from_numpy(value) for name, value in zeros.items()})
        .shape[1]
    )


BUILDERS: dict[str, Callable[[PolicyInputs], Policy]] = {
    **{name: spec.build for name, spec in POLICIES.items()},
    **{
        f"{name}, most likely": partial(learned, kind, certain=True)
        for name, kind in LEARNABLE.items()
    },
    **{
        f"{name}, sampled": partial(learned, kind, certain=False)
        for name, kind in LEARNABLE.items()
    },
}
"""Every policy by name, with its defaults."""
NAMES = list(BUILDERS)
RANKING = [name for name in NAMES if name not in POLICIES or POLICIES[name].needs_ranker]


def draws_of(policy: Policy) -> Tensor:
    return torch.rand(SHOPPERS, policy.draws, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("name", NAMES)
def test_slates_are_legal_and_distinct_and_a_shopper_is_served_alone(name: str) -> None:
    for seed in SHOPS:
        shop = odd_shop(seed)
        policy, size = BUILDERS[name](shop.inputs), shop.inputs.slate_size
        draws = draws_of(policy)
        slates = policy(shop.observation, draws)
        assert (slates.shape, slates.dtype) == ((SHOPPERS, size), torch.int64)
        for slate, candidates in zip(slates.tolist(), shop.candidates, strict=True):
            filled = min(size, len(candidates))
            assert set(slate) <= set(candidates or [0]), seed
            assert len(set(slate[:filled])) == filled, seed
            assert slate[filled:] == [slate[0]] * (size - filled), seed
        alone = [policy(shop.alone(row), draws[row : row + 1]) for row in range(SHOPPERS)]
        assert torch.equal(torch.cat(alone), slates), seed


@pytest.mark.filterwarnings("ignore:The ranker OddRanker gave NaN or inf")
@pytest.mark.parametrize("name", RANKING)
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_an_item_without_a_number_is_shown_where_nothing_else_is_left(
    name: str, number: float
) -> None:
    """The slate is that without the item, followed by it where a place is left."""
    for seed in SHOPS:
        shop = odd_shop(seed)
        items, size = len(shop.inputs.catalog), shop.inputs.slate_size
        generator = torch.Generator().manual_seed(seed)
        bad = torch.rand(items, generator=generator) < 0.4
        table = torch.randn(items, generator=generator)
        good = [[item for item in row if not bad[item]] for row in shop.candidates]
        inputs = dataclasses.replace(
            shop.inputs, ranker=OddRanker(table, table.masked_fill(bad, number))
        )
        policy = BUILDERS[name](inputs)
        for row, candidates in enumerate(shop.candidates):
            if candidates and not good[row]:
                with pytest.raises(
                    ValueError,
                    match=r"^ranker\.logits\(observation\) holds no finite number in row 0",
                ):
                    policy(shop.alone(row), draws_of(policy)[:1])
                continue
            slate = policy(shop.alone(row), draws_of(policy)[:1])[0].tolist()
            filled = min(size, len(candidates))
            assert set(slate) <= set(candidates or [0])
            assert len(set(slate[:filled])) == filled
            worth = [item in good[row] for item in slate[:filled]]
            assert sum(worth) == min(filled, len(good[row])), seed
            assert worth == sorted(worth, reverse=True), seed


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_observation_is_named(name: str) -> None:
    shop = odd_shop(0)
    seen, inputs = shop.observation, shop.inputs
    policy = BUILDERS[name](inputs)
    draws = draws_of(policy)
    wrong: list[tuple[str, object]] = []
    for key, value in seen.items():
        rows = value[:2]
        wrong += [
            (key, value.numpy()),
            (key, value.tolist()),
            (key, None),
            (key, 3),
            (key, value.double().float().int()),
        ]
        wrong += [
            (key, rows),
            (key, value[0]),
            (key, value.unsqueeze(-1)),
            (key, value[:, :-1]),
            (key, value[:0]),
        ]
    for key, bad in wrong:
        with pytest.raises(
            (TypeError, ValueError), match=r"^observation\['\w+'\] is .*, but it must be"
        ):
            policy({**seen, key: bad}, draws)  # type: ignore[dict-item]
    for key in seen:
        with pytest.raises(
            ValueError, match=rf"^observation has the keys .*, but it must have '{key}'"
        ):
            policy({name: value for name, value in seen.items() if name != key}, draws)
    others: tuple[object, ...] = (None, [], 5, torch.zeros(3))
    for other in others:
        with pytest.raises(TypeError, match=r"^observation is .*, but it must be a mapping"):
            policy(other, draws)  # type: ignore[arg-type]
    if policy.draws:
        for numbers in (None, draws[:, 1:], draws[:2], draws.long(), draws.tolist()):
            with pytest.raises(
                (TypeError, ValueError), match=r"^draws is .*, but it must be a float32 tensor"
            ):
                policy(seen, numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_cannot_be_are_named_at_the_first_call(name: str) -> None:
    shop = odd_shop(0)
    items = len(shop.inputs.catalog)
    for key, value in shop.observation.items():
        for number in (torch.nan, torch.inf) if value.is_floating_point() else (-2, items, 2**40):
            if value.dtype == torch.int8 or (key == "placement" and number == items):
                continue
            policy = BUILDERS[name](shop.inputs)
            with pytest.raises(ValueError, match=rf"^observation\['{key}'\] holds .*, but it must"):
                policy({**shop.observation, key: torch.full_like(value, number)}, draws_of(policy))


class Bad:
    """A ranker whose logits are spoiled."""

    def __init__(self, sound: Ranker, spoil: Callable[[Tensor], Any]) -> None:
        self._sound, self._spoil = sound, spoil

    def logits(self, observation: Observation) -> Tensor:
        logits: Tensor = self._spoil(self._sound.logits(observation))
        return logits


@pytest.mark.parametrize("name", RANKING)
def test_logits_of_another_shape_or_type_are_the_rankers(name: str) -> None:
    shop = odd_shop(0)
    spoils: list[Callable[[Tensor], Any]] = [
        lambda logits: logits[0],
        lambda logits: logits[:, :-1],
        lambda logits: logits.nan_to_num(neginf=0).long(),
        lambda logits: logits.tolist(),
        lambda logits: None,
    ]
    for spoil in spoils:
        policy = BUILDERS[name](
            dataclasses.replace(shop.inputs, ranker=Bad(shop.inputs.need_ranker(name), spoil))
        )
        with pytest.raises(
            (TypeError, ValueError), match=r"^ranker\.logits\(observation\) is .*, but it must be"
        ):
            policy(shop.observation, draws_of(policy))
    filling = Bad(shop.inputs.need_ranker(name), lambda logits: logits.nan_to_num(neginf=9.0))
    policy = BUILDERS[name](dataclasses.replace(shop.inputs, ranker=filling))
    with pytest.raises(
        ValueError, match=r"^ranker\.logits\(observation\) holds a number at padding"
    ):
        policy(shop.observation, draws_of(policy))


@pytest.mark.parametrize("name", RANKING)
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_ranker_without_a_number_for_some_candidates_is_told_once(
    name: str, number: float
) -> None:
    shop = odd_shop(0)
    candidates = shop.observation["candidates"]
    without = (candidates % 2 == 1) & (candidates >= 0)
    without[:, 0] = False  # the first candidate of a row has a number
    count = int((candidates >= 0).sum())
    missing = int(without.sum())
    assert 0 < missing < count
    half = Bad(shop.inputs.need_ranker(name), lambda logits: logits.masked_fill(without, number))
    policy = BUILDERS[name](dataclasses.replace(shop.inputs, ranker=half))
    sentence = f"^The ranker Bad gave NaN or inf to {missing:,} of {count:,} candidates: they are"
    with pytest.warns(UserWarning, match=sentence):
        policy(shop.observation, draws_of(policy))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy(shop.observation, draws_of(policy))


@pytest.mark.parametrize("name", RANKING)
def test_a_ranker_without_any_number_is_told_as_such(name: str) -> None:
    shop = odd_shop(0)
    inner = shop.inputs.need_ranker(name)
    nothing = Bad(inner, lambda logits: torch.full_like(logits, math.nan))
    policy = BUILDERS[name](dataclasses.replace(shop.inputs, ranker=nothing))
    sentence = r"holds no finite number in row \d+: it gave none to any candidate, but it must rank"
    with pytest.raises(ValueError, match=sentence):
        policy(shop.observation, draws_of(policy))
    padded = Bad(inner, lambda logits: logits.nan_to_num(neginf=math.nan))
    policy = BUILDERS[name](dataclasses.replace(shop.inputs, ranker=padded))
    with pytest.raises(ValueError, match="holds NaN or inf at padding, but it must hold -inf"):
        policy(shop.observation, draws_of(policy))


@pytest.mark.parametrize("name", NAMES)
def test_a_default_type_of_float64_changes_nothing(name: str) -> None:
    for seed in (0, 1):
        shop = odd_shop(seed)
        expected = BUILDERS[name](shop.inputs)
        draws = draws_of(expected)
        torch.set_default_dtype(torch.float64)
        try:
            slates = BUILDERS[name](shop.inputs)(shop.observation, draws)
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(slates, expected(shop.observation, draws))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_parameter_that_cannot_be_is_named(name: str) -> None:
    spec, inputs = POLICIES[name], odd_shop(0).inputs
    for field in spec.search():
        for value in (math.nan, math.inf, -math.inf, 1e300, "1", None, True, [1.0], torch.ones(1)):
            with pytest.raises(
                ValueError, match=rf"^{field} is .*, but it must be a (finite|whole) number"
            ):
                spec.build(inputs, {field: value})  # type: ignore[dict-item]
    known = ", ".join(map(repr, spec.search())) or "no parameters"
    for unknown in ("surprise", "a.b", "", "weight.x"):
        with pytest.raises(
            TypeError,
            match=rf"^parameters names '{unknown}', but the policy '{name}' has {known}\.$",
        ):
            spec.build(inputs, {unknown: 1.0})
    others: tuple[object, ...] = ([], 5, "weight", {1: 2.0})
    for parameters in others:
        with pytest.raises(
            TypeError, match=r"^parameters is .*, but it must be a mapping with strings as keys"
        ):
            spec.build(inputs, parameters)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^inputs is 5, but it must be a PolicyInputs"):
        spec.build(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "values", "accepted"),
    [
        ("mmr", {"weight": -0.1}, False),
        ("mmr", {"weight": np.float32(3.0)}, True),
        ("cap", {"limit": 0}, False),
        ("cap", {"limit": 2.0}, False),
        ("cap", {"limit": np.int64(3)}, True),
        ("dpp", {"alpha": -5}, False),
        ("dpp", {"alpha": 0}, True),
        ("constant", {"count": -4.5, "popular": 3}, True),
    ],
)
def test_the_legal_range_is_wider_than_the_searched_one(
    name: str, values: dict[str, float], accepted: bool
) -> None:
    spec, inputs = POLICIES[name], odd_shop(0).inputs
    if accepted:
        spec.build(inputs, values)
        return
    with pytest.raises(ValueError, match=rf"^{next(iter(values))} is "):
        spec.build(inputs, values)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"catalog": None}, r"^catalog is None, but it must be a Catalog"),
        ({"observation_space": {}}, r"^observation_space is {}, but it must be a Dict"),
        ({"slate_size": 0}, r"^slate_size is 0, but it must be a whole number from 1"),
        ({"slate_size": 2.0}, r"^slate_size is 2\.0, but it must be a whole number"),
        ({"ranker": 5}, r"^ranker is 5, but it must have a method `logits`"),
        (
            {"popularity": torch.ones(2)},
            r"^popularity is a float32 tensor of shape \(2,\), but it must be",
        ),
        ({"popularity": [1.0]}, r"^popularity is \[1\.0\], but it must be a float32 tensor"),
        ({"pool": -1}, r"^pool is -1, but it must be a whole number from 1 "),
        ({"pool": True}, r"^pool is True, but it must be a whole number"),
        ({"per_category": -1}, r"^per_category is -1, but it must be a whole number from 0 "),
        ({"per_category": 1.5}, r"^per_category is 1\.5, but it must be a whole number"),
    ],
)
def test_inputs_that_cannot_be_are_named(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        dataclasses.replace(odd_shop(0).inputs, **wrong)


CONFIGS: dict[type[Any], dict[str, Any]] = {
    ComposerConfig: {},
    FitConfig: {},
    IndexConfig: {},
    NetworkConfig: {},
    RankerConfig: {"blocks": ("recent",), "codes": ("item",), "width": 5, "sizes": (3,)},
    TwoTowerConfig: {},
    **{kind.config: {} for kind in LEARNABLE.values()},
}
"""Every configuration of this package, and the fields that it needs."""


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_field_of_a_configuration_that_cannot_be_is_named(kind: type[Any]) -> None:
    needed = CONFIGS[kind]
    sound = kind(**needed)
    for field in dataclasses.fields(kind):
        value = getattr(sound, field.name)
        wrong = ["no", [None], {}, object(), torch.ones(3), b"1"]
        wrong += [] if value is None else [None]
        wrong += ["True", 2] if isinstance(value, bool) else [True]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            wrong += [math.nan, math.inf, -math.inf, 10**400, 1 + 2j]
        if isinstance(value, int) and not isinstance(value, bool):
            wrong += [-1, 1.5, 2.0]
        for bad in wrong:
            with pytest.raises(ValueError, match=rf"^{field.name}(\[\d+\])? is .*, but it must be"):
                kind(**{**needed, field.name: bad})


def test_the_code_that_registered_a_policy_may_register_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a cell of a notebook does that is run once more. Other code may not."""
    registered = Registry[PolicySpec]("policy")
    monkeypatch.setattr("policies.registry.POLICIES", registered)

    def mine(inputs: PolicyInputs, parameters: NoParameters) -> Policy:
        return POLICIES["popular"].build(inputs)

    def others(inputs: PolicyInputs, parameters: NoParameters) -> Policy:
        return POLICIES["uniform"].build(inputs)

    register_policy("mine", NoParameters, needs_ranker=False)(mine)
    again = FunctionType(mine.__code__, globals(), "mine")
    again.__qualname__ = mine.__qualname__
    with pytest.warns(UserWarning, match=r"^The policy 'mine' is replaced"):
        register_policy("mine", NoParameters, needs_ranker=False)(again)
    assert registered["mine"].builder is again
    with pytest.raises(
        ValueError, match=r"^name is 'mine', but a policy of that name is registered already"
    ):
        register_policy("mine", NoParameters)(others)
    with pytest.raises(
        TypeError, match=r"^parameters is 5, but it must be a dataclass with defaults"
    ):
        register_policy("other", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^needs_ranker is 'no', but it must be True or False"):
        register_policy("other", NoParameters, needs_ranker="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_unequally_many_shoppers_are_named(name: str) -> None:
    """Also where `candidates`, the first key of the space, is left out."""
    for seed in (0, 2):
        shop = odd_shop(seed)
        policy = BUILDERS[name](shop.inputs)
        fewer = {**shop.observation, "recent_slates": shop.observation["recent_slates"][:2]}
        with pytest.raises(
            ValueError,
            match=r"^observation\['recent_slates'\] is .*, but it must be of 3 shoppers, as '",
        ):
            policy(fewer, draws_of(policy))
