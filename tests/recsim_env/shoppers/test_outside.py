"""An outside environment becomes a shopper: seeds, clicks, endings and rows come through.

`Tap` is such an environment in a few lines: at visit v (1, 2, ..) item i is clicked where (i + v +
secret) % 3 == 0, the secret being drawn at reset; whoever clicks nothing leaves, and the clock
stops everybody after the sixth visit, which it reports as `terminated`.
"""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import registry

from agents.evaluate import evaluate
from agents.places import learn_ranker
from policies import POLICIES
from policies.inputs import PolicyInputs
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import PRESETS, make_simulator
from recsim_env.rewards import Reward
from recsim_env.shoppers.outside import (
    OutsideShopper,
    OutsideSpec,
    environment_seeds,
    outside_simulator,
    register_outside,
)
from recsim_env.shoppers.outside_catalog import clustered_catalog
from recsim_env.simulator import SlateSimulator
from tests.support.outside_toys import items_around_axes

ITEMS, SIZE, VISITS = 12, 3, 6


class Tap(gymnasium.Env[dict[str, Any], Any]):
    """See the module."""

    def __init__(self, visits: int = VISITS, *, truncate: int | None = None) -> None:
        self.observation_space = spaces.Dict({"secret": spaces.Discrete(3)})
        self.action_space = spaces.MultiDiscrete([ITEMS] * SIZE)
        self.visits = visits
        self.truncate = truncate
        self.closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], Any]:
        super().reset(seed=seed)
        self.seed = seed
        self.visit = 0
        self.secret = int(self.np_random.integers(3))
        return {"secret": self.secret}, {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.visit += 1
        clicks = ((action + self.visit + self.secret) % 3 == 0).astype(np.int64)
        terminated = self.visit >= self.visits or not clicks.any()
        return (
            {"secret": self.secret},
            float(clicks.sum()),
            bool(terminated),
            self.visit == self.truncate,
            {"c": clicks},
        )

    def close(self) -> None:
        self.closed = True


def tap_spec(visits: int = VISITS, *, longer: int = 0, truncate: int | None = None) -> OutsideSpec:
    return OutsideSpec(
        make=lambda: Tap(visits + longer, truncate=truncate),
        catalog=clustered_catalog(items_around_axes(), 3),
        visits=visits,
        clicks=lambda observation, info: info["c"],
    )


def tap_simulator(visits: int = VISITS) -> SlateSimulator:
    return outside_simulator(tap_spec(visits))


def secrets(simulator: SlateSimulator) -> list[int]:
    return [tap.unwrapped.secret for tap in simulator.hidden.environments]


ALWAYS = torch.tensor([[0, 1, 2]])  # three neighbours: one of them is clicked whatever the secret


def test_clicks_are_the_outsiders_and_the_reward_is_its_own() -> None:
    simulator, rows = tap_simulator(), 8
    simulator.reset(torch.arange(rows))
    secret = torch.tensor(secrets(simulator)).unsqueeze(1)
    slates = torch.tensor([[3, 7, 1]]).repeat(rows, 1)  # 3 % 3 = 0, 7 % 3 = 1 % 3 = 1
    step = simulator.step(slates)
    expected = (slates + 1 + secret) % 3 == 0
    assert torch.equal(step.observation["recent_clicks"][:, 0].bool(), expected)
    assert torch.equal(step.reward, expected.sum(dim=1).float())
    assert torch.equal(step.terminated, ~expected.any(dim=1)), "no click: the shopper left"


def test_seeds_depend_on_the_simulators_seeds_alone() -> None:
    one, many = tap_simulator(), tap_simulator()
    many.reset(torch.arange(100, 140))
    one.reset(torch.tensor([117]))
    assert secrets(one) == [secrets(many)[17]]
    assert sorted(set(secrets(many))) == [0, 1, 2]
    seeds = [tap.unwrapped.seed for tap in many.hidden.environments]
    assert len(set(seeds)) == 40
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_seed_is_31_bits_of_two_numbers() -> None:
    draws = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [1 - 2.0**-24, 1 - 2.0**-24]])
    assert environment_seeds(draws) == [0, 2**30, 64, 2**31 - 1]


