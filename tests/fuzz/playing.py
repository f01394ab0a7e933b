"""Cases of playing: actions, the order of calls, seeds, masks, rows, rewards, terms, and what is
registered."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from recsim_env import SlateEnv, SlateVectorEnv, register
from recsim_env.registration import PRESETS
from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs, reward_term
from recsim_env.simulator import SlateSimulator
from tests.fuzz import ground
from tests.fuzz.judge import ACCEPT, EITHER, REFUSE, Case
from tests.fuzz.kinds import Kind, RewardWeights, Text
from tests.fuzz.options import Options, shared, together
from tests.fuzz.values import label_of, odd, weighted
from tests.support.toys import make_toy_shopper

BATCH = 3
LAST_SEED = 2**63 - 1
FACES = ("SlateEnv", "SlateVectorEnv", "SlateSimulator")
ACTION = {"SlateEnv": "action", "SlateVectorEnv": "actions", "SlateSimulator": "slates"}
"""What each face calls the slates it is given."""


@functools.cache
def face(kind: str, id: str) -> Any:
    """A face that is made once; whoever uses it resets it first."""
    ground.ids()
    if kind == "SlateEnv":
        return SlateEnv(id, device="cpu")
    if kind == "SlateVectorEnv":
        return SlateVectorEnv(id, BATCH, device="cpu")
    return ground.simulator(id)


def started(kind: str, id: str) -> Any:
    """A face at the first visit of the same shoppers each time."""
    made = face(kind, id)
    made.reset(torch.arange(BATCH)) if kind == "SlateSimulator" else made.reset(seed=0)
    return made


def core(made: Any) -> SlateSimulator:
    """The simulator of a face."""
    return made if isinstance(made, SlateSimulator) else made.simulator


def state_of(simulator: SlateSimulator) -> Any:
    """Where the episodes and the shoppers stand, copied."""
    if simulator._episodes is None:
        return None
    return copied((vars(simulator._episodes), simulator.hidden))


def copied(state: Any) -> Any:
    """A copy of every tensor in a state of dataclasses, lists and tensors."""
    if isinstance(state, Tensor):
        return state.clone()
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return {
            field.name: copied(getattr(state, field.name)) for field in dataclasses.fields(state)
        }
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [copied(value) for value in state]
    return None


# ---- actions -------------------------------------------------------------------------------------


def meant_slates(
    value: Any, shape: tuple[int, ...], items: int, levels: int = 0
) -> tuple[str, Any]:
    """What must come of an action: an array of whole numbers of the shape, 0 to items - 1, is
    accepted, and of bundles one with a level behind the items."""
    if isinstance(value, (np.ndarray, list, tuple)):
        if isinstance(value, np.ma.MaskedArray):
            return EITHER, None
        try:
            array = np.array(value)
        except Exception:
            return REFUSE, None
    elif (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_nested
        and not value.is_meta
    ):
        if value.dtype.is_complex or value.is_quantized or value.dtype == torch.bfloat16:
            return REFUSE, None
        array = value.detach().numpy()
    elif isinstance(value, (range, memoryview, bytearray)):
        return EITHER, None
    else:
        return REFUSE, None
    if array.dtype.kind not in "iu" or not array.shape:
        return REFUSE, None
    if levels and array.shape == (*shape[:-1], shape[-1] + 1):
        level, array = array[..., -1], array[..., :-1]
        if (level < 0).any() or (level >= levels).any():
            return REFUSE, None
    if array.shape != shape:
        return REFUSE, None
    if (array < 0).any() or (array >= items).any():
        return REFUSE, None
    return ACCEPT, torch.from_numpy(array.astype(np.int64))


def meant_by_core(
    value: Any, shape: tuple[int, ...], items: int, levels: int = 0
) -> tuple[str, Any]:
    """The simulator itself takes int64 tensors only."""
    if (
        not isinstance(value, Tensor)
        or value.is_nested
        or value.dtype != torch.int64
        or value.layout != torch.strided
    ):
        return REFUSE, None
    return meant_slates(value, shape, items, levels)


def actions(shape: tuple[int, ...], items: int) -> Any:
    """Slates of the right shape, nearly right ones, and anything."""
    dtypes = st.sampled_from([np.int64, np.int64, np.int32, np.uint8, np.int16, np.uint64])
    good = dtypes.flatmap(
        lambda kind: hnp.arrays(kind, shape, elements=st.integers(0, min(items, 100) - 1))
    )
    wide = hnp.arrays(np.int64, shape, elements=st.integers(-3, items + 3))
    ends = hnp.arrays(
        np.int64,
        shape,
        elements=st.sampled_from([0, -1, items, items - 1, 2**63 - 1, -(2**63), 2**31]),
    )
    shapes = st.sampled_from(
        [(), (1,), shape[:-1], (*shape, 1), (1, *shape), (*shape[:-1], shape[-1] + 1), (0,)]
    )
    others = shapes.flatmap(
        lambda size: hnp.arrays(np.int64, size, elements=st.integers(0, items - 1))
    )
    kinds = st.sampled_from(
        [np.float32, np.float64, np.bool_, np.complex64, np.float16, object, np.str_]
    )
    typed = st.builds(lambda array, kind: array.astype(kind), good, kinds)
    arrays = weighted((4, good), (3, wide), (1, ends), (2, others), (2, typed))
    as_tensor = arrays.filter(
        lambda array: array.dtype.kind in "iufbc" and array.dtype != np.uint64
    ).map(lambda array: torch.from_numpy(np.array(array)))
    layouts = st.sampled_from(
        [
            Tensor.to_sparse,
            lambda t: t.to("meta"),
            lambda t: t.expand(2, *t.shape),
            lambda t: t[..., :1],
        ]
    )
    strange = st.builds(
        lambda tensor, change: change(tensor),
        as_tensor.filter(lambda tensor: tensor.ndim > 0),
        layouts,
    )
    as_list = arrays.map(lambda array: array.tolist())
    return weighted((5, arrays), (4, as_tensor), (2, as_list), (2, strange), (5, odd()))


@st.composite
def action(draw: st.DrawFn) -> Case:
    """One step of any face of any environment, with any action."""
    kind = draw(st.sampled_from(FACES))
    id = draw(st.sampled_from(ground.quick_ids()))
    simulator = core(face(kind, id))
    size, items = simulator.slate_size, len(simulator.catalog)
    shape = (size,) if kind == "SlateEnv" else (BATCH, size)
    value = draw(actions(shape, items))
    expected, slates = (meant_by_core if kind == "SlateSimulator" else meant_slates)(
        value, shape, items, len(simulator.discounts)
    )
    started(kind, id)
    candidates = simulator.candidates.clone()

    def call() -> Any:
        return face(kind, id).step(value)

    def sound(result: Any) -> None:
        if slates is not None:
            assert_visit(simulator, result, slates.view(-1, size), candidates)

    return Case(
        f"{kind}({id!r}).step({label_of(value)})",
        call,
        expected,
        (ACTION[kind],),
        sound,
        lambda: state_of(simulator),
        (ValueError, TypeError),
    )


def assert_visit(
    simulator: SlateSimulator, result: Any, slates: Tensor, candidates: Tensor
) -> None:
    """Assert what a first visit says of itself, counted again one position at a time."""
    if isinstance(result, tuple):
        observation, reward, _, _, info = result
        invalid, clicks = np.atleast_1d(info["invalid_items"]), np.atleast_1d(info["clicks"])
        recent = np.asarray(observation["recent_slates"]).reshape(
            len(slates), -1, simulator.slate_size
        )[:, 0]
        responded = np.asarray(observation["recent_clicks"]).reshape(
            len(slates), -1, simulator.slate_size
        )[:, 0]
        rewards = np.atleast_1d(reward)
        terms = {
            name: np.atleast_1d(info[f"reward_terms/{name}"]) for name in simulator.reward.weights
        }
    else:
        info = {name: value.numpy() for name, value in result.info.items()}
        invalid, clicks, rewards = info["invalid_items"], info["clicks"], result.reward.numpy()
        recent = result.observation["recent_slates"][:, 0].numpy()
        responded = result.observation["recent_clicks"][:, 0].numpy()
        terms = {name: info[f"reward_terms/{name}"] for name in simulator.reward.weights}
    for row, slate in enumerate(slates.tolist()):
        offered, seen = set(candidates[row].tolist()) - {-1}, []
        for item in slate:
            seen.append(item if item in offered and item not in seen else -1)
        assert int(invalid[row]) == seen.count(-1), (
            f"invalid_items is {invalid[row]}, counted {seen.count(-1)}"
        )
        assert recent[row].tolist() == seen, f"shown {recent[row].tolist()}, right is {seen}"
        assert int(clicks[row]) == int(responded[row].sum()), (
            "clicks are not those of the observation"
        )
        assert not any(
            click and item < 0 for click, item in zip(responded[row], seen, strict=True)
        ), "clicked unseen"
        total = sum(
            float(terms[name][row]) * weight for name, weight in simulator.reward.weights.items()
        )
        assert np.isfinite(rewards[row]), f"the reward is {rewards[row]}"
        assert abs(total - float(rewards[row])) < 1e-4 * (1 + abs(total)), (
            f"reward {rewards[row]}, terms give {total}"
        )


# ---- order ---------------------------------------------------------------------------------------


def before_reset() -> dict[str, Callable[[Any], Any]]:
    """What must not be asked of a face that was never reset."""
    slates = torch.zeros(BATCH, 4, dtype=torch.int64)
    rows = torch.tensor([0])
    return {
        "SlateEnv.step": lambda face: SlateEnv(face).step(np.zeros(4, np.int64)),
        "SlateEnv.render": lambda face: SlateEnv(face, render_mode="ansi").render(),
        "SlateVectorEnv.step": lambda face: SlateVectorEnv(face, BATCH).step(slates.numpy()),
        "SlateVectorEnv.render": lambda face: SlateVectorEnv(
            face, BATCH, render_mode="ansi"
        ).render(),
        "SlateSimulator.step": lambda face: face.step(slates),
        "SlateSimulator.advance": lambda face: face.advance(slates),
        "SlateSimulator.check": lambda face: face.check(slates),
        "SlateSimulator.candidates": lambda face: face.candidates,
        "SlateSimulator.episodes": lambda face: face.episodes,
        "SlateSimulator.hidden": lambda face: face.hidden,
        "SlateSimulator.observe": lambda face: face.observe(),
        "SlateSimulator.restart": lambda face: face.restart(rows),
        "SlateSimulator.reset_rows": lambda face: face.reset_rows(rows),
        "SlateSimulator.keep": lambda face: face.keep(rows),
        "SlateSimulator.describe": lambda face: face.describe(0),
        "SlateSimulator.when_and_where": lambda face: face.when_and_where(),
    }


@st.composite
def too_early(draw: st.DrawFn) -> Case:
    """Anything before the first reset; the batch that a mask asks for included."""
    id = draw(st.sampled_from([name for name in ground.quick_ids() if "Folder" not in name]))
    calls = before_reset()
    name = draw(st.sampled_from(list(calls)))
    return Case(
        f"{name} before reset ({id})",
        lambda: calls[name](ground.made(id)),
        REFUSE,
        ("reset",),
        promised=(gymnasium.error.ResetNeeded,),
    )


@st.composite
def too_late(draw: st.DrawFn) -> Case:
    """A step after the end of an episode, at the faces that do not start again by themselves."""
    id = draw(st.sampled_from([ground.TOY_ID, "recsim_env/Market-v0"]))
    kind = draw(st.sampled_from(["SlateEnv", "SlateVectorEnv", "SlateSimulator"]))
    mode = draw(st.sampled_from(list(AutoresetMode))) if kind == "SlateVectorEnv" else None
    simulator = ground.made(id, horizon_days=draw(st.floats(1e-3, 0.9)))
    slates = torch.zeros(
        1 if kind == "SlateEnv" else BATCH, simulator.slate_size, dtype=torch.int64
    )
    if kind == "SlateEnv":
        made: Any = SlateEnv(simulator)
        made.reset(seed=0)
        action: Any = slates[0].numpy()
    elif kind == "SlateVectorEnv":
        made = SlateVectorEnv(simulator, BATCH, autoreset_mode=mode or AutoresetMode.NEXT_STEP)
        made.reset(seed=0)
        action = slates.numpy()
    else:
        made, action = simulator, slates
        made.reset(torch.arange(BATCH))
    made.step(action)
    again = kind == "SlateVectorEnv" and mode is not AutoresetMode.DISABLED
    return Case(
        f"{kind}({id!r}) {mode}: a step after the end",
        lambda: made.step(action),
        ACCEPT if again else REFUSE,
        ("reset", "over"),
        state=lambda: state_of(simulator),
        promised=(gymnasium.error.ResetNeeded,),
    )


# ---- seeds, masks and rows -----------------------------------------------------------------------


def is_whole(value: Any) -> bool:
    """Whether this is a whole number of Python's or numpy's, and no truth value or time."""
    return isinstance(value, (int, np.integer)) and not isinstance(
        value, (bool, np.bool_, np.timedelta64)
    )


def meant_seed(value: Any, count: int) -> str:
    """What must come of a seed of a face with so many shoppers."""
    if value is None:
        return ACCEPT
    if is_whole(value):
        return (
            ACCEPT
            if 0 <= value <= LAST_SEED - count + 1
            else EITHER
            if 0 <= value <= LAST_SEED and count == 1
            else REFUSE
        )
    if isinstance(value, (list, tuple, np.ndarray, Tensor, range)) and not isinstance(
        value, np.ma.MaskedArray
    ):
        try:
            held = list(value)
        except Exception:
            return REFUSE
        if isinstance(value, Tensor) and (
            value.is_meta or value.layout != torch.strided or value.dtype.is_floating_point
        ):
            return REFUSE
        held = [one.item() if isinstance(one, Tensor) and one.ndim == 0 else one for one in held]
        if len(held) != count or not all(is_whole(one) and 0 <= one <= LAST_SEED for one in held):
            return REFUSE
        return ACCEPT if isinstance(value, (list, tuple, np.ndarray)) and count > 1 else EITHER
    return EITHER if isinstance(value, np.ma.MaskedArray) else REFUSE


def seeds(count: int) -> Any:
    """Seeds for so many shoppers, and anything else."""
    number = weighted(
        (4, st.integers(0, LAST_SEED)),
        (2, st.integers(-5, 5)),
        (1, st.sampled_from([2**63, -(2**63), 2**70])),
    )
    typed = st.builds(
        lambda kind, n: kind(n),
        st.sampled_from([np.int64, np.uint8, np.int32, np.uint64]),
        st.integers(0, 99),
    )
    several = st.lists(number, min_size=max(count - 1, 0), max_size=count + 1)
    arrays = hnp.arrays(
        np.int64,
        st.sampled_from([(count,), (count, 1), (count + 1,)]),
        elements=st.integers(-1, 2**62),
    )
    tensors = arrays.map(torch.from_numpy)
    return weighted(
        (3, number),
        (2, typed),
        (3, several),
        (1, several.map(tuple)),
        (2, arrays),
        (1, tensors),
        (5, odd()),
    )


@st.composite
def seed(draw: st.DrawFn) -> Case:
    """A seed of `reset`, at any face."""
    kind = draw(st.sampled_from(FACES))
    id = draw(st.sampled_from(ground.quick_ids()))
    count = 1 if kind == "SlateEnv" else BATCH
    value = draw(seeds(count))
    if kind == "SlateSimulator":
        dense = (
            isinstance(value, Tensor)
            and not value.is_nested
            and value.layout == torch.strided
            and not value.is_meta
        )
        good = dense and value.dtype == torch.int64 and value.ndim == 1 and len(value) > 0
        return Case(
            f"SlateSimulator({id!r}).reset({label_of(value)})",
            lambda: started(kind, id).reset(value),
            ACCEPT if good else REFUSE,
            ("seeds",),
            state=None,
        )
    return Case(
        f"{kind}({id!r}).reset(seed={label_of(value)})",
        lambda: face(kind, id).reset(seed=value),
        meant_seed(value, count),
        ("seed",),
        lambda result: _assert_started(face(kind, id), result),
        lambda: state_of(core(face(kind, id))),
    )


def _assert_started(made: Any, result: Any) -> None:
    assert made.observation_space.contains(result[0]), "the observation lies outside of the space"
    assert bool((core(made).episodes.visit == 0).all()), "not at the first visit"


@st.composite
def reset_options(draw: st.DrawFn) -> Case:
    """Options of `reset`, and masks."""
    kind = draw(st.sampled_from(["SlateEnv", "SlateVectorEnv"]))
    id = draw(st.sampled_from(ground.quick_ids()))
    masks = hnp.arrays(np.bool_, st.sampled_from([(BATCH,), (BATCH + 1,), (BATCH, 1), (0,)]))
    mask = weighted(
        (4, masks),
        (2, masks.map(torch.from_numpy)),
        (1, masks.map(lambda m: m.tolist())),
        (3, odd()),
    )
    named = st.fixed_dictionaries({"reset_mask": mask})
    value = draw(
        weighted(
            (4, named), (1, st.none()), (1, st.just({})), (3, odd()), (1, st.just({"mask": 1}))
        )
    )
    expected, names = _meant_options(value, kind)
    started(kind, id)
    return Case(
        f"{kind}({id!r}).reset(options={label_of(value)})",
        lambda: face(kind, id).reset(options=value),
        expected,
        names,
        state=lambda: state_of(core(face(kind, id))),
    )


def _meant_options(value: Any, kind: str) -> tuple[str, tuple[str, ...]]:
    if value is None or (isinstance(value, Mapping) and not value):
        return ACCEPT, ("options",)
    if isinstance(value, (list, tuple, set, frozenset, str, bytes)) and not value:
        return EITHER, ("options",)
    if not isinstance(value, Mapping) or set(value) != {"reset_mask"} or kind == "SlateEnv":
        return REFUSE, ("options",)
    mask = value["reset_mask"]
    if mask is None:
        return EITHER, ("reset_mask",)
    dense = isinstance(mask, np.ndarray) or (
        isinstance(mask, Tensor) and mask.layout == torch.strided and not mask.is_meta
    )
    if (
        not dense
        or isinstance(mask, np.ma.MaskedArray)
        or (isinstance(mask, Tensor) and mask.is_nested)
    ):
        return REFUSE, ("reset_mask",)
    boolean = (
        mask.dtype in (np.bool_, torch.bool)
        if isinstance(mask, np.ndarray)
        else mask.dtype == torch.bool
    )
    good = boolean and tuple(mask.shape) == (BATCH,) and bool(mask.any())
    return (ACCEPT if good else REFUSE), ("reset_mask",)


@st.composite
def rows(draw: st.DrawFn) -> Case:
    """Rows of `restart`, `reset_rows` and `keep`, with or without seeds, and the row of
    `describe`."""
    id = draw(st.sampled_from(ground.quick_ids()))
    method = draw(
        st.sampled_from(["restart", "reset_rows", "keep", "describe", "restart with seeds"])
    )
    if method == "describe":
        value = draw(weighted((2, st.integers(-5, BATCH + 2)), (3, odd())))
        good = is_whole(value) and 0 <= value < BATCH
        return Case(
            f"SlateSimulator({id!r}).describe({label_of(value)})",
            lambda: started("SlateSimulator", id).describe(value),
            ACCEPT if good else REFUSE,
            ("row",),
            promised=(ValueError, TypeError, IndexError),
        )
    listed = st.lists(st.integers(-1, BATCH), max_size=BATCH + 1).map(
        lambda held: torch.tensor(held, dtype=torch.int64)
    )
    short = listed.map(lambda held: held.to(torch.int32))
    value = draw(
        weighted(
            (5, listed),
            (1, short),
            (1, listed.map(Tensor.tolist)),
            (1, listed.map(Tensor.numpy)),
            (4, odd()),
        )
    )
    expected, count = _meant_rows(value, distinct=method != "keep")
    arguments, names = [value], ["rows"]
    if method == "restart with seeds":
        seeds = draw(
            weighted(
                (3, st.just(torch.arange(max(count, 0)))),
                (1, st.just(torch.arange(count + 1))),
                (2, odd()),
            )
        )
        arguments.append(seeds)
        if seeds is not None and expected != REFUSE:
            dense = (
                isinstance(seeds, Tensor)
                and not seeds.is_nested
                and seeds.layout == torch.strided
                and not seeds.is_meta
            )
            if not (dense and seeds.dtype == torch.int64 and tuple(seeds.shape) == (count,)):
                expected = REFUSE
                names = ["seeds"]
        else:
            names.append("seeds")
    made = started("SlateSimulator", id)
    return Case(
        f"SlateSimulator({id!r}).{method}({', '.join(map(label_of, arguments))})",
        lambda: getattr(made, method.partition(" ")[0])(*arguments),
        expected,
        tuple(names),
        lambda result: ground.assert_inside(made, made.observe()) if made.num_envs else None,
        lambda: state_of(made),
    )


def _meant_rows(value: Any, *, distinct: bool) -> tuple[str, int]:
    dense = (
        isinstance(value, Tensor)
        and not value.is_nested
        and value.layout == torch.strided
        and not value.is_meta
    )
    if not dense or value.dtype != torch.int64 or value.ndim != 1:
        return REFUSE, 0
    held = value.tolist()
    if any(not 0 <= row < BATCH for row in held):
        return REFUSE, len(held)
    if len(set(held)) < len(held) or not held:
        return (REFUSE if distinct and held else EITHER), len(held)
    return ACCEPT, len(held)


# ---- rewards and terms ---------------------------------------------------------------------------


@st.composite
def reward(draw: st.DrawFn) -> Case:
    """Weights of a `Reward`."""
    kind = RewardWeights(nullable=False)
    value = draw(kind.any().filter(lambda value: not isinstance(value, Reward)))
    right = kind.right(value)

    def sound(made: Reward) -> None:
        assert right.value is None or dict(made.weights) == {
            name: float(n) for name, n in right.value.items()
        }
        ground.plays(ground.made(ground.TOY_ID, reward=made))

    return Case(
        f"Reward({label_of(value)})",
        lambda: Reward(value),
        right.outcome,
        ("reward", "weights"),
        sound,
    )


TERM = "net term"


def returned() -> Any:
    """What a term may return for so many shoppers, with what must come of it."""
    good: list[tuple[str, Callable[[int], Any]]] = [
        (ACCEPT, lambda b: torch.arange(b).float()),
        (ACCEPT, lambda b: torch.arange(b)),
        (ACCEPT, lambda b: torch.ones(b, dtype=torch.bool)),
        (ACCEPT, lambda b: torch.ones(b, dtype=torch.float64)),
        (ACCEPT, lambda b: torch.full((b,), -0.0)),
        (EITHER, lambda b: torch.ones(b, dtype=torch.bfloat16)),
        (EITHER, lambda b: torch.ones(b, requires_grad=True)),
    ]
    bad: list[tuple[str, Callable[[int], Any]]] = [
        (REFUSE, lambda b: torch.ones(b, 1)),
        (REFUSE, lambda b: torch.ones(1)),
        (REFUSE, lambda b: torch.tensor(1.0)),
        (REFUSE, lambda b: torch.ones(1, b)),
        (REFUSE, lambda b: torch.ones(b + 1)),
        (REFUSE, lambda b: torch.zeros(0)),
        (REFUSE, lambda b: torch.ones(b, dtype=torch.complex64)),
        (REFUSE, lambda b: torch.full((b,), torch.nan)),
        (REFUSE, lambda b: torch.full((b,), torch.inf)),
        (REFUSE, lambda b: torch.full((b,), -torch.inf)),
        (REFUSE, lambda b: torch.full((b,), 1e300, dtype=torch.float64)),
        (REFUSE, lambda b: torch.ones(b, device="meta")),
        (REFUSE, lambda b: torch.ones(b).to_sparse()),
        (REFUSE, lambda b: [1.0] * b),
        (REFUSE, lambda b: np.ones(b)),
        (REFUSE, lambda b: {"value": torch.ones(b)}),
    ]
    known = st.sampled_from([*good, *bad])
    anything = odd().map(lambda value: (REFUSE, lambda b: value))
    wrong = anything.filter(
        lambda pair: not (isinstance(pair[1](0), Tensor) and tuple(pair[1](0).shape) == (BATCH,))
    )
    return weighted((4, known), (1, wrong))


@contextlib.contextmanager
def registered(name: str, term: Any) -> Iterator[None]:
    """A term under a name for as long as this is open."""
    reward_term(name)(term)
    try:
        yield
    finally:
        REWARD_TERMS.pop(name, None)


@st.composite
def term(draw: st.DrawFn) -> Case:
    """What a term of one's own returns."""
    expected, make = draw(returned())
    weight = draw(st.sampled_from([1.0, -2.5, 0.25]))

    def call() -> Any:
        with registered(TERM, lambda inputs: make(len(inputs.slates))):
            simulator = ground.made(ground.TOY_ID, reward={"clicks": 1.0, TERM: weight})
            simulator.reset(torch.arange(BATCH))
            return simulator.step(ground.valid_slates(simulator))

    def sound(step: Any) -> None:
        total = step.info["reward_terms/clicks"] + weight * make(BATCH).detach().float()
        assert step.reward.shape == (BATCH,), f"the reward has the shape {tuple(step.reward.shape)}"
        assert torch.allclose(step.reward, total), "the reward is not the weighted sum of its terms"

    return Case(f"a term that returns {label_of(make(BATCH))}", call, expected, (TERM,), sound)


