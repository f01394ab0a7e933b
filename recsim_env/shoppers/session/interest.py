"""What a shopper is interested in, as a Gaussian: an extended Kalman filter over slates and clicks.

The log-odds of a click on item i gain d_i . u, with d_i the item's place along the `Directions` of
the catalogue and u the shopper's interest. Before the first visit u is normal around a linear
function of what the shopper declared; from visit to visit it drifts,

    u <- home + f (u - home) + noise,

with prior scale, drift, f and the noise of an answer all fitted. An answer moves the Gaussian as in
an extended Kalman filter (Jazwinski 1970, "Stochastic processes and filtering theory", section
8.3): with p_k = look_k sigmoid(logit_k) and its slope in u as the row A_k,

    S = A P A' + diag(noise p (1 - p)),  u <- u + P A' S^-1 (clicks - p),  P <- P - P A' S^-1 A P.

Two further numbers are followed so that they are not taken for interest: how keen on everything the
shopper is, and how much wearier than the average. The temperament speaks for both elsewhere.

The filter is a function of what was shown and clicked. A simulation needs no draw of u: clicks that
are drawn given all before them have the law that clicks given a drawn u would have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

MOST_DIRECTIONS = 16
"""Most directions along which an interest is followed: the cost of a visit grows with their square,
and the encoder's query speaks for the others."""
BESIDE = 2
"""Numbers beside the interest: keenness, and weariness beyond the average."""
LEAST_NOISE = 1e-3
"""The variance of an answer is no less, so that S is regular."""


@dataclass
class Interest:
    """What is known of the interest of B shoppers; R numbers each, the interest and `BESIDE`."""

    mean: Tensor
    """(B, R) float32."""
    covariance: Tensor
    """(B, R, R) float32."""


def directions_of(embedding: Tensor) -> Tensor:
    """Find the directions (E, D) in which items (N, E) differ most, so that items have length 1.

    They are the first right singular vectors, divided by the mean length of what items have along
    them.
    """
    count = min(MOST_DIRECTIONS, embedding.shape[1])
    values, vectors = torch.linalg.eigh(embedding.double().T @ embedding.double())
    found = vectors.flip(1)[:, :count]
    length = (values.flip(0)[:count].clamp(min=0).sum() / len(embedding)).sqrt()
    scaled: Tensor = (found / length.clamp(min=1e-6)).float()
    return scaled.contiguous()


class InterestFilter(nn.Module):
    """The parameters of the filter, and its two steps; see the module.

    Args:
        declared: numbers that a newcomer tells of its interest
        directions: directions of the interest
    """

    def __init__(self, declared: int, directions: int) -> None:
        super().__init__()
        size = directions + BESIDE
        self.directions = directions
        self.of_declared = nn.Parameter(torch.zeros(declared, directions)) if declared else None
        self.usual = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.log_drift = nn.Parameter(torch.zeros(size))
        self.log_noise = nn.Parameter(torch.zeros(()))
        self.kept = nn.Parameter(torch.zeros(()))  # log-odds of f

    def begin(self) -> None:
        """Set the parameters with which a training begins."""
        if self.of_declared is not None:
            nn.init.zeros_(self.of_declared)
        nn.init.zeros_(self.usual)
        nn.init.constant_(self.log_scale, -0.7)  # half a unit of log-odds between shoppers
        nn.init.constant_(self.log_drift, -2.3)
        nn.init.zeros_(self.log_noise)
        nn.init.constant_(self.kept, 4.0)

    def home(self, declared: Tensor) -> Tensor:
        """Compute the mean interest (B, R) of those who declared this (B, declared)."""
        if self.of_declared is None:
            return self.usual.expand(len(declared), -1)
        told = declared @ self.of_declared
        return self.usual + torch.nn.functional.pad(told, (0, BESIDE))

    def newcomers(self, declared: Tensor) -> Interest:
        """Say what is known of newcomers who declared this (B, declared)."""
        prior = torch.diag((2 * self.log_scale).exp())
        return Interest(self.home(declared).clone(), prior.repeat(len(declared), 1, 1))

    def answered(
        self,
        known: Interest,
        rows: Tensor,
        offsets: Tensor,
        looks: Tensor,
        clicks: Tensor,
        shown: Tensor,
    ) -> Interest:
        """Learn from the answers to slates.

        Args:
            known: what is known before
            rows: (B, K, R) what the log-odds gain with each number
            offsets: (B, K) log-odds where all of them are 0
            looks: (B, K) chance to look at each position
            clicks: (B, K) bool
            shown: (B, K) bool
        """
        logits = offsets + torch.einsum("bkr,br->bk", rows, known.mean)
        chance = logits.sigmoid()
        expected, slope = looks * chance, looks * chance * (1 - chance) * shown
        noise = (expected * (1 - expected)).clamp(min=LEAST_NOISE) * self.log_noise.exp()
        noise = noise.where(shown, 1.0)
        moved = rows * slope.unsqueeze(2)  # (B, K, R)
        shared = moved @ known.covariance
        root = torch.linalg.cholesky_ex(shared @ moved.mT + torch.diag_embed(noise)).L
        surprise = (clicks.float() - expected).where(shown, 0.0).unsqueeze(2)
        both = torch.cat([shared, surprise], dim=2)
        shared, surprise = torch.linalg.solve_triangular(root, both, upper=False).split(
            [rows.shape[2], 1], dim=2
        )
        mean = known.mean + (shared.mT @ surprise).squeeze(2)
        return Interest(mean, known.covariance - shared.mT @ shared)

    def waited(self, known: Interest, home: Tensor, age: Tensor) -> Interest:
        """Let interests drift over an age (B,), 1 for a day; 0 changes nothing.

        Args:
            known: what is known after the last visit
            home: (B, R) what interests return to, see `home`
            age: (B,) as counters age (`recsim_env.shoppers.session.memory.age_of`)
        """
        kept = self.kept.sigmoid() ** age.unsqueeze(1)
        drift = torch.diag_embed((2 * self.log_drift).exp() * age.unsqueeze(1))
        return Interest(
            home + kept * (known.mean - home),
            kept.unsqueeze(2).square() * known.covariance + drift,
        )
