"""Any order of calls to a simulator and its faces: what holds after each, whatever came before."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

from recsim_env import SlateEnv, SlateVectorEnv
from recsim_env.simulator import SlateSimulator
from tests.fuzz import ground, plan
from tests.fuzz.judge import equal
from tests.fuzz.playing import state_of

pytestmark = pytest.mark.slow

STEPS = 12
KINDS = {"toys": ground.TOY_ID, "market": "recsim_env/Market-v0", "folder": ground.FOLDER_ID}
EXAMPLES = {"toys": 60, "market": 20, "folder": 15}
FACES = {"toys": 40, "market": 15}


def generators() -> Any:
    """Where the global generators stand."""
    of_numpy: Any = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state(), of_numpy[1].tobytes(), of_numpy[2], random.getstate()]


def seed_of() -> Any:
    """Seeds of a few shoppers."""
    return st.lists(st.integers(0, 2**40), min_size=1, max_size=4)


def slates_for(simulator: SlateSimulator, kind: str, seed: int) -> Tensor:
    """Slates for all rows: distinct candidates, one item everywhere, items at random, or one
    candidate among others."""
    generator = torch.Generator().manual_seed(seed)
    shape, items = (simulator.num_envs, simulator.slate_size), len(simulator.catalog)
    valid = ground.valid_slates(simulator, seed)
    if kind == "valid":
        return valid
    if kind == "repeated":
        return valid[:, :1].expand(shape).clone()
    if kind == "random":
        return torch.randint(items, shape, generator=generator)
    offered = torch.zeros(len(valid), items + 1, dtype=torch.bool)
    offered.scatter_(1, simulator.candidates + 1, True)
    hidden = (
        (~offered[:, 1:]).long().argmax(dim=1)
    )  # an item that is no candidate, or 0 where all are
    slates = hidden.unsqueeze(1).expand(shape).clone()
    if kind == "one valid":
        slates[:, -1] = valid[:, 0]
    return slates


SLATES = st.sampled_from(["valid", "valid", "valid", "repeated", "random", "invalid", "one valid"])


class Simulator(RuleBasedStateMachine):
    """One simulator; beside it a plain count of what must hold."""

    id = ground.TOY_ID

    def __init__(self) -> None:
        super().__init__()
        plan.count(f"simulator of {self.id}")
        self.simulator = ground.made(self.id, horizon_days=60)
        self.before = generators()
        self.days: list[float] = []
        self.histories: list[tuple[int, int, list[list[int]], list[float]]] = []
        self.current: list[tuple[int, int, list[list[int]], list[float]]] = []

    def _begin(self, row: int) -> None:
        at = self.simulator.episodes
        self.current[row] = (int(at.seed[row]), int(at.number[row]), [], [])
        self.days[row] = 0.0

    @initialize(seeds=seed_of())
    def first(self, seeds: list[int]) -> None:
        self.reset(seeds)

    @rule(seeds=seed_of())
    def reset(self, seeds: list[int]) -> None:
        self.simulator.reset(torch.tensor(seeds))
        self.histories += self.current
        self.days, self.current = [0.0] * len(seeds), [(0, 0, [], [])] * len(seeds)
        for row in range(len(seeds)):
            self._begin(row)

    @precondition(lambda self: self.days and not bool(self.simulator.episodes.ended.any()))
    @rule(kind=SLATES, seed=st.integers(0, 99))
    def step(self, kind: str, seed: int) -> None:
        simulator = self.simulator
        slates, candidates = slates_for(simulator, kind, seed), simulator.candidates.clone()
        step = simulator.step(slates)
        ground.assert_outcome(simulator, vars(step))
        for row, slate in enumerate(slates.tolist()):
            offered, seen = set(candidates[row].tolist()) - {-1}, []
            for item in slate:
                seen.append(item if item in offered and item not in seen else -1)
            assert int(step.info["invalid_items"][row]) == seen.count(-1)
            assert step.observation["recent_slates"][row, 0].tolist() == seen
            clicked = step.observation["recent_clicks"][row, 0].bool()
            assert int(step.info["clicks"][row]) == int(clicked.sum())
            assert not any(
                hit and item < 0 for hit, item in zip(clicked.tolist(), seen, strict=True)
            )
            self.days[row] += float(step.info["gap_days"][row])
            assert float(step.info["day"][row]) == pytest.approx(self.days[row], rel=1e-5)
            over = self.days[row] >= simulator.horizon_days
            assert bool(step.ended[row]) == (bool(step.terminated[row]) or over)
            self.current[row][2].append(slate)
            self.current[row][3].append(float(step.reward[row]))

    @precondition(lambda self: self.days)
    @rule(where=st.integers(0, 5), value=st.sampled_from([-1, 10**6, 2**62]))
    def refused(self, where: int, value: int) -> None:
        before = state_of(self.simulator)
        slates = slates_for(self.simulator, "valid", 0)
        slates[where % len(slates), where % slates.shape[1]] = value
        with pytest.raises(ValueError, match=r"slates"):
            self.simulator.step(slates)
        assert equal(before, state_of(self.simulator)), "a refused step left a trace"

    @precondition(lambda self: self.days)
    @rule(chosen=st.sets(st.integers(0, 3), min_size=1), observed=st.booleans())
    def restart(self, chosen: set[int], observed: bool) -> None:
        rows = [row for row in sorted(chosen) if row < len(self.days)]
        if not rows:
            return
        others = [row for row in range(len(self.days)) if row not in rows]
        before = {name: value[others].clone() for name, value in self.simulator.observe().items()}
        restarted = torch.tensor(rows)
        self.simulator.reset_rows(restarted) if observed else self.simulator.restart(restarted)
        after = self.simulator.observe()
        assert all(equal(value, after[name][others]) for name, value in before.items()), (
            "other rows changed"
        )
        self.histories += [self.current[row] for row in rows]
        for row in rows:
            self._begin(row)

    @precondition(lambda self: self.days)
    @rule(chosen=st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
    def keep(self, chosen: list[int]) -> None:
        rows = [row for row in chosen if row < len(self.days)]
        if rows:
            before = {name: value[rows].clone() for name, value in self.simulator.observe().items()}
            self.simulator.keep(torch.tensor(rows))
            assert equal(before, dict(self.simulator.observe())), "the rows that were kept changed"
            self.histories += self.current
            self.current = [self.current[row] for row in rows]
            self.current = [
                (seed, number, list(slates), list(rewards))
                for seed, number, slates, rewards in self.current
            ]
            self.days = [self.days[row] for row in rows]

    @precondition(lambda self: self.days)
    @rule()
    def look(self) -> None:
        before = state_of(self.simulator)
        one, other = self.simulator.observe(), self.simulator.observe()
        assert equal(dict(one), dict(other)), "to observe changed the observation"
        for row in range(len(self.days)):
            self.simulator.describe(row)
        self.simulator.when_and_where()
        for value in one.values():
            if value.is_floating_point() and value.is_contiguous():
                value.fill_(7.0)
        assert equal(before, state_of(self.simulator)), "to look left a trace"

    @invariant()
    def inside(self) -> None:
        if self.days:
            ground.assert_inside(self.simulator, self.simulator.observe())
        assert equal(self.before, generators()), "a global generator was moved"

    def teardown(self) -> None:
        """Every episode again, by itself: same seed, same slates, same rewards."""
        played = [one for one in (*self.histories, *self.current) if one[2]]
        for seed, number, slates, rewards in played[-2:]:
            alone = ground.made(self.id, horizon_days=60)
            alone.reset(torch.tensor([seed]))
            for _ in range(number):
                alone.restart(torch.tensor([0]))
            again = [float(alone.step(torch.tensor([slate])).reward) for slate in slates]
            assert again == rewards, (
                f"seed {seed}, episode {number} alone: {again}, in a batch: {rewards}"
            )


@pytest.mark.parametrize("kind", list(KINDS))
def test_any_order_of_calls_to_a_simulator(kind: str) -> None:
    machine = type("Machine", (Simulator,), {"id": KINDS[kind]})
    name = f"simulator of {KINDS[kind]}"
    run_state_machine_as_test(
        machine, settings=settings(plan.configured(EXAMPLES[kind]), stateful_step_count=STEPS)
    )
    plan.check_number(name)


for _kind, _number in EXAMPLES.items():
    plan.plan(f"simulator of {KINDS[_kind]}", _number)


class Faces(RuleBasedStateMachine):
    """A vector environment beside one environment a row: the same shoppers, bit for bit."""

    id = ground.TOY_ID

    @initialize(
        seeds=seed_of(),
        mode=st.sampled_from(list(AutoresetMode)),
        output=st.sampled_from(["numpy", "torch"]),
        horizon=st.sampled_from([5, 20, 60]),
    )
    def first(self, seeds: list[int], mode: AutoresetMode, output: str, horizon: int) -> None:
        plan.count(f"faces of {self.id}")
        self.mode = mode
        self.vector = SlateVectorEnv(
            ground.made(self.id, horizon_days=horizon),
            len(seeds),
            autoreset_mode=mode,
            output=output,
        )
        self.singles = [SlateEnv(ground.made(self.id, horizon_days=horizon)) for _ in seeds]
        self.over = [False] * len(seeds)
        self.reset(seeds)

    def _same(self, batch: Any, rows: list[Any]) -> None:
        for name, value in batch.items():
            for row, single in enumerate(rows):
                assert np.array_equal(np.asarray(value[row]), single[name]), (
                    f"{name} of row {row} differs"
                )

    @rule(seeds=seed_of())
    def reset(self, seeds: list[int]) -> None:
        given = (seeds * len(self.singles))[: len(self.singles)]
        observation, _ = self.vector.reset(seed=given)
        self.rows = [
            single.reset(seed=seed)[0] for single, seed in zip(self.singles, given, strict=True)
        ]
        self.over = [False] * len(given)
        self._same(observation, self.rows)

    @rule(mask=st.lists(st.booleans(), min_size=4, max_size=4))
    def reset_some(self, mask: list[bool]) -> None:
        chosen = np.array(mask[: len(self.singles)])
        if not chosen.any():
            return
        observation, _ = self.vector.reset(options={"reset_mask": chosen})
        for row in np.flatnonzero(chosen):
            self.rows[row], self.over[row] = self.singles[row].reset()[0], False
        self._same(observation, self.rows)

    @rule(kind=SLATES, seed=st.integers(0, 99))
    def step(self, kind: str, seed: int) -> None:
        if self.mode is AutoresetMode.DISABLED and any(self.over):
            return
        slates = slates_for(self.vector.simulator, kind, seed)
        observation, reward, terminated, truncated, info = self.vector.step(slates.numpy())
        final: dict[int, Any] = {}
        for row, single in enumerate(self.singles):
            if self.over[row] and self.mode is AutoresetMode.NEXT_STEP:
                self.rows[row], self.over[row] = single.reset()[0], False
                assert float(reward[row]) == 0.0
                assert (bool(terminated[row]), bool(truncated[row])) == (False, False)
                continue
            self.rows[row], own, left, late, _ = single.step(slates[row].numpy())
            assert float(reward[row]) == own, f"row {row} earned {reward[row]}, alone {own}"
            assert (bool(terminated[row]), bool(truncated[row])) == (left, late)
            self.over[row] = left or late
            if self.over[row] and self.mode is AutoresetMode.SAME_STEP:
                final[row] = self.rows[row]
                self.rows[row], self.over[row] = single.reset()[0], False
        for row, ended in final.items():
            held = info["final_obs"]
            for name, value in ended.items():
                own_value = held[name][row] if isinstance(held, dict) else held[row][name]
                assert np.array_equal(np.asarray(own_value), value), (
                    f"final_obs[{name!r}] of row {row} differs"
                )
        self._same(observation, self.rows)

    @rule()
    def close(self) -> None:
        self.vector.close()
        self.singles[0].close()


@pytest.mark.parametrize("kind", list(FACES))
def test_any_order_of_calls_to_the_faces(kind: str) -> None:
    machine = type("Machine", (Faces,), {"id": KINDS[kind]})
    run_state_machine_as_test(
        machine, settings=settings(plan.configured(FACES[kind]), stateful_step_count=STEPS)
    )
    plan.check_number(f"faces of {KINDS[kind]}")


for _kind, _number in FACES.items():
    plan.plan(f"faces of {KINDS[_kind]}", _number)


@pytest.mark.parametrize("id", ["recsim_env/CompleteJourney-v0", "recsim_env/LearnedMarket-v0"])
def test_a_batch_is_its_singles(id: str) -> None:
    """The fitted shoppers: their rows do not depend on one another, whatever is shown."""
    name = f"batch of {id}"

    @plan.examples(6, st.lists(st.integers(0, 2**40), min_size=2, max_size=3), SLATES, name=name)
    def holds(seeds: list[int], kind: str) -> None:
        whole = ground.simulator(id)
        alone = ground.made(id)
        whole.reset(torch.tensor(seeds))
        steps = []
        for visit in range(2):
            if bool(whole.episodes.ended.any()):
                break
            slates = slates_for(whole, kind, visit)
            steps.append((slates, whole.step(slates)))
        for row, seed in enumerate(seeds):
            alone.reset(torch.tensor([seed]))
            for slates, step in steps:
                one = alone.step(slates[row : row + 1])
                assert torch.equal(one.reward, step.reward[row : row + 1])
                for key, value in one.observation.items():
                    assert torch.equal(value[0], step.observation[key][row]), (
                        f"{key} of row {row} differs"
                    )

    holds()


for _id in ("recsim_env/CompleteJourney-v0", "recsim_env/LearnedMarket-v0"):
    plan.plan(f"batch of {_id}", 6)
