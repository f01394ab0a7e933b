"""Judge a fitted simulator on held-out users: every table, and a verdict on every question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate, Floats
from recsim_env.logs.sessions import Sessions
from recsim_env.simulator import SlateSimulator
from recsim_env.verdicts import verdict as judge
from recsim_env.verdicts.baselines import (
    LEAVING,
    click_baselines,
    leaving_baseline,
    without_extra,
)
from recsim_env.verdicts.closed_loop import SEVERAL, ClosedLoop, closed_loop, owner_names
from recsim_env.verdicts.counterfactual import Counterfactual, Fit, counterfactual
from recsim_env.verdicts.findings import Findings, SampledVisit, ShownItem
from recsim_env.verdicts.imitation import imitations
from recsim_env.verdicts.ratios import by_policy, by_visit, ratio_tables
from recsim_env.verdicts.rows import Rows, item_rows, shown_of, slate_rows
from recsim_env.verdicts.scores import mean_over_users, score
from recsim_env.verdicts.spread import Spread, spread

MODEL = "simulator"
"""Name of the judged model in all tables."""
QUIET = 0.99
"""Share of the gaps between slates that a user must have been silent for, to count as gone."""
SAMPLED = 20
"""Slates that a report shows."""


@dataclass(frozen=True)
class Predicted:
    """What a model predicts of V slates, each from those before it, episode by episode."""

    clicks: Tensor
    """(V, K) chance of a click."""
    leaves: Tensor | None = None
    """(V,) chance that the user leaves after the slate; None where the model does not say."""
    gap_nll: Tensor | None = None
    """(V,) negative log-likelihood of the days until the user's next slate, nats, given that there
    is one before the log ends; NaN where there was none. None where the model does not say."""


Predict = Callable[[Sessions], Predicted]
Progress = Callable[[str], None]


def assess(
    predict: Predict,
    learned_from: Sessions,
    held_out: Sessions,
    catalog: Catalog,
    *,
    simulator: SlateSimulator | None = None,
    members: Sequence[SlateSimulator] = (),
    fit: Fit | None = None,
    windows: Floats | None = None,
    users: int = 512,
    seed: int = 0,
    progress: Progress = lambda stage: None,
) -> Findings:
    """Judge a model on held-out users.

    Args:
        predict: Gives the predictions of episodes.
        learned_from: Episodes that the model was fitted to; baselines are fitted to them as well.
        held_out: Episodes of other users.
        catalog: The items, on the CPU.
        simulator: The simulator that is judged; None leaves the closed loop out.
        members: A simulator for each member of an ensemble; fewer than two leave the spread out.
        fit: Fits the same model to other episodes; None leaves the counterfactual check out.
        windows: (S,) days for which each held-out episode was watched; see `closed_loop`.
        users: Simulated users of each policy.
        seed: Seed of baselines and samples.
        progress: Called with the name of each stage when it begins.

    Raises:
        ValueError: If a part has no episode, or nobody or everything was clicked where it is
            learned from.
    """
    for name, sessions in (("learned_from", learned_from), ("held_out", held_out)):
        if sessions.n_slates == 0:
            raise ValueError(f"{name} has no slate, but a verdict needs both parts of a log.")
    notes = [note for note in (without_extra(),) if note is not None]

    # Clicks: the model and its baselines on the same rows.
    progress("predicting held-out users")
    predicted = predict(held_out)
    rows = with_clicks(item_rows(held_out, catalog), held_out, predicted)
    train = item_rows(learned_from, catalog)
    progress("fitting baselines")
    embedding = catalog.embedding.double().cpu().numpy()
    for name, chance in click_baselines(train, rows, embedding, seed=seed).items():
        rows = rows.with_prediction(name, chance)
    progress("scoring")
    scores = score(rows, MODEL, seed=seed)
    tables = ratio_tables(rows, MODEL, [name_of(one) for one in catalog.categories])

    # First slates of everybody, which show whether policies knew more than the log holds.
    progress("predicting first slates")
    firsts = [first_slates(sessions) for sessions in (learned_from, held_out)]
    first = joined([with_clicks(item_rows(one, catalog), one, predict(one)) for one in firsts])
    of_first = by_policy(first, MODEL)
    tables = {"policy at the first slate, all users": of_first} | tables

    # Leaving and returning.
    slates, leaving = leave_scores(learned_from, held_out, predicted, seed)
    gone = int(slates.label.sum())
    after = by_visit(slates, MODEL) if leaving else []
    lead, gaps, distinct = gap_lead(learned_from, held_out, predicted.gap_nll)

    # The simulator at work.
    loops: list[ClosedLoop] = []
    if simulator is not None:
        progress("playing logging policies again")
        loops = closed_loop(
            simulator, learned_from, held_out, catalog, windows=windows, users=users
        )
    hidden: list[Counterfactual] = []
    if fit is not None:
        progress("hiding policies")
        hidden, why = counterfactual(fit, learned_from, held_out, catalog)
        notes += [] if why is None else [f"No counterfactual check: {why}."]
    progress("comparing members")
    spreads = contrast(members, learned_from, held_out, catalog, of_first, users)

    verdicts = [
        judge.clicks(scores, MODEL),
        judge.order_of_policies(rows, MODEL),
        judge.levels(first, MODEL, of_first),
        judge.leaving(leaving, MODEL, gone, len(slates) - gone, after),
        judge.returning(lead, gaps, distinct),
        judge.positions(tables["position"]),
    ]
    return Findings(
        model=MODEL,
        counts=counted(train, rows, learned_from, held_out),
        verdicts=verdicts,
        clicks=scores,
        leaving=leaving,
        leaving_by_visit=after,
        ratios=tables,
        closed_loop=loops,
        counterfactual=hidden,
        spread=spreads,
        notes=notes,
        visits=sampled(rows, catalog, seed),
    )


def with_clicks(rows: Rows, sessions: Sessions, predicted: Predicted) -> Rows:
    """Add the model's click chances to the rows of these episodes."""
    chance = predicted.clicks.cpu()[shown_of(sessions)]
    return rows.with_prediction(MODEL, chance.double().clamp(0, 1).numpy())