@st.composite
def term_name(draw: st.DrawFn) -> Case:
    """The name and the function that a term is registered with."""
    named = draw(st.booleans())
    value = draw(
        weighted(
            (1, st.text(min_size=1, max_size=9)),
            (1, st.sampled_from(sorted(REWARD_TERMS))),
            (4, odd()),
        )
    )

    def by_name() -> Any:
        try:
            return reward_term(value)(lambda inputs: inputs.clicks.sum(dim=1))
        finally:
            with contextlib.suppress(Exception):
                if value not in _TERMS:
                    REWARD_TERMS.pop(value, None)

    def by_function() -> Any:
        try:
            return reward_term(TERM)(value)
        finally:
            REWARD_TERMS.pop(TERM, None)

    if named:
        good = isinstance(value, str) and bool(value)
        expected = (
            REFUSE
            if not good or value in REWARD_TERMS
            else ACCEPT
            if value.isprintable()
            else EITHER
        )
        return Case(f"reward_term({label_of(value)})", by_name, expected, ("name",))
    expected = EITHER if callable(value) else REFUSE
    return Case(f"reward_term('net term')({label_of(value)})", by_function, expected, ("term",))


_TERMS = tuple(REWARD_TERMS)


@st.composite
def term_inputs(draw: st.DrawFn) -> Case:
    """A registered term on any slates: (B,) finite numbers, worked out anew where the term is
    known."""
    name = draw(st.sampled_from(_TERMS))
    batch, size, items = draw(st.integers(1, 4)), draw(st.integers(1, 5)), 12
    catalog = ground.simulator(ground.TOY_ID).catalog
    slates = draw(hnp.arrays(np.int64, (batch, size), elements=st.integers(0, items - 1)))
    shown = draw(hnp.arrays(np.bool_, (batch, size)))
    for row in range(batch):
        for place in range(size):
            shown[row, place] &= slates[row, place] not in slates[row, :place].tolist()
    clicks = draw(hnp.arrays(np.bool_, (batch, size))) & shown
    held = dict(
        zip(
            ("slates", "shown", "clicks"),
            map(torch.from_numpy, (slates, shown, clicks)),
            strict=True,
        )
    )
    cosines = draw(st.sampled_from([None, catalog.cosines]))
    bought = held["clicks"] & (held["slates"] % 2 == 0)
    inputs = RewardInputs(
        **held,
        embedding=catalog.embedding,
        category=catalog.category,
        cosines=cosines,
        purchases=bought,
        outside_reward=torch.zeros(batch),
        price=catalog.price,
        popularity=1 / (2 + torch.arange(float(len(catalog)))),
        category_share=catalog.category_share,
        left=held["slates"][:, 0] % 2 == 0,
    )

    def sound(value: Tensor) -> None:
        assert tuple(value.shape) == (batch,), f"the shape is {tuple(value.shape)}"
        assert bool(value.double().isfinite().all())
        again = [
            _BY_HAND[name](*(array[row] for array in (slates, shown, clicks)), catalog)
            for row in range(batch)
        ]
        assert np.allclose(value.double().numpy(), again, atol=1e-5), (
            f"{value.tolist()}, by hand {again}"
        )

    return Case(
        f"{name} of {slates.tolist()} {shown.tolist()}",
        lambda: REWARD_TERMS[name](inputs),
        ACCEPT,
        (name,),
        (sound if name in _BY_HAND else lambda value: None),
    )


