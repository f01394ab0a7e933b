"""Fit the household model to a log: examples in; calibrated weights and held-out scores out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import TrainingArguments

from recsim_env.catalog import Catalog
from recsim_env.logs.facts import LogFacts
from recsim_env.settings import AMOUNT, ONE_OR_MORE, RATE, SEED, SHARE, Within, settle
from recsim_env.shoppers.gaps import gap_log_likelihood
from recsim_env.shoppers.household.cold_head import main_directions
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.examples import SPLITS, Collator, Examples
from recsim_env.shoppers.household.features import (
    RECENCIES,
    SHARES,
    repeat_bucket,
    visit_context,
)
from recsim_env.shoppers.household.memory import COUNT, SINCE, Rhythm
from recsim_env.shoppers.household.model import ROW_KINDS, SlateShopper, habits_read
from recsim_env.shoppers.household.text import TextTunedShopper
from recsim_env.shoppers.members import check_precision
from recsim_env.shoppers.training import KeepNewest, ShopperTrainer, parts_of, shared_steps, train
from recsim_env.shoppers.weights import MOST as SIZES

CEILING_TAIL = 0.001
"""Share of the repeat purchases that lie above the ceilings,
`SlateShopperConfig.repeat_ceilings`."""


@dataclass(frozen=True)
class FinetuneConfig:
    """How a household model is fitted."""

    pretrain_epochs: float = 2.0
    """Number of passes over the baskets alone (repeat purchases, new items, returns) before any
    exposure is seen; 0 leaves them out."""
    epochs: float = 5.0
    """Number of passes over exposure logs and baskets together, after those over the baskets
    alone."""
    batch_visits: int = 800
    """Number of visits in a batch, about: shoppers are packed whole, those of similar lengths
    together."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW, after a linear warm-up over a twentieth of the steps; then it
    falls to zero as a cosine."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW."""
    seed: int = 0
    """Seed of the initial weights, of the order of the batches, and of dropout."""
    hidden_size: int = 64
    """Width of visit states and item vectors."""
    layers: int = 2
    """Number of transformer blocks over the visits, each of attention and feed-forward."""
    window: int = 64
    """Number of visits that a visit can attend to, itself among them. The counters hold what is
    older."""
    head_size: int = 64
    """Width of the hidden layers of slate head and gap head."""
    dropout: float = 0.15
    """Share of the encoder's activations that are hidden in training."""
    use_text: bool = True
    """Whether item vectors start from text embeddings; False is for ablations."""
    use_counters: bool = True
    """Whether the heads see the long-run counters; False is for ablations."""
    precision: str = "fp32"
    """Precision of training: fp32, or bf16 for mixed precision on a GPU."""

    def __post_init__(self) -> None:
        """Check the type and the range of every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            pretrain_epochs=AMOUNT,
            epochs=AMOUNT,
            batch_visits=ONE_OR_MORE,
            learning_rate=RATE,
            weight_decay=AMOUNT,
            seed=SEED,
            hidden_size=Within(1, SIZES["hidden"]),
            layers=Within(1, SIZES["layers"]),
            window=Within(1, SIZES["window"]),
            head_size=Within(1, SIZES["hidden"]),
            dropout=SHARE,
        )
        check_precision(self.precision)


class Packs(Dataset[list[int]]):
    """Shoppers packed into batches with about equal numbers of visits, so that little is padding.

    Shoppers with similar numbers of visits stand together.

    Args:
        lengths: (S,) visits of each shopper
        visits: most visits of a pack; one long shopper may exceed it
        generator: mixes shoppers of similar lengths
    """

    def __init__(self, lengths: Tensor, visits: int, generator: torch.Generator) -> None:
        jitter = torch.rand(len(lengths), generator=generator) * 0.3 + 0.85
        self.packs: list[list[int]] = []
        room = 0
        for shopper in (lengths * jitter).argsort(descending=True).tolist():
            if lengths[shopper] == 0:
                continue
            if room < lengths[shopper]:
                self.packs.append([])
                room = visits
            self.packs[-1].append(shopper)
            room -= int(lengths[shopper])

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> list[int]:
        return self.packs[index]


# ---- fitting ----


def new_shopper(
    catalog: Catalog, config: FinetuneConfig, facts: LogFacts, known: Tensor | None = None
) -> SlateShopper:
    """Make an unfitted model for a catalogue.

    Args:
        catalog: the items
        config: sizes, and the seed of the weights
        facts: the facts of the log that the model will be fitted to
        known: (N,) bool items that have an id of their own; by default all have
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = SlateShopper(
            SlateShopperConfig(
                n_items=len(catalog),
                n_categories=int(catalog.category.max()) + 1,
                text_width=catalog.embedding.shape[1],
                hidden_size=config.hidden_size,
                num_hidden_layers=config.layers,
                intermediate_size=4 * config.hidden_size,
                window=config.window,
                head_size=config.head_size,
                dropout=config.dropout,
                use_text=config.use_text,
                use_counters=config.use_counters,
                facts=facts.to_json(),
            )
        )
    model.items.text.copy_(catalog.embedding)
    model.items.category.copy_(catalog.category)
    model.cold_head.text.copy_(main_directions(catalog.embedding))
    if known is not None:
        model.items.known.copy_(known.float())
    return model