def test_the_clock_truncates_and_only_leaving_terminates() -> None:
    simulator = tap_simulator()
    simulator.reset(torch.arange(4))
    for visit in range(1, VISITS + 1):
        step = simulator.step(ALWAYS.repeat(4, 1))
        assert not bool(step.terminated.any())
        assert step.truncated.tolist() == [visit == VISITS] * 4


def test_rows_start_again_and_old_environments_are_closed() -> None:
    simulator = tap_simulator()
    simulator.reset(torch.arange(4))
    before = list(simulator.hidden.environments)
    simulator.step(ALWAYS.repeat(4, 1))
    simulator.reset_rows(torch.tensor([2, 0]), torch.tensor([70, 50]))
    now = simulator.hidden.environments
    assert [now[row] is before[row] for row in range(4)] == [False, True, False, True]
    assert [tap.closed for tap in before] == [True, False, True, False]
    assert simulator.hidden.visit.tolist() == [0, 1, 0, 1]
    other = tap_simulator()
    other.reset(torch.tensor([50, 70]))
    assert [now[0].unwrapped.seed, now[2].unwrapped.seed] == [
        tap.unwrapped.seed for tap in other.hidden.environments
    ]
    observation = simulator.observe()
    assert observation["visits"].squeeze(1).tolist() == [0, 1, 0, 1]


def test_keeping_rows_moves_environments_and_never_copies_them() -> None:
    simulator = tap_simulator()
    simulator.reset(torch.arange(4))
    before = list(simulator.hidden.environments)
    simulator.keep(torch.tensor([3, 1]))
    assert [id(tap) for tap in simulator.hidden.environments] == [id(before[3]), id(before[1])]
    with pytest.raises(ValueError, match="no copies"):
        simulator.keep(torch.tensor([0, 0]))


def test_an_episode_that_is_over_may_be_asked_once_more() -> None:
    simulator = tap_simulator()
    simulator.reset(torch.arange(3))
    for _ in range(VISITS):
        simulator.advance(ALWAYS.repeat(3, 1))
    assert simulator.advance(ALWAYS.repeat(3, 1)).reward.tolist() == [0, 0, 0]
    with pytest.raises(RuntimeError, match="horizon_days"):
        simulator.advance(ALWAYS.repeat(3, 1))


def test_a_shorter_clock_of_the_outsider_is_an_error() -> None:
    simulator = outside_simulator(tap_spec(truncate=2))
    simulator.reset(torch.arange(2))
    simulator.step(ALWAYS.repeat(2, 1))
    with pytest.raises(RuntimeError, match="cut off at visit 2"):
        simulator.step(ALWAYS.repeat(2, 1))


def test_an_outsider_with_a_longer_clock_is_cut_off_at_ours() -> None:
    simulator = outside_simulator(tap_spec(longer=5))
    simulator.reset(torch.arange(2))
    ended = [simulator.step(ALWAYS.repeat(2, 1)).truncated.tolist() for _ in range(VISITS)]
    assert ended == [[False, False]] * (VISITS - 1) + [[True, True]]


def test_a_repeated_item_gets_no_click() -> None:
    simulator = tap_simulator()
    simulator.reset(torch.arange(6))
    clicked = (3 + 1 + torch.tensor(secrets(simulator))) % 3 == 0
    step = simulator.step(torch.tensor([[3, 3, 3]]).repeat(6, 1))
    assert torch.equal(step.reward, clicked.float()), "the outsider clicks thrice, or not at all"
    assert step.info["invalid_items"].tolist() == [2] * 6


def test_agents_see_nothing_of_the_outsiders_observation() -> None:
    simulator = tap_simulator()
    observation = simulator.reset(torch.arange(5))
    assert set(observation) == set(simulator.observation_space.spaces)
    assert "secret" not in observation
    first = {name: value[:1] for name, value in observation.items()}
    same = {name: bool((value == first[name]).all()) for name, value in observation.items()}
    assert all(same.values()), "newcomers look alike"


