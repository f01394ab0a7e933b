"""The fitted models, judged on users whom they never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.fitting.config import FitConfig
from recsim_env.fitting.parts import Parts
from recsim_env.logs.sessions import Sessions
from recsim_env.rewards import Reward
from recsim_env.shoppers.session.fit import fit_session
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import SessionPopulation
from recsim_env.shoppers.session.scores import predict
from recsim_env.shoppers.session.visits import Visits
from recsim_env.simulator import SlateSimulator
from recsim_env.verdicts.assess import Predicted, assess
from recsim_env.verdicts.findings import Findings


def judged(
    members: Sequence[SessionShopper],
    parts: Parts,
    catalog: Catalog,
    config: FitConfig,
    horizon_days: float,
    progress: Callable[[str], None],
) -> Findings:
    """Judge the first model as a predictor and all of them as simulators."""
    device = members[0].device
    everybody = parts.logged.only("evaluation")

    def simulator(member: SessionShopper) -> SlateSimulator:
        """Let held-out users answer as a model says."""
        shoppers = SessionPopulation(
            catalog, [member], everybody, device, slate_size=member.config.slate_size
        )
        return SlateSimulator(shoppers, Reward({"clicks": 1.0}), horizon_days=horizon_days)

    def refitted(sessions: Sessions) -> Callable[[Sessions], Tensor]:
        """Fit a model to a part of the log, and return what it predicts."""
        other = fit_session(
            sessions,
            catalog,
            config.model,
            seed=config.seed,
            held_out=0.0,
            validation=parts.part("valid"),
            device=device,
        )
        return lambda asked: predicted(other, asked, catalog).clicks

    simulators = [simulator(member) for member in members]
    return assess(
        lambda sessions: predicted(members[0], sessions, catalog),
        parts.part("train"),
        parts.part("test"),
        catalog,
        simulator=simulators[0],
        members=simulators,
        fit=refitted if config.counterfactual else None,
        windows=parts.windows.double().numpy(),
        users=config.judged_users,
        seed=config.seed,
        progress=progress,
    )


def predicted(member: SessionShopper, sessions: Sessions, catalog: Catalog) -> Predicted:
    """Predict episodes with one model."""
    visits = Visits.of(sessions, catalog)
    found = predict(member, visits)
    back = torch.log1p(-found.leaves.clamp(max=1 - 1e-6))  # log of the chance to be seen again
    gap = torch.where(visits.gap >= 0, back - found.returns, torch.nan)
    return Predicted(found.clicks, found.leaves, gap)
