"""Value of a policy from the slates of another one, by what is assumed of how positions interact.

Row i of the log is a slate of K items. At position k the logging policy chose its item with
probability p_ik given the items above it, and the evaluated policy would have with c_ik; r_ik is
the response there. The ratios are w_ik = c_ik / p_ik, and W_ik is the product of w_i1 to w_ik.

    estimator       weight of r_ik                    unbiased where
    IPS             W_iK                              always; the spread grows exponentially with K
    RIPS            W_ik                              a response depends on items above it only
    IIPS            w_ik (of each position alone)     a response depends on its own item only
    pseudo-inverse  1 + sum of (w_ij - 1) over j      the mean of the slate's sum is a sum over
                                                      positions of a number for each item
    DR, cascade-DR  as IPS and RIPS, for the error of a model

IPS of whole slates is Horvitz & Thompson (1952); RIPS is McInerney et al. (KDD 2020), IIPS Li et
al. (KDD 2018), the pseudo-inverse Swaminathan et al. (NeurIPS 2017), cascade-DR Kiyohara et al.
(WSDM 2022). SNIPS, SNIIPS and SNRIPS divide the weights of each position by their mean
(Swaminathan & Joachims 2015).

All of them value one slate where the logging policy led the shoppers. What the evaluated policy's
earlier slates would have made of the shoppers is outside of them: `benchmarks.agents.ope` measures
how much that is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recsim_env.estimates import Estimate, Floats
from recsim_env.logs.off_policy import (
    SAMPLES,
    ResampledSums,
    check_chances,
    check_rows,
    checked_numbers,
    effective_number,
)

MOST_CELLS = 4_000
"""Most pairs of position and item that a pseudo-inverse is worked out for: a table of 128 MB."""


@dataclass(frozen=True)
class SlateValue:
    """Responses a slate that a policy would have had, by several estimators; see the module."""

    ips: Estimate
    """By the propensity of the whole slate."""
    snips: Estimate
    """The same with normalised weights."""
    rips: Estimate
    """By the propensity of the items down to each position."""
    snrips: Estimate
    """The same, normalised at each position."""
    iips: Estimate | None
    """By the propensity of each position alone; None unless positions are independent."""
    sniips: Estimate | None
    """The same, normalised at each position."""
    pseudo_inverse: Estimate | None
    """Pseudo-inverse; None unless positions are independent or its weights are given."""
    dr: Estimate | None
    """Doubly robust by whole slates; None unless positions are independent and a model is given."""
    cascade_dr: Estimate | None
    """Doubly robust down to each position; None where no model is given."""
    effective_slates: float
    """Effective sample size of the weights of whole slates, (sum of W)^2 / sum of W^2."""
    effective_positions: float
    """That of the ratios of single positions, their mean over positions."""


def slate_policy_value(
    reward: ArrayLike,
    propensity: ArrayLike,
    chance: ArrayLike,
    *,
    independent: bool = False,
    expected: ArrayLike | None = None,
    expected_of_policy: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    users: ArrayLike | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> SlateValue:
    """Estimate what a policy would have earned a slate, from slates that another one logged.

    Shapes: R slates, K positions.

    Args:
        reward: (R, K) response at each position, for example 1 for a click.
        propensity: (R, K) probability in (0, 1] of the item there given those above it, as in the
            column `propensity` of a plain log.
        chance: (R, K) probability in [0, 1] with which the evaluated policy would have chosen it
            after the same items above.
        independent: Whether both policies choose the item of each position without a look at the
            others.
        expected: (R, K) a model's expected response to the item at each position, for DR. With
            `independent` the model must expect no interaction of positions.
        expected_of_policy: (R, K) the model's expected response averaged over the items that the
            evaluated policy would choose there after the same items above.
        weights: (R,) weights of `pseudo_inverse_weights`, where positions are not independent.
        users: (R,) who saw the slate; slates of a user are resampled together. None takes them for
            independent.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If shapes differ, a number is not finite or out of its range, only one of
            `expected` and `expected_of_policy` is given, `weights` are given where they are known,
            or the evaluated policy shows no slate that was logged.
    """
    tables = {"reward": reward, "propensity": propensity, "chance": chance}
    model = {"expected": expected, "expected_of_policy": expected_of_policy}
    known = _checked(tables, model)
    ratio = known["chance"] / known["propensity"]
    down: Floats = np.cumprod(ratio, axis=1, dtype=np.float64)
    if not down[:, -1].any():
        raise ValueError("chance is 0 in every slate: the policy shows no slate that was logged.")
    additive = _additive_weights(weights, ratio, independent)
    terms = _terms(known, ratio, down, additive, independent)

    # The sums of all terms; each finds its columns by its name.
    ends = np.cumsum([term.shape[1] for term in terms.values()]).tolist()
    place = {
        name: slice(end - term.shape[1], end)
        for (name, term), end in zip(terms.items(), ends, strict=True)
    }
    sums = ResampledSums.of(np.concatenate(list(terms.values()), axis=1), users, samples, seed)

    def mean(name: str) -> Estimate:
        """Mean over slates of a term, summed over its columns."""
        return sums.estimate(lambda of: of[:, place[name]].sum(axis=1) / of[:, 0])

    def normalised(name: str, by: str) -> Estimate:
        """Sum over positions of a term divided by that of its weights."""
        return sums.estimate(lambda of: (of[:, place[name]] / of[:, place[by]]).sum(axis=1))

    def of_model(name: str) -> Estimate | None:
        return mean(name) if name in place else None

    seen = [effective_number(column) for column in ratio.T if column.any()]
    return SlateValue(
        ips=mean("ips"),
        snips=normalised("ips", "whole"),
        rips=mean("rips"),
        snrips=normalised("rips", "down"),
        iips=mean("iips") if independent else None,
        sniips=normalised("iips", "ratio") if independent else None,
        pseudo_inverse=of_model("pseudo_inverse"),
        dr=of_model("dr"),
        cascade_dr=of_model("cascade_dr"),
        effective_slates=effective_number(down[:, -1]),
        effective_positions=float(np.mean(seen)),
    )


def _checked(tables: dict[str, ArrayLike], model: dict[str, ArrayLike | None]) -> dict[str, Floats]:
    """Check all tables; those of the model are there together or not at all."""
    given = {name: values for name, values in model.items() if values is not None}
    if len(given) == 1:
        raise ValueError(
            f"{next(iter(given))} is given alone, but DR needs expected and expected_of_policy."
        )
    known = {name: checked_numbers(name, values, 2) for name, values in {**tables, **given}.items()}
    check_rows(known)
    check_chances("propensity", known["propensity"], above=True)
    check_chances("chance", known["chance"])
    return known


def _terms(
    known: dict[str, Floats],
    ratio: Floats,
    down: Floats,
    additive: Floats | None,
    independent: bool,
) -> dict[str, Floats]:
    """What is summed over slates, (R, some) each; the first column counts them."""
    response, whole = known["reward"], down[:, -1:]
    together = response.sum(axis=1, keepdims=True)
    terms: dict[str, Floats] = {"rows": np.ones((len(response), 1)), "whole": whole}
    terms |= {"ips": whole * together, "down": down, "rips": down * response}
    if independent:
        terms |= {"ratio": ratio, "iips": ratio * response}
    if additive is not None:
        terms["pseudo_inverse"] = additive[:, None] * together
    if "expected" in known:
        own, theirs = known["expected"], known["expected_of_policy"]
        terms["cascade_dr"] = _cascade(response, own, theirs, down, independent)[:, None]
        if independent:
            error = together - own.sum(axis=1, keepdims=True)
            terms["dr"] = theirs.sum(axis=1, keepdims=True) + whole * error
    return terms


def _cascade(
    response: Floats, expected: Floats, of_policy: Floats, down: Floats, independent: bool
) -> Floats:
    """The terms of cascade-DR, (R,).

    Where positions are independent, what the model expects of a position holds what it expects of
    those below, which takes away more of the spread.
    """
    if independent:
        below = of_policy[:, ::-1].cumsum(axis=1)[:, ::-1] - of_policy
        expected, of_policy = expected + below, of_policy + below  # of this one and those below
    above = np.concatenate([np.ones((len(down), 1)), down[:, :-1]], axis=1)
    found: Floats = (down * (response - expected) + above * of_policy).sum(axis=1)
    return found


def _additive_weights(weights: ArrayLike | None, ratio: Floats, independent: bool) -> Floats | None:
    """The weights of the pseudo-inverse, (R,); None where they are not known."""
    if independent:
        if weights is not None:
            raise ValueError(
                "weights are given, but of independent positions they follow from the propensities."
            )
        found: Floats = 1 + (ratio - 1).sum(axis=1)
        return found
    if weights is None:
        return None
    checked = checked_numbers("weights", weights)
    if len(checked) != len(ratio):
        raise ValueError(f"weights has {len(checked)} rows, but reward has {len(ratio)}.")
    return checked


def pseudo_inverse_weights(slates: ArrayLike, marginal: ArrayLike, together: ArrayLike) -> Floats:
    """Weights of slates for the pseudo-inverse estimator: (R,), some of them below 0.

    With 1_s the indicator of the pairs (position, item) of a slate, the weight is
    q' G^+ 1_s, where q is the mean of 1_s under the evaluated policy and G that of 1_s 1_s' under
    the logging policy (Swaminathan et al. 2017).

    Shapes: R slates, K positions, C candidates.

    Args:
        slates: (R, K) number of the candidate at each position, 0 to C - 1.
        marginal: (R, K, C) probability with which the evaluated policy has each candidate at each
            position.
        together: (K * C, K * C) probability with which the logging policy has both of two pairs
            (position, candidate) in a slate; `uniform_together` is that of random slates.

    Raises:
        ValueError: If shapes do not fit, or a number is out of its range.
    """
    chosen = np.asarray(slates)
    policy = checked_numbers("marginal", marginal, 3)
    pairs = checked_numbers("together", together, 2)
    rows, size, candidates = policy.shape
    if chosen.shape != (rows, size) or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(
            f"slates is {chosen.dtype} of shape {chosen.shape}, but marginal has {(rows, size)} "
            "slates and positions, so that it must be whole numbers of that shape."
        )
    if chosen.min() < 0 or chosen.max() >= candidates:
        wrong = int(chosen.min() if chosen.min() < 0 else chosen.max())
        raise ValueError(
            f"slates holds {wrong}, but a candidate is a number from 0 to {candidates - 1}."
        )
    if pairs.shape != (size * candidates,) * 2:
        raise ValueError(
            f"together has shape {pairs.shape}, but it must be "
            f"{(size * candidates,) * 2}: a row and a column a position and candidate."
        )
    check_chances("marginal", policy)
    check_chances("together", pairs)
    cells = np.arange(size) * candidates + chosen
    turned = policy.reshape(rows, -1) @ np.linalg.pinv(pairs, hermitian=True)
    found: Floats = np.take_along_axis(turned, cells, axis=1).sum(axis=1)
    return found


def uniform_together(size: int, candidates: int) -> Floats:
    """What `pseudo_inverse_weights` needs of random slates of distinct candidates.

    Args:
        size: Number K of positions.
        candidates: Number C of candidates.

    Returns:
        (K * C, K * C) probability with which a slate has both of two pairs (position, candidate).

    Raises:
        ValueError: If there are fewer candidates than positions, or more pairs than `MOST_CELLS`.
    """
    if not 1 <= size <= candidates:
        raise ValueError(
            f"size is {size}, but it must be from 1 to the number of candidates, {candidates}."
        )
    if size * candidates > MOST_CELLS:
        raise ValueError(
            f"size times candidates is {size * candidates}, but it must be at most {MOST_CELLS}."
        )
    position = np.arange(size).repeat(candidates)
    item = np.tile(np.arange(candidates), size)
    same = position[:, None] == position
    alike = item[:, None] == item
    apart = 1 / (candidates * (candidates - 1)) if candidates > 1 else 0.0
    both: Floats = np.where(same & alike, 1 / candidates, np.where(same | alike, 0.0, apart))
    return both
