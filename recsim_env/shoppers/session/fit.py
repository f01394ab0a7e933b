"""Fit the session model to an impression log: episodes in, weights out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainingArguments

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions
from recsim_env.settings import (
    AMOUNT,
    NONE_OR_MORE,
    ONE_OR_MORE,
    POSITIVE,
    RATE,
    SHARE,
    Within,
    settle,
)
from recsim_env.shoppers.gaps import GapBins, bins_of
from recsim_env.shoppers.members import check_precision
from recsim_env.shoppers.session.config import SessionShopperConfig
from recsim_env.shoppers.session.interest import directions_of
from recsim_env.shoppers.session.memory import position_weights
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.visits import CELLS, Visits, spread_out
from recsim_env.shoppers.training import (
    VALIDATION,
    KeepNewest,
    Progress,
    ShopperTrainer,
    StopEarly,
    TellProgress,
    own_generators,
    packed,
    parts_of,
    processes,
    shared_steps,
    train,
)
from recsim_env.shoppers.weights import MOST as SIZES

SHARED_LR_SCALE = 10.0
"""Factor of the learning rate of the few numbers that all shoppers share: they have far to go."""
LEAVING_LR_SCALE = 0.3
"""Factor of the learning rate of the network in `LeaveHead`, whose docstring says why."""
DAILY = GapBins((0, 1), 1)
"""Bins of the days between visits where everybody comes back a day later, or on the same day."""
RAREST = 1e-4
"""Smallest mean hazard that a model begins with."""
EVALUATIONS = 20
"""How often in a training the validation episodes are looked at."""
HELD_OUT = 0.1
"""Share of the episodes that scores are made on."""
VALIDATED = 0.05
"""Share of the episodes to learn from that tell when to stop."""


@dataclass(frozen=True)
class SessionFitConfig:
    """How a session model is fitted; its seed, and what it is fitted to, are told beside it."""

    epochs: float = 8.0
    """Passes over the episodes that are learned from."""
    least_steps: int = 500
    """Fewest steps of a training; a small log is passed over more often."""
    patience: int = 5
    """Looks at the validation episodes without a better one before the training stops; there are
    twenty in a whole training."""
    batch_episodes: int = 64
    """Most episodes in a batch; a batch of episodes longer than 64 visits holds fewer."""
    temperaments: int = 32
    """Number of temperaments drawn for each episode of a batch. Its likelihood is averaged over
    them."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW, after a linear warm-up over a twentieth of the steps; then it
    falls to zero as a cosine."""
    weight_decay: float = 0.02
    """Decoupled weight decay of the weight matrices. Biases and scales have none."""
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
    """Share of the state hidden from the heads in training; more than 0 flattens the response to
    greedy slates."""
    precision: str = "fp32"
    """Precision of training: fp32, or bf16 for mixed precision on a GPU."""

    def __post_init__(self) -> None:
        """Check the type and the range of every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            epochs=POSITIVE,
            least_steps=NONE_OR_MORE,
            patience=ONE_OR_MORE,
            batch_episodes=ONE_OR_MORE,
            temperaments=ONE_OR_MORE,
            learning_rate=RATE,
            weight_decay=AMOUNT,
            hidden_size=Within(1, SIZES["hidden"]),
            layers=Within(1, SIZES["layers"]),
            window=Within(1, SIZES["window"]),
            head_size=Within(1, SIZES["hidden"]),
            dropout=SHARE,
            state_dropout=SHARE,
        )
        check_precision(self.precision)