def _distance(slate: Any, shown: Any, clicks: Any, catalog: Any) -> float:
    size, total = len(slate), 0.0
    for one in range(size):
        for other in range(one + 1, size):
            if shown[one] and shown[other]:
                vectors = catalog.embedding[[int(slate[one]), int(slate[other])]].double()
                total += 1 - min(max(float(vectors[0] @ vectors[1]), 0.0), 1.0)
    return total / max(size * (size - 1) / 2, 1)


def _coverage(slate: Any, shown: Any, clicks: Any, catalog: Any) -> float:
    groups = {
        int(catalog.category[int(item)]) for item, seen in zip(slate, shown, strict=True) if seen
    }
    return max(len(groups) - 1, 0) / max(len(slate) - 1, 1)


_BY_HAND: dict[str, Callable[..., float]] = {
    "clicks": lambda slate, shown, clicks, catalog: float(clicks.sum()),
    "intra_list_distance": _distance,
    "category_coverage": _coverage,
    "purchases": lambda slate, shown, clicks, catalog: float((clicks & (slate % 2 == 0)).sum()),
}


# ---- registering ---------------------------------------------------------------------------------


class Id(Kind):
    """An id as Gymnasium takes it; anything else is told by Gymnasium or by the project."""

    def right(self, value: Any) -> Any:
        return Text().right(value)

    def good(self) -> Any:
        return st.sampled_from(["net/Fresh-v0", "Fresh-v1"])

    def near(self) -> Any:
        return st.sampled_from(
            ["", "net/", "net/Fresh", "a b-v0", "net//Fresh-v0", "net/Fresh-v", "/-v0", "x/y/z-v0"]
        )


