"""Fit the session model to an impression log: episodes in; weights and held-out scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions
from recsim_env.metrics import auc, calibration_error, normalised_entropy
from recsim_env.noise import normal
from recsim_env.settings import AMOUNT, ONE_OR_MORE, POSITIVE, RATE, SEED, SHARE, Within, settle
from recsim_env.shoppers.session.memory import COUNTERS, SessionMemory, context_size
from recsim_env.shoppers.session.model import (
    TEMPERAMENT,
    SessionShopper,
    SessionShopperConfig,
    over_moods,
)
from recsim_env.shoppers.weights import MOST as SIZES
from recsim_env.tensors import first_places

Progress = Callable[[int, int], None]
SHARED_LR_SCALE = 10.0
"""Factor of the learning rate of the few numbers that all shoppers share: they have far to go."""
EPISODES_PER_REPLAY = 512
"""Episodes that are replayed side by side, so that what they touch stays in a processor's cache."""


@dataclass(frozen=True)
class SessionFitConfig:
    """How a session model is fitted."""

    epochs: float = 8.0
    """Number of passes over the episodes that are learned from."""
    batch_episodes: int = 64
    """Number of episodes in a batch, which holds whole ones only."""
    temperaments: int = 32
    """Number of temperaments drawn for each episode of a batch. Its likelihood is averaged over
    them."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW, after a linear warm-up over a twentieth of the steps; then it
    falls to zero as a cosine."""
    weight_decay: float = 0.02
    """Decoupled weight decay of the weight matrices. Biases and scales have none."""
    held_out: float = 0.1
    """Share of the episodes that are kept for the scores, the same ones for every seed."""
    seed: int = 0
    """Seed of the initial weights, of the order of the episodes, and of dropout."""
    hidden_size: int = 64
    """Width of the states of visits."""
    layers: int = 2
    """Number of transformer blocks over the visits, each of attention and feed-forward."""
    head_size: int = 64
    """Width of the hidden layer of each head."""
    window: int = 64
    """Number of visits that a visit can attend to, itself among them. The counters hold what is
    older."""
    dropout: float = 0.03
    """Share of the encoder's activations that are hidden in training."""
    state_dropout: float = 0.0
    """Share of the state that is hidden from the heads in training. More than 0 flattens the
    response to greedy slates."""

    def __post_init__(self) -> None:
        """Check the type and the range of every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            epochs=POSITIVE,
            batch_episodes=ONE_OR_MORE,
            temperaments=ONE_OR_MORE,
            learning_rate=RATE,
            weight_decay=AMOUNT,
            held_out=Within(0, 0.99, above=True),
            seed=SEED,
            hidden_size=Within(1, SIZES["hidden"]),
            layers=Within(1, SIZES["layers"]),
            window=Within(1, SIZES["window"]),
            head_size=Within(1, SIZES["hidden"]),
            dropout=SHARE,
            state_dropout=SHARE,
        )


@dataclass(frozen=True)
class Visits:
    """The V visits of S episodes, one episode after the other, as the model takes them.

    A visit is the last one of its episode where `leaves` is 1; an episode that the log cut off has
    none.

    Shapes: K positions.
    """

    slates: Tensor
    """(V, K) int64 without padding."""
    shown: Tensor
    """(V, K) bool, whether there was an item at the position."""
    clicks: Tensor
    """(V, K) bool, whether the item was clicked."""
    counters: Tensor
    """(V, K, COUNTERS) float32 before the visit."""
    context: Tensor
    """(V, C) float32 after it."""
    leaves: Tensor
    """(V,) float32, 1 where the shopper left after this visit."""
    length: Tensor
    """(S,) int64, the number of visits of each episode."""
    declared: Tensor
    """(S, D) float32, what each shopper told of its interest; D = 0 where shops do not ask."""

    @classmethod
    def of(cls, sessions: Sessions, catalog: Catalog) -> Visits:
        """Replay a log: the counters are those that a simulation keeps.

        Raises:
            ValueError: If the log shows items that the catalogue does not have, or has no visit.
        """
        if sessions.n_slates == 0:
            raise ValueError("sessions has no visit, but a model is fitted to at least one.")
        if int(sessions.slates.max()) >= len(catalog):
            raise ValueError(
                f"sessions shows item {int(sessions.slates.max())}, but the catalogue has "
                f"{len(catalog)}."
            )

        # Slates and clicks of real visits.
        real = sessions.real
        slates = sessions.slates[real]
        shown = first_places(slates)
        last = torch.arange(real.shape[1]) == sessions.length.unsqueeze(1) - 1

        # Counters and contexts, replayed.
        parts = [
            _replayed(sessions.take(rows), catalog)
            for rows in torch.arange(len(sessions)).split(EPISODES_PER_REPLAY)
            if len(rows)
        ]
        counters, context = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(
            slates=slates.clamp(min=0),
            shown=shown,
            clicks=sessions.clicks[real] & shown,
            counters=counters,
            context=context,
            leaves=(last & sessions.left.unsqueeze(1))[real].float(),
            length=sessions.length,
            declared=sessions.declared,
        )

    def __len__(self) -> int:
        return len(self.length)

    def batch(self, episodes: Tensor) -> dict[str, Tensor]:
        """Take whole episodes (B,) as arguments of `SessionShopper.forward`, without `normal`."""
        length = self.length[episodes]
        real = torch.arange(int(length.max())) < length.unsqueeze(1)
        start = (self.length.cumsum(0) - self.length)[episodes]
        rows = (start.unsqueeze(1) + torch.arange(real.shape[1]))[real]
        names = ("slates", "shown", "clicks", "counters", "context", "leaves")
        return {"real": real, "declared": self.declared[episodes]} | {
            name: getattr(self, name)[rows] for name in names
        }


@torch.no_grad()
def _replayed(sessions: Sessions, catalog: Catalog) -> tuple[Tensor, Tensor]:
    """Replay a few episodes.

    Returns:
        (V, K, COUNTERS) counters before, and (V, C) context after each visit, episode by episode.
    """
    width, groups = catalog.embedding.shape[1], len(catalog.categories)
    batch, visits, size = sessions.slates.shape
    counters = torch.zeros(batch, visits, size, COUNTERS, dtype=torch.float32)
    context = torch.zeros(batch, visits, context_size(width), dtype=torch.float32)
    memory = SessionMemory.empty(batch, len(catalog), groups, width, torch.device("cpu"))
    for visit in range(visits):
        shown = first_places(sessions.slates[:, visit])
        slates = sessions.slates[:, visit].clamp(min=0)
        counters[:, visit] = memory.look(slates, catalog.category)
        memory.record(
            slates, shown, sessions.clicks[:, visit] & shown, catalog.category, catalog.embedding
        )
        context[:, visit] = memory.context()
    return counters[sessions.real], context[sessions.real]


def new_session_shopper(
    catalog: Catalog, slate_size: int, config: SessionFitConfig, *, declared: int = 0
) -> SessionShopper:
    """Make an unfitted model.

    Args:
        catalog: the items
        slate_size: number of positions
        config: sizes, and the seed of the weights
        declared: how many numbers newcomers declare
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = SessionShopper(
            SessionShopperConfig(
                n_items=len(catalog),
                n_categories=len(catalog.categories),
                width=catalog.embedding.shape[1],
                slate_size=slate_size,
                declared=declared,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.layers,
                intermediate_size=2 * config.hidden_size,
                window=config.window,
                head_size=config.head_size,
                dropout=config.dropout,
                state_dropout=config.state_dropout,
            )
        )
    model.embedding.copy_(catalog.embedding)
    model.category.copy_(catalog.category)
    return model


