"""The belief of a place: told as a folder of fitted shoppers, or the place's own.

A place whose shoppers were fitted to a log has the model that believes already. Shoppers with a
loyalty card need no state: the shop observes what their model reads, so that the model itself ranks
(`policies.rankers.household`). Anywhere else the general session model is fitted to the log of the
place, once, and kept beside its ranker:

    runs/places/<name>-<digest>/belief-<digest>/    shop.json, model0/

The second digest is that of how the model is fitted.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.inputs import Ranker
from recsim_env import checks
from recsim_env.belief.base import Belief
from recsim_env.belief.registry import BELIEFS, load_belief, save_belief
from recsim_env.files import building, locked
from recsim_env.logs.sessions import Sessions
from recsim_env.shop_file import HOUSEHOLD, SHOP_FILE, ShopFile
from recsim_env.simulator import SlateSimulator

if TYPE_CHECKING:
    from recsim_env.shoppers.session.fit import SessionFitConfig

OWN = "own"
"""Name of the belief that the place itself gives."""
CARD = "bought_items"
"""Key of the observation of shoppers with a loyalty card."""


def told_belief(
    belief: Path | str | Belief[Any], env: str, simulator: SlateSimulator, folder: Path | None
) -> Belief[Any] | Ranker | None:
    """What infers the shoppers' interests, without a log.

    Args:
        belief: The belief, a folder that gives one, or "own".
        env: Id of the environment.
        simulator: Its shoppers.
        folder: The folder of the fitted shoppers, where that is what was named.

    Returns:
        The belief, or a ranker where the observation holds everything that is known of a shopper;
        None where the place's own belief has to be fitted to its log.

    Raises:
        FileNotFoundError: If there is no such folder, or a file in it is missing.
        TypeError: If it is none of these.
        ValueError: If the folder gives no belief, or none can be fitted here.
    """
    if isinstance(belief, Belief):
        return belief
    device, size = simulator.device, simulator.slate_size
    with_card = CARD in simulator.observation_space.spaces
    if belief != OWN:
        if not checks.path("belief", belief).is_dir():
            raise FileNotFoundError(
                f"belief is {checks.told(belief)}, but it must be {OWN!r} or a folder of fitted "
                "shoppers, and there is no such folder."
            )
        if with_card and _kind_of(belief) == HOUSEHOLD:
            return _of_folder(Path(belief), simulator)
        return load_belief(belief, device, size)
    if folder is not None and _kind_of(folder) in BELIEFS:
        return load_belief(folder, device, size)
    return _of_shoppers(env, simulator) if with_card else None


def _kind_of(folder: Path | str) -> str | None:
    """The family of the shoppers in a folder; None where there is no such folder."""
    return ShopFile.read(folder).kind if Path(folder).is_dir() else None


def _of_folder(folder: Path, simulator: SlateSimulator) -> Ranker:
    """The ranker of the household model in a folder.

    Raises:
        FileNotFoundError: If the folder holds no model.
        ValueError: If the model is broken, or is about other items.
    """
    from policies.rankers.household import HouseholdRanker  # it imports transformers
    from recsim_env.shoppers.household.model import SlateShopper
    from recsim_env.shoppers.weights import load_model

    model = load_model(SlateShopper, folder)
    try:
        return HouseholdRanker(simulator.catalog, model)
    except ValueError as error:
        raise ValueError(f"belief is {str(folder)!r}: {error}") from None


def _of_shoppers(env: str, simulator: SlateSimulator) -> Ranker:
    """The ranker of the household model whose shoppers these are.

    Raises:
        ValueError: If the shoppers have a card and are of no fitted model.
    """
    from policies.rankers.household import HouseholdRanker
    from recsim_env.shoppers.household.population import LearnedShopper

    shopper = simulator.shopper
    if not isinstance(shopper, LearnedShopper):
        raise ValueError(
            f"belief is {OWN!r}, but the shoppers of {env} have a loyalty card and are of no "
            "fitted model: what the shop knows of them is in the observation already."
        )
    return HouseholdRanker(simulator.catalog, shopper.shop.model)


def reads_card(ranker: Ranker, simulator: SlateSimulator) -> bool:
    """Whether a ranker is a household model that is run on the loyalty card."""
    if CARD not in simulator.observation_space.spaces:
        return False
    from policies.rankers.household import HouseholdRanker

    return isinstance(ranker, HouseholdRanker)


def belief_folder(folder: Path, config: SessionFitConfig) -> Path:
    """The folder in that of a place where a belief is kept that is fitted like this."""
    told = json.dumps(asdict(config), sort_keys=True)
    return folder / f"belief-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def fitted_belief(
    folder: Path,
    log: Sessions,
    simulator: SlateSimulator,
    *,
    config: SessionFitConfig | None = None,
    title: str | None = None,
) -> Belief[Any]:
    """The belief of a general session model that was fitted to a log, or is fitted now.

    An interrupted fit goes on.

    Args:
        folder: The folder of the place, where the belief is kept.
        log: The log of the place.
        simulator: Its shoppers.
        config: How the model is fitted; None means as by default.
        title: What is fitted, for the progress bar; None shows none.

    Raises:
        ValueError: If the log holds no click, or too few shoppers.
    """
    from recsim_env.shoppers.session.fit import SessionFitConfig  # it imports transformers

    config = config or SessionFitConfig()
    own = belief_folder(folder, config)
    if not (own / SHOP_FILE).is_file():
        with locked(folder, wait=True):
            if not (own / SHOP_FILE).is_file():  # nobody else has fitted it meanwhile
                _fit(own, log, simulator, config, title)
    return load_belief(own, simulator.device, simulator.slate_size)


def _fit(
    own: Path,
    log: Sessions,
    simulator: SlateSimulator,
    config: SessionFitConfig,
    title: str | None,
) -> None:
    """Fit a session model to a log, and write its belief into a folder of its own."""
    from recsim_env.belief.session import SessionBelief  # these import transformers
    from recsim_env.fitting.bar import step_bar
    from recsim_env.shoppers.session.fit import fit_session

    if not bool(log.clicks.any()):
        raise ValueError(
            f"The log has {log.n_slates} slates and no click, but a belief is fitted to clicks: "
            "log more slates."
        )
    training = own.with_name(f"{own.name}.training")
    with step_bar(title) as bar:
        model = fit_session(
            log,
            simulator.catalog.to("cpu"),
            config,
            held_out=0.0,
            device=simulator.device,
            progress=bar,
            folder=training,
        )
    with building(own) as part:
        save_belief(SessionBelief(model, simulator.device), part)
    shutil.rmtree(training, ignore_errors=True)
