"""Fits a CTR model to the logged slates of any environment whose rows come as observations."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm.auto import tqdm

from policies.rankers.ctr import CTRModel, config_for, pair_inputs
from policies.rankers.pair_features import Pairs, RankerCatalog, of_slates
from recsim_env import checks
from recsim_env.settings import AMOUNT, ONE_OR_MORE, RATE, SEED, WIDTH, settle
from recsim_env.types import Observation


@dataclass(frozen=True)
class FitConfig:
    """How a CTR model is fitted to logged slates."""

    epochs: int = 4
    """Number of passes over the rows."""
    batch_size: int = 8192
    """Number of rows of an optimiser step."""
    learning_rate: float = 3e-3
    """Initial learning rate of AdamW (Loshchilov & Hutter 2019); it falls to 0 along a cosine."""
    weight_decay: float = 1e-4
    """Weight decay of the network."""
    table_decay: float = 0.1
    """Weight decay of the values of codes; large, so that those of rare items stay near 0."""
    hidden: int = 32
    """Width of each of the network's two hidden layers."""
    seed: int = 0
    """Seed of the initial weights and of the order of the rows."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            epochs=ONE_OR_MORE,
            batch_size=ONE_OR_MORE,
            learning_rate=RATE,
            weight_decay=AMOUNT,
            table_decay=AMOUNT,
            hidden=WIDTH,
            seed=SEED,
        )


@dataclass(frozen=True)
class PairExamples:
    """Shown items and whether they were responded to.

    Shapes: Q shown items, W numbers, L codes.
        numbers: (Q, W) float32
        codes:   (Q, L) int64
        labels:  (Q,) float32, 0 or 1
    """

    numbers: Tensor
    codes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> PairExamples:
        """Take some of the rows, by indices or by a mask."""
        return PairExamples(self.numbers[rows], self.codes[rows], self.labels[rows])

    @classmethod
    def join(cls, parts: list[PairExamples]) -> PairExamples:
        """Join several batches into one."""
        return cls(
            *(
                torch.cat([getattr(part, field.name) for part in parts])
                for field in dataclasses.fields(cls)
            )
        )


@torch.no_grad()
def shown_examples(
    observation: Observation,
    slates: Tensor,
    clicks: Tensor,
    items: RankerCatalog,
    features: tuple[str, ...],
    codes: tuple[str, ...],
) -> PairExamples:
    """Make training rows of a visit from slates (B, K) int64 and clicks (B, K) bool."""
    pairs = Pairs.of(of_slates(observation, slates), items)
    return PairExamples(
        *pair_inputs(pairs, features, codes), clicks[pairs.row, pairs.column].float()
    )


def fit(
    examples: PairExamples,
    items: RankerCatalog,
    features: tuple[str, ...],
    codes: tuple[str, ...],
    config: FitConfig | None = None,
    *,
    title: str | None = None,
) -> CTRModel:
    """Fit a model by minimising the log loss of `examples`.

    Args:
        examples: rows of training data
        items: what the features know of the catalogue
        features: names of the features that made the numbers
        codes: names of the codes
        config: how the model is fitted; None = the defaults
        title: of the progress bar; None shows none

    Raises:
        TypeError: If `config` is no `FitConfig`.
        ValueError: If there are no rows, none with a response, or a number in them is not finite.
    """
    config = FitConfig() if config is None else config
    checks.instance("config", config, FitConfig)
    if len(examples) == 0 or float(examples.labels.sum()) == 0:
        raise ValueError(
            f"examples has {len(examples)} rows and no response, but a CTR model needs some."
        )
    for name in ("numbers", "labels"):
        if not bool(getattr(examples, name).isfinite().all()):
            raise ValueError(
                f"examples.{name} holds a number that is not finite, but a CTR model needs "
                "finite ones."
            )

    # the untrained model predicts the mean response rate
    shape = dataclasses.replace(
        config_for(items, features, codes, examples.numbers.shape[1]), hidden=config.hidden
    )
    model = CTRModel(shape, config.seed).to(examples.numbers.device)
    model.start_from(examples.numbers, float(examples.labels.mean()))

    # tables of codes that were seen rarely are held closer to 0 than the network
    groups = [
        {"params": list(model.network.parameters()), "weight_decay": config.weight_decay},
        {"params": list(model.tables.parameters()), "weight_decay": config.table_decay},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    steps = config.epochs * math.ceil(len(examples) / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    # every epoch sees every row once, in an order of its own
    generator = torch.Generator().manual_seed(config.seed)
    with tqdm(total=steps, desc=title, unit="step", disable=title is None) as bar:
        for _ in range(config.epochs):
            order = torch.randperm(len(examples), generator=generator).to(examples.labels.device)
            for rows in order.split(config.batch_size):
                batch = examples.take(rows)
                loss = binary_cross_entropy_with_logits(
                    model(batch.numbers, batch.codes), batch.labels
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    return model.eval()


@torch.no_grad()
def predict(model: CTRModel, examples: PairExamples, batch_size: int = 100_000) -> Tensor:
    """Compute the logits (Q,) of the rows."""
    rows = torch.arange(len(examples), device=examples.labels.device)
    return torch.cat(
        [model(*(examples.numbers[part], examples.codes[part])) for part in rows.split(batch_size)]
    )


def calibrate(model: CTRModel, examples: PairExamples, steps: int = 30) -> CTRModel:
    """Refit slope and intercept of a model on rows that it was not trained on.

    Platt 1999, "Probabilistic outputs for support vector machines", by Newton's method on the log
    loss.

    Raises:
        TypeError: If `model` is no `CTRModel`.
        ValueError: If all rows have the same label, or they do not determine slope and intercept,
            as where all logits are equal.
    """
    checks.instance("model", model, CTRModel)
    labels = examples.labels.double()
    if len(labels) == 0 or bool((labels == labels[0]).all()):
        raise ValueError(
            f"examples has {len(labels)} rows of one label, but a calibration needs both labels."
        )
    logits = predict(model, examples).double()
    inputs = torch.stack([logits, torch.ones_like(logits)], dim=1)
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logits.device)
    for _ in range(steps):
        chance = torch.sigmoid(inputs @ line)
        curvature = inputs.T @ (inputs * (chance * (1 - chance)).unsqueeze(1))
        change, singular = torch.linalg.solve_ex(curvature, inputs.T @ (chance - labels))
        line = line - change
        if bool(singular) or not bool(line.isfinite().all()):
            raise ValueError(
                "examples leave slope and intercept open: are their logits all equal, or their "
                "labels apart?"
            )
    scale, shift = line.tolist()
    old = model.config
    model.config = dataclasses.replace(
        old, scale=old.scale * scale, shift=old.shift * scale + shift
    )
    return model
