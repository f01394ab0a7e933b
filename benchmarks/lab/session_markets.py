"""Markets in which other shoppers answer, such as session models that were fitted to a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recsim_env.belief.base import Belief
from recsim_env.files import building
from recsim_env.fitting.bar import step_bar
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.session.fit import SessionFitConfig, fit_session
from recsim_env.shoppers.session.population import SessionPopulation, load_session, save_session
from recsim_env.shoppers.session.starts import Logged
from recsim_env.simulator import SlateSimulator


def market_of(
    shopper: Shopper[Any], like: SlateSimulator, *, belief: Belief[Any] | None = None
) -> SlateSimulator:
    """A simulator of some shoppers; reward, horizon and history are those of another one."""
    days, history = like.horizon_days, like.history
    return SlateSimulator(shopper, like.reward, horizon_days=days, history=history, belief=belief)


def fitted_session(
    folder: Path,
    log: Sessions,
    like: SlateSimulator,
    config: SessionFitConfig,
    seed: int = 0,
    title: str | None = None,
) -> SessionPopulation:
    """The shoppers of one session model of a log, from their folder or fitted.

    Args:
        folder: Where they lie.
        log: The log, whose declared interests newcomers draw from.
        like: What wrote the log; the fit is made on its device.
        config: How the model is fitted.
        seed: The seed of the fit.
        title: What stands before the bar of the fit; None shows none.
    """
    if not folder.exists():
        catalog, device = like.catalog.to("cpu"), like.device
        with step_bar(title) as bar:
            model = fit_session(log, catalog, config, seed=seed, device=device, progress=bar)
        with building(folder) as part:
            save_session(part, catalog, [model], Logged.newcomers(log.declared))
    return load_session(folder, like.device, like.slate_size)