class Source(Kind):
    """A function of a device and a slate size, or a folder."""

    def right(self, value: Any) -> Any:
        from tests.fuzz.kinds import REFUSED, UNSURE, Folder, Right

        if value is make_toy_shopper:
            return Right(ACCEPT)
        return (
            UNSURE if callable(value) else Folder().right(value) if not callable(value) else REFUSED
        )

    def good(self) -> Any:
        return st.just(make_toy_shopper)

    def near(self) -> Any:
        return st.sampled_from(
            ["", "nowhere", "../../etc/none", 5, None, make_toy_shopper(torch.device("cpu"), 4)]
        )


@st.composite
def registration(draw: st.DrawFn) -> Case:
    """Arguments of `register`."""
    kinds: dict[str, Kind] = {
        "id": Id(),
        "shopper": Source(),
        "shopper_options": OptionsOrNone(),
        **shared(ground.TOY_ID),
    }
    del kinds["device"], kinds["newcomers"]
    names = draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=2, unique=True))
    values = {name: draw(kinds[name].any()) for name in names}
    rights = {name: kinds[name].right(values[name]) for name in names}
    arguments = {"id": "net/Fresh-v0", "shopper": make_toy_shopper, **values}
    written = ", ".join(f"{name}={label_of(value)}" for name, value in arguments.items())

    def call() -> Any:
        tables: tuple[Any, Any] = (PRESETS, gymnasium.registry)
        before = [dict(table) for table in tables]
        try:
            register(**arguments)
            return dict(PRESETS)
        finally:
            for table, held in zip(tables, before, strict=True):
                table.clear()
                table.update(held)

    bad = tuple(name for name, right in rights.items() if right.outcome != ACCEPT)
    return Case(
        f"register({written})",
        call,
        together(rights),
        bad or tuple(names),
        lambda known: _assert_known(known),
    )


def _assert_known(known: Mapping[Any, Any]) -> None:
    assert all(isinstance(id, str) and id for id in known), "an id that is no text was registered"


class OptionsOrNone(Options):
    """A mapping with strings as keys, or None."""

    def right(self, value: Any) -> Any:
        from tests.fuzz.kinds import UNSURE

        return UNSURE if value is None else super().right(value)


SOURCES: dict[str, tuple[float, Callable[[], Any]]] = {
    "actions": (0.50, action),
    "too early": (0.02, too_early),
    "too late": (0.02, too_late),
    "seeds": (0.14, seed),
    "options of reset": (0.07, reset_options),
    "rows": (0.07, rows),
    "rewards": (0.06, reward),
    "what terms return": (0.03, term),
    "names of terms": (0.03, term_name),
    "terms": (0.02, term_inputs),
    "registering": (0.04, registration),
}
"""Where the cases of this part come from, with the share of each."""
