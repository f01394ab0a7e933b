"""The Gymnasium face of one shopper: a batch of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from recsim_env import checks
from recsim_env.registration import EnvConfig, as_simulator
from recsim_env.rendering import RENDER_MODES, Frame, Scene, arrival, draw, visit
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, to_numpy

if TYPE_CHECKING:
    from recsim_env.explaining import Explanation

LARGEST = 2**63 - 1
"""The largest seed, and the largest number of steps: what 64 bits hold."""


class RenderModes(list[str]):
    """The render modes of a face, for its metadata.

    `gymnasium.make` looks a mode up in the metadata and then takes it for a string; a mode that is
    no string is refused here.
    """

    def __contains__(self, mode: object) -> bool:
        return list.__contains__(self, mode if isinstance(mode, str) else checked_render_mode(mode))


def checked_render_mode(render_mode: Any) -> str | None:
    """Return the render mode.

    Raises:
        ValueError: If it is neither None nor one of `RENDER_MODES`.
    """
    if render_mode is not None and not (
        isinstance(render_mode, str) and render_mode in RENDER_MODES
    ):
        raise ValueError(
            f"render_mode is {checks.told(render_mode)}, but it must be None or one of "
            f"{list(RENDER_MODES)}."
        )
    return render_mode


def checked_render_flag(name: str, flag: Any, render_mode: str | None) -> bool:
    """Return whether frames show more than usual.

    Args:
        name: What messages call the flag.
        flag: The flag.
        render_mode: How frames are drawn; None means not at all.

    Raises:
        ValueError: If it is no bool, or if it is asked for where no frame is drawn.
    """
    if checks.flag(name, flag) and render_mode is None:
        raise ValueError(
            f"{name} is True, but render_mode is None, so nothing is drawn; it must be one "
            f"of {list(RENDER_MODES)}."
        )
    return bool(flag)


class SlateEnv(gymnasium.Env[dict[str, Any], NDArray[np.integer[Any]]]):
    """A shopper who visits a store, is shown a slate, and comes back later or never.

    One step is one visit. The items on promotion in that store and week are the candidates, the
    agent orders a slate of K of them, the shopper responds, and a return model says after how many
    days they come back.

    Dimensions: N catalogue items, K slate positions, C candidates (padded), H remembered slates, M
    remembered items, G categories. An item is its row in the catalogue, 0 to N-1. Days are real
    numbers.

    - observation: `Dict`, what a shop knows and never the shopper's hidden state
        - `recent_slates`: int64 (H, K), the last slates as they were shown, newest slate and top
          position first; -1 where there was none or an item was not shown
        - `recent_clicks`: int8 (H, K), 1 = responded to
        - `recent_days`: float32 (H,), days since that visit, 0 where there was none
        - `candidates`: int64 (C,), the items that may be shown at this visit, padded at the end
          with -1
        - and the shopper's own; for `recsim_env/CompleteJourney-v0`:
        - `context`: float32 (9,), sine and cosine of the weekday, week of the year / 53, then
          logarithms: days since the last visit, visits, recent visits, recent basket size, visits a
          week, baskets
        - `bought_items`: int64 (M,), items bought before, padded with -1
        - `bought_counts`: float32 (M,), how often each was bought
        - `bought_days`: float32 (M,), days since each was last bought
        - `category_counts`: float32 (G,), purchases in each category
        - `category_days`: float32 (G,), days since the last purchase in each category, 1000 = never
        - `placement`: uint8 (C,), how the store promotes each candidate: display * 11 + mailer code
        - `popularity`: float32 (C,), purchases of each candidate per visit to the chain, trailing
          four weeks
        - and, where the simulator has a belief, those of the belief, such as `belief_logits`:
          float32 (C,), log-odds of a click on each candidate as the shop infers them
    - action: `MultiDiscrete([N] * K)`, int64 (K,), the items of the slate, top position first. Any
      sample is accepted: a repeated item, or one that is no candidate, is not shown; it gets no
      response and no credit for diversity. Where slates are bundles, with L levels of discount, it
      is `MultiDiscrete([N] * K + [L])`, the level last; without it there is no discount.
    - reward: float, the weighted sum of the configured terms (`recsim_env.rewards`); by default the
      responses plus the intra-list distance
      With `objectives`, float32 (n,), the value of each, and `reward_space` is its space, as
      MO-Gymnasium expects; `gymnasium.make` then needs `disable_env_checker=True`, as
      `mo_gymnasium.make` has it, because Gymnasium's checker knows no vectors
    - terminated: the shopper lapsed; there is no next visit
    - truncated: the next visit falls `horizon_days` or more after the first
    - info: `clicks` int, responses; `reward_terms/<name>` float, each term before its weight;
      `invalid_items` int, positions that were not shown; `gap_days` float, days until the next
      visit; `elsewhere` float, items bought outside the slate; `day` float, days since the episode
      began; of bundles `discount` float, the share of the price that was offered off, 0 where
      fewer than two items were shown, and `whole` int, 1 where the bundle was taken whole; and
      `outside_reward` float, what it paid, where the shoppers are somebody else's environment

    Seeding: `reset(seed=s)` starts episode 0 under s and every later `reset()` the next episode
    under s, so a seed fixes a whole sequence of episodes. Without any seed, the first `reset` draws
    one from `np_random`.

    Args:
        simulator: A registered id, an `EnvConfig`, or a simulator that nobody else steps.
        render_mode: `ansi` for a text, `rgb_array` for a picture (H, W, 3) uint8, None for neither.
        render_hidden: Whether frames show what agents must not see, such as hidden traits; needs a
            `render_mode`.
        render_explained: Whether frames show what moved each response (`recsim_env.explain`), which
            agents must not see either; needs a `render_mode`, and takes some seconds to import.
        options: What `make_simulator` takes: `device`, fields of `EnvConfig`, options of the
            shopper.

    Only arrays of numpy leave it, so that it runs under `torch.inference_mode`, which saves a
    seventh of a step. Its simulator's tensors can be read anywhere, but stepped only here.

    Raises:
        TypeError: If an action or an option of `reset` has the wrong type.
        ValueError: If an action is no (K,) array of items 0 to N-1, a level of discount is out of
            its range, if, with `strict`, an item would not be shown, or if an argument of `reset`
            is out of its range.
        gymnasium.error.ResetNeeded: If `step` or `render` comes before `reset`, or `step` after the
            end. In every case nothing changes.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": RenderModes(RENDER_MODES),
        "render_fps": 1,
    }
    observation_space: spaces.Dict
    action_space: spaces.MultiDiscrete

    def __init__(
        self,
        simulator: SlateSimulator | EnvConfig | str,
        *,
        render_mode: str | None = None,
        render_hidden: bool = False,
        render_explained: bool = False,
        **options: Any,
    ) -> None:
        self.render_mode = checked_render_mode(render_mode)
        self.render_hidden = checked_render_flag("render_hidden", render_hidden, render_mode)
        self.render_explained = checked_render_flag(
            "render_explained", render_explained, render_mode
        )
        self.simulator = as_simulator(simulator, options)
        self.observation_space = self.simulator.observation_space
        self.action_space = self.simulator.action_space
        if self.simulator.objectives is not None:
            self.reward_space = self.simulator.objectives.reward_space
        self._started = False
        self._scene: Scene | None = None

    @torch.inference_mode()
    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode: the first under `seed`, or the next one where it is None.

        Args:
            seed: A whole number from 0 to 2**63 - 1, or None.
            options: No option is known.
        """
        check_options(options, known=())
        number = None if seed is None else checks.whole("seed", seed, 0, LARGEST)
        super().reset(seed=number)
        if number is None and self._started:
            observation = self.simulator.reset_rows(torch.zeros(1, dtype=torch.int64))
        else:
            seeds = drawn_seeds(self.np_random, 1) if number is None else torch.tensor([number])
            observation = self.simulator.reset(seeds)
        self._started = True
        if self.render_mode is not None:
            self._scene = self._arrival()
        return _single(observation), {}

    @torch.inference_mode()
    def step(
        self, action: NDArray[np.integer[Any]]
    ) -> tuple[dict[str, NDArray[Any]], Any, bool, bool, dict[str, Any]]:
        """Show the slate `action` (K,) and let the shopper react."""
        check_started(self._started)
        items = checked_items(action, self.simulator, (), "action")
        slates = torch.from_numpy(items).unsqueeze(0).to(self.simulator.device)
        self.simulator.check(slates, name="action", single=True)
        before = self._arrival() if self.render_mode is not None else None
        explanation = self._explanation(slates) if self.render_explained else None
        outcome = self.simulator.advance(slates)
        if before is not None:
            self._scene = visit(self.simulator, 0, before, slates, outcome, explanation)
        info = {name: value.item() for name, value in outcome.info.items()}
        observation = _single(self.simulator.observe())
        return (
            observation,
            outcome.reward.item()
            if outcome.objectives is None
            else to_numpy(outcome.objectives[0]),
            bool(outcome.terminated),
            bool(outcome.truncated),
            info,
        )

    def render(self) -> Frame | None:
        """Draw the last visit as a person would see it, in the `render_mode` of the environment."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                f"render_mode is None, so render() shows nothing; give one of {list(RENDER_MODES)}."
            )
            return None
        check_started(self._started)
        assert self._scene is not None
        return draw(self._scene, self.render_mode)

    def _arrival(self) -> Scene:
        return arrival(
            self.simulator, 0, hidden=self.render_hidden, explained=self.render_explained
        )

    def _explanation(self, slates: torch.Tensor) -> Explanation:
        from recsim_env.explaining import explain  # it imports every family of shoppers

        return explain(self.simulator, slates)