def test_policies_and_logs_run_on_it_unchanged() -> None:
    simulator = tap_simulator()
    inputs = PolicyInputs(simulator.catalog, simulator.observation_space, SIZE)
    uniform = POLICIES["uniform"].build(inputs)
    seeds = torch.arange(30)
    rows = evaluate(uniform, simulator, seeds, batch=7).rows
    again = evaluate(uniform, simulator, seeds, batch=30).rows
    assert rows.equals(again), "episodes do not depend on the batch"
    assert rows["return"].to_list() == rows["clicks"].to_list()
    impressions, _ = record(simulator, uniform, seeds)
    sessions = Sessions.of(impressions)
    assert sessions.length.tolist() == rows["visits"].to_list()
    assert int(sessions.clicks.sum()) == rows["clicks"].sum()
    assert sessions.left.tolist() == rows["lapsed"].to_list()


def test_global_generators_do_not_move() -> None:
    states = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    simulator = tap_simulator()
    simulator.reset(torch.arange(3))
    simulator.step(ALWAYS.repeat(3, 1))
    assert torch.equal(states[0], torch.get_rng_state())
    assert str(states[1]) == str(np.random.get_state())  # noqa: NPY002
    assert states[2] == random.getstate()


def test_a_spec_that_does_not_fit_is_refused() -> None:
    spec = tap_spec()
    with pytest.raises(ValueError, match="MultiDiscrete with 5 items"):
        OutsideShopper(
            OutsideSpec(spec.make, clustered_catalog(items_around_axes(5), 2), VISITS),
            torch.device("cpu"),
        )
    with pytest.raises(ValueError, match="visits is 0"):
        outside_simulator(OutsideSpec(spec.make, spec.catalog, 0))


BAD_FIELDS: dict[str, list[Any]] = {
    "make": [None, 3, "Tap", Tap(), []],
    "clicks": [None, 3, "clicks", []],
    "catalog": [None, 3, "catalog", torch.eye(12), {}],
    "visits": [
        None,
        "3",
        0,
        -1,
        2.5,
        True,
        np.bool_(True),
        2**70,
        36501,
        [],
        float("nan"),
        torch.tensor(3),
    ],
}


@pytest.mark.parametrize(
    ("field", "bad"), [(field, value) for field, values in BAD_FIELDS.items() for value in values]
)
def test_every_field_of_a_spec_is_checked(field: str, bad: Any) -> None:
    spec = tap_spec()
    good: dict[str, Any] = {name: getattr(spec, name) for name in BAD_FIELDS}
    assert OutsideSpec(**{**good, "visits": np.int32(4)}).visits == 4
    with pytest.raises(ValueError, match=rf"^{field} is .*, but it must be a"):
        OutsideSpec(**{**good, field: bad})


@pytest.mark.parametrize("spec", [None, 3, "tap", {}, OutsideSpec])
def test_an_outside_shopper_needs_a_spec(spec: Any) -> None:
    with pytest.raises(ValueError, match=r"^spec is .*, but it must be an OutsideSpec"):
        outside_simulator(spec)


def test_what_makes_no_environment_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"OutsideSpec\.make\(\) is 3, but it must be a gymnasium\.Env"
    ):
        outside_simulator(OutsideSpec(lambda: 3, tap_spec().catalog, VISITS))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    "clicks",
    [
        None,
        [1, 0],
        [[1, 0, 0]],
        1,
        "101",
        [1, 0, 2],
        [0.5, 0, 0],
        [float("nan"), 0, 0],
        np.zeros(4),
        [None] * 3,
    ],
)
def test_clicks_are_one_0_or_1_a_position(clicks: Any) -> None:
    spec = tap_spec()
    simulator = outside_simulator(
        OutsideSpec(spec.make, spec.catalog, VISITS, lambda observation, info: clicks)
    )
    simulator.reset(torch.arange(2))
    with pytest.raises(
        RuntimeError,
        match=r"OutsideSpec\.clicks gave .* step 1, but it must give 3 numbers of 0 and 1",
    ):
        simulator.step(ALWAYS.repeat(2, 1))