def fit_session(
    sessions: Sessions,
    catalog: Catalog,
    config: SessionFitConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = lambda step, steps: None,
) -> SessionShopper:
    """Fit a model to a log, without the episodes held out; it comes back in `eval()` mode.

    Args:
        sessions: the log, on the CPU
        catalog: its items, on the CPU
        config: how the model is fitted
        device: where to train
        progress: called after each step with its number and that of all

    Raises:
        ValueError: If the log has too few episodes to hold some out, or items that the catalogue
            does not have.
    """
    config = config or SessionFitConfig()
    learn, _ = learn_and_check(sessions, config)
    visits = Visits.of(learn, catalog)
    model = new_session_shopper(
        catalog, sessions.slates.shape[2], config, declared=sessions.declared.shape[1]
    )
    _standardise(model, visits)
    model.to(device)  # type: ignore[arg-type]
    _train(model, visits, config, progress)
    use_symmetric_root(model)
    model.train(False)
    return model


def learn_and_check(sessions: Sessions, config: SessionFitConfig) -> tuple[Sessions, Sessions]:
    """Split a log into episodes that `fit_session` learns from, and those it holds out.

    They are the same for every seed.

    Raises:
        ValueError: If one of them would be empty.
    """
    learn, check = sessions.split(config.held_out)
    if len(learn) == 0 or len(check) == 0:
        raise ValueError(
            f"sessions has {len(sessions)} episodes, too few to hold out a share of "
            f"{config.held_out}."
        )
    return learn, check


def _standardise(model: SessionShopper, visits: Visits) -> None:
    """Set mean and scale of the counter features on the log."""
    counters = visits.counters[visits.shown]
    both = torch.cat([counters, torch.log1p(counters)], dim=1)
    model.counter_mean.copy_(both.mean(dim=0))
    model.counter_scale.copy_(both.std(dim=0).clamp(min=1e-3))


