"""The check of shoppers: who keeps the promises passes, and each broken one has its sentence."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from torch import Tensor

from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.outside import OutsideShopper
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_shopper
from recsim_env.types import Response
from tests.agents.ppo.test_agents import TwoVisits
from tests.agents.slateq.test_learner import MoodShopper
from tests.recsim_env.shoppers.test_outside import tap_spec
from tests.support.toys import ToyShopper, ToyState, toy_catalog

# --- shoppers that keep their promises ---


@pytest.mark.parametrize(
    "shopper",
    [
        ToyShopper(),
        ToyShopper(slate_size=1),
        ToyShopper(items=6, slate_size=9),
        TwoVisits(),
        MoodShopper(),
        OutsideShopper(tap_spec(), torch.device("cpu")),
    ],
    ids=lambda shopper: type(shopper).__name__,
)
def test_a_shopper_that_keeps_its_promises_passes(shopper: Shopper[Any]) -> None:
    before = torch.get_rng_state(), random.getstate()
    check_shopper(shopper)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_a_shopper_without_candidates_may_be_asked_too() -> None:
    class Empty(ToyShopper):
        def candidates(self, state: ToyState) -> Tensor:
            return torch.full((len(state.visit), self.max_candidates), -1)

    check_shopper(Empty())
    simulator = SlateSimulator(Empty())
    simulator.reset(torch.arange(3))
    step = simulator.step(torch.tensor([[1, 2, 4, 5]]).expand(3, 4))
    assert (step.info["invalid_items"] == 4).all()
    assert (step.reward == 0).all()


# --- shoppers that break one promise each ---


class Broken(ToyShopper):
    """A toy whose answers are changed on the way out."""

    def __init__(self, **changes: Callable[..., Any]) -> None:
        super().__init__()
        self.changes = changes
        for name, change in changes.items():
            if not callable(getattr(ToyShopper, name, None)):
                setattr(self, name, change())

    def _changed(self, method: str, answer: Any, *arguments: Any) -> Any:
        return self.changes[method](answer, *arguments) if method in self.changes else answer

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        found: dict[str, gymnasium.Space[Any]] = self._changed("spaces", super().spaces())
        return found

    def start(self, draws: Tensor) -> ToyState:
        found: ToyState = self._changed("start", super().start(draws), draws)
        return found

    def candidates(self, state: ToyState) -> Tensor:
        found: Tensor = self._changed("candidates", super().candidates(state))
        return found

    def observe(self, state: ToyState) -> dict[str, Tensor]:
        candidates = self.changes.pop("candidates", None)  # an observation looks at them too
        found: dict[str, Tensor] = self._changed("observe", super().observe(state), state)
        if candidates is not None:
            self.changes["candidates"] = candidates
        return found

    def respond(self, state: ToyState, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        found: Response = self._changed(
            "respond", super().respond(state, slates, shown, draws), state, slates, shown
        )
        return found

    def when_and_where(self, state: ToyState) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self._changed(
            "when_and_where", super().when_and_where(state), state
        )
        return found

    def describe(self, state: ToyState, row: int) -> dict[str, str | list[str]]:
        found: dict[str, str | list[str]] = self._changed("describe", super().describe(state, row))
        return found


def response(**changes: Callable[[Response], Any]) -> Callable[..., Response]:
    """A change of a response, field by field."""
    return lambda answer, *_: replace(
        answer, **{name: change(answer) for name, change in changes.items()}
    )


def put(tensor: Tensor, place: Any, value: Any) -> Tensor:
    changed = tensor.clone()
    changed[place] = value
    return changed


def seen(key: str, change: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """A change of one key of an observation."""
    return lambda answer, state: {**answer, key: change(answer[key], state)}


# What a simulator meets at its first reset or its first step: the change, and the sentence.
AT_ONCE: list[tuple[dict[str, Any], str]] = [
    (
        {"respond": response(days=lambda r: put(r.days, 1, math.nan))},
        r"respond returned days with nan at \[1\], but it",
    ),
    (
        {"respond": response(days=lambda r: put(r.days, 2, -3))},
        r"respond returned days with -3.0 at \[2\], but it must be",
    ),
    (
        {"respond": response(days=lambda r: r.days * math.inf)},
        r"respond returned days with inf at \[0\]",
    ),
    (
        {"respond": response(days=lambda r: r.days.double())},
        r"respond returned days as a float64 tensor of shape \(4,\), but it must be a float32 "
        r"tensor of shape \(4,\)",
    ),
    (
        {"respond": response(days=lambda r: r.days[:, None])},
        r"respond returned days as a float32 tensor of shape \(4, 1\)",
    ),
    (
        {"respond": response(days=lambda r: 7.0)},
        r"respond returned days as 7.0, but it must be a float32 tensor",
    ),
    (
        {"respond": response(days=lambda r: r.days.to("meta"))},
        "respond returned days as a tensor on meta, but the",
    ),
    (
        {"respond": response(clicks=lambda r: torch.ones_like(r.clicks))},
        r"respond returned clicks with True at \[0, 1\], but it must be False where shown is False",
    ),
    (
        {"respond": response(clicks=lambda r: r.clicks.long())},
        "respond returned clicks as a int64 tensor",
    ),
    (
        {"respond": response(probability=lambda r: r.probability + 1)},
        "respond returned probability with 1.* a chance is",
    ),
    (
        {"respond": response(probability=lambda r: put(r.probability, (0, 1), 0.5))},
        r"respond returned probability with 0.5 at \[0, 1\], but it must be 0 where shown is False",
    ),
    (
        {"respond": response(left=lambda r: r.left.float())},
        "respond returned left as a float32 tensor",
    ),
    (
        {"respond": response(elsewhere=lambda r: r.elsewhere - 9)},
        "respond returned elsewhere with -",
    ),
    (
        {"respond": response(leaving=lambda r: r.days * math.nan)},
        r"respond returned leaving with nan at \[0\]",
    ),
    (
        {"respond": response(leaving=lambda r: None)},
        "respond returned no leaving, but tells_leaving is True",
    ),
    (
        {"respond": response(basket=lambda r: torch.full((4, 2), 31))},
        r"respond returned basket with 31 at \[0, 0\], but an",
    ),
    (
        {"start": lambda s, _: replace(s, day=s.day[:1].expand(4))},
        "start returned the state's 'day', in which several numbers lie at one place, but rows are",
    ),
    (
        {"start": lambda s, _: replace(s, bought_day=s.bought)},
        "start returned the memory of the state's 'bought' as the state's 'bought_day' too, but "
        "every",
    ),
    (
        {"start": lambda s, _: replace(s, visit=s.visit[:3])},
        "start returned 3 rows as the state's 'visit', but it must have 4, one a shopper",
    ),
    (
        {"start": lambda s, _: replace(s, day=s.day.sum())},
        "start returned a number as the state's 'day', but it must have a row a shopper",
    ),
    (
        {"start": lambda s, _: replace(s, day=7.0)},
        "start returned a state that cannot be taken apart, but state/day is 7.0, but it must be a "
        "tensor",
    ),
    (
        {"start": lambda s, _: None},
        "start returned a state that cannot be taken apart, but state is None, but it must hold",
    ),
    ({"respond": lambda *_: None}, "respond returned None, but it must return a Response"),
    (
        {"candidates": lambda c: put(c, (0, 1), c[0, 0])},
        "candidates returned the item 1 twice in row 0, but",
    ),
    (
        {"candidates": lambda c: put(c, (2, 3), 31)},
        r"candidates returned 31 at \[2, 3\], but an item is 0 to 30",
    ),
    (
        {"candidates": lambda c: put(c, (0, 0), -1)},
        r"candidates returned 2 at \[0, 1\], but padding with -1 must stand at",
    ),
    (
        {"candidates": lambda c: c[:, :5]},
        r"candidates returned a int64 tensor of shape \(4, 5\), but it must be a int64",
    ),
    ({"candidates": lambda c: c.int()}, "candidates returned a int32 tensor"),
    ({"candidates": lambda c: c.tolist()}, r"candidates returned \[\["),
    (
        {"observe": lambda o, _: list(o)},
        "observe returned .*, but it must return a mapping of tensors",
    ),
    (
        {"observe": lambda o, _: {"context": o["context"]}},
        r"observe returned the keys \['context'\], but spaces\(\) declared",
    ),
    (
        {"observe": seen("context", lambda v, _: v - 1)},
        "observe returned 'context' outside of its space in row 0, but",
    ),
    (
        {"observe": seen("context", lambda v, _: v * math.nan)},
        "observe returned 'context' outside of its space",
    ),
    (
        {"observe": seen("context", lambda v, _: v[:, :7])},
        r"observe returned context as a float32 tensor of shape \(4, 7\)",
    ),
    (
        {"observe": seen("context", lambda v, _: v.double())},
        "observe returned context as a float64 tensor",
    ),
    (
        {"observe": seen("bought_counts", lambda v, state: state.bought[:, :6])},
        "observe returned the memory of the hidden state as 'bought_counts', but a tensor that is "
        "returned must be new",
    ),
]


def name(case: Any) -> str:
    return case if isinstance(case, str) else "-".join(case) if isinstance(case, dict) else "term"


SLATES = torch.tensor([[1, 1, 2, 3], [1, 2, 4, 5], [0, 0, 0, 0], [7, 8, 1, 2]])


@pytest.mark.parametrize(("changes", "sentence"), AT_ONCE, ids=name)
def test_a_simulator_says_at_once_which_promise_is_broken(
    changes: dict[str, Any], sentence: str
) -> None:
    simulator = SlateSimulator(Broken(**changes))

    def play() -> None:
        simulator.reset(torch.arange(4))
        simulator.step(SLATES)

    with pytest.raises(ValueError, match=f"^Broken.{sentence}"):
        play()


@pytest.mark.parametrize(("changes", "sentence"), AT_ONCE, ids=name)
def test_the_kit_finds_them_as_well(changes: dict[str, Any], sentence: str) -> None:
    method = sentence.split(" ")[0]
    with pytest.raises(ValueError, match=f"^Broken.{method} returned .*, but "):
        check_shopper(Broken(**changes), batch=4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"catalog": lambda: None}, "Broken.catalog is None, but it must be a Catalog."),
        ({"device": lambda: "cpu"}, "Broken.device is 'cpu', but it must be a torch.device."),
        (
            {"slate_size": lambda: 0},
            "Broken.slate_size is 0, but it must be a whole number of 1 or more.",
        ),
        (
            {"max_candidates": lambda: 2.5},
            "Broken.max_candidates is 2.5, but it must be a whole number from 1 to 10000000.",
        ),
        (
            {"start_draws": lambda: 10**9},
            "Broken.start_draws is 1000000000, but it must be a whole number from 0 to 1000000.",
        ),
        (
            {"visit_draws": lambda: -1},
            "Broken.visit_draws is -1, but it must be a whole number from 0 to 1000000.",
        ),
        (
            {"spaces": lambda _: None},
            r"Broken.spaces returned None, but it must return a space of Gymnasium's for each",
        ),
        (
            {"spaces": lambda _: {"x": 3}},
            "Broken.spaces returned 3 for 'x', but it must be one of Box, Discrete",
        ),
        (
            {"spaces": lambda s: {"candidates": s["context"]}},
            r"Broken.spaces returned the keys \['candidates'\], but those",
        ),
    ],
)
def test_a_shopper_of_wrong_parts_makes_no_simulator(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        SlateSimulator(Broken(**changes))
    with pytest.raises(ValueError, match=f"^{sentence}"):
        check_shopper(Broken(**changes))


@pytest.mark.parametrize("shopper", [None, 5, object(), ToyShopper, torch.zeros(2)])
def test_what_is_no_shopper_makes_no_simulator(shopper: Any) -> None:
    sentence = "shopper is .*, but it must be a Shopper"
    with pytest.raises(ValueError, match=sentence):
        SlateSimulator(shopper)
    with pytest.raises(ValueError, match=sentence):
        check_shopper(shopper)


def global_draws(state: ToyState, draws: Tensor) -> ToyState:
    state.favourite = torch.randint(5, (len(draws),))
    return state


counter = iter(range(10**6))
SHARED = torch.ones(10_000, 8)


# What only shows when a shopper is asked again in another way.
BY_THE_KIT: list[tuple[dict[str, Any], str]] = [
    (
        {"start": global_draws},
        "start drew from a global generator, but everything random must come from draws",
    ),
    (
        {"respond": lambda r, *_: (np.random.random(), r)[1]},  # noqa: NPY002
        "respond drew from a global generator",
    ),
    (
        {"start": lambda s, _: replace(s, day=s.day + next(counter))},
        "start returned another shopper, with another 'context', for equal draws, but all chance "
        "must come from draws",
    ),
    (
        {"respond": response(days=lambda r: r.days + next(counter))},
        "respond returned another 'days' for equal draws",
    ),
    (
        {"respond": response(elsewhere=lambda r: r.elsewhere + r.clicks.sum())},
        "respond returned another 'elsewhere' for rows alone than for the batch, but a row must "
        "depend on that row",
    ),
    (
        {"observe": seen("popularity", lambda v, _: v / len(v))},
        "observe returned another 'popularity' for rows alone than for the batch",
    ),
    (
        {
            "observe": seen(
                "category_days", lambda v, _: v + (torch.arange(len(v)) == 4).unsqueeze(1)
            )
        },
        "observe returned another 'category_days' for rows in another order",
    ),
    (
        {"respond": lambda r, state, slates, shown: (slates.zero_(), r)[1]},
        "respond wrote into its argument 2, but only",
    ),
    (
        {"respond": lambda r, state, slates, shown: (shown.fill_(True), r)[1]},
        "respond wrote into its argument 3",
    ),
    ({"start": lambda s, draws: (draws.zero_(), s)[1]}, "start wrote into its argument 1"),
    (
        {"observe": lambda o, _: {**o, "context": SHARED[: len(o["context"])]}},
        "observe returned memory of the shopper's own as 'context', but the caller may write into "
        "what is returned",
    ),
    (
        {"observe": seen("popularity", lambda v, _: v[:, :1].expand(v.shape))},
        "observe returned 'popularity', in which several numbers lie at one place, but the caller "
        "may write into what",
    ),
    (
        {"when_and_where": lambda found, state: {"store": state.visit}},
        "when_and_where returned memory of the shopper's own as 'store'",
    ),
    (
        {"when_and_where": lambda found, s: {"shopper": s.visit.clone()}},
        r"when_and_where returned \['shopper'\], but it must return a mapping whose keys are among",
    ),
    (
        {"when_and_where": lambda found, s: {"day": s.day.clone()}},
        "when_and_where returned day as a float32 tensor",
    ),
    (
        {"respond": lambda r, state, *_: replace(r, days=state.day)},
        "respond returned 'days', which a later call changed, but what is returned must be new",
    ),
    (
        {"describe": lambda found: {"date": 3}},
        "describe returned 3 as 'date', but it must be a string",
    ),
    (
        {"describe": lambda found: None},
        "describe returned None, but it must return a mapping with strings as keys",
    ),
    (
        {"candidates": lambda c: c.where(c != 1, next(counter) % 2)},
        "candidates returned others when asked again, but looking must change nothing",
    ),
    (
        {"observe": seen("context", lambda v, state: v + next(counter))},
        "observe returned memory of the shopper's own|observe returned another 'context' when "
        "asked again",
    ),
    (
        {"respond": response(left=lambda r: torch.ones_like(r.left))},
        "respond returned left with True, but never_leave is",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), BY_THE_KIT, ids=name)
def test_the_kit_finds_what_only_another_way_shows(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^Broken.({sentence})"):
        check_shopper(Broken(**changes))


def test_the_kit_finds_an_offer_that_contradicts_the_candidates() -> None:
    class Offering(ToyShopper):
        def on_offer(self, state: ToyState, items: Tensor) -> Tensor:
            return items > 3

    with pytest.raises(
        ValueError,
        match=r"^Offering.on_offer contradicted candidates, but an item is on offer where",
    ):
        check_shopper(Offering())


def test_a_shopper_that_remembers_beside_its_state_is_found() -> None:
    class Beside(ToyShopper):
        def start(self, draws: Tensor) -> ToyState:
            self.visits = torch.zeros(8)
            return super().start(draws)

        def respond(
            self, state: ToyState, slates: Tensor, shown: Tensor, draws: Tensor
        ) -> Response:
            self.visits += 1
            answer = super().respond(state, slates, shown, draws)
            return replace(answer, elsewhere=self.visits[: len(slates)].clone())

    with pytest.raises(ValueError, match=r"^Beside.start returned a state in which a row hangs on"):
        check_shopper(Beside())


def test_a_shopper_without_its_parents_init_says_so() -> None:
    class Bare(ToyShopper):
        def __init__(self) -> None:
            self.slate_size = 3

    with pytest.raises(ValueError, match=r"^Bare.catalog is missing, .*super\(\).__init__"):
        check_shopper(Bare())


def test_what_the_base_class_gives_is_enough_for_a_shopper() -> None:
    """A shopper of two methods: what the shop observes, when it is, and how a visit reads."""

    class Plain(Shopper[Tensor]):
        def start(self, draws: Tensor) -> Tensor:
            return draws[:, 0].clone()

        def respond(self, state: Tensor, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
            chance = 0.5 * shown
            none = torch.zeros(len(state))
            return Response(draws < chance, chance, none.bool(), none + 2.5, none)

    plain = Plain(toy_catalog(items=9), 3, device=torch.device("cpu"))
    check_shopper(plain)
    simulator = SlateSimulator(plain)
    observation = simulator.reset(torch.arange(2))
    assert observation["candidates"].tolist() == [list(range(9))] * 2
    assert simulator.describe(0) == {}
    for _ in range(3):
        simulator.step(torch.tensor([[0, 1, 2], [3, 4, 5]]))
    where = simulator.when_and_where()
    assert {key: value.tolist() for key, value in where.items()} == {
        "day": [7, 7],
        "week": [2, 2],
        "store": [0, 0],
    }
    with pytest.raises(ValueError, match=r"^never_leave is True, but Plain does not tell"):
        simulator.reset(torch.arange(2), staying=True)
    with pytest.raises(ValueError, match=r"^never_leave is True, but Plain does not tell"):
        Plain(toy_catalog(), 3, device=torch.device("cpu"), never_leave=True)
    few = Plain(toy_catalog(), 3, device=torch.device("cpu"), max_candidates=5)
    with pytest.raises(ValueError, match=r"^max_candidates is 5, but without a method candidates"):
        SlateSimulator(few).reset(torch.arange(2))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"catalog": None}, "catalog is None, but it must be a Catalog"),
        ({"slate_size": 0}, "slate_size is 0, but it must be a whole number of 1 or more"),
        ({"start_draws": -1}, "start_draws is -1"),
        ({"start_draws": 10**9}, "start_draws is 1000000000, but it must be a whole number from 0"),
        (
            {"visit_draws": 10**6 + 1},
            "visit_draws is 1000001, but it must be a whole number from 0",
        ),
        ({"max_candidates": 10**12}, "max_candidates is 1000000000000, but it must be a whole"),
        ({"visit_draws": 2.5}, "visit_draws is 2.5"),
        ({"max_candidates": 0}, "max_candidates is 0"),
        ({"never_leave": 1}, "never_leave is 1"),
    ],
)
def test_the_base_class_refuses_bad_arguments(change: dict[str, Any], sentence: str) -> None:
    class Plain(MoodShopper):
        def __init__(self, **arguments: Any) -> None:
            Shopper.__init__(self, **arguments)

    good = {"catalog": toy_catalog(), "slate_size": 3, "device": torch.device("cpu")}
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Plain(**{**good, **change})


def test_the_kit_leaves_the_shopper_as_it_was() -> None:
    shopper = ToyShopper()
    check_shopper(shopper)
    assert shopper.never_leave is False


@pytest.mark.parametrize(
    "arguments", [{"batch": 3}, {"batch": True}, {"visits": 0}, {"seed": "1"}, {"tolerance": -1}]
)
def test_the_kit_refuses_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))} is "):
        check_shopper(ToyShopper(), **arguments)


# --- the simulator's check happens once, and costs no episode ---


LATER = [(changes, sentence) for changes, sentence in AT_ONCE if "hidden state" not in sentence]


@pytest.mark.parametrize(("changes", "sentence"), LATER, ids=name)
def test_a_promise_that_is_broken_later_is_found_as_well(
    changes: dict[str, Any], sentence: str
) -> None:
    shopper = Broken(lapse=lambda: 0.0)
    simulator = SlateSimulator(shopper)
    simulator.reset(torch.arange(4))
    for _ in range(3):
        simulator.step(SLATES)
    shopper.changes.update(changes)

    def play() -> None:
        if "start" in changes:
            simulator.reset_rows(torch.arange(4))
        simulator.step(simulator.candidates[:, [0, 0, 1, 2]])

    with pytest.raises(ValueError, match=rf"^Broken.{sentence.split(' ')[0]} returned"):
        play()


@pytest.mark.parametrize("field", ["days", "elsewhere"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -7.0])
def test_a_number_that_cannot_be_ends_the_play_at_its_visit(field: str, value: float) -> None:
    shopper = Broken(lapse=lambda: 0.0)
    simulator = SlateSimulator(shopper)
    simulator.reset(torch.arange(4))
    simulator.step(SLATES)
    before = simulator.episodes
    shopper.changes["respond"] = response(
        **{field: lambda r: put(getattr(r, field), 3, value)},
    )
    with pytest.raises(ValueError, match=rf"respond returned {field} with {value} at \[3\], but"):
        simulator.step(SLATES)
    assert simulator.episodes is before


def test_an_answer_to_an_episode_that_is_over_is_thrown_away() -> None:
    shopper = Broken(lapse=lambda: 0.0)
    simulator = SlateSimulator(shopper)
    simulator.reset(torch.arange(4))
    simulator.step(SLATES)
    simulator.end(torch.tensor([False, True, False, False]))
    shopper.changes["respond"] = response(days=lambda r: put(r.days, 1, math.nan))
    simulator.advance(SLATES)
    assert simulator.episodes.day.isnan().tolist() == [False, True, False, False]
    shopper.changes["respond"] = response(days=lambda r: put(r.days, 2, math.nan))
    with pytest.raises(ValueError, match=r"respond returned days with nan at \[2\], but"):
        simulator.advance(SLATES)


def test_what_is_on_offer_has_one_answer_an_item() -> None:
    class Offers(ToyShopper):
        def on_offer(self, state: ToyState, items: Tensor) -> Tensor:
            return items[:, :1] >= 0

    simulator = SlateSimulator(Offers())
    simulator.reset(torch.arange(4))
    sentence = r"Offers.on_offer returned a bool tensor of shape \(4, 1\), but it must be a bool"
    with pytest.raises(ValueError, match=sentence):
        simulator.step(SLATES)


def test_new_shoppers_of_another_shape_cannot_be_put_into_rows() -> None:
    shopper = Broken()
    simulator = SlateSimulator(shopper)
    simulator.reset(torch.arange(4))
    shopper.changes["start"] = lambda s, _: replace(s, bought=s.bought[:, :1].clone())
    with pytest.raises(
        TypeError, match=r"state/bought is a float32 tensor of shape \(4, 31\), but"
    ):
        simulator.reset_rows(torch.tensor([1, 2]))


def test_the_kit_finds_what_is_broken_at_a_later_visit() -> None:
    class Late(ToyShopper):
        def respond(self, state: ToyState, *arguments: Any) -> Response:
            late = state.visit >= 4
            answer = super().respond(state, *arguments)
            return replace(answer, days=answer.days.where(~late, math.nan))

    with pytest.raises(ValueError, match=r"Late\.respond returned days with nan"):
        check_shopper(Late())


def test_only_a_class_that_says_so_itself_is_trusted() -> None:
    class Sure(ToyShopper):
        trusted = True

        def respond(self, state: ToyState, *arguments: Any) -> Response:
            later = bool((state.visit > 0).any())
            answer = super().respond(state, *arguments)
            return replace(answer, days=answer.days * math.nan) if later else answer

    class Heir(Sure):
        pass

    for kind, found in ((Sure, False), (Heir, True)):
        simulator = SlateSimulator(kind())
        simulator.reset(torch.arange(4))
        simulator.step(SLATES)
        if found:
            with pytest.raises(ValueError, match=r"Heir\.respond returned days with nan"):
                simulator.step(SLATES, validate=False)
        else:
            simulator.step(SLATES, validate=False)
            assert simulator.episodes.day.isnan().all()


def test_the_check_asks_the_shopper_nothing_more() -> None:
    calls: list[str] = []

    class Counted(ToyShopper):
        def __getattribute__(self, name: str) -> Any:
            if name in ("start", "respond", "candidates", "observe"):
                calls.append(name)
            return super().__getattribute__(name)

    simulator = SlateSimulator(Counted())
    calls.clear()
    simulator.reset(torch.arange(4))
    first = list(calls)
    calls.clear()
    simulator.reset(torch.arange(4))
    assert first == calls


def test_a_reset_that_failed_is_none() -> None:
    simulator = SlateSimulator(Broken(candidates=lambda c: c.int()))
    with pytest.raises(ValueError, match="candidates returned"):
        simulator.reset(torch.arange(4))
    with pytest.raises(ResetNeeded):
        simulator.observe()


def test_the_spaces_of_a_shopper_may_be_of_any_simple_kind() -> None:
    class Kinds(ToyShopper):
        def spaces(self) -> dict[str, gymnasium.Space[Any]]:
            return {
                "one": spaces.Discrete(3),
                "flags": spaces.MultiBinary(4),
                "codes": spaces.MultiDiscrete([2, 5]),
            }

        def observe(self, state: ToyState) -> dict[str, Tensor]:
            batch = len(state.visit)
            return {
                "one": state.visit % 3,
                "flags": torch.ones(batch, 4, dtype=torch.int8),
                "codes": torch.ones(batch, 2, dtype=torch.int64),
            }

    check_shopper(Kinds())