def test_seeds_are_31_bits_of_two_numbers() -> None:
    last = 1 - 2.0**-24
    draws = torch.tensor([[0.0, 0.0], [0.5, 0.5], [last, last], [2.0**-24, 1 / 128]])
    expected = [0, 2**30 + 2**6, 2**31 - 1, 2**7 + 1]
    assert environment_seeds(draws) == expected


# ---- candidates that change, places, and what the outsider pays ----------------------------------

LIST = 5


class Radio(Tap):
    """Tap with a list of candidates that changes at every visit, and seconds instead of clicks.

    At visit v (0 = the first) songs 2 v, 2 v + 1, .., 2 v + 4 (modulo 12) may be played, in
    descending order. An action names songs, or places in that list. Whoever is shown something
    else stops.
    """

    def __init__(self, places: bool, pays: float = 2.5) -> None:
        super().__init__()
        self.places, self.pays = places, pays
        self.action_space = spaces.MultiDiscrete([LIST if places else ITEMS] * SIZE)
        self.played: list[list[int]] = []

    def songs(self) -> list[int]:
        return [(2 * self.visit + at) % ITEMS for at in reversed(range(LIST))]

    def reset(self, **options: Any) -> tuple[dict[str, Any], Any]:
        observation, info = super().reset(**options)
        return {**observation, "songs": self.songs()}, info

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        songs = [self.songs()[place] for place in action] if self.places else action.tolist()
        assert set(songs) <= set(self.songs()), "only what may be played is played"
        self.played.append(songs)
        self.visit += 1
        seconds = [40.0 if song % 2 == 0 else 3.0 for song in songs]
        over = self.visit >= VISITS
        return {"songs": self.songs()}, self.pays, over, False, {"seconds": seconds}


def radio_spec(places: bool = False, **changes: Any) -> OutsideSpec:
    given: dict[str, Any] = {
        "make": lambda: Radio(places),
        "catalog": clustered_catalog(items_around_axes(), 3),
        "visits": VISITS,
        "clicks": lambda observation, info: np.array(info["seconds"]) > 30,
        "candidates": lambda observation, info: observation["songs"],
        "most_candidates": LIST,
        "places": places,
    }
    return OutsideSpec(**{**given, **changes})


@pytest.mark.parametrize("places", [False, True])
def test_candidates_change_and_slates_reach_the_outsider(places: bool) -> None:
    simulator = outside_simulator(radio_spec(places))
    observation = simulator.reset(torch.arange(2))
    assert observation["candidates"].tolist() == [[4, 3, 2, 1, 0]] * 2
    step = simulator.step(torch.tensor([[4, 0, 3], [1, 2, 3]]))
    assert [radio.unwrapped.played for radio in simulator.hidden.environments] == [
        [[4, 0, 3]],
        [[1, 2, 3]],
    ]
    assert step.observation["recent_clicks"][:, 0].tolist() == [[1, 1, 0], [0, 1, 0]]
    assert step.observation["candidates"].tolist() == [[6, 5, 4, 3, 2]] * 2


@pytest.mark.parametrize("places", [False, True])
def test_what_is_no_candidate_is_not_played_and_gets_no_click(places: bool) -> None:
    simulator = outside_simulator(radio_spec(places))
    simulator.reset(torch.arange(3))
    step = simulator.step(torch.tensor([[8, 2, 10], [8, 10, 11], [2, 2, 8]]))
    played = [radio.unwrapped.played[0] for radio in simulator.hidden.environments]
    assert played == [[2, 2, 2], [4, 4, 4], [2, 2, 2]]  # the first that may be, or the first at all
    assert step.info["clicks"].tolist() == [1, 0, 1]
    assert step.info["invalid_items"].tolist() == [2, 3, 2]


