"""What a fitted simulator can be trusted with: one sentence and one figure for each question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recsim_env.estimates import Estimate, from_samples, resamples
from recsim_env.verdicts.baselines import ITEM_USER, LEAVING
from recsim_env.verdicts.ratios import FEW, Ratio, by_user, policy_groups
from recsim_env.verdicts.rows import Rows
from recsim_env.verdicts.scores import Score, found_of

Topic = Literal["clicks", "order of policies", "levels", "leaving", "returning", "positions"]

SPREAD_LIMIT = 0.30
"""Largest `policy_spread` of a simulator whose levels can be trusted; see `levels`."""
POSITION_LIMIT = 1.25
"""Largest factor by which clicks at a position may be over- or underrated."""
LEAVE_LIMIT = 1.25
"""The same of leaving."""
LEAVERS = 30
"""Users who left, or stayed, that a verdict on leaving needs at least."""
ALIKE_SHARE = 0.9
"""Share of the pairs of policies that must be ordered as they were observed."""
SAMPLES = 1_000


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about a fitted simulator."""

    topic: Topic
    """What is judged."""
    holds: bool | None
    """Whether the simulator can be trusted with it; None where the log cannot tell."""
    sentence: str
    """The answer as one sentence, with its figure."""
    figure: Estimate | None = None
    """The figure that decided, with its interval."""

    @property
    def answer(self) -> str:
        """`yes`, `no` or `cannot tell`."""
        return {True: "yes", False: "no", None: "cannot tell"}[self.holds]


# ---- clicks --------------------------------------------------------------------------------------


def clicks(scores: Sequence[Score], judged: str) -> Verdict:
    """Judge whether the model ranks clicks better than item and user means do."""
    own, base = (found_of(scores, name, "auc") for name in (judged, ITEM_USER))
    entropy = found_of(scores, judged, "ne")
    if own is None or base is None or base.lead is None or entropy is None:
        return Verdict("clicks", None, "Clicks: nothing was predicted beside item and user means.")
    lead = base.lead
    pair = f"AUC {_plain(own.value)} against {base.value.value:.3f} of item and user means"
    if not math.isfinite(lead.value) or math.isnan(lead.low):
        sentence = "Clicks: the held-out rows are too few to rank, or all alike."
        return Verdict("clicks", None, sentence, lead)
    if entropy.value.value >= 1:
        sentence = (
            "Clicks: the model predicts worse than the mean click rate does (normalised entropy "
            f"{entropy.value.value:.3f}, {pair})."
        )
        return Verdict("clicks", False, sentence, lead)
    if lead.value <= 0:
        sentence = f"Clicks: two means rank held-out clicks better than the model ({pair})."
        return Verdict("clicks", False, sentence, lead)
    if lead.low <= 0:
        sentence = f"Clicks: no clear lead over two means on so few users ({pair})."
        return Verdict("clicks", None, sentence, lead)
    others = [
        one for one in scores if one.metric == "auc" and one.lead is not None and one.lead.high < 0
    ]
    beaten = f"; {others[0].model} ranks better still" if others else ""
    sentence = f"Clicks: the model ranks held-out clicks better than two means ({pair}{beaten})."
    return Verdict("clicks", True, sentence, lead)


# ---- policies ------------------------------------------------------------------------------------