def first_slates(sessions: Sessions) -> Sessions:
    """Cut every episode behind its first slate; whoever has more did not leave then."""
    longest = sessions.slates.shape[1]
    cut: dict[str, Any] = {
        one.name: value[:, :1]
        for one in fields(sessions)
        if isinstance(value := getattr(sessions, one.name), Tensor)
        and value.ndim > 1
        and one.name != "declared"
        and value.shape[1] == longest
    }
    return replace(
        sessions,
        **cut,
        length=sessions.length.clamp(max=1),
        left=sessions.left & (sessions.length == 1),
    )


def joined(parts: Sequence[Rows]) -> Rows:
    """Put the rows of several parts of one log together; their users are different ones."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.policies))
    columns: dict[str, list[np.ndarray]] = {}
    users = 0
    for part in parts:
        codes = np.array([*(names.index(name) for name in part.policies), -1])
        moved = replace(part, user=part.user + users, policy=codes[part.policy])
        users += int(part.user.max(initial=-1)) + 1
        for one in fields(part):
            if one.name not in ("policies", "predicted"):
                columns.setdefault(one.name, []).append(getattr(moved, one.name))
    predicted = {
        name: np.concatenate([part.predicted[name] for part in parts])
        for name in parts[0].predicted
    }
    whole: dict[str, Any] = {name: np.concatenate(pieces) for name, pieces in columns.items()}
    return Rows(**whole, policies=names, predicted=predicted)


def leave_scores(
    learned_from: Sessions, held_out: Sessions, predicted: Predicted, seed: int
) -> tuple[Rows, list[Any]]:
    """Score the chance of leaving beside a table of leave rates.

    Slates after which the log was not watched on are left out: the last ones of users who did not
    leave, or of whom nobody can tell, since they were silent for less than most gaps last.

    Returns:
        The slates, with predictions where there are scores; and the scores.
    """
    slates = slate_rows(held_out)
    gaps = gaps_of(learned_from)
    known = gaps[gaps >= 0]
    quiet = float(np.quantile(known, QUIET, method="higher")) if len(known) else 0.0
    watched = watched_on(held_out, quiet)
    kept = slates.only(watched)
    if predicted.leaves is None or not 0 < kept.label.sum() < len(kept):
        return kept, []
    learned = watched_on(learned_from, quiet)
    train = slate_rows(learned_from)
    table = leaving_baseline(
        train.only(learned),
        clicks_of(learned_from)[learned],
        kept,
        clicks_of(held_out)[watched],
    )
    chance = predicted.leaves.double().clamp(0, 1).cpu().numpy()[watched]
    rated = kept.with_prediction(MODEL, chance).with_prediction(LEAVING, table)
    return rated, score(rated, MODEL, seed=seed)


def watched_on(sessions: Sessions, quiet: float = 0.0) -> np.ndarray:
    """Which slates (V,) were followed by another one, or by at least `quiet` days of silence."""
    place = torch.arange(sessions.slates.shape[1]).expand(len(sessions), -1)
    last = place == sessions.length.unsqueeze(1) - 1
    gone = sessions.left & (sessions.watched >= quiet)
    return np.asarray((~last | gone.unsqueeze(1))[sessions.real].numpy())


def clicks_of(sessions: Sessions) -> Floats:
    """Number of clicks (V,) of each slate."""
    clicks = (sessions.clicks & (sessions.slates >= 0)).sum(dim=2)
    return np.asarray(clicks[sessions.real].double().numpy())


def gap_lead(
    learned_from: Sessions, held_out: Sessions, nll: Tensor | None
) -> tuple[Estimate | None, int, int]:
    """Compare the model's likelihood of gaps with that of the distribution of all gaps.

    Both are given that the user came back before the log ended, so neither pays for leaving, and
    near the end of the log both know that gaps are short.

    Returns:
        Its negative log-likelihood a gap less that of the distribution (shrunk by one gap of each
        length); the number of held-out gaps, and of different lengths.
    """
    gaps = gaps_of(held_out)
    known = gaps[gaps >= 0]
    if not len(known):
        return None, 0, 0
    days = gaps_of(learned_from)
    count = np.bincount(days[days >= 0], minlength=int(known.max()) + 2) + 1.0
    distinct = len(np.unique(known))
    if nll is None:
        return None, len(known), distinct
    watched = held_out.follow_up[held_out.real].long().numpy().clip(0, len(count) - 1)
    within = np.maximum(np.cumsum(count)[watched], count[gaps.clip(min=0)])
    base = -np.log(count[gaps.clip(min=0)] / within)
    user = slate_rows(held_out).user
    lead = np.where(gaps >= 0, nll.double().cpu().numpy() - base, np.nan)
    return mean_over_users(lead, user), len(known), distinct


def gaps_of(sessions: Sessions) -> np.ndarray:
    """Whole days (V,) until the user's next slate; -1 where there is none."""
    days = sessions.days
    gap = torch.full(sessions.slates.shape[:2], -1, dtype=torch.int64)
    gap[:, :-1] = (days[:, 1:] - days[:, :-1]).long()
    place = torch.arange(sessions.slates.shape[1])
    gap[place >= sessions.length.unsqueeze(1) - 1] = -1
    return np.asarray(gap[sessions.real].numpy())


