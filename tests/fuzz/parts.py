"""Cases of parts that people write themselves: shoppers that break a promise, catalogues, policies,
configurations."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedConfig

import agents
import policies
import recsim_env
from agents import AGENTS
from policies import POLICIES
from policies.inputs import PolicyInputs
from policies.learnable.kinds import LEARNABLE
from policies.rankers.pair_features import PAIR_CODES, PAIR_FEATURES
from policies.serving.retrieval import CategoryIndex, IndexConfig
from recsim_env.catalog import Catalog
from recsim_env.simulator import SlateSimulator
from tests.fuzz import ground
from tests.fuzz.judge import ACCEPT, EITHER, REFUSE, Case
from tests.fuzz.kinds import REFUSED, UNSURE, Kind, Nullable, Number, Right, Whole, fields_of
from tests.fuzz.options import same
from tests.fuzz.values import label_of, odd
from tests.support.policy_toys import TableRanker, made_up_ranker, toy_inputs
from tests.support.toys import ToyShopper, toy_catalog, toy_simulator

ITEMS, SIZE, BATCH = 31, 4, 3

# ---- shoppers ------------------------------------------------------------------------------------

Change = Callable[[Any], Any]


class Broken(ToyShopper):
    """A toy shopper of whom one method returns something else."""

    def __init__(self, method: str, change: Change) -> None:
        super().__init__(ITEMS, 5, SIZE)
        self.broken: tuple[str, Change] = (method, change)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or name == "broken" or "broken" not in vars(self):
            return value
        method, change = self.broken
        if name != method:
            return value
        if not inspect.ismethod(value):
            return change(value)
        return functools.wraps(value)(lambda *arguments: change(value(*arguments)))


def answer(part: str, change: Change) -> Change:
    """Another value of one part of a `Response`."""
    return lambda response: replace(response, **{part: change(getattr(response, part))})


def _set(value: float) -> Change:
    """The first number of a tensor replaced."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[0] = value
        return changed

    return change


def _key(name: str, change: Change) -> Change:
    """One tensor of a mapping replaced."""
    return lambda held: {**held, name: change(held[name])}