def order_of_policies(rows: Rows, model: str) -> Verdict:
    """Judge whether logged policies are ordered by predicted click rates as by observed ones.

    Only pairs count whose observed rates differ beyond chance (95 % interval over users).
    """
    topic: Topic = "order of policies"
    group, names = policy_groups(rows)
    named = _named(names)
    if len(named) < 2:
        return Verdict(topic, None, "Order of policies: the log names fewer than two policies.")

    # Click rates of each policy, and in bootstrap samples of users.
    sums = by_user(rows, model, group, len(names))[:, :, named]
    draws = resamples(sums.shape[1], SAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        sampled = (draws @ sums[1]) / (draws @ sums[2])
        predicted, observed, count = sums.sum(axis=1)
        expected, seen = predicted / count, observed / count

    # Pairs that differ, and those that the model orders alike.
    pairs = alike = 0
    for a in range(len(named)):
        for b in range(a):
            differs = from_samples(seen[a] - seen[b], sampled[:, a] - sampled[:, b], sums.shape[1])
            if differs.low > 0 or differs.high < 0:
                pairs += 1
                alike += bool((expected[a] - expected[b]) * (seen[a] - seen[b]) > 0)
    if pairs == 0:
        sentence = f"Order of policies: no two of {len(named)} policies differ beyond chance."
        return Verdict(topic, None, sentence)
    share = Estimate(alike / pairs, n=pairs)
    sentence = (
        f"Order of policies: {alike} of {pairs} pairs of logged policies that differ beyond chance "
        "are ordered by predicted click rates as they were observed."
    )
    return Verdict(topic, share.value >= ALIKE_SHARE, sentence, share)


@dataclass(frozen=True)
class PolicySpread:
    """How differently the policies of a log are misjudged."""

    spread: Estimate
    """Standard deviation of log(predicted / observed) over policies, beyond sampling noise."""
    lowest: Ratio | None
    """The policy that is underrated most."""
    highest: Ratio | None
    """The policy that is overrated most."""


def levels(first: Rows, model: str, table: Sequence[Ratio]) -> Verdict:
    """Judge whether the click rates of slates depend on what the log does not hold.

    At a user's first slate a model knows nothing that tells one logging policy from another but the
    slate itself. If predicted over observed clicks differ between policies nonetheless, the
    policies chose by something that the log lacks: slates that were chosen blindly are overrated,
    and so is every new policy that chooses without it.

    Args:
        first: First slates of all users of the log, those learned from among them: a first slate
            has no history that could be learned by heart.
        model: Name of the model.
        table: `ratios.by_policy` of the rows, for the sentence.
    """
    names = policy_groups(first)[1]
    named = _named(names)
    if len(named) < 2:
        sentence = (
            "Levels: the log names fewer than two policies with enough clicks at first slates, so "
            "nothing shows whether they used what the log does not hold."
        )
        return Verdict("levels", None, sentence)
    found = policy_spread(first, model)
    worst = max(
        (one for one in table if one.group in {names[at] for at in named}),
        key=lambda one: abs(math.log(one.ratio.value)),
    )
    told = (
        f"predicted over observed clicks at first slates vary by {found.value:.0%} between "
        f"policies beyond chance (limit {SPREAD_LIMIT:.0%}; {worst.group} {worst.ratio.value:.2f})"
    )
    if found.value > SPREAD_LIMIT:
        sentence = f"Levels: not to be trusted, for {told}: they used what the log does not hold."
        return Verdict("levels", False, sentence, found)
    return Verdict("levels", True, f"Levels: {told}.", found)


def policy_spread(first: Rows, model: str) -> Estimate:
    """Spread of log(predicted / observed) over policies, with sampling noise taken off.

    Policies weigh by their observed responses. The noise is that of the bootstrap over users.
    """
    group, names = policy_groups(first)
    named = _named(names)
    sums = by_user(first, model, group, len(names))[:2, :, named]
    draws = resamples(sums.shape[1], SAMPLES)
    predicted, observed = sums.sum(axis=1)
    weight = observed / observed.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(predicted / observed)
        sampled = np.log((draws @ sums[0]) / (draws @ sums[1]))
    sampled[~np.isfinite(sampled)] = np.nan
    noise = np.nanvar(sampled, axis=0)

    def beyond(values: np.ndarray, times: float) -> np.ndarray:
        mean = (weight * values).sum(axis=-1, keepdims=True)
        scatter = (weight * (values - mean) ** 2).sum(axis=-1)
        own = (weight * (1 - weight) * noise).sum()
        return np.asarray(np.sqrt(np.maximum(scatter - times * own, 0.0)))

    # A bootstrap sample has the noise of the log and its own, so it is taken off twice.
    return from_samples(float(beyond(logs, 1.0)), beyond(sampled, 2.0), sums.shape[1])


def _named(names: Sequence[str]) -> list[int]:
    """Places of the groups that are single policies with a name."""
    return [at for at, name in enumerate(names) if name not in ("unknown", "all others")]


# ---- leaving, returning, positions ---------------------------------------------------------------


def leaving(scores: Sequence[Score], judged: str, left: int, stayed: int) -> Verdict:
    """Judge whether the model tells who leaves, and how many.

    Args:
        scores: Of the held-out slates, with `LEAVING` as the baseline.
        judged: Name of the model.
        left: Held-out users who left.
        stayed: Held-out slates after which the user stayed.
    """
    if left < LEAVERS or stayed < LEAVERS:
        sentence = f"Leaving: {left} held-out users left and {stayed} slates were followed by more"
        return Verdict("leaving", None, f"{sentence}, but {LEAVERS} of both are needed.")
    own, base, level = (
        found_of(scores, *key) for key in ((judged, "auc"), (LEAVING, "auc"), (judged, "ratio"))
    )
    if own is None or base is None or base.lead is None or level is None:
        return Verdict("leaving", None, "Leaving: the model does not predict it.")
    told = (
        f"AUC {_plain(own.value)} against {base.value.value:.3f} of a table by visit and click, "
        f"predicted over observed {_plain(level.value, 2)}"
    )
    off = _off(level.value, LEAVE_LIMIT)
    if base.lead.high < 0:
        sentence = f"Leaving: a table of leave rates tells better who leaves ({told})."
        return Verdict("leaving", False, sentence, base.lead)
    if off:
        return Verdict("leaving", False, f"Leaving: the number is wrong ({told}).", level.value)
    return Verdict("leaving", True, f"Leaving: as observed ({told}).", base.lead)


def returning(lead: Estimate | None, gaps: int, distinct: int) -> Verdict:
    """Judge whether the model tells when users come back.

    Args:
        lead: Negative log-likelihood of a held-out gap under the model less that under the
            distribution of all gaps, nats, with its interval; None where there is no prediction.
        gaps: Number of held-out gaps.
        distinct: Number of different gaps in days.
    """
    if gaps < LEAVERS:
        sentence = f"Returning: {gaps} held-out gaps, but {LEAVERS} are needed."
        return Verdict("returning", None, sentence)
    if distinct < 2:
        sentence = "Returning: all gaps of the log are alike, so there is nothing to learn."
        return Verdict("returning", None, sentence)
    if lead is None:
        return Verdict("returning", None, "Returning: the model does not predict gaps.")
    told = f"{lead.value:+.3f} nats a gap [{lead.low:+.3f}, {lead.high:+.3f}]"
    if lead.low > 0:
        sentence = f"Returning: the distribution of all gaps tells more than the model ({told})."
        return Verdict("returning", False, sentence, lead)
    if lead.high >= 0:
        sentence = f"Returning: no better than the distribution of all gaps ({told})."
        return Verdict("returning", None, sentence, lead)
    sentence = f"Returning: better than the distribution of all gaps ({told})."
    return Verdict("returning", True, sentence, lead)


def positions(table: Sequence[Ratio]) -> Verdict:
    """Judge whether clicks at every position are as many as observed."""
    told = [one for one in table if one.observed >= FEW]
    if len(told) < 2:
        sentence = f"Positions: fewer than two positions have {FEW} held-out clicks."
        return Verdict("positions", None, sentence)
    worst = max(told, key=lambda one: abs(math.log(one.ratio.value)))
    sentence = (
        f"the largest error is at position {worst.group}, predicted over observed "
        f"{_plain(worst.ratio, 2)}"
    )
    off = any(_off(one.ratio, POSITION_LIMIT) for one in told)
    if off:
        return Verdict("positions", False, f"Positions: clicks are misplaced; {sentence}.")
    return Verdict("positions", True, f"Positions: {sentence}.", worst.ratio)


def _off(ratio: Estimate, limit: float) -> bool:
    """Whether a ratio lies beyond the limit, and not by chance."""
    low, high = 1 / limit, limit
    clear = ratio.low > 1 or ratio.high < 1
    return clear and not low <= ratio.value <= high


def _plain(estimate: Estimate, digits: int = 3) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