def new_session_shopper(
    catalog: Catalog,
    slate_size: int,
    config: SessionFitConfig,
    *,
    seed: int = 0,
    declared: int = 0,
    purchases: bool = False,
    gap_bins: GapBins = DAILY,
) -> SessionShopper:
    """Make an unfitted model.

    Args:
        catalog: the items
        slate_size: number of positions
        config: sizes
        seed: seed of the initial weights
        declared: how many numbers newcomers declare
        purchases: whether the shop tells purchases from clicks
        gap_bins: bins of the days between visits
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SessionShopper(
            SessionShopperConfig(
                n_items=len(catalog),
                n_categories=len(catalog.categories),
                width=catalog.embedding.shape[1],
                slate_size=slate_size,
                declared=declared,
                purchases=purchases,
                gap_edges=gap_bins.edges,
                lapse_days=gap_bins.lapse_days,
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
    model.directions.copy_(directions_of(catalog.embedding))
    return model


def fit_session(
    sessions: Sessions,
    catalog: Catalog,
    config: SessionFitConfig | None = None,
    *,
    seed: int = 0,
    held_out: float = HELD_OUT,
    validation: Sessions | float = VALIDATED,
    device: torch.device | str = "cpu",
    progress: Progress = lambda step, steps: None,
    folder: Path | str | None = None,
    resume: bool = True,
    parts: int | None = None,
    start: SessionShopper | None = None,
) -> SessionShopper:
    """Fit a model to a log, without the episodes held out; it comes back in `eval()` mode.

    The Trainer of transformers trains it, on whole episodes. The weights that do best on validation
    episodes are kept.

    Args:
        sessions: the log, on the CPU
        catalog: its items, on the CPU
        config: how the model is fitted
        seed: seed of the initial weights, of the order of the episodes, and of dropout
        held_out: share of the episodes that are not learned from, the same for every seed; 0 for a
            log from which those for scores were taken before
        validation: episodes on which it is seen when to stop, or the share of those to learn from
            that are taken for it; 0 learns from all episodes, and keeps the last weights
        device: where to train
        progress: called after each step with its number and that of all
        folder: where checkpoints and TensorBoard events are written; None keeps none
        resume: whether to go on from the newest whole checkpoint in the folder
        parts: parts of `batch_episodes` / `parts` episodes that a batch consists of, a multiple of
            the processes that `torchrun` started, who share each step; one for each by default
        start: a fitted model to go on from, with the sizes and the scales that it has; it stays as
            it is. None begins with new weights

    Raises:
        ValueError: If the processes cannot share the parts equally, or have no folder that they
            share. If the log has too few episodes to hold some out, or items that the catalogue
            does not have, or a share or the seed is out of its range.
        OSError: If a checkpoint cannot be written; the one before it is whole.
    """
    # What is learned from, and what tells when to stop.
    config = config or SessionFitConfig()
    seed = checks.whole("seed", seed, 0, checks.LARGEST_SEED)
    parts = parts_of(parts)
    if folder is None and processes() > 1:
        raise ValueError("folder is None, but processes of torchrun must share a folder.")
    learn, _ = learn_and_check(sessions, held_out)
    if not isinstance(validation, Sessions):
        learn, validation = learn.split(checks.number("validation", validation, 0, 0.9), seed=1)
    valid = Visits.of(validation, catalog) if len(validation) else None
    visits = Visits.of(learn, catalog)

    # The model, with inputs standardised on what is learned from, and its training.
    model = _new_for(visits, catalog, config, seed) if start is None else _copy_of(start)
    batches = Batches(visits, config, seed, parts)
    with own_generators(seed):
        if folder is None:
            with TemporaryDirectory() as part:
                _train(model, batches, valid, device, progress, Path(part), keep=False)
        else:
            _train(model, batches, valid, device, progress, Path(folder), keep=True, resume=resume)
    use_symmetric_root(model)
    model.to(device)  # type: ignore[arg-type]
    model.train(False)
    return model


def _new_for(
    visits: Visits, catalog: Catalog, config: SessionFitConfig, seed: int
) -> SessionShopper:
    """Make a model for a log, with the scales and the rates of its visits."""
    model = new_session_shopper(
        catalog,
        visits.slates.shape[1],
        config,
        seed=seed,
        declared=visits.declared.shape[1],
        purchases=visits.purchases is not None,
        gap_bins=bins_of(visits.gap[visits.gap >= 0]),
    )
    _standardise(model, visits)
    _begin_with_rates(model, visits)
    return model


def _copy_of(start: SessionShopper) -> SessionShopper:
    """Copy a model to train it; a population had switched its gradients off."""
    copied: SessionShopper = copy.deepcopy(start).cpu().requires_grad_(True)
    return copied


def learn_and_check(sessions: Sessions, held_out: float = HELD_OUT) -> tuple[Sessions, Sessions]:
    """Split a log into episodes that `fit_session` learns from, and the share it holds out.

    They are the same for every seed.

    Raises:
        ValueError: If one of them would be empty.
    """
    learn, check = sessions.split(checks.number("held_out", held_out, 0, 0.99))
    if len(learn) == 0 or (len(check) == 0 and held_out > 0):
        raise ValueError(
            f"sessions has {len(sessions)} episodes, too few to hold out a share of {held_out}."
        )
    return learn, check


def _standardise(model: SessionShopper, visits: Visits) -> None:
    """Set mean and scale of the counter features, and the mean hazards, on the log."""
    counters = visits.counters[visits.shown]
    both = torch.cat([counters, torch.log1p(counters)], dim=1)
    model.counter_mean.copy_(both.mean(dim=0))
    model.counter_scale.copy_(both.std(dim=0).clamp(min=1e-3))

    bins = model.config.gap_bins
    gaps = visits.gap[visits.gap >= 0].clamp(max=float(bins.lapse_days))
    number = torch.bucketize(gaps, bins.ends(gaps), right=True) - 1
    back = torch.bincount(number, minlength=len(bins)).float()
    waiting = back.flip(0).cumsum(0).flip(0)
    hazard = ((back + 0.5) / (waiting + 1)).clamp(RAREST, 1 - RAREST)
    with torch.no_grad():
        model.gap_head.outer.bias.copy_(hazard[:-1].logit())


@torch.no_grad()
def _begin_with_rates(model: SessionShopper, visits: Visits) -> None:
    """Set the biases of the items to their click rates in the log.

    Rates are of the positions' usual looks, and moved towards the mean rate as far as chance alone
    would scatter them: each variance of the log rates is that between items plus 1 / clicks.
    """
    weight = (
        visits.shown * position_weights(visits.slates.shape[1], torch.device("cpu"))
    ).flatten()
    items, size = visits.slates.flatten(), model.config.n_items
    looks = torch.bincount(items, weight, minlength=size).float()
    clicks = torch.bincount(items, visits.clicks.flatten().float(), minlength=size).float()
    expected = (looks * clicks.sum() / looks.sum().clamp(min=1)).clamp(min=1e-6)
    log_ratio = ((clicks + 0.5) / (expected + 0.5)).log()
    chance = 1 / (expected + 0.5)
    between = ((log_ratio.square() - chance) * expected).sum() / expected.sum()
    between = between.clamp(min=0)
    bias = log_ratio * between / (between + chance)
    model.item_bias.weight.copy_(bias.unsqueeze(1))


def _train(
    model: SessionShopper,
    batches: Batches,
    valid: Visits | None,
    device: torch.device | str,
    progress: Progress,
    folder: Path,
    *,
    keep: bool,
    resume: bool = False,
) -> None:
    """Train with AdamW; `keep` says whether the folder outlives the training."""
    config, steps = batches.config, batches.steps
    every = max(steps // EVALUATIONS, 1)
    looks = valid is not None

    # The Trainer writes checkpoints where they outlive the training or keep the best weights.
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=steps,
        learning_rate=config.learning_rate,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        bf16=config.precision == "bf16",
        seed=batches.seed,
        train_sampling_strategy="sequential",
        logging_steps=20,
        eval_strategy="steps" if looks else "no",
        eval_steps=every,
        save_strategy="steps" if keep or looks else "no",
        save_steps=every,
        load_best_model_at_end=looks,
        metric_for_best_model=VALIDATION if looks else None,
        greater_is_better=False if looks else None,
        remove_unused_columns=False,
        report_to=["tensorboard"] if keep else [],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        **shared_steps(batches.parts, device),
    )

    # It trains on batches that are packed already, in their order.
    callbacks: list[Any] = [KeepNewest(), TellProgress(progress)]
    callbacks += [StopEarly(config.patience, config.least_steps)] if looks else []
    trainer = SessionTrainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        eval_dataset=batches if looks else None,
        data_collator=lambda chosen: chosen[0],
        callbacks=callbacks,
        optimizers=(_optimiser(model, config), None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.valid, trainer.temperaments = valid, config.temperaments
    train(trainer, resume=resume)


def _optimiser(model: SessionShopper, config: SessionFitConfig) -> torch.optim.AdamW:
    """Make AdamW, with weight decay of matrices but not of the items' biases.

    What all shoppers share learns faster than the rest, and the network of leaving more slowly.
    """
    of_shoppers = [
        *model.temper.parameters(),
        *model.weariness.parameters(),
        model.leave_head.slopes,
        *model.leave_head.answered.parameters(),
        model.look_step,
        *model.interest.parameters(),
    ]
    biases = [model.item_bias.weight]
    beside = [*model.leave_head.inner.parameters(), *model.leave_head.outer.parameters()]
    single = {id(weight) for weight in [*of_shoppers, *biases, *beside]}
    rest = [weight for weight in model.parameters() if id(weight) not in single]
    groups: list[dict[str, Any]] = [
        {
            "params": [weight for weight in rest if weight.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [weight for weight in rest if weight.ndim <= 1] + biases},
        {"params": beside, "lr": LEAVING_LR_SCALE * config.learning_rate},
        {"params": of_shoppers, "lr": SHARED_LR_SCALE * config.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)


class Batches(Dataset[dict[str, Tensor]]):
    """The batches of a training, one for each step, each made from the seed and the step alone.

    Every pass packs the episodes anew (`training.packed`). `share` in a batch is its number of
    visits over the mean of all batches: its loss is weighted by it, so that every visit counts
    alike. With several `parts` there are so many small batches for each step.
    """

    def __init__(
        self, visits: Visits, config: SessionFitConfig, seed: int = 0, parts: int = 1
    ) -> None:
        self.visits, self.config, self.seed, self.parts = visits, config, seed, parts
        self._passes: list[list[Tensor]] = [self._packed(0)]
        self._begins = [0]
        passes = config.epochs * len(self._passes[0]) / parts
        self.steps = max(round(passes), config.least_steps, 1)

    def __len__(self) -> int:
        return self.steps * self.parts

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        while step >= self._begins[-1] + len(self._passes[-1]):
            self._begins.append(self._begins[-1] + len(self._passes[-1]))
            self._passes.append(self._packed(len(self._passes)))
        number = next(at for at in reversed(range(len(self._begins))) if self._begins[at] <= step)
        episodes = self._passes[number][step - self._begins[number]]
        generator = _generator(self.seed, 1, step)
        batch = self.visits.batch(episodes)
        share = len(batch["slates"]) * len(self._passes[number]) / len(self.visits.slates)
        return batch | {
            "normal": spread_out(len(episodes), self.config.temperaments, generator),
            "share": torch.tensor(share, dtype=torch.float32),
        }

    def _packed(self, number: int) -> list[Tensor]:
        size = max(self.config.batch_episodes // self.parts, 1)
        return packed(self.visits.length, size, CELLS * size, _generator(self.seed, 0, number))


def _generator(seed: int, stream: int, number: int) -> torch.Generator:
    """A generator of its own for each number of a stream."""
    mixed = np.random.SeedSequence((seed, stream, number)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))


class SessionTrainer(ShopperTrainer):
    """The Trainer of a session model: batches count by their visits, validation by its own loss."""

    valid: Visits | None = None
    temperaments = 32

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Weight the loss of a batch by its share of the visits."""
        share = inputs.pop("share")
        return super().compute_loss(model, inputs) * share

    def evaluate(self, *unused: Any, **others: Any) -> dict[str, float]:
        """Compute the negative log-likelihood a visit of the validation episodes."""
        assert self.valid is not None
        assert isinstance(self.model, SessionShopper)
        learning = self.model.training
        metrics = {VALIDATION: nll_of(self.model, self.valid, self.temperaments)}
        self.model.train(learning)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


@torch.no_grad()
def nll_of(model: SessionShopper, visits: Visits, temperaments: int) -> float:
    """Compute the negative log-likelihood a visit in nats, without dropout."""
    model.train(False)
    generator, total = torch.Generator().manual_seed(0), 0.0
    every = packed(visits.length, 64, 64 * CELLS, torch.Generator().manual_seed(0))
    for episodes in every:
        batch = visits.batch(episodes)
        batch["normal"] = spread_out(len(episodes), temperaments, generator)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        total += float(model(**batch)["loss"]) * len(batch["slates"])
    return total / len(visits.slates)


@torch.no_grad()
def use_symmetric_root(model: SessionShopper) -> None:
    """Replace the root of the temperaments' covariance by the symmetric one.

    The same numbers then make a shopper patient in every model, so models that answer together
    speak of the same shopper. Temperaments are distributed as before.
    """
    root = model.temper.weight
    values, vectors = torch.linalg.eigh(root @ root.T)
    root.copy_(vectors @ torch.diag(values.clamp(min=0.0).sqrt()) @ vectors.T)