FORMS: dict[str, Change] = {
    "of shape (.., 1)": lambda tensor: tensor.unsqueeze(-1),
    "too short": lambda tensor: tensor[:-1],
    "without dimensions": lambda tensor: tensor.flatten()[0],
    "on meta": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.to_sparse(),
    "a numpy array": lambda tensor: tensor.numpy(),
    "a list": lambda tensor: tensor.tolist(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "None": lambda tensor: None,
    "a text": lambda tensor: "nothing",
}
"""What a tensor may be given as that is no tensor of its shape."""

RESPONSE = ("clicks", "days", "left", "elsewhere", "probability")

BREAKS: list[tuple[str, str, Change]] = [
    *(("respond", f"{part} {name}", answer(part, form)) for part in RESPONSE for name, form in FORMS.items()),
    *(("candidates", name, form) for name, form in FORMS.items()),
    *(("observe", f"context {name}", _key("context", form)) for name, form in FORMS.items()),
    ("respond", "days NaN", answer("days", _set(math.nan))),
    ("respond", "days infinite", answer("days", _set(math.inf))),
    ("respond", "days negative", answer("days", _set(-3.0))),
    ("respond", "elsewhere NaN", answer("elsewhere", _set(math.nan))),
    ("respond", "elsewhere negative", answer("elsewhere", _set(-1.0))),
    ("respond", "clicks where nothing was shown", answer("clicks", lambda clicks: torch.ones_like(clicks))),
    ("respond", "clicks as numbers", answer("clicks", lambda clicks: clicks.float())),
    ("respond", "left as numbers", answer("left", lambda left: left.long())),
    ("respond", "probability 7", answer("probability", _set(7.0))),
    ("respond", "probability NaN", answer("probability", _set(math.nan))),
    ("respond", "probability negative", answer("probability", _set(-0.1))),
    ("respond", "leaving 3", answer("leaving", _set(3.0))),
    ("respond", "leaving NaN", answer("leaving", _set(math.nan))),
    ("respond", "basket with an unknown item", answer("basket", lambda _: torch.full((BATCH, 2), 10_000))),
    ("respond", "basket of floats", answer("basket", lambda _: torch.zeros(BATCH, 2))),
    ("respond", "a tuple", lambda response: tuple(vars(response).values())),
    ("respond", "None", lambda response: None),
    ("candidates", "twice the same", lambda held: held[:, :1].expand(held.shape).clone()),
    ("candidates", "out of range", lambda held: held + 10_000),
    ("candidates", "below -1", lambda held: held - 5),
    ("candidates", "padded in front", lambda held: torch.cat([torch.full_like(held[:, :1], -1), held[:, :-1]], dim=1)),
    ("candidates", "floats", lambda held: held.float()),
    ("candidates", "int32", lambda held: held.int()),
    ("candidates", "too wide", lambda held: torch.cat([held, torch.full_like(held[:, :3], -1)], dim=1)),
    ("observe", "a key less", lambda held: {name: value for name, value in held.items() if name != "context"}),
    ("observe", "a key more", lambda held: {**held, "more": held["context"]}),
    ("observe", "another type", _key("context", Tensor.double)),
    ("observe", "NaN", _key("context", _set(math.nan))),
    ("observe", "outside of the space", _key("context", _set(-5.0))),
    ("observe", "an item out of range", _key("bought_items", _set(10_000))),
    ("observe", "None", lambda held: None),
    ("spaces", "None", lambda held: None),
    ("spaces", "a list", lambda held: list(held)),
    ("spaces", "no spaces", lambda held: dict.fromkeys(held, 3)),
    ("spaces", "a key of the simulator's", lambda held: {**held, "candidates": held["context"]}),
    ("spaces", "a key more", lambda held: {**held, "more": held["context"]}),
    ("spaces", "numbers as keys", lambda held: dict(enumerate(held.values()))),
    ("slate_size", "0", lambda size: 0),
    ("slate_size", "a text", lambda size: "4"),
    ("slate_size", "None", lambda size: None),
    ("max_candidates", "0", lambda most: 0),
    ("max_candidates", "too few", lambda most: most - 1),
    ("max_candidates", "a float", lambda most: 20.0),
    ("start_draws", "negative", lambda draws: -1),
    ("start_draws", "None", lambda draws: None),
    ("visit_draws", "negative", lambda draws: -1),
    ("visit_draws", "a text", lambda draws: "5"),
    ("catalog", "None", lambda catalog: None),
    ("catalog", "a list", lambda catalog: list(catalog.text)),
    ("device", "a text", lambda device: "cpu"),
    ("device", "None", lambda device: None),
    ("start", "None", lambda state: None),
    ("start", "a number", lambda state: replace(state, day=3.0)),
    ("start", "without dimensions", lambda state: replace(state, day=state.day.sum())),
    ("start", "too short", lambda state: replace(state, visit=state.visit[:-1])),
    ("start", "one number for all", lambda state: replace(state, day=state.day[:1].expand(state.day.shape))),
    ("start", "one memory twice", lambda state: replace(state, bought_day=state.bought)),
    ("when_and_where", "None", lambda held: None),
    ("when_and_where", "a key more", lambda held: {**held, "shopper": torch.zeros(BATCH, dtype=torch.int64)}),
    ("when_and_where", "floats", lambda held: {**held, "day": torch.zeros(BATCH)}),
    ("respond", "no leaving", answer("leaving", lambda _: None)),
    ("describe", "None", lambda held: None),
    ("describe", "numbers", lambda held: dict.fromkeys(held, 3)),
]  # fmt: skip
"""Method or attribute, what is broken, and how; each breaks a promise of
`recsim_env.shoppers.base.Shopper`."""

KEPT: list[tuple[str, str, Change]] = [
    ("respond", "nothing", lambda response: response),
    (
        "when_and_where",
        "a week",
        lambda held: {**held, "week": torch.ones(BATCH, dtype=torch.int64)},
    ),
    ("respond", "a basket", answer("basket", lambda _: torch.full((BATCH, 2), -1))),
    ("candidates", "a copy", Tensor.clone),
    ("slate_size", "a number of numpy's", np.int64),
    ("describe", "more", lambda held: {**held, "weather": "rain"}),
]
"""What keeps all promises."""


@st.composite
def shopper(draw: st.DrawFn) -> Case:
    """A simulator of shoppers that break one promise, played for a few visits."""
    method, what, change = draw(st.sampled_from([*BREAKS, *BREAKS, *KEPT]))
    expected = ACCEPT if (method, what, change) in KEPT else REFUSE
    seeds = torch.tensor(draw(st.lists(st.integers(0, 99), min_size=BATCH, max_size=BATCH)))
    slates = torch.tensor([[0, 0, 1, 1]] * BATCH)  # some positions are not shown

    def call() -> Any:
        made = SlateSimulator(Broken(method, change))
        made.reset(seeds)
        made.step(slates)
        made.reset_rows(torch.tensor([1]))
        made.when_and_where()
        made.describe(0)
        made.keep(torch.tensor([0, 2]))
        if not bool(made.episodes.ended.any()):
            made.step(ground.valid_slates(made))
        return made

    names = (
        ("max_candidates", "candidates") if method == "max_candidates" else (method,)
    )  # the two disagree
    return Case(f"a shopper whose {method} is or returns {what}", call, expected, names)


# ---- catalogues ----------------------------------------------------------------------------------


def catalog_parts() -> dict[str, Any]:
    """The arguments of a good catalogue."""
    good = toy_catalog(6, 2, 4)
    return {
        "text": good.text,
        "path": good.path,
        "price": good.price,
        "embedding": good.embedding,
        "product_id": torch.arange(6),
        "cold": torch.zeros(6, dtype=torch.bool),
    }


CATALOG_CHANGES: dict[str, list[tuple[str, str, Change]]] = {
    "embedding": [
        (REFUSE, "tripled", lambda e: 3 * e),
        (REFUSE, "a tenth", lambda e: 0.1 * e),
        (REFUSE, "a zero vector", lambda e: e * (torch.arange(6) != 2).unsqueeze(1)),
        (REFUSE, "NaN", _set(math.nan)),
        (REFUSE, "infinite", _set(math.inf)),
        (REFUSE, "flat", lambda e: e.flatten()),
        (REFUSE, "too short", lambda e: e[:-1]),
        (REFUSE, "without width", lambda e: e[:, :0]),
        (REFUSE, "whole numbers", lambda e: torch.ones(6, 4, dtype=torch.int64)),
        (REFUSE, "complex", lambda e: e.to(torch.complex64)),
        (REFUSE, "on meta", lambda e: e.to("meta")),
        (REFUSE, "sparse", lambda e: e.to_sparse()),
        (REFUSE, "a numpy array", lambda e: e.numpy()),
        (EITHER, "float64", lambda e: e.double()),
        (EITHER, "float16", lambda e: e.half()),
        (ACCEPT, "nearly of unit length", lambda e: e * (1 + 1e-6)),
        (ACCEPT, "other items", lambda e: e.flip(0)),
    ],
    "price": [
        (ACCEPT, "NaN", _set(math.nan)),
        (REFUSE, "negative", _set(-1.0)),
        (EITHER, "infinite", _set(math.inf)),
        (REFUSE, "too short", lambda p: p[:-1]),
        (REFUSE, "flat no more", lambda p: p.unsqueeze(1)),
        (EITHER, "float64", lambda p: p.double()),
        (REFUSE, "a list", lambda p: p.tolist()),
        (REFUSE, "None", lambda p: None),
    ],
    "text": [
        (REFUSE, "too short", lambda t: t[:-1]),
        (REFUSE, "numbers", lambda t: tuple(range(6))),
        (REFUSE, "an empty one", lambda t: ("", *t[1:])),
        (REFUSE, "one text", lambda t: "abcdef"),
        (REFUSE, "None", lambda t: None),
        (EITHER, "a list", list),
    ],
    "path": [
        (REFUSE, "too short", lambda p: p[:-1]),
        (REFUSE, "numbers", lambda p: tuple(range(6))),
        (REFUSE, "two levels", lambda p: ("a/b", *p[1:])),
        (REFUSE, "four levels", lambda p: ("a/b/c/d", *p[1:])),
        (REFUSE, "None in it", lambda p: (None, *p[1:])),
        (EITHER, "a list", list),
    ],
    "product_id": [
        (ACCEPT, "None", lambda n: None),
        (REFUSE, "too short", lambda n: n[:-1]),
        (REFUSE, "floats", lambda n: n.float()),
        (REFUSE, "a list", lambda n: n.tolist()),
    ],
    "cold": [
        (ACCEPT, "None", lambda c: None),
        (ACCEPT, "one is", _set(True)),
        (REFUSE, "too short", lambda c: c[:-1]),
        (REFUSE, "numbers", lambda c: c.long()),
    ],
}
"""Changes of each argument, with what must come of them."""


@st.composite
def catalog(draw: st.DrawFn) -> Case:
    """A catalogue with one argument changed; what is accepted comes back from disk as it was."""
    name = draw(st.sampled_from(list(CATALOG_CHANGES)))
    parts = catalog_parts()
    if draw(st.integers(0, 3)) == 0:
        value, what = draw(odd().filter(lambda value: not isinstance(value, (tuple, list)))), ""
        expected = ACCEPT if value is None and name in ("product_id", "cold") else REFUSE
        parts[name] = value
        what = label_of(value)
    else:
        expected, what, change = draw(st.sampled_from(CATALOG_CHANGES[name]))
        parts[name] = change(parts[name])
    number = draw(st.integers(0, 9))

    def sound(made: Catalog) -> None:
        assert torch.allclose(
            made.embedding.double().norm(dim=1), torch.ones(6, dtype=torch.float64), atol=1e-3
        )
        folder = ground.scratch() / f"catalog{number}"
        made.save(folder)
        again = Catalog.load(folder)
        assert again.text == tuple(made.text)
        assert again.path == tuple(made.path)
        assert torch.allclose(again.embedding, made.embedding.float(), atol=1e-3), (
            "another embedding came back"
        )

    names = (
        ("embedding", "price") if what == "on meta" else (name,)
    )  # two devices: either may be told of
    return Case(f"Catalog({name} {what})", lambda: Catalog(**parts), expected, names, sound)


@st.composite
def synthetic(draw: st.DrawFn) -> Case:
    """Arguments of `Catalog.synthetic`."""
    kinds: dict[str, Kind] = {
        name: Whole(1, sure=3) for name in ("n_items", "n_categories", "width")
    }
    name = draw(st.sampled_from([*kinds, "generator"]))
    arguments: dict[str, Any] = {
        "n_items": 6,
        "n_categories": 3,
        "width": 4,
        "generator": torch.Generator(),
    }
    value = draw(kinds[name].any() if name in kinds else odd())
    arguments[name] = value
    right = (
        kinds[name].right(value)
        if name in kinds
        else UNSURE
        if isinstance(value, torch.Generator)
        else REFUSED
    )
    return Case(
        f"Catalog.synthetic({name}={label_of(value)})",
        lambda: Catalog.synthetic(**arguments),
        right.outcome,
        (name,),
    )


# ---- policies ------------------------------------------------------------------------------------


@functools.cache
def inputs() -> PolicyInputs:
    """What policies are built from: toy shoppers, and a ranker whose logits are known."""
    return toy_inputs(toy_simulator())


def parameters_of(config: type[Any]) -> dict[str, Kind]:
    """The kind of each parameter of a policy; what a field says that it may be is what is right."""
    kinds = fields_of(config)
    for field in dataclasses.fields(config):
        legal, kind = field.metadata.get("legal"), kinds.get(field.name)
        if legal is not None and isinstance(kind, Whole):
            kinds[field.name] = replace(kind, low=int(legal.low), high=int(legal.high))
        elif legal is not None and isinstance(kind, Number):
            kinds[field.name] = replace(kind, low=legal.low, high=legal.high)
    return kinds


@st.composite
def parameter(draw: st.DrawFn) -> Case:
    """A parameter of a registered policy."""
    name = draw(
        st.sampled_from(
            [name for name, spec in POLICIES.items() if parameters_of(type(spec.parameters()))]
        )
    )
    spec = POLICIES[name]
    kinds = parameters_of(type(spec.parameters()))
    unknown = draw(st.integers(0, 9)) == 0
    field = (
        draw(st.sampled_from(["wieght", "a.b", "x", "weight.x"]))
        if unknown
        else draw(st.sampled_from(list(kinds)))
    )
    value = draw(odd() if unknown else kinds[field].any())
    right = REFUSED if unknown else kinds[field].right(value)
    return Case(
        f"POLICIES[{name!r}].build(inputs, {{{field!r}: {label_of(value)}}})",
        lambda: spec.build(inputs(), {field: value}),
        right.outcome,
        (field,),
        lambda policy: assert_slates(policy, inputs()),
    )


@st.composite
def parameters(draw: st.DrawFn) -> Case:
    """Something odd in place of a policy's parameters or inputs."""
    name = draw(st.sampled_from(list(POLICIES)))
    value = draw(odd().filter(lambda value: value is not None and not (isinstance(value, Mapping))))
    whole = draw(st.booleans())
    return Case(
        f"POLICIES[{name!r}].build({'inputs, ' if whole else ''}{label_of(value)})",
        lambda: POLICIES[name].build(inputs(), value) if whole else POLICIES[name].build(value),
        EITHER if whole and _empty(value) else REFUSE,
        ("parameters",) if whole else ("inputs",),
        lambda policy: assert_slates(policy, inputs()),
    )


def _empty(value: Any) -> bool:
    try:
        return not value
    except Exception:
        return False


def assert_slates(policy: Any, given: PolicyInputs, bad: Tensor | None = None) -> None:
    """Assert that a policy shows distinct candidates, and none of the bad ones while there are
    enough others."""
    simulator = toy_simulator()
    observation = simulator.reset(torch.arange(BATCH))
    draws = torch.rand(BATCH, policy.draws, generator=torch.Generator().manual_seed(0))
    slates = policy(observation, draws)
    assert tuple(slates.shape) == (BATCH, SIZE), f"slates of shape {tuple(slates.shape)}"
    assert slates.dtype == torch.int64, f"slates of {slates.dtype}"
    for slate, candidates in zip(slates.tolist(), simulator.candidates.tolist(), strict=True):
        assert len(set(slate)) == SIZE, f"{slate} repeats an item"
        assert set(slate) <= set(candidates) - {-1}, f"{slate} holds an item that is no candidate"
        if bad is not None:
            good = [item for item in candidates if item >= 0 and not bad[item]]
            shown = [item for item in slate if bad[item]]
            assert len(shown) <= max(SIZE - len(good), 0), (
                f"{shown} were shown, whose logits are no numbers"
            )


@st.composite
def ranker(draw: st.DrawFn) -> Case:
    """A ranker that gives NaN or infinities, or something else than logits, under every policy that
    ranks."""
    name = draw(st.sampled_from([name for name, spec in POLICIES.items() if spec.needs_ranker]))
    table = made_up_ranker(ITEMS).table.clone()
    kind = draw(st.sampled_from(["some", "some", "some", "all", "shape", "odd"]))
    bad = torch.zeros(ITEMS, dtype=torch.bool)
    expected = EITHER
    if kind == "some":
        value = draw(st.sampled_from([math.nan, math.inf]))
        at = draw(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=6))
        table[at], bad[at] = value, True
        made: Any = TableRanker(table)
        label = f"{value} at {at}"
    elif kind == "all":
        value = draw(st.sampled_from([math.nan, math.inf]))
        made, expected, label = (
            TableRanker(torch.full((ITEMS,), value)),
            REFUSE,
            f"{value} everywhere",
        )
    else:
        forms = list(FORMS.items()) if kind == "shape" else []
        label, form = draw(st.sampled_from(forms)) if forms else ("", None)
        value = draw(odd().filter(lambda value: not isinstance(value, Tensor)))
        expected = REFUSE
        label = label or label_of(value)
        made = _Formed(TableRanker(table), form or (lambda logits: value))
    policy_inputs = replace(inputs(), ranker=made)

    def call() -> Any:
        policy = POLICIES[name].build(policy_inputs)
        assert_slates(policy, policy_inputs, bad)
        return policy

    return Case(f"{name} on a ranker that gives {label}", call, expected, ("ranker", "logits"))