def test_places_and_items_play_the_same_episodes() -> None:
    one, other = (outside_simulator(radio_spec(places)) for places in (False, True))
    inputs = PolicyInputs(one.catalog, one.observation_space, SIZE)
    uniform, seeds = POLICIES["uniform"].build(inputs), torch.arange(9)
    rows = evaluate(uniform, one, seeds, batch=4).rows
    assert rows.equals(evaluate(uniform, other, seeds, batch=9).rows)
    assert rows["invalid_items"].sum() == 0
    assert rows["visits"].unique().to_list() == [VISITS]


def test_rows_that_start_again_have_their_own_candidates() -> None:
    simulator = outside_simulator(radio_spec())
    simulator.reset(torch.arange(3))
    simulator.step(torch.tensor([[0, 1, 2]]).repeat(3, 1))
    observation = simulator.reset_rows(torch.tensor([1]))
    assert observation["candidates"][:, 0].tolist() == [6, 4, 6]
    simulator.keep(torch.tensor([2, 1]))
    assert simulator.candidates[:, 0].tolist() == [6, 4]


def test_a_shorter_list_is_padded() -> None:
    spec = radio_spec(candidates=lambda observation, info: observation["songs"][:2])
    assert outside_simulator(spec).reset(torch.arange(1))["candidates"].tolist() == [
        [4, 3, -1, -1, -1]
    ]


def test_what_the_outsider_pays_is_a_term_and_an_info() -> None:
    spec = radio_spec()
    simulator = outside_simulator(spec, Reward({"clicks": 1.0, "outside_reward": 2.0}))
    simulator.reset(torch.arange(2))
    step = simulator.step(torch.tensor([[4, 0, 3], [1, 3, 0]]))
    assert step.info["outside_reward"].tolist() == [2.5, 2.5]
    assert step.info["reward_terms/outside_reward"].tolist() == [2.5, 2.5]
    assert step.reward.tolist() == [2 + 2 * 2.5, 1 + 2 * 2.5]


@pytest.mark.parametrize("pays", [None, float("nan"), float("inf"), 1e39, [1.0, 2.0], "much"])
def test_what_is_no_finite_reward_is_refused_with_its_step(pays: Any) -> None:
    simulator = outside_simulator(radio_spec(make=lambda: Radio(False, pays)))
    simulator.reset(torch.arange(1))
    with pytest.raises(RuntimeError, match=r"gave the reward .* at step 1, but it must be one fin"):
        simulator.step(torch.tensor([[0, 1, 2]]))


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        ([41.0, float("nan"), 0.0], r"gave 41\.0 at position 0 of step 1"),
        ([0.0, float("nan"), 0.0], r"gave nan at position 1 of step 1"),
        (1.0, r"gave 1\.0 at step 1"),
        ([[1.0], [0.0, 1.0]], r"gave \[\[1\.0\], \[0\.0, 1\.0\]\] at step 1"),
    ],
)
def test_seconds_are_no_clicks(seconds: Any, says: str) -> None:
    spec = radio_spec(clicks=lambda observation, info: seconds)
    simulator = outside_simulator(spec)
    simulator.reset(torch.arange(3))
    with pytest.raises(RuntimeError, match=says):
        simulator.step(torch.tensor([[0, 1, 2]]).repeat(3, 1))


