"""What a session model predicts of visits that it was not fitted to, and how well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env.metrics import auc, calibration_error, normalised_entropy
from recsim_env.shoppers.gaps import return_log_likelihood
from recsim_env.shoppers.session.likelihood import over_moods
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.visits import CELLS, Visits, spread_out


@dataclass(frozen=True)
class Predictions:
    """What a model predicts of V visits, each from those before it."""

    clicks: Tensor
    """(V, K) chance of a click."""
    leaves: Tensor
    """(V,) chance not to be seen again in the days that the log goes on, given the clicks: what
    `Visits.leaves` says."""
    returns: Tensor
    """(V,) log-likelihood of when the shopper was seen again, or was not, given the clicks."""
    purchases: Tensor | None
    """(V, K) chance of a click and a purchase; None where the model has no purchases."""
    nll: float
    """Negative log-likelihood a visit, nats."""


@torch.no_grad()
def predict(
    model: SessionShopper, visits: Visits, temperaments: int = 128, batch_episodes: int = 64
) -> Predictions:
    """Predict every visit from those before it, without dropout.

    A temperament weighs as much as it explains the visits before.

    Args:
        model: a fitted model
        visits: the log
        temperaments: temperaments drawn for each episode
        batch_episodes: most episodes that are predicted together

    Raises:
        ValueError: If the model has purchases and the log has none.
    """
    if model.config.purchases and visits.purchases is None:
        raise ValueError("visits has no purchases, but the model was fitted to a log with some.")
    model.train(False)
    generator = torch.Generator().manual_seed(0)
    clicks, leaves, returns, purchases, likelihood = [], [], [], list[Tensor](), 0.0
    for rows in _in_order(visits, batch_episodes):
        batch = visits.batch(rows) | {"normal": spread_out(len(rows), temperaments, generator)}
        batch = {name: value.to(model.device) for name, value in batch.items()}
        out = model(**batch)
        likelihood += float(out["loss"]) * len(batch["slates"])

        # Clicks, averaged over temperaments and moods.
        known = _before(out["log_likelihood"], batch["real"])
        chance = over_moods(
            torch.exp(out["log_looks"].unsqueeze(2) + F.logsigmoid(out["click_logits"]))
        )
        clicks.append(torch.einsum("vs,vsk->vk", known.softmax(dim=1), chance).cpu())
        if "purchase_logits" in out:
            purchases.append(clicks[-1] * torch.sigmoid(out["purchase_logits"]).cpu())

        # Leaving and coming back, given the clicks.
        weight = (known + out["click_log_likelihood"]).log_softmax(dim=1)
        unseen = return_log_likelihood(
            model.config.gap_bins,
            out["hazards"],
            out["leave_logits"],
            torch.full_like(batch["gap"], -1.0),
            batch["follow_up"],
        )
        leaves.append(torch.logsumexp(weight + unseen, dim=1).exp().clamp(max=1).cpu())
        returns.append(torch.logsumexp(weight + out["return_log_likelihood"], dim=1).cpu())
    return Predictions(
        clicks=torch.cat(clicks),
        leaves=torch.cat(leaves),
        returns=torch.cat(returns),
        purchases=torch.cat(purchases) if purchases else None,
        nll=likelihood / len(visits.slates),
    )


def _in_order(visits: Visits, episodes: int) -> Iterator[Tensor]:
    """Yield all episodes in order, so many at most at a time, and fewer where they are long."""
    batch: list[int] = []
    longest = 0
    for episode, length in enumerate(visits.length.tolist()):
        longest = max(longest, length)
        if batch and (len(batch) == episodes or (len(batch) + 1) * longest > CELLS * episodes):
            yield torch.tensor(batch)
            batch, longest = [], length
        batch.append(episode)
    yield torch.tensor(batch)


def _before(of_visit: Tensor, real: Tensor) -> Tensor:
    """Sum the log-likelihoods (V, S) of the earlier visits of the same episode: (V, S).

    Shapes: real (B, T) bool.
    """
    padded = of_visit.new_zeros(*real.shape, of_visit.shape[1]).masked_scatter(
        real.unsqueeze(2), of_visit
    )
    return (padded.cumsum(dim=1) - padded)[real]


@dataclass(frozen=True)
class SessionScores:
    """How well a model predicts visits that it was not fitted to."""

    visits: int
    nll: float
    """Negative log-likelihood a visit, nats."""
    click_auc: float
    """Chance that a click is ranked above a non-click."""
    click_ne: float
    """Normalised entropy (He et al. 2014): log-loss over that of always saying the mean rate."""
    click_ratio: float
    """Clicks predicted over clicks observed."""
    click_ratio_by_position: tuple[float, ...]
    """The same at each position, top first."""
    click_calibration: float
    """Expected calibration error: mean distance of prediction and rate over ten groups of equal
    size."""
    leave_auc: float
    leave_nll: float
    """Log-loss a visit, nats."""
    leave_ne: float
    leave_ratio: float
    leave_calibration: float
    return_nll: float
    """Negative log-likelihood a visit of when the shopper was seen again, nats."""
    purchase_auc: float | None
    """Chance that a purchase is ranked above what was shown and not bought; None where the log has
    no purchases, as in the next."""
    purchase_ratio: float | None
    left_out: int
    """Slates of the log that were left out because histories are cut."""

    def row(self) -> dict[str, float | int | tuple[float, ...]]:
        """Return the scores as a flat dictionary."""
        return asdict(self)


@torch.no_grad()
def score(model: SessionShopper, visits: Visits) -> SessionScores:
    """Score a model on visits that it was not fitted to."""
    found = predict(model, visits)
    click, clicks, shown = found.clicks, visits.clicks, visits.shown
    expected, observed = (click * shown).sum(dim=0), (clicks & shown).sum(dim=0)
    leave, leaves = found.leaves[visits.watched], visits.leaves[visits.watched]
    purchases: dict[str, float | None] = {"purchase_auc": None, "purchase_ratio": None}
    if found.purchases is not None and visits.purchases is not None:
        chance, bought = found.purchases[shown], visits.purchases[shown]
        purchases = {
            "purchase_auc": auc(chance, bought),
            "purchase_ratio": float(chance.sum() / bought.sum()),
        }
    return SessionScores(
        visits=len(visits.slates),
        nll=found.nll,
        click_auc=auc(click[shown], clicks[shown]),
        click_ne=normalised_entropy(click[shown], clicks[shown]),
        click_ratio=float(expected.sum() / observed.sum()),
        click_ratio_by_position=tuple((expected / observed).tolist()),
        click_calibration=calibration_error(click[shown], clicks[shown], bins=10),
        leave_auc=auc(leave, leaves > 0),
        leave_nll=float(F.binary_cross_entropy(leave, leaves)),
        leave_ne=normalised_entropy(leave, leaves > 0),
        leave_ratio=float(leave.sum() / leaves.sum()),
        leave_calibration=calibration_error(leave, leaves > 0, bins=10),
        return_nll=-float(found.returns.mean()),
        left_out=visits.left_out,
        **purchases,
    )