def _train(
    model: SessionShopper, visits: Visits, config: SessionFitConfig, progress: Progress
) -> None:
    """Train with AdamW on whole episodes; weight decay applies to matrices only."""
    # Weight decay and a larger learning rate go to groups of parameters of their own.
    steps = max(round(config.epochs * len(visits) / config.batch_episodes), 1)
    of_shoppers = [
        *model.temper.parameters(),
        *model.weariness.parameters(),
        model.leave_head.slopes,
        model.look_step,
    ]
    single = {id(weight) for weight in of_shoppers}
    rest = [weight for weight in model.parameters() if id(weight) not in single]
    groups: list[dict[str, Any]] = [
        {
            "params": [weight for weight in rest if weight.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [weight for weight in rest if weight.ndim <= 1]},
        {"params": of_shoppers, "lr": SHARED_LR_SCALE * config.learning_rate},
    ]
    optimiser = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    schedule = get_cosine_schedule_with_warmup(optimiser, steps // 20, steps)

    # The steps.
    generator = torch.Generator().manual_seed(config.seed)
    order = shuffled(len(visits), config.batch_episodes, generator)
    model.train()
    with torch.random.fork_rng():  # of dropout
        torch.manual_seed(config.seed)
        for step in range(steps):
            episodes = next(order)
            batch = visits.batch(episodes) | {
                "normal": spread_out(len(episodes), config.temperaments, generator)
            }
            batch = {name: value.to(model.device) for name, value in batch.items()}
            optimiser.zero_grad()
            model(**batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            progress(step + 1, steps)


@torch.no_grad()
def use_symmetric_root(model: SessionShopper) -> None:
    """Replace the root of the temperaments' covariance by the symmetric one.

    The same numbers then make a shopper patient in every model, so models that answer together
    speak of the same shopper. Temperaments are distributed as before.
    """
    root = model.temper.weight
    values, vectors = torch.linalg.eigh(root @ root.T)
    root.copy_(vectors @ torch.diag(values.clamp(min=0.0).sqrt()) @ vectors.T)


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of episode numbers without end, each epoch shuffled anew."""
    while True:
        yield from torch.randperm(count, generator=generator).split(size)


def spread_out(episodes: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers (B, S, TEMPERAMENT) that cover their space evenly.

    A Sobol sequence is moved around the unit cube by a draw of each episode's own (Cranley &
    Patterson 1976).
    """
    points = torch.quasirandom.SobolEngine(TEMPERAMENT).draw(count)
    return normal((points + torch.rand(episodes, 1, TEMPERAMENT, generator=generator)) % 1.0)


# ---- held-out ----


@dataclass(frozen=True)
class Predictions:
    """What a model predicts of V visits, each from those before it."""

    clicks: Tensor
    """(V, K) chance of a click."""
    leaves: Tensor
    """(V,) chance of leaving, given the clicks."""
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
        batch_episodes: episodes that are predicted together
    """
    model.train(False)
    generator = torch.Generator().manual_seed(0)
    clicks, leaves, likelihood = [], [], 0.0
    for rows in torch.arange(len(visits)).split(batch_episodes):
        batch = visits.batch(rows) | {"normal": spread_out(len(rows), temperaments, generator)}
        batch = {name: value.to(model.device) for name, value in batch.items()}
        out = model(**batch)
        likelihood += float(out["loss"]) * len(batch["slates"])
        known = _before(out["log_likelihood"], batch["real"])
        chance = over_moods(
            torch.exp(out["log_looks"].unsqueeze(2) + F.logsigmoid(out["click_logits"]))
        )
        clicks.append(torch.einsum("vs,vsk->vk", known.softmax(dim=1), chance).cpu())
        weight = (known + out["click_log_likelihood"]).softmax(dim=1)
        leaves.append((weight * torch.sigmoid(out["leave_logits"])).sum(dim=1).cpu())
    return Predictions(torch.cat(clicks), torch.cat(leaves), likelihood / len(visits.leaves))


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

    def row(self) -> dict[str, float | int | tuple[float, ...]]:
        """Return the scores as a flat dictionary."""
        return asdict(self)


@torch.no_grad()
def score(model: SessionShopper, visits: Visits) -> SessionScores:
    """Score a model on visits that it was not fitted to."""
    found = predict(model, visits)
    click, leave = found.clicks, found.leaves
    clicks, shown = visits.clicks, visits.shown
    expected, observed = (click * shown).sum(dim=0), (clicks & shown).sum(dim=0)
    return SessionScores(
        visits=len(visits.leaves),
        nll=found.nll,
        click_auc=auc(click[shown], clicks[shown]),
        click_ne=normalised_entropy(click[shown], clicks[shown]),
        click_ratio=float(expected.sum() / observed.sum()),
        click_ratio_by_position=tuple((expected / observed).tolist()),
        click_calibration=calibration_error(click[shown], clicks[shown], bins=10),
        leave_auc=auc(leave, visits.leaves > 0),
        leave_nll=float(F.binary_cross_entropy(leave, visits.leaves)),
        leave_ne=normalised_entropy(leave, visits.leaves > 0),
        leave_ratio=float(leave.sum() / visits.leaves.sum()),
        leave_calibration=calibration_error(leave, visits.leaves > 0, bins=10),
    )