@pytest.mark.parametrize(
    ("songs", "says"),
    [
        ([], "gave .* after reset, but it must give from 1 to 5 whole numbers"),
        (list(range(6)), "from 1 to 5 whole numbers"),
        ([0.5, 1.0], "whole numbers"),
        (3, "whole numbers"),
        (None, "whole numbers"),
        ([[1, 2], [3]], "whole numbers"),
        ([0, 12], "gave 12 at place 1 after reset, but an item is a number from 0 to 11"),
        ([-1, 2], "gave -1 at place 0"),
        ([7, 3, 7], "gave 7 twice after reset"),
    ],
)
def test_candidates_are_checked(songs: Any, says: str) -> None:
    simulator = outside_simulator(radio_spec(candidates=lambda observation, info: songs))
    with pytest.raises(RuntimeError, match=says):
        simulator.reset(torch.arange(1))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"candidates": None}, "most_candidates is 5, but it must be None"),
        ({"most_candidates": None}, "most_candidates is None, but it must be given"),
        ({"most_candidates": 13}, "most_candidates is 13"),
        ({"most_candidates": 0}, "most_candidates is 0"),
        ({"candidates": 3}, "candidates is 3, but it must be a function"),
        ({"places": 1}, "places is 1"),
        ({"places": True, "candidates": None, "most_candidates": None}, "places is True"),
    ],
)
def test_the_fields_of_candidates_fit_together(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        radio_spec(**changes)


def test_the_action_space_is_of_places_where_actions_are() -> None:
    with pytest.raises(ValueError, match="MultiDiscrete with 5 places of candidates"):
        outside_simulator(radio_spec(places=True, make=lambda: Radio(False)))


class OldGym(Tap):
    """As before gym 0.26: `reset` gives an observation, `step` four values."""

    old_reset = True

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        return observation if self.old_reset else (observation, info)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


def test_an_older_gym_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = outside_simulator(
        OutsideSpec(OldGym, clustered_catalog(items_around_axes(), 3), VISITS)
    )
    with pytest.raises(RuntimeError, match=r"reset\(seed=\.\.\) gave .* older gym"):
        simulator.reset(torch.arange(1))
    monkeypatch.setattr(OldGym, "old_reset", False)
    simulator.reset(torch.arange(1))
    with pytest.raises(RuntimeError, match=r"gave 4 values at step 1, .* older gym"):
        simulator.step(ALWAYS)


# ---- registered ----------------------------------------------------------------------------------


def test_an_outside_environment_is_registered_like_any_other() -> None:
    id = "test/Radio-v0"
    try:
        register_outside(id, radio_spec(), reward={"outside_reward": 1.0})
        simulator = make_simulator(id, device="cpu")
        assert (simulator.slate_size, simulator.horizon_days) == (SIZE, float(VISITS))
        env = gymnasium.make(id)
        observation, _ = env.reset(seed=3)
        assert observation["candidates"].tolist() == [4, 3, 2, 1, 0]
        _, reward, *_, info = env.step(np.array([4, 3, 2]))
        assert (reward, info["outside_reward"]) == (2.5, 2.5)
        batch = gymnasium.make_vec(id, num_envs=2)
        batch.reset(seed=3)
        assert batch.step(np.array([[4, 3, 2]] * 2))[1].tolist() == [2.5, 2.5]
        with pytest.raises(
            ValueError, match="slate_size is 4, but the outside environment shows 3"
        ):
            make_simulator(id, slate_size=4)
    finally:
        PRESETS.pop(id, None)
        registry.pop(id, None)


def test_by_default_an_outsider_is_paid_by_the_click() -> None:
    id = "test/Tap-v0"
    try:
        register_outside(id, tap_spec())
        assert make_simulator(id, device="cpu").reward.weights == {"clicks": 1.0}
    finally:
        PRESETS.pop(id, None)
        registry.pop(id, None)


def test_a_ranker_is_learned_in_one_call() -> None:
    """Songs of one axis are clicked by everybody: they must come first."""
    catalog = clustered_catalog(items_around_axes(), 3)

    class Hits(Tap):
        def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
            self.visit += 1
            clicks = (action % 3 == 0).astype(np.int64)
            return {"secret": 0}, 0.0, self.visit >= self.visits, False, {"clicks": clicks}

    simulator = outside_simulator(OutsideSpec(Hits, catalog, VISITS))
    ranker = learn_ranker(simulator, slates=600)
    logits = ranker.logits(simulator.reset(torch.arange(1)))[0]
    assert set(logits.topk(4).indices.tolist()) == {0, 3, 6, 9}
    for bad, says in (({"slates": 0}, "slates is 0"), ({"mixture": "x"}, "mixture is 'x'")):
        with pytest.raises(ValueError, match=says):
            learn_ranker(simulator, **bad)
