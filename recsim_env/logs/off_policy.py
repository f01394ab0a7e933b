"""Value of a policy from the bandit rows of another one: IPS, SNIPS and DR, for slates of one item.

Row i of the log shows an item that the logging policy chose with probability p_i (its propensity);
the evaluated policy would have shown it with probability c_i. With the weight w_i = c_i / p_i:

    IPS     mean of w_i r_i                             (Horvitz & Thompson 1952)
    SNIPS   sum of w_i r_i / sum of w_i                 (Swaminathan & Joachims 2015)
    DR      mean of v_i + w_i (r_i - q_i)               (Dudik, Langford & Li 2011)

where q_i is a model's expected response to the item shown, and v_i its mean over the items that the
evaluated policy would show. IPS and DR are unbiased if the logging policy can show everything that
the evaluated one shows and its propensities are right. Slates of several items have estimators of
their own, `recsim_env.logs.off_policy_slates`: they assume something of how positions interact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recsim_env import checks
from recsim_env.estimates import Estimate, Floats, from_samples, resamples, units_of

SAMPLES = 1_000
"""Bootstrap samples behind an interval; quantiles of 2.5 % then rest on 25 samples each."""
BLOCK = 50
"""Bootstrap samples that are drawn at a time, so that a log of a million rows fits into memory."""


@dataclass(frozen=True)
class PolicyValue:
    """Responses an impression that a policy would have had, by three estimators."""

    ips: Estimate
    """The estimate by inverse propensities."""
    snips: Estimate
    """By inverse propensities, normalised by their own sum: a little biased, less spread."""
    dr: Estimate | None
    """Doubly robust; None where no model's expectations were given."""
    effective_rows: float
    """Effective sample size (sum of w)^2 / sum of w^2: how many rows of the evaluated policy itself
    would tell as much. Below a few hundred none of the figures can be relied on."""


