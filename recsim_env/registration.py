"""Presets, `make_simulator`, and `register` for environments of one's own."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch

from recsim_env import checks
from recsim_env.arguments import (
    checked_history,
    checked_horizon,
    checked_newcomers,
    checked_slate_size,
)
from recsim_env.belief.base import Belief
from recsim_env.graphs import GraphedSimulator
from recsim_env.rewards import Reward, as_reward
from recsim_env.rewards.objectives import checked_objectives
from recsim_env.shop_file import (
    HOUSEHOLD,
    HOUSEHOLD_FILE,
    SESSION,
    SHOP_FILE,
    UNFINISHED,
    ShopFile,
    doubt_levels,
    refuse_failed,
)
from recsim_env.shoppers import cold
from recsim_env.shoppers.base import Shopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import best_device

ShopperFactory = Callable[..., Shopper[Any]]
"""`factory(device: torch.device, slate_size: int, **options) -> Shopper`; its keyword arguments are
its options."""


@dataclass(frozen=True)
class Later:
    """A shopper factory that is imported when it is first called, because its imports are slow."""

    module: str
    """The module of the factory."""
    name: str
    """The name of the factory in that module."""

    def load(self) -> ShopperFactory:
        """Import and return the factory."""
        factory: ShopperFactory = getattr(importlib.import_module(self.module), self.name)
        return factory

    def __call__(self, *arguments: Any, **options: Any) -> Shopper[Any]:
        """Call the factory with these arguments."""
        return self.load()(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature of the factory, which `inspect.signature` asks for."""
        return inspect.signature(self.load())


FROM_FOLDER = {
    HOUSEHOLD: Later("recsim_env.shoppers.household.population", "load_shopper"),
    SESSION: Later("recsim_env.shoppers.session.population", "load_session"),
}
"""Factories of shoppers from a folder, by kind: each takes the folder before all else."""


@dataclass(frozen=True)
class EnvConfig:
    """The configuration of an environment.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a field is out of its range.
    """

    shopper: ShopperFactory | str | os.PathLike[str]
    """A function (device, slate_size, **options) -> Shopper, or a folder with fitted shoppers and a
    catalogue, as `recsim_env.fit` and `benchmarks.data.finetune` write them."""
    reward: Reward | Mapping[str, float] = field(default_factory=Reward)
    """The reward, or the weight of each registered term by name."""
    slate_size: int = 10
    """Number of positions in a slate."""
    horizon_days: float = 182.0
    """Number of days after its first visit at which an episode is truncated."""
    history: int = 10
    """Number of past slates in the observation."""
    strict: bool = False
    """Whether a repeated item, or one that is no candidate, raises an error. Otherwise it goes
    unseen and is counted."""
    shopper_options: Mapping[str, Any] = field(default_factory=dict)
    """Options that the shopper is built with unless the caller gives others."""
    belief: Belief[Any] | None = None
    """What the shop infers about each shopper, whose keys join the observation; None means
    nothing. `recsim_env.belief.registry.load_belief` opens one."""
    objectives: Sequence[str] | None = None
    """Names of registered terms whose values are told side by side, as MO-Gymnasium expects:
    rewards become vectors. None means that the reward is one number."""
    newcomers: float = 0.0
    """Share of episodes whose shopper comes without a history, from 0 to 1, where the others have
    one."""
    graphs: bool = False
    """Whether steps are replayed as CUDA graphs (`recsim_env.graphs`), which needs a GPU. Episodes
    are the same, and small batches are several times as fast."""

    def __post_init__(self) -> None:
        if not callable(self.shopper) and not isinstance(self.shopper, (str, os.PathLike)):
            raise TypeError(
                f"shopper is {checks.told(self.shopper)}, but it must be a function or a folder."
            )
        if callable(self.shopper):
            _check_factory(self.shopper)
        else:  # so that it is found whatever the working directory is later
            object.__setattr__(self, "shopper", Path(self.shopper).absolute())
        checked = {
            "reward": as_reward(self.reward),
            "slate_size": checked_slate_size(self.slate_size),
            "horizon_days": checked_horizon(self.horizon_days),
            "history": checked_history(self.history),
            "strict": checks.flag("strict", self.strict),
            "newcomers": checked_newcomers(self.newcomers),
            "graphs": checks.flag("graphs", self.graphs),
            "objectives": checked_objectives(self.objectives),
            "shopper_options": checks.mapping("shopper_options", self.shopper_options),
        }
        if self.belief is not None:
            checks.instance("belief", self.belief, Belief)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


OWN = "recsim_env/"
"""How the ids of this package's environments begin."""
PRESETS: dict[str, EnvConfig] = {}
"""The configuration of every id that `register` made."""

ASKED_OF_ALL: dict[str, tuple[Callable[[str, Any], Any], Any]] = {
    "new_items": (cold.share, 0.0),
    "portrait": (checks.flag, False),
}
"""Options that every environment understands: their check, and the value that asks for nothing,
which is all that shoppers accept whose factory does not take the option."""
_OVERRIDES = tuple(
    f.name for f in fields(EnvConfig) if f.name not in ("shopper", "shopper_options")
)