class _Formed:
    """A ranker whose logits are changed."""

    def __init__(self, inner: TableRanker, form: Change) -> None:
        self.inner, self.form = inner, form

    def logits(self, observation: Mapping[str, Tensor]) -> Any:
        return self.form(self.inner.logits(dict(observation)))


class Ranker(Kind):
    """Something with a method `logits`, or None."""

    def right(self, value: Any) -> Right:
        return UNSURE if value is None or hasattr(value, "logits") else REFUSED

    def good(self) -> Any:
        return st.builds(made_up_ranker, st.just(ITEMS))


class Popularity(Kind):
    """None, or a finite number an item."""

    def right(self, value: Any) -> Right:
        if value is None:
            return Right(ACCEPT)
        plain = (
            isinstance(value, Tensor)
            and not value.is_nested
            and value.layout == torch.strided
            and not value.is_meta
        )
        if not plain or tuple(value.shape) != (ITEMS,) or not value.is_floating_point():
            return REFUSED
        return (
            Right(ACCEPT)
            if value.dtype == torch.float32 and bool(value.isfinite().all())
            else REFUSED
        )

    def good(self) -> Any:
        return st.builds(
            lambda seed: torch.rand(ITEMS, generator=torch.Generator().manual_seed(seed)),
            st.integers(0, 9),
        )

    def near(self) -> Any:
        wrong = [
            torch.full((ITEMS,), math.nan),
            torch.zeros(ITEMS - 1),
            torch.zeros(ITEMS, 1),
            [0.1] * ITEMS,
        ]
        return st.sampled_from(
            [*wrong, torch.full((ITEMS,), math.inf), torch.zeros(ITEMS, dtype=torch.complex64)]
        )