def policy_value(
    reward: ArrayLike,
    propensity: ArrayLike,
    chance: ArrayLike,
    *,
    expected: ArrayLike | None = None,
    expected_of_policy: ArrayLike | None = None,
    users: ArrayLike | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> PolicyValue:
    """Estimate what a policy would have earned an impression, from rows that another one logged.

    Args:
        reward: (R,) response of each row, for example 1 for a click.
        propensity: (R,) probability in (0, 1] with which the logging policy showed the item.
        chance: (R,) probability in [0, 1] with which the evaluated policy would have shown it.
        expected: (R,) a model's expected response to the item shown, for DR.
        expected_of_policy: (R,) the model's expected response averaged over the items that the
            evaluated policy would show in this row, for DR.
        users: (R,) who saw the row; rows of a user are resampled together. None takes the rows for
            independent.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If shapes differ, a number is not finite or out of its range, only one of
            `expected` and `expected_of_policy` is given, or the evaluated policy shows nothing that
            was logged.
    """
    # Check the columns.
    columns = {"reward": reward, "propensity": propensity, "chance": chance}
    if (expected is None) != (expected_of_policy is None):
        given = "expected" if expected_of_policy is None else "expected_of_policy"
        raise ValueError(f"{given} is given alone, but DR needs expected and expected_of_policy.")
    if expected is not None and expected_of_policy is not None:
        columns |= {"expected": expected, "expected_of_policy": expected_of_policy}
    checked = {name: checked_numbers(name, values) for name, values in columns.items()}
    check_rows(checked)
    check_chances("propensity", checked["propensity"], above=True)
    check_chances("chance", checked["chance"])
    if not checked["chance"].any():
        raise ValueError("chance is 0 in every row: the policy shows nothing that was logged.")

    # The terms of the three sums, and their ratios.
    rows = len(checked["reward"])
    weight = checked["chance"] / checked["propensity"]
    terms = [np.ones(rows), weight, weight * checked["reward"]]
    if "expected" in checked:
        terms.append(
            checked["expected_of_policy"] + weight * (checked["reward"] - checked["expected"])
        )
    sums = ResampledSums.of(np.stack(terms, axis=1), users, samples, seed)

    def estimate(above: int, below: int) -> Estimate:
        return sums.estimate(lambda of: of[:, above] / of[:, below])

    return PolicyValue(
        ips=estimate(2, 0),
        snips=estimate(2, 1),
        dr=estimate(3, 0) if len(terms) > 3 else None,
        effective_rows=effective_number(weight),
    )


@dataclass(frozen=True)
class ResampledSums:
    """Sums of terms over all rows, and over bootstrap samples of the users who saw them."""

    whole: Floats
    """(1, T) the sums over all rows."""
    drawn: Floats
    """(S, T) the sums of each sample."""
    units: int
    """Number of users behind the sums."""

    @classmethod
    def of(
        cls, terms: Floats, users: ArrayLike | None, samples: int = SAMPLES, seed: int = 0
    ) -> ResampledSums:
        """Sum terms (R, T) by user (R,), and draw users; None takes the rows for independent.

        Raises:
            ValueError: If `users` has another number of rows.
        """
        rows = len(terms)
        of_row, units = units_of(np.arange(rows) if users is None else users)
        if len(of_row) != rows:
            raise ValueError(f"users has {len(of_row)} rows, but reward has {rows}.")
        sums = np.stack([np.bincount(of_row, term, units) for term in terms.T], axis=1)
        drawn = [
            resamples(units, min(BLOCK, samples - first), seed + first) @ sums
            for first in range(0, samples, BLOCK)
        ]
        return cls(sums.sum(axis=0, keepdims=True), np.concatenate(drawn), units)

    def estimate(self, figure: Callable[[Floats], Floats]) -> Estimate:
        """A figure of the sums, from (S, T) to (S,), with its interval."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return from_samples(float(figure(self.whole)[0]), figure(self.drawn), self.units)


def effective_number(weight: Floats) -> float:
    """Effective sample size (sum of w)^2 / sum of w^2 of weights (R,), which are not all 0."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def checked_numbers(name: str, values: ArrayLike, ndim: int = 1) -> Floats:
    """Check that values are finite numbers, in rows of one or of several positions.

    Args:
        name: What messages call them.
        values: (R,) numbers, or (R, K) with `ndim` 2.
        ndim: Number of dimensions.

    Raises:
        ValueError: If they are not.
    """
    wanted = "one row of numbers" if ndim == 1 else "a table of numbers, one row a slate"
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {checks.told(values)}, but it must be {wanted}.") from None
    if found.ndim != ndim or not found.size:
        raise ValueError(f"{name} has shape {found.shape}, but it must be {wanted}, one or more.")
    if not np.isfinite(found).all():
        place = np.argwhere(~np.isfinite(found))[0]
        raise ValueError(f"{name} is {found[tuple(place)]} {_at(place)}, but it must be finite.")
    return found


def check_rows(columns: dict[str, Floats]) -> None:
    """Check that columns have as many rows, and positions, as that of `reward`.

    Raises:
        ValueError: If they have not.
    """
    shape = columns["reward"].shape
    for name, values in columns.items():
        if values.shape == shape:
            continue
        if len(shape) == 1:
            raise ValueError(f"{name} has {len(values)} rows, but reward has {shape[0]}.")
        raise ValueError(f"{name} has shape {values.shape}, but reward has {shape}.")


def check_chances(name: str, values: Floats, *, above: bool = False) -> None:
    """Check that numbers are probabilities; with `above`, that none is 0.

    Raises:
        ValueError: If they are not.
    """
    wrong = (values > 1) | ((values <= 0) if above else (values < 0))
    if wrong.any():
        place = np.argwhere(wrong)[0]
        found = values[tuple(place)]
        expected = "above 0 and at most 1" if above else "from 0 to 1"
        raise ValueError(
            f"{name} is {found} {_at(place)}, but a probability must be {expected}"
            f"{'; log-probabilities need exp first' if found < 0 else ''}."
        )


def _at(place: np.ndarray) -> str:
    """Name a place of a column, or of a table."""
    row = f"in row {place[0]}"
    return row if len(place) == 1 else f"{row}, position {place[1]}"