def _single(observation: Observation) -> dict[str, NDArray[Any]]:
    """Copy the observation of the only row."""
    return {name: to_numpy(value[0]) for name, value in observation.items()}


# What both faces check, each in one sentence and before anything changes.


def checked_items(
    action: Any,
    simulator: SlateSimulator,
    batch: tuple[int, ...],
    name: str,
    ignored: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return `action` as an int64 copy, once its type, shape and range are right.

    Args:
        action: The slate or slates.
        simulator: Whose items they are.
        batch: The dimensions in front of a slate: () or (B,).
        name: What messages call the action.
        ignored: (B,) bool, rows that may hold anything and come back as item 0.

    Raises:
        TypeError: If it does not hold whole numbers.
        ValueError: If it has another shape, or holds what is no item.
    """
    shapes = [(*batch, width) for width in simulator.widths]
    expected = " or ".join(map(str, shapes))
    array = _as_array(action, name, expected)
    if array.dtype == object:
        raise TypeError(f"{name} is {checks.told(action)}, but it must hold whole numbers (int64).")
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{name} has the dtype {array.dtype}, but it must hold whole numbers (int64)."
        )
    if array.shape not in shapes:
        raise ValueError(f"{name} has the shape {array.shape}, but it must be {expected}.")
    if ignored is not None:
        array[ignored] = 0
    limits = simulator.action_space.nvec[: array.shape[-1]]
    wrong = np.argwhere((array < 0) | (array >= limits))
    if len(wrong):
        found, place = array[tuple(wrong[0])], wrong[0].tolist()
        raise ValueError(simulator.out_of_range(name, found, place))
    return array.astype(np.int64)


def check_started(started: bool) -> None:
    """Check that an environment was reset.

    Raises:
        ResetNeeded: If it was not.
    """
    if not started:
        raise ResetNeeded("The environment was not reset, but step and render need reset first.")


def _as_array(action: Any, name: str, expected: str) -> NDArray[Any]:
    """Copy what is meant to be a slate into an array, of whatever type and shape.

    Raises:
        TypeError: If it is a tensor of no whole numbers.
        ValueError: If it cannot be an array.
    """
    if isinstance(action, torch.Tensor):
        if (
            action.layout != torch.strided
            or action.is_nested
            or action.is_meta
            or action.is_quantized
        ):
            where = " on meta" if action.is_meta else ""
            raise TypeError(
                f"{name} is {checks.told(action)}{where}, but it must be dense and hold whole "
                "numbers."
            )
        if (
            action.is_floating_point() or action.is_complex()
        ):  # some of these types numpy does not know
            kind = str(action.dtype).removeprefix("torch.")
            raise TypeError(f"{name} has the dtype {kind}, but it must hold whole numbers (int64).")
        return cast("NDArray[Any]", to_numpy(action))
    try:
        return np.array(action)
    except (
        Exception
    ) as error:  # rows of different length, or whatever an object says that cannot be an array
        raise ValueError(
            f"{name} is {checks.told(action)}, but it must be an array of the shape {expected}."
        ) from error


def check_options(options: Any, known: tuple[str, ...]) -> None:
    """Check that the options of `reset` are None or a mapping of known ones.

    Raises:
        ValueError: If one is unknown, so that a misspelt option is not lost.
        TypeError: If they are no mapping.
    """
    given = {} if options is None else checks.mapping("options", options)
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ValueError(
            f"options has the keys {unknown}, but reset knows {list(known) or 'none'}."
        )


def checked_seeds(seed: Any, count: int) -> torch.Tensor:
    """Return the seeds of some rows: (count,) int64.

    One number stands for itself and those that follow it; a sequence holds one seed a row.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(seed, (Sequence, np.ndarray)) and not isinstance(seed, (str, bytes)):
        if np.shape(seed)[:1] != (count,) if isinstance(seed, np.ndarray) else len(seed) != count:
            found = checks.told(seed)
            raise ValueError(
                f"seed is {found}, but it must be one whole number or {count} of them, one a "
                "shopper."
            )
        each = [checks.whole(f"seed[{row}]", value, 0, LARGEST) for row, value in enumerate(seed)]
        return torch.tensor(each, dtype=torch.int64)
    try:
        first = checks.whole("seed", seed, 0, LARGEST - count + 1)
    except ValueError as error:
        raise ValueError(
            f"{str(error).removesuffix('.')}, or a sequence of {count}, one a shopper."
        ) from None
    return first + torch.arange(count)


def drawn_seeds(generator: np.random.Generator, count: int) -> torch.Tensor:
    """Draw (count,) int64 consecutive seeds from a generator, for a first reset without one."""
    return int(generator.integers(2**31)) + torch.arange(count)