class Anything(Kind):
    """A part that only an object of its class can be."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind

    def right(self, value: Any) -> Right:
        return UNSURE if isinstance(value, self.kind) else REFUSED

    def any(self) -> Any:
        return odd()


@st.composite
def policy_inputs(draw: st.DrawFn) -> Case:
    """A field of `PolicyInputs`, and a policy on it."""
    import gymnasium

    kinds: dict[str, Kind] = {
        "slate_size": Whole(1, sure=6),
        "pool": Whole(1, sure=64),
        "per_category": Whole(0, sure=10),
        "ranker": Ranker(),
        "popularity": Popularity(),
        "catalog": Anything(Catalog),
        "observation_space": Anything(gymnasium.spaces.Dict),
    }
    field = draw(st.sampled_from(list(kinds)))
    name = draw(st.sampled_from(list(POLICIES)))
    value = draw(kinds[field].any())
    right = kinds[field].right(value)

    def call() -> Any:
        made = replace(inputs(), **{field: value})
        policy = POLICIES[name].build(made)
        if field != "slate_size":
            assert_slates(policy, made)
        return policy

    return Case(f"{name} of PolicyInputs({field}={label_of(value)})", call, right.outcome, (field,))


# ---- configurations ------------------------------------------------------------------------------


@functools.cache
def configurations() -> dict[str, type[Any]]:
    """Every frozen dataclass of plain fields that tells how something is built, by its name."""
    found: dict[str, type[Any]] = {}
    for module in modules():
        for name, value in vars(module).items():
            ours = inspect.isclass(value) and value.__module__ == module.__name__
            chosen = name.endswith(
                ("Config", "Parameters", "Options")
            ) and not issubclass_of_transformers(value)
            if ours and dataclasses.is_dataclass(value) and chosen:
                kind: Any = value
                found[f"{module.__name__}.{name}"] = kind
    for group in (AGENTS, LEARNABLE):
        found |= {
            f"{name}": spec.config
            for name, spec in group.items()
            if spec.config not in found.values()
        }
    for name, spec in POLICIES.items():
        parameters = type(spec.parameters())
        if parameters not in found.values():
            found[name] = parameters
    return {
        name: config for name, config in found.items() if name.rpartition(".")[2] not in ELSEWHERE
    }


def issubclass_of_transformers(value: Any) -> bool:
    """Whether this is a configuration that transformers reads from a file; files have cases of
    their own."""
    return inspect.isclass(value) and issubclass(value, PreTrainedConfig)


ELSEWHERE = ("BundleConfig", "MarketConfig", "EnvConfig")
"""Configurations that have cases of their own."""


def modules() -> Iterator[Any]:
    """Every module of the three packages."""
    for package in (recsim_env, policies, agents):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(info.name)


def settings_of(config: type[Any]) -> dict[str, Kind]:
    """The kind of each field: whole numbers are 0 or more, numbers are numbers, and every default
    is good."""
    kinds = parameters_of(config)
    for field in dataclasses.fields(config):
        kind = kinds.get(field.name)
        if isinstance(kind, Nullable):
            kinds[field.name] = Nullable(Whole(0, sure=-1)) if kind.inner == Whole(sure=0) else kind
        elif isinstance(kind, Whole) and kind.low is None:
            kinds[field.name] = Whole(0, sure=-1)
        elif isinstance(kind, Number) and "range" not in field.metadata:
            kinds[field.name] = Number(infinite=True, sure=(math.inf, -math.inf))
        if kind is not None and field.default is not dataclasses.MISSING:
            kinds[field.name] = Default(kinds[field.name], field.default)
    return kinds


class Default(Kind):
    """A kind of which one value is known to be good, as Python's number and as numpy's."""

    def __init__(self, inner: Kind, default: Any) -> None:
        self.inner, self.default = inner, default

    def right(self, value: Any) -> Right:
        if type(value) is type(self.default) and value == self.default:
            return Right(ACCEPT, self.default)
        return self.inner.right(value)

    def good(self) -> Any:
        number = isinstance(self.default, (int, float)) and not isinstance(self.default, bool)
        typed = [np.asarray(self.default)[()]] if number else []
        return st.sampled_from([self.default, *typed])

    def near(self) -> Any:
        return self.inner.near()


@st.composite
def setting(draw: st.DrawFn) -> Case:
    """One field of any configuration."""
    known = configurations()
    name = draw(st.sampled_from([name for name, config in known.items() if settings_of(config)]))
    config = known[name]
    kinds = settings_of(config)
    field = draw(st.sampled_from(list(kinds)))
    value = draw(kinds[field].any())
    right = kinds[field].right(value)
    needed = {
        other.name: _needed(other)
        for other in dataclasses.fields(config)
        if other.default is dataclasses.MISSING and other.default_factory is dataclasses.MISSING
    }

    def sound(made: Any) -> None:
        found = getattr(made, field)
        assert right.value is None or same(found, right.value), f"{field} came to {label_of(found)}"

    label = f"{name.rpartition('.')[2]}({field}={label_of(value)})"
    return Case(label, lambda: config(**{**needed, field: value}), right.outcome, (field,), sound)


def _needed(field: dataclasses.Field[Any]) -> Any:
    known = {
        "blocks": tuple(PAIR_FEATURES)[:1],
        "codes": tuple(PAIR_CODES)[:1],
        "sizes": (3,),
        "width": 3,
    }
    return known.get(field.name, 1.0)


@st.composite
def index(draw: st.DrawFn) -> Case:
    """An index over any vectors, twins included: a search finds as many distinct items as there
    are."""
    items, width = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    groups = draw(st.integers(1, min(items, 3)))
    number = st.sampled_from([0.0, 1.0, -1.0, 0.5])
    vectors = torch.tensor(
        draw(
            st.lists(
                st.lists(number, min_size=width, max_size=width), min_size=items, max_size=items
            )
        )
    )
    category = torch.arange(items) % groups
    lists = draw(st.integers(1, max(items // groups, 1)))
    config = IndexConfig(lists=lists, probes=draw(st.integers(1, lists)))
    count = draw(st.integers(1, 4))

    def call() -> Tensor:
        found = CategoryIndex(vectors, torch.zeros(items), category, config)
        return found.search(torch.ones(2, width), count)

    def sound(found: Tensor) -> None:
        for row in found.tolist():
            for group, held in enumerate(row):
                some = [item for item in held if item >= 0]
                assert len(set(some)) == len(some), f"{held} repeats an item"
                assert all(int(category[item]) == group for item in some), (
                    f"{held} is not of category {group}"
                )
                assert some, f"nothing was found in category {group}, where items are"

    label = f"CategoryIndex({vectors.tolist()}, {category.tolist()}, lists={lists}, probes={config.probes})"
    return Case(label, call, ACCEPT, ("vectors",), sound)


SOURCES: dict[str, tuple[float, Callable[[], Any]]] = {
    "shoppers": (0.28, shopper),
    "catalogues": (0.20, catalog),
    "made-up catalogues": (0.04, synthetic),
    "parameters of policies": (0.14, parameter),
    "parameters as a whole": (0.04, parameters),
    "rankers": (0.08, ranker),
    "inputs of policies": (0.08, policy_inputs),
    "configurations": (0.10, setting),
    "indices": (0.04, index),
}
"""Where the cases of this part come from, with the share of each."""
