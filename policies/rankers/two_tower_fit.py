"""Fits a two-tower ranker to logged slates, from new weights or from those that it has."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm.auto import tqdm

from policies.features import principal
from policies.rankers.slate_examples import Known, SlateExamples, examples_of
from policies.rankers.two_tower import TwoTower, TwoTowerConfig, TwoTowerRanker
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions


def fit_two_tower(
    sessions: Sessions,
    catalog: Catalog,
    slate_size: int,
    config: TwoTowerConfig | None = None,
    *,
    title: str | None = None,
    known: Known | None = None,
) -> TwoTowerRanker:
    """Fit a ranker by minimising the log loss of the clicks of a log.

    Args:
        sessions: the log
        catalog: the items
        slate_size: number of slate positions K
        config: sizes of the network and how it is fitted; None = the defaults
        title: of the progress bar; None shows none
        known: makes of an observation what the ranker will be shown in use, where that is not the
            profile of the log (`policies.rankers.recent`)

    Raises:
        TypeError: If an argument is of another class.
        ValueError: If the log holds no click, or slates of another size.
    """
    config = TwoTowerConfig() if config is None else config
    for name, value, kind in (
        ("sessions", sessions, Sessions),
        ("catalog", catalog, Catalog),
        ("config", config, TwoTowerConfig),
    ):
        checks.instance(name, value, kind)
    slate_size = checks.whole("slate_size", slate_size, 1)
    if not bool(sessions.clicks.any()):
        raise ValueError(
            f"sessions has {sessions.n_slates} slates and no click, but a ranker needs some."
        )
    if sessions.slates.shape[2] != slate_size:
        raise ValueError(
            f"slate_size is {slate_size}, but the log has slates of {sessions.slates.shape[2]}."
        )
    return fit_examples(examples_of(sessions, catalog, known), catalog, config, title=title)


def fit_examples(
    examples: SlateExamples, catalog: Catalog, config: TwoTowerConfig, *, title: str | None = None
) -> TwoTowerRanker:
    """Fit a ranker to examples, at least one of which was clicked, from new weights."""
    model = new_two_tower(examples, catalog, config)
    train(model, examples, config, title=title)
    return TwoTowerRanker(model)


def go_on(
    ranker: TwoTowerRanker, examples: SlateExamples, config: TwoTowerConfig
) -> TwoTowerRanker:
    """Train a copy of a ranker on further examples, from the weights that it has.

    The sizes of the network and the scales of its inputs stay.

    Args:
        ranker: The ranker, which stays as it is.
        examples: What it learns from.
        config: How it is fitted; its sizes are not read.
    """
    model = copy.deepcopy(ranker.model)
    train(model, examples, config)
    return TwoTowerRanker(model)


def new_two_tower(examples: SlateExamples, catalog: Catalog, config: TwoTowerConfig) -> TwoTower:
    """Make a model before its first step, with the scales and the mean response of examples."""
    shoppers = torch.cat([whole for whole, _ in _first(examples, 100_000)])
    categories = torch.cat([one.flatten(0, 1) for _, one in _first(examples, 20_000)])
    model = TwoTower(
        principal(catalog.embedding, config.dims),
        catalog.category,
        shoppers.shape[1],
        categories.shape[1],
        examples.slates.shape[1],
        config,
    ).to(catalog.device)
    model.standardize.fit(shoppers.float())
    model.standardize_category.fit(categories.float())

    # Start at the response rate of an item that is looked at
    seen = (examples.slates >= 0).sum()
    rate = float(examples.clicks.sum() / seen) / 0.6  # about 0.6 of the positions are looked at
    with torch.no_grad():
        model.bias.fill_(math.log(rate / (1 - min(rate, 0.9))))
    return model


def train(
    model: TwoTower, examples: SlateExamples, config: TwoTowerConfig, *, title: str | None = None
) -> None:
    """Train a model in place, with a learning rate that falls to 0 along a cosine."""
    steps = config.epochs * math.ceil(len(examples) / config.batch_size)
    optimizer = torch.optim.AdamW(groups_of(model, config))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(config.seed)
    with tqdm(total=steps, desc=title, unit="step", disable=title is None) as bar:
        for _ in range(config.epochs):
            order = torch.randperm(len(examples), generator=generator).to(examples.slates.device)
            for rows in order.split(config.batch_size):
                optimizer.zero_grad()
                loss_of(model, examples, rows).backward()
                optimizer.step()
                schedule.step()
                bar.update()


def groups_of(model: TwoTower, config: TwoTowerConfig) -> list[dict[str, object]]:
    """Groups of the optimiser: those of single items decay, the few of positions learn faster."""
    apart = ("own", "bias", "examination", "fatigue")
    networks = [value for name, value in model.named_parameters() if name not in apart]
    rate = config.learning_rate
    return [
        {"params": networks, "lr": rate, "weight_decay": config.weight_decay},
        {"params": [model.own, model.bias], "lr": rate, "weight_decay": config.own_decay},
        {"params": [model.examination, model.fatigue], "lr": 10 * rate, "weight_decay": 0.0},
    ]


def _first(examples: SlateExamples, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What the towers see of the first slates of a log, so many at most, some at a time."""
    for rows in torch.arange(min(most, len(examples)), device=examples.slates.device).split(4096):
        yield examples.inputs(rows)


def chances(model: TwoTower, examples: SlateExamples, rows: Tensor) -> Tensor:
    """The chance (R, K) of a click at each position of some slates, given by rows (R,)."""
    whole, by_category = examples.inputs(rows)
    log_odds = model.log_odds(
        whole.float(),
        by_category.float(),
        examples.slates[rows].clamp(min=0),
        examples.fatigue[rows].float(),
    )
    return (model.examined() * torch.sigmoid(log_odds)).clamp(1e-6, 1 - 1e-6)


def loss_of(model: TwoTower, examples: SlateExamples, rows: Tensor) -> Tensor:
    """Mean log loss of the positions of some slates, given by rows (R,)."""
    slates, clicks = examples.slates[rows], examples.clicks[rows]
    chance = chances(model, examples, rows)
    loss = torch.where(clicks, -chance.log(), -(1 - chance).log())
    shown = slates >= 0
    return (loss * shown).sum() / shown.sum().clamp(min=1)


@torch.no_grad()
def predictions(ranker: TwoTowerRanker, examples: SlateExamples) -> tuple[Tensor, Tensor]:
    """The chances of a click of all items that were shown, and the clicks: (Q,) each."""
    rows = torch.arange(len(examples), device=examples.slates.device)
    found = torch.cat([chances(ranker.model, examples, part) for part in rows.split(4096)])
    shown = examples.slates >= 0
    return found[shown], examples.clicks[shown]
