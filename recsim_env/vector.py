"""The Gymnasium face of B shoppers: one batch, no sub-environments."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from recsim_env import checks
from recsim_env.env import (
    LARGEST,
    RenderModes,
    check_options,
    check_started,
    checked_items,
    checked_render_flag,
    checked_render_mode,
    checked_seeds,
    drawn_seeds,
)
from recsim_env.registration import EnvConfig, as_simulator
from recsim_env.rendering import RENDER_MODES, Frame, Scene, arrival, draw, visit
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import is_dense
from recsim_env.types import Observation, Outcome, to_numpy

Array = NDArray[Any] | Tensor
OUTPUTS = ("numpy", "torch")
StepResult = tuple[dict[str, Array], Array, Array, Array, dict[str, Any]]


class SlateVectorEnv(VectorEnv[dict[str, Array], Array, Array]):
    """B shoppers at once; row b is the shopper that `SlateEnv` would meet under the row's seed.

    Observations, actions, rewards, ends and info are those of `SlateEnv` with a first dimension of
    B: observation `Dict` of (B, ...), action `MultiDiscrete` int64 (B, K), reward float64 (B,),
    terminated and truncated bool (B,), info one array (B,) a key beside the mask `_<key>` of the
    rows that have it. With `objectives`, rewards are float32 (B, n), and `reward_space` is the
    space of those of one shopper.

    With `output="torch"` all of these are tensors on the simulator's device (reward float32),
    actions may be tensors, and no observation crosses to the host.

    Seeding: `reset(seed=s)` gives row i the seed s + i, `reset(seed=[...])` a seed each; every
    later episode of a row is the next one under its seed. `reset(options={"reset_mask": mask})`,
    mask bool (B,), starts those rows alone.

    Ends, by `autoreset_mode` (https://farama.org/Vector-Autoreset-Mode):
        NEXT_STEP: a row that ended starts again at the next step; that step ignores its action,
            rewards it 0, and its info masks are False.
        SAME_STEP: it starts again within the step; `info["final_obs"]` and `info["final_info"]`
            hold what the episode ended with. `final_obs` is an array of B objects, a Dict
            observation where `_final_obs` is True; with `output="torch"` it is one batched Dict, to
            be read where `_final_obs` is True.
        DISABLED: it waits for `reset` with a mask.

    Args:
        simulator: A registered id, an `EnvConfig`, or a simulator that nobody else steps.
        num_envs: B, the number of shoppers.
        autoreset_mode: An `AutoresetMode`, or its value.
        output: `numpy` or `torch`.
        max_episode_steps: The steps after which an episode is truncated, as `gymnasium.make` does;
            None or -1 means no limit.
        render_mode: `ansi` or `rgb_array`: `render` gives a tuple of B frames.
        render_hidden: Whether frames show what agents must not see, such as hidden traits; needs a
            `render_mode`.
        options: What `make_simulator` takes: `device`, fields of `EnvConfig`, options of the
            shopper.

    Raises:
        TypeError: As `SlateEnv`.
        ValueError: As `SlateEnv`.
        gymnasium.error.ResetNeeded: As `SlateEnv`.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": RenderModes(RENDER_MODES),
        "render_fps": 1,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    single_observation_space: spaces.Dict
    single_action_space: spaces.MultiDiscrete

    def __init__(
        self,
        simulator: SlateSimulator | EnvConfig | str,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        output: str = "numpy",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        render_hidden: bool = False,
        **options: Any,
    ) -> None:
        self.num_envs = checks.whole("num_envs", num_envs, 1)
        self.output = checks.choice("output", output, OUTPUTS)
        self.autoreset_mode = _checked_mode(autoreset_mode)
        self.max_episode_steps = _checked_limit(max_episode_steps)
        self.render_mode = checked_render_mode(render_mode)
        self.render_hidden = checked_render_flag("render_hidden", render_hidden, render_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self.simulator = as_simulator(simulator, options)
        self.single_observation_space = self.simulator.observation_space
        self.single_action_space = self.simulator.action_space
        if self.simulator.objectives is not None:
            self.reward_space = self.simulator.objectives.reward_space
        _check_memory(self.num_envs, self.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._started = False
        self._scenes: list[Scene] = []

    def reset(
        self, *, seed: Any = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start episodes: in every row, or in those of `options["reset_mask"]`.

        Args:
            seed: One number, B numbers, or None for the next episode of each row.
            options: `reset_mask`, (B,) bool, at least one of them True.
        """
        check_options(options, known=("reset_mask",))
        rows = self._rows_to_reset(options)
        seeds = None if seed is None else checked_seeds(seed, self.num_envs)
        super().reset(seed=int(seed) if isinstance(seed, numbers.Integral) else None)
        if self._started and (seeds is None or len(rows) < self.num_envs):
            observation = self.simulator.reset_rows(rows, None if seeds is None else seeds[rows])
        else:
            observation = self.simulator.reset(
                drawn_seeds(self.np_random, self.num_envs) if seeds is None else seeds
            )
        self._started = True
        self._redraw(rows.tolist())
        return self._hand_out(observation), {}

    def step(self, actions: Array) -> StepResult:
        """Show every shopper their slate, actions (B, K), and let them react."""
        check_started(self._started)
        simulator = self.simulator
        waiting = (
            simulator.episodes.ended
        )  # rows that NEXT_STEP starts again now, whatever their action
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            waiting = torch.zeros_like(waiting)
        slates = self._slates(actions, waiting)
        simulator.check(slates, ignore=waiting, name="actions")
        before = [self._arrival(row) for row in range(self.num_envs)] if self.render_mode else []
        outcome = simulator.advance(slates)
        if self.max_episode_steps is not None:
            outcome = self._cut_off(outcome, self.max_episode_steps)
        self._scenes = [
            visit(simulator, row, scene, slates, outcome) for row, scene in enumerate(before)
        ]
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            return self._restart_within(outcome)
        return self._restart_waiting(outcome, waiting)

    def render(self) -> tuple[Frame, ...] | None:
        """Draw the last visit of every shopper, a frame each."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                f"render_mode is None, so render() shows nothing; give one of {list(RENDER_MODES)}."
            )
            return None
        check_started(self._started)
        return tuple(draw(scene, self.render_mode) for scene in self._scenes)

    # Ends.

    def _cut_off(self, outcome: Outcome, limit: int) -> Outcome:
        """Truncate the episodes that have had their last step, in the outcome too."""
        late = self.simulator.episodes.visit >= limit
        self.simulator.end(late)
        return replace(outcome, truncated=outcome.truncated | late)

    def _restart_waiting(self, outcome: Outcome, waiting: Tensor) -> StepResult:
        """Return the step's result, once the rows that had ended before it have started again."""
        rows = waiting.nonzero()[:, 0]
        if len(rows):
            self.simulator.restart(rows)
            self._redraw(rows.tolist())
        moved = ~waiting
        info = self._pack(outcome.info, moved)
        return self._result(self.simulator.observe(), outcome, moved, info)

    def _restart_within(self, outcome: Outcome) -> StepResult:
        """Return the step's result, once the rows that ended in it have started again."""
        ended = outcome.ended
        rows = ended.nonzero()[:, 0]
        info = self._pack(outcome.info, ~ended)
        if len(rows):
            info |= self._final(self.simulator.observe(), outcome, ended, rows)
            self.simulator.restart(rows)
            self._redraw(rows.tolist())
        return self._result(self.simulator.observe(), outcome, torch.ones_like(ended), info)

    def _final(
        self, observation: Observation, outcome: Outcome, ended: Tensor, rows: Tensor
    ) -> dict[str, Any]:
        """Return what the episodes that ended in this step ended with."""
        final: Any = self._hand_out(observation)
        if self.output == "numpy":
            final = _objects(final, rows.tolist(), self.num_envs)
        return {
            "final_obs": final,
            "_final_obs": self._give(ended),
            "final_info": self._pack(outcome.info, ended),
            "_final_info": self._give(ended),
        }

    # In and out.

    def _slates(self, actions: Array, waiting: Tensor) -> Tensor:
        """Return the actions as (B, K) int64, or (B, K + 1) of bundles, on the device.

        Rows that are about to start again hold item 0.
        """
        if (
            isinstance(actions, Tensor)
            and is_dense(actions, torch.int64)
            and not actions.is_meta
            and tuple(actions.shape) in [(self.num_envs, at) for at in self.simulator.widths]
        ):
            return actions.to(self.simulator.device).masked_fill(waiting.unsqueeze(1), 0)
        ignored = to_numpy(waiting) if waiting.any() else None
        items = checked_items(actions, self.simulator, (self.num_envs,), "actions", ignored)
        return torch.from_numpy(items).to(self.simulator.device)

    def _give(self, value: Tensor) -> Array:
        """Return a tensor as the caller wants it, never shared with the simulator."""
        return to_numpy(value) if self.output == "numpy" else value.clone()

    def _hand_out(self, observation: Observation) -> dict[str, Array]:
        if self.output == "torch":
            return dict(observation)
        return {name: to_numpy(value) for name, value in observation.items()}

    def _pack(self, info: dict[str, Tensor], present: Tensor) -> dict[str, Array]:
        """Pack an info as Gymnasium does: 0 where a row has none, beside a mask of the others."""
        packed: dict[str, Array] = {}
        for name, value in info.items():
            packed[name] = self._give(value.where(present, 0))
            packed[f"_{name}"] = self._give(present)
        return packed

    def _result(
        self, observation: Observation, outcome: Outcome, moved: Tensor, info: dict[str, Any]
    ) -> StepResult:
        """Return the five values of a step; rows that did not move have no reward and no end."""
        reward = outcome.reward.where(moved, 0)
        reward = reward.double() if self.output == "numpy" else reward
        if outcome.objectives is not None:
            reward = outcome.objectives.where(moved.unsqueeze(1), 0)
        return (
            self._hand_out(observation),
            self._give(reward),
            self._give(outcome.terminated & moved),
            self._give(outcome.truncated & moved),
            info,
        )

    def _rows_to_reset(self, options: Mapping[str, Any] | None) -> Tensor:
        """Return the rows (R,) that `reset` starts: all of them without a mask."""
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return torch.arange(self.num_envs)
        if is_dense(mask, torch.bool) and not mask.is_meta:
            mask = to_numpy(mask)
        if (
            not isinstance(mask, np.ndarray)
            or mask.dtype != np.bool_
            or mask.shape != (self.num_envs,)
        ):
            found = checks.told(mask)
            raise ValueError(
                f"options['reset_mask'] is {found}, but it must be bool of shape "
                f"({self.num_envs},)."
            )
        if not mask.any():
            raise ValueError(
                "options['reset_mask'] is False everywhere, but at least one row must be True."
            )
        if not self._started and not mask.all():
            raise ResetNeeded(
                "options['reset_mask'] leaves rows out, but the first reset must start every row."
            )
        return torch.from_numpy(np.flatnonzero(mask))

    def _redraw(self, rows: list[int]) -> None:
        """Draw the scenes of rows that have just started."""
        if self.render_mode is not None:
            scenes = dict(enumerate(self._scenes)) | {row: self._arrival(row) for row in rows}
            self._scenes = [scenes[row] for row in range(self.num_envs)]

    def _arrival(self, row: int) -> Scene:
        return arrival(self.simulator, row, hidden=self.render_hidden)


def _checked_mode(mode: AutoresetMode | str) -> AutoresetMode:
    known = [known.value for known in AutoresetMode]
    if isinstance(mode, AutoresetMode) or (isinstance(mode, str) and mode in known):
        return AutoresetMode(mode)
    raise ValueError(
        f"autoreset_mode is {checks.told(mode)}, but it must be an AutoresetMode or one of {known}."
    )


def _checked_limit(max_episode_steps: Any) -> int | None:
    """Return the steps of an episode, or None where there is no limit.

    Raises:
        ValueError: If it is 0, below -1, or no whole number.
    """
    if max_episode_steps is None:
        return None
    limit = checks.whole("max_episode_steps", max_episode_steps, -1, LARGEST)
    if limit == 0:
        raise ValueError(
            "max_episode_steps is 0, but it must be a whole number above 0, or -1 or None for no "
            "limit."
        )
    return None if limit == -1 else limit


def _check_memory(num_envs: int, space: spaces.Dict) -> None:
    """Check that memory holds the bounds and one observation of so many shoppers.

    Raises:
        ValueError: If they are more than the machine can hold.
    """
    one = 3 * sum(
        math.prod(part.shape or ()) * np.dtype(part.dtype).itemsize for part in space.values()
    )
    most = _memory() // one
    if num_envs > most:
        raise ValueError(
            f"num_envs is {num_envs}, but it must be at most {most}: memory holds no more "
            "observations."
        )


def _memory() -> int:
    """Return the bytes of memory of this machine.

    Where the system does not say, they are as many as a number can address.
    """
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63


def _objects(observation: dict[str, Any], rows: list[int], batch: int) -> NDArray[Any]:
    """Return (B,) objects: the Dict observation of each of these rows, None elsewhere."""
    array = np.full(batch, None, dtype=object)
    for row in rows:
        array[row] = {name: value[row].copy() for name, value in observation.items()}
    return array