def register(
    id: str,
    shopper: ShopperFactory | str | os.PathLike[str],
    *,
    reward: Reward | Mapping[str, float] | None = None,
    slate_size: int | None = None,
    horizon_days: float | None = None,
    history: int = 10,
    strict: bool = False,
    shopper_options: Mapping[str, Any] | None = None,
    anyway: bool = False,
) -> None:
    """Make an environment known to `gymnasium.make`, `gymnasium.make_vec` and `make_simulator`.

        recsim_env.register("shop/Mine-v0", "out/my-shopper", reward={"clicks": 1.0})
        env = gymnasium.make("shop/Mine-v0")

    Args:
        id: `namespace/name-v0`, where Gymnasium lets the namespace and the version be left out. An
            id that is taken is replaced, with Gymnasium's warning.
        shopper: As in `EnvConfig`, and so are the others.
        reward: None means that of the folder's `shop.json`, or else that of `Reward()`.
        slate_size: How many positions a slate has; None means that of the folder, or else 10.
        horizon_days: The days after which an episode is truncated; None means those that the folder
            says the log reaches, or else 182.
        history: How many slates the shop remembers.
        strict: Whether an item that would not be shown raises an error.
        shopper_options: Options that the shopper is built with.
        anyway: Register a folder even if its shoppers' clicks are predicted worse than by the means
            of items and users.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a field is out of its range, if the id is no text or begins as this package's
            own do, or if the folder's verdict on clicks is no.
        FileNotFoundError: If the folder is missing.
        gymnasium.error.Error: If Gymnasium does not accept the id. In every case nothing is
            registered.
    """
    if checks.text("id", id).startswith(OWN):
        raise ValueError(
            f"id is {id!r}, but ids that begin with {OWN!r} are this package's own: choose "
            f"another, such as {'shop/' + id.removeprefix(OWN)!r}."
        )
    shop = ShopFile(HOUSEHOLD)
    if isinstance(shopper, (str, os.PathLike)):
        folder = _check_folder(shopper)
        shop = ShopFile.read(folder)
        if not checks.flag("anyway", anyway):
            refuse_failed(shop, folder)
    config = EnvConfig(
        shopper=shopper,
        reward=as_reward(shop.reward if reward is None else reward),
        slate_size=shop.slate_size if slate_size is None else slate_size,
        horizon_days=shop.horizon_days if horizon_days is None else horizon_days,
        history=history,
        strict=strict,
        shopper_options={} if shopper_options is None else shopper_options,
    )
    add_preset(id, config)


def add_preset(id: str, config: EnvConfig) -> None:
    """Register a configuration under an id, without a look at the folder that it may name."""
    gymnasium.register(
        id=id,
        entry_point="recsim_env.env:SlateEnv",
        vector_entry_point="recsim_env.vector:SlateVectorEnv",
        kwargs={"simulator": id},
    )
    PRESETS[id] = config


def make_simulator(
    id: str | EnvConfig, *, device: torch.device | str | None = None, **options: Any
) -> SlateSimulator:
    """Make the simulator behind a registered id, for an agent that lives in torch.

    Args:
        id: A registered id, or a configuration of one's own. `module:id` imports the module first,
            as `gymnasium.make` does, so that the module can register the id.
        device: `cpu`, `cuda`, or None for the best there is.
        options: `reward`, `slate_size`, `horizon_days`, `history`, `strict`, `belief`,
            `objectives`, `newcomers` and `graphs` replace those of the configuration; any other
            option goes to the shopper. Every environment understands `new_items`, the share of
            items that nobody knows yet, and `portrait`, whether the shop sees who the shopper is,
            and refuses what its shoppers cannot serve.

    Raises:
        gymnasium.error.NameNotFound: If the id is unknown.
        ModuleNotFoundError: If the module is unknown.
        TypeError: If an option is known to neither side.
        ValueError: If a value is out of its range, if the device is not there, if the shopper is
            none, or if it cannot serve what is asked of it.
        FileNotFoundError: If a folder is missing.
    """
    config = _config(id, "id", "a registered id or an EnvConfig")
    changes = {name: options.pop(name) for name in _OVERRIDES if name in options}
    config = replace(config, **changes)
    factory = _factory(config)
    _check_known(factory, options)
    options = _served(factory, {**config.shopper_options, **options})
    if not callable(config.shopper):
        doubt_levels(Path(config.shopper))
    place = best_device(device)
    if config.graphs and place.type != "cuda":
        raise ValueError(f"graphs is True, but the device is {place}: CUDA graphs need a GPU.")
    shopper = factory(place, config.slate_size, **options)
    simulator = (GraphedSimulator if config.graphs else SlateSimulator)(
        shopper,
        config.reward,
        horizon_days=config.horizon_days,
        history=config.history,
        strict=config.strict,
        belief=config.belief,
        objectives=config.objectives,
        newcomers=config.newcomers,
    )
    if simulator.slate_size != config.slate_size:
        raise ValueError(
            f"shopper answers slates of {simulator.slate_size} positions, but slate_size is "
            f"{config.slate_size}."
        )
    return simulator