def fit(
    model: nn.Module,
    examples: Examples,
    config: FinetuneConfig,
    folder: Path,
    *,
    stage: str,
    resume: bool = True,
    parts: int | None = None,
) -> None:
    """Train one stage with the Trainer of transformers, which writes to `folder/stage`.

    Under `torchrun` all processes share each step, and a batch has as many visits as without.

    Args:
        model: the model, or one that wraps it
        examples: what it learns from
        config: how it is fitted
        folder: where checkpoints and TensorBoard events are written
        stage: "pretrain" (baskets only) or "finetune" (baskets and exposure logs)
        resume: whether to go on from the newest whole checkpoint of an interrupted stage, which
            then ends as the unbroken one would have
        parts: parts of `batch_visits` / `parts` visits that a batch consists of, a multiple of the
            processes; one for each process by default

    Raises:
        OSError: If a checkpoint cannot be written; the one before it is whole.
        ValueError: If the processes cannot share the parts equally.
    """
    parts = parts_of(parts)
    pretrain = stage == "pretrain"
    epochs = config.pretrain_epochs if pretrain else config.epochs
    if epochs <= 0:
        return
    output = folder / stage

    # The scale of what some heads read, and shoppers packed into batches. A shopper that learns
    # from another one (`distil.py`) has the scales of that one.
    inner = model.shopper if isinstance(model, TextTunedShopper) else model
    if isinstance(inner, SlateShopper):
        set_scales(inner, examples)
    collator = Collator(examples, kinds=("repeat",) if pretrain else ROW_KINDS)
    lengths = torch.stack(
        [
            (part == 0).sum()
            for part in examples.split.split(examples.shopper_starts.diff().tolist())
        ]
    )
    visits = max(config.batch_visits // parts, 1)
    packs = Packs(lengths, visits, torch.Generator().manual_seed(config.seed))
    steps = max(int(epochs * len(packs) / parts), 1)

    # The training.
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=1,
        max_steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        bf16=config.precision == "bf16",
        seed=config.seed,
        logging_steps=20,
        save_strategy="steps",
        save_steps=max(steps // 5, 1),
        remove_unused_columns=False,
        report_to=["tensorboard"],
        disable_tqdm=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        **shared_steps(parts, "cuda" if torch.cuda.is_available() else "cpu"),
    )
    trainer = ShopperTrainer(
        model=model,
        args=arguments,
        train_dataset=packs,
        data_collator=lambda chosen: collator(chosen[0]),
        callbacks=[KeepNewest()],
    )
    train(trainer, resume=resume)


SCALED_ROWS = 100_000
"""Rows, about, that the scale of what the cold head reads is found from."""


def set_scales(model: SlateShopper, examples: Examples) -> None:
    """Set the scales in which heads read habits and prospects, from the train weeks."""
    own = examples.split == SPLITS.index("train")
    visits = examples.visits
    context = visit_context(examples.rhythm, visits.day.float(), visits.since)
    if model.config.use_habit:
        size = visits.starts.diff()
        model.scale_habits(habits_read(context[own], size[own], examples.habit[own]))
    if model.config.use_cold_head:
        fair = examples.row_kind == ROW_KINDS.index("case_control")
        rows = (own[examples.row_visit] & fair).nonzero().flatten()
        rows = rows[:: max(len(rows) // SCALED_ROWS, 1)]
        visit, item = examples.row_visit[rows], examples.row_item[rows]
        week = visits.week[visit].clamp(max=len(examples.prospects) - 1)
        stats, prospect = examples.row_stats[rows].float(), examples.prospects[week, item]
        text = model.cold_head.text[item.to(model.device)].cpu()
        model.cold_head.set_scale(context[visit], stats, prospect, text)


@dataclass(frozen=True)
class Scores:
    """Held-out predictions of rows and of returns.

    Shapes: R rows, V visits.
        row: (R,) index into the examples' rows; logit: (R,) calibrated
        visit: (V,) index into the visits; gap_logits: (V, bins) calibrated
    """

    row: Tensor
    logit: Tensor
    visit: Tensor
    gap_logits: Tensor


def batches(examples: Examples, size: int, collator: Collator) -> Iterator[dict[str, Tensor]]:
    """Yield all shoppers in batches of `size`, in order."""
    for start in range(0, examples.n_shoppers, size):
        yield collator(range(start, min(start + size, examples.n_shoppers)))


@torch.no_grad()
def score(
    model: SlateShopper,
    examples: Examples,
    split: str,
    *,
    kinds: Sequence[str] = ("case_control", "policy", "uniform"),
    cold: Tensor | None = None,
    batch_shoppers: int = 64,
) -> Scores:
    """Predict every row and gap of a split, without dropout.

    Args:
        model: a fitted model
        examples: the log
        split: one of `SPLITS`
        kinds: kinds of rows to score
        cold: (N,) bool items that count as items nobody knows, which the cold head scores
        batch_shoppers: shoppers that are scored together

    Raises:
        ValueError: If `cold` is given, but the model is of an earlier version without a cold head.
    """
    if cold is not None and not model.config.use_cold_head:
        raise ValueError(
            "cold is given, but the model has no cold head, as models of earlier versions: fit it "
            "anew."
        )
    model.train(False)
    collator = Collator(examples, splits=(split,), kinds=kinds, cold=cold, new_items=False)
    found: list[tuple[Tensor, ...]] = []
    total = -(-examples.n_shoppers // batch_shoppers)
    for batch in tqdm(
        batches(examples, batch_shoppers, collator),
        total=total,
        desc=f"scoring {split}",
        leave=False,
    ):
        row = batch.pop("row")
        on_device = {name: value.to(model.device) for name, value in batch.items()}
        out = model(**on_device)
        learn = on_device["learn"]
        gap_logits = out["gap_logits"][learn] + model.config.gap_calibration
        logits = model.calibrated(out["logits"], on_device.get("row_known"))
        found.append((row, logits.cpu(), gap_logits.cpu()))
    in_split = (examples.split == SPLITS.index(split)).nonzero().flatten()
    row, logit, gap_logits = (torch.cat(column) for column in zip(*found, strict=True))
    return Scores(row, logit, in_split, gap_logits)


def calibrate(
    model: SlateShopper, examples: Examples, hidden: Examples, split: str = "valid"
) -> dict[str, float]:
    """Set the calibration of a model on a split that it was not trained on (Platt 1999).

    Scale and shift of the slate logits are fitted to the full exposure (case-control rows with
    weights) and the policy's slates together; the shift of the log hazards, the shift of the log
    rates of new items, and the ceilings of repeat purchases follow. The cold head is calibrated on
    items that it was not taught, where there are some.

    Args:
        model: a fitted model
        examples: the log, with histories that hold all items
        hidden: the log, with histories in which the items that were not taught are hidden
        split: one of `SPLITS`

    Returns:
        Scale and shifts by name, as a report shows them.
    """
    # Scale and shift of the slate logits.
    model.config.slate_calibration = (1.0, 0.0)
    model.config.gap_calibration = model.config.explore_calibration = 0.0
    scores = score(model, examples, split, kinds=("case_control", "policy", "repeat"))
    label, weight = examples.row_label[scores.row], examples.row_weight[scores.row]
    kind = examples.row_kind[scores.row]
    for index in range(len(ROW_KINDS)):  # each kind of row has one vote
        weight = torch.where(
            kind == index, weight / weight[kind == index].sum().clamp(min=1e-9), weight
        )
    platt = _line(scores.logit, label, weight)

    # The shift of the log hazards, on the returns of the same visits.
    shift = torch.zeros(1, requires_grad=True)
    gap, follow_up = (
        examples.visits.gap[scores.visit].float(),
        examples.visits.follow_up[scores.visit].float(),
    )
    bins = model.config.gap_bins
    minimise(
        lambda: -gap_log_likelihood(bins, scores.gap_logits + shift, gap, follow_up).mean(), shift
    )

    # First purchases and unknown items, with the slates as fitted; then the ceilings, calibrated.
    bought, expected = first_purchases(model, examples, split)
    if model.config.use_cold_head:
        _calibrate_cold(model, hidden, split)
    model.config.slate_calibration = platt
    model.config.gap_calibration = round(shift.item(), 5)
    model.config.explore_calibration = round(math.log(bought / expected), 5)
    model.config.repeat_ceilings = repeat_ceilings(model, examples, split)
    return {
        "scale": platt[0],
        "shift": platt[1],
        "gap_shift": shift.item(),
        "explore_shift": model.config.explore_calibration,
    }


def _calibrate_cold(model: SlateShopper, examples: Examples, split: str) -> None:
    """Set the calibration of the cold head; `examples` are those of hidden items."""
    model.config.cold_calibration = (1.0, 0.0)
    unknown = (model.items.known == 0).cpu()
    unknown = unknown if bool(unknown.any()) else torch.ones_like(unknown)
    scores = score(model, examples, split, kinds=("case_control",), cold=unknown)
    own = unknown[examples.row_item[scores.row]]
    label, weight = examples.row_label[scores.row][own], examples.row_weight[scores.row][own]
    if 0 < float((label * weight).sum()) < float(weight.sum()):  # else nothing tells of one
        line = _line(scores.logit[own], label, weight / weight.sum())
        model.config.cold_calibration = line


def _line(logit: Tensor, label: Tensor, weight: Tensor) -> tuple[float, float]:
    """Find the scale and shift of logits (R,) that fit weighted labels best (Platt 1999)."""
    line = torch.tensor([1.0, 0.0], requires_grad=True)

    def loss() -> Tensor:
        moved = logit * line[0] + line[1]
        return (weight * F.binary_cross_entropy_with_logits(moved, label, reduction="none")).sum()

    minimise(loss, line)
    scale, shift = line.tolist()
    return round(scale, 5), round(shift, 5)


def repeat_ceilings(
    model: SlateShopper, examples: Examples, split: str
) -> tuple[tuple[float, ...], ...]:
    """Compute `SlateShopperConfig.repeat_ceilings` of a calibrated model from a split.

    A bucket without rows has the ceiling 1.
    """
    unpromoted = replace(examples, row_placement=torch.zeros_like(examples.row_placement))
    return tuple(
        _ceilings(score(model, how, split, kinds=("repeat",)), examples)
        for how in (unpromoted, examples)
    )


def _ceilings(scores: Scores, examples: Examples) -> tuple[float, ...]:
    chance, weight = torch.sigmoid(scores.logit).double(), examples.row_weight[scores.row].double()
    visits = torch.expm1(examples.rhythm[examples.row_visit[scores.row], Rhythm.VISITS]).round()
    item = examples.row_stats[scores.row, 0].float()
    bucket = repeat_bucket(item[:, COUNT], visits, item[:, SINCE])
    ceilings: list[float] = []
    for number in range(SHARES * RECENCIES):
        own = bucket == number
        ceilings.append(ceiling_of(chance[own], weight[own]) if own.any() else 1.0)
    return tuple(ceilings)


def ceiling_of(chance: Tensor, weight: Tensor) -> float:
    """Find the lowest chance above which lie at most `CEILING_TAIL` of all purchases.

    What lies above a ceiling c is the weighted sum of max(p - c, 0); all purchases are that of p.

    Args:
        chance: (R,) chances of rows
        weight: (R,) weights of rows

    Returns:
        The ceiling, rounded up to four places.
    """
    order = chance.argsort(descending=True)
    chance, weight = chance[order], weight[order]
    bought, rows = (weight * chance).cumsum(0), weight.cumsum(0)
    lowest = int((bought - rows * chance <= CEILING_TAIL * bought[-1]).nonzero()[-1])
    return min(math.ceil(float(chance[lowest]) * 1e4) / 1e4, 1.0)


@torch.no_grad()
def first_purchases(
    model: SlateShopper, examples: Examples, split: str, batch_shoppers: int = 32
) -> tuple[float, float]:
    """Count the first purchases in a split: those that were made, and those expected."""
    model.train(False)
    collator = Collator(examples, splits=(split,), kinds=())
    bought = expected = 0.0
    vectors = model.items()
    for batch in batches(examples, batch_shoppers, collator):
        on_device = {name: value.to(model.device) for name, value in batch.items()}
        before, _ = model.states(vectors, on_device)
        log_rate, fresh = model.new_item_rates(vectors, before.flatten(0, 1), on_device)
        expected += float((log_rate.exp() * fresh).sum())
        bought += float(on_device["learn"].flatten()[on_device["new_at"]].sum())
    return bought, expected


def minimise(loss: Callable[[], Tensor], parameters: Tensor) -> None:
    """Minimise a smooth function of a few parameters, in place, with L-BFGS."""
    optimiser = torch.optim.LBFGS([parameters], lr=0.5, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value: Tensor = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(closure)
