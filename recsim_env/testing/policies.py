"""The check of a policy of one's own."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.rollout import check_policy_type, draws_for
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import among, first_places, is_dense
from recsim_env.testing.generators import generators
from recsim_env.types import Observation, Policy


@torch.no_grad()
def check_policy(
    policy: Policy, simulator: SlateSimulator, *, batch: int = 8, visits: int = 3, seed: int = 0
) -> None:
    """Raise unless a policy keeps every promise of `recsim_env.types.Policy` that can be tried.

    It chooses the slates of some visits of a batch of shoppers: (B, K) int64, or (B, K + 1) with a
    level of discount where slates are bundles, and distinct candidates where there are K of them.
    Equal draws must give equal slates, row by row and in another order too; no global generator may
    move, and neither the observation nor an earlier slate may change.

    Args:
        policy: The policy.
        simulator: Whose shoppers it meets; the simulator is reset and stepped.
        batch: B, how many shoppers it serves at a time.
        visits: How many visits are tried.
        seed: The seed of the first shopper.

    Raises:
        TypeError: If the policy or the simulator is none.
        ValueError: If the policy breaks a promise, which the message names, or if an argument is
            out of its range.
    """
    check_policy_type(policy)
    if not isinstance(simulator, SlateSimulator):
        raise TypeError(f"simulator is {checks.told(simulator)}, but it must be a SlateSimulator.")
    batch = checks.whole("batch", batch, 2, 10_000)
    visits = checks.whole("visits", visits, 1, 10_000)
    first = checks.whole("seed", seed)
    observation = simulator.reset(torch.arange(first, first + batch))
    chosen: list[tuple[Tensor, Tensor]] = []
    for _ in range(visits):
        at = simulator.episodes
        draws = draws_for(policy, at.seed, at.visit, at.number)
        slates = _ask(policy, observation, draws)
        _check_slates(policy, simulator, slates, observation["candidates"])
        _check_again(policy, observation, draws, slates)
        chosen.append((slates, slates.clone()))
        done = simulator.advance(slates).ended.nonzero().squeeze(1)
        simulator.restart(done)
        observation = simulator.observe()
    for slates, before in chosen:
        if not torch.equal(slates, before):
            _broken(policy, "changed slates that it had returned", "a slate must be a new tensor")


def _ask(policy: Policy, observation: Observation, draws: Tensor) -> Any:
    """Return the slates of a policy, which may neither draw globally nor change its arguments."""
    given = {**observation, "draws": draws}
    copies = {key: value.clone() for key, value in given.items()}
    before = generators()
    slates = policy(observation, draws)
    if generators() != before:
        _broken(policy, "drew from a global generator", "everything random must come from draws")
    for key, copy in copies.items():
        if not torch.equal(given[key].nan_to_num(), copy.nan_to_num()):
            _broken(policy, f"wrote into {key!r}", "it must leave what it is given as it is")
    return slates


def _check_slates(
    policy: Policy, simulator: SlateSimulator, slates: Any, candidates: Tensor
) -> None:
    """Check that the slates are items, and distinct candidates where there are enough."""
    items = len(simulator.catalog)
    shapes = [(simulator.num_envs, width) for width in simulator.widths]
    if not is_dense(slates, torch.int64) or tuple(slates.shape) not in shapes:
        shape = " or ".join(map(str, shapes))
        _broken(policy, f"returned {checks.told(slates)}", f"it must return int64 slates {shape}")
    if slates.device.type != simulator.device.type:
        _broken(policy, f"returned slates on {slates.device}", f"draws are on {simulator.device}")
    level = slates[:, simulator.slate_size :]
    for row in ((level < 0) | (level >= len(simulator.discounts))).any(dim=1).nonzero()[:1]:
        found = f"returned the level of discount {int(level[row])}"
        _broken(policy, found, f"a level is a number from 0 to {len(simulator.discounts) - 1}")
    slates = slates[:, : simulator.slate_size]
    outside = ((slates < 0) | (slates >= items)).nonzero()
    for row, position in outside[:1].tolist():
        found = f"returned {int(slates[row, position])} at [{row}, {position}]"
        _broken(policy, found, f"an item is a number from 0 to {items - 1}")
    offered = (candidates >= 0).sum(dim=1, keepdim=True)
    strange = (~among(slates, candidates, items) & (offered > 0)).nonzero()
    for row, position in strange[:1].tolist():
        found = f"returned the item {int(slates[row, position])} at [{row}, {position}]"
        _broken(policy, found, "it must choose among the candidates")
    repeated = (~first_places(slates) & (offered >= slates.shape[1])).nonzero()
    for row, position in repeated[:1].tolist():
        found = f"repeated the item {int(slates[row, position])} at [{row}, {position}]"
        _broken(policy, found, "the items must be distinct where there are enough candidates")


def _check_again(policy: Policy, observation: Observation, draws: Tensor, slates: Tensor) -> None:
    """Check that equal draws give equal slates, and that each depends on its own row alone."""
    if not torch.equal(_ask(policy, observation, draws), slates):
        _broken(policy, "returned other slates for equal draws", "all chance must come from draws")
    everyone = torch.arange(len(slates), device=slates.device)
    for rows in (everyone[:1], everyone[-1:], everyone.flip(0)):
        part = {key: value[rows] for key, value in observation.items()}
        if not torch.equal(_ask(policy, part, draws[rows]), slates[rows]):
            how = "alone" if len(rows) == 1 else "in another order"
            found = f"returned other slates for rows {how} than for the batch"
            _broken(policy, found, "a slate must depend on its row of the arguments alone")


def _broken(policy: object, found: str, expected: str) -> NoReturn:
    """Raise ValueError: what a policy did, and what was expected."""
    raise ValueError(f"The policy {type(policy).__name__} {found}, but {expected}.")