def contrast(
    members: Sequence[SlateSimulator],
    learned_from: Sessions,
    held_out: Sessions,
    catalog: Catalog,
    of_first: Sequence[Any],
    users: int,
) -> list[Spread]:
    """Compare members on the logged policies with the lowest and the highest click rate."""
    playable = {*owner_names(held_out)} - {SEVERAL}
    rates = {one.group: one.observed / one.rows for one in of_first if one.group in playable}
    if len(members) < 2 or len(rates) < 2:
        return []
    wanted = (min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__))
    codes = {name: learned_from.policies.index(name) for name in wanted}
    masks = [(name, learned_from.policy == code) for name, code in codes.items()]
    return spread(members, imitations(learned_from, catalog, masks), users=users)


def name_of(category: str) -> str:
    """Write a category of several levels without levels that repeat the one above."""
    return "/".join(dict.fromkeys(category.split("/")))


def counted(train: Rows, rows: Rows, learned_from: Sessions, held_out: Sessions) -> dict[str, int]:
    """Count what was learned from and what was held out."""
    return {
        f"{part} {what}": number
        for part, of, sessions in (
            ("learned", train, learned_from),
            ("held-out", rows, held_out),
        )
        for what, number in (
            ("users", len(sessions)),
            ("slates", sessions.n_slates),
            ("items shown", len(of)),
            ("clicks", int(of.label.sum())),
        )
    }


def sampled(rows: Rows, catalog: Catalog, seed: int) -> list[SampledVisit]:
    """Draw slates of different users for a reader to look at."""
    generator = np.random.default_rng(seed)
    users = generator.permutation(np.unique(rows.user))[:SAMPLED]
    names = [*rows.policies, "unknown"]
    found = []
    for user in np.sort(users):
        of_user = rows.only(rows.user == user)
        visit = int(generator.choice(np.unique(of_user.visit)))
        slate = of_user.only(of_user.visit == visit)
        items = tuple(
            ShownItem(
                catalog.text[int(item)].split("; ")[0],
                name_of(catalog.categories[int(category)]),
                bool(clicked),
                float(chance),
            )
            for item, category, clicked, chance in zip(
                slate.item, slate.category, slate.label, slate.predicted[MODEL], strict=True
            )
        )
        found.append(SampledVisit(int(user), visit, names[int(slate.policy[0])], items))
    return found