def preset(id: str, name: str = "id") -> EnvConfig:
    """Return the configuration of a registered id, or of `module:id` once the module is imported.

    Args:
        id: The id.
        name: What messages call the argument.

    Raises:
        gymnasium.error.NameNotFound: If the id is unknown.
        ModuleNotFoundError: If there is no such module.
    """
    told = checks.told(id)
    module, _, own = id.rpartition(":")
    if module and all(part.isidentifier() for part in module.split(".")):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{name} is {told}, but its module cannot be imported: {error}."
            ) from error
        id = own
    if id not in PRESETS:
        raise gymnasium.error.NameNotFound(
            f"{name} is {told}, but the registered ids are {sorted(PRESETS)}."
        )
    return PRESETS[id]


def _config(source: Any, name: str, expected: str) -> EnvConfig:
    """Return the configuration that an id or a configuration stands for.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(source, str):
        return preset(source, name)
    if not isinstance(source, EnvConfig):
        raise ValueError(f"{name} is {checks.told(source)}, but it must be {expected}.")
    return source


def as_simulator(
    source: SlateSimulator | EnvConfig | str, options: dict[str, Any]
) -> SlateSimulator:
    """Return what a face was given as a simulator.

    Args:
        source: A simulator, or what `make_simulator` takes.
        options: What else the face was given.

    Raises:
        TypeError: If there are options beside a finished simulator.
        ValueError: If `source` is neither a simulator nor an id or a configuration; what
            `make_simulator` says.
    """
    if not isinstance(source, SlateSimulator):
        config = _config(source, "simulator", "a registered id, an EnvConfig or a SlateSimulator")
        return make_simulator(config, **options)
    if options:
        raise TypeError(_unexpected(sorted(options), "a finished simulator takes no options"))
    return source


def shopper_options(config: EnvConfig) -> dict[str, inspect.Parameter]:
    """Return the options that the shoppers of an environment take, by name."""
    return _options(_factory(config))


def _options(factory: ShopperFactory) -> dict[str, inspect.Parameter]:
    """The parameters of a factory behind its first two, the device and the slate size."""
    parameters = list(inspect.signature(factory).parameters.values())[2:]
    return {parameter.name: parameter for parameter in parameters}


def _factory(config: EnvConfig) -> ShopperFactory:
    if callable(config.shopper):
        return config.shopper
    folder = _check_folder(config.shopper)
    return partial(FROM_FOLDER[ShopFile.read(folder).kind].load(), folder)


def _check_folder(folder: str | os.PathLike[str]) -> Path:
    found, path = checks.told(os.fspath(folder)), Path(folder)
    if not os.path.isdir(path):  # as `Path.is_dir`, which raises where the text is too long
        raise FileNotFoundError(
            f"shopper is {found}, but there is no such folder with a shopper in it."
        )
    if not any((path / name).exists() for name in (SHOP_FILE, UNFINISHED, HOUSEHOLD_FILE)):
        raise FileNotFoundError(
            f"shopper is {found}, which holds no shoppers: a folder by recsim_env.fit has "
            f"{SHOP_FILE}, and one by benchmarks.data.finetune has {HOUSEHOLD_FILE}."
        )
    return path


def _check_factory(factory: ShopperFactory) -> None:
    """Raise TypeError unless a function takes a device and a slate size."""
    if isinstance(factory, Later):
        return
    try:
        inspect.signature(factory).bind_partial(torch.device("cpu"), 1)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"shopper is {checks.told(factory)}, but a function must take (device, slate_size, "
            f"**options): {error}."
        ) from error


def _served(factory: ShopperFactory, options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a factory does not take of `ASKED_OF_ALL`, where it asks for nothing.

    Raises:
        ValueError: If a value is out of its range, or asks for what these shoppers cannot serve.
    """
    parameters, left = _options(factory), dict(options)
    for name, (check, nothing) in ASKED_OF_ALL.items():
        if name not in left or name in parameters or _takes_any(parameters):
            continue
        if check(name, left.pop(name)) != nothing:
            raise ValueError(
                f"{name} is {checks.told(options[name])}, but the shoppers of this environment "
                f"cannot serve it, so that it must be {nothing}."
            )
    return left


def _check_known(factory: ShopperFactory, options: Mapping[str, Any]) -> None:
    """Raise TypeError where an option is none of the factory's."""
    parameters = _options(factory)
    unknown = sorted(options.keys() - parameters.keys() - ASKED_OF_ALL.keys())
    if unknown and not _takes_any(parameters):
        known = sorted({*parameters, *_OVERRIDES, *ASKED_OF_ALL, "device"})
        near = [close[0] for name in unknown if (close := get_close_matches(name, known, 1))]
        meant = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        raise TypeError(_unexpected(unknown, f"the options are {known}") + meant)


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _unexpected(names: list[str], expected: str) -> str:
    """Say in Python's own words that options are unknown: TorchRL looks for these words."""
    found = " and the ".join(f"unexpected keyword argument {name!r}" for name in names)
    return f"The environment got the {found}, but {expected}."
