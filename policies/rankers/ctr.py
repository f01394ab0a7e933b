"""A CTR model and the greedy ranker on it: what a shop would do without reinforcement learning.

The model sees what an observation holds and learns from a log's training weeks; it never looks into
the simulator.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from policies.base import (
    ObservationCheck,
    PolicyInputs,
    Pool,
    Untuned,
    candidates_of,
    check_keys,
    filled,
    logits_of,
    of_kind,
    register_policy,
)
from policies.rankers.networks import (
    Shapes,
    check_shapes,
    read_model,
    tower,
    tower_shapes,
    write_model,
)
from policies.rankers.pair_features import BLOCKS, CODES, Items, Pairs, code_sizes
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.settings import LARGEST, MOST, WIDEST, put
from recsim_env.types import Observation, Policy

WEIGHTS = Path(__file__).parent / "weights" / "ctr_ranker.safetensors"
"""The ranker of the Complete Journey environment."""

KIND, FIELDS = "ctr_ranker", ("blocks", "codes", "width", "sizes", "hidden", "scale", "shift")
"""Of a model's file: what it says that it holds, and the fields of `RankerConfig` that it tells."""

CACHED = 8192
"""Pairs scored at once on a CPU: their activations stay in its cache, which is three times as fast
as all at once."""


@dataclass(frozen=True)
class RankerConfig:
    """What a CTR model sees and how wide it is."""

    blocks: tuple[str, ...]
    """Names from `policies.rankers.pair_features.BLOCKS`."""
    codes: tuple[str, ...]
    """Names from `policies.rankers.pair_features.CODES`."""
    width: int
    """Numbers that the blocks make together."""
    sizes: tuple[int, ...]
    """Values of each code."""
    hidden: int = 32
    """Width of the two hidden layers."""
    scale: float = 1.0
    """Slope of the calibration on validation weeks: logit = scale * raw + shift."""
    shift: float = 0.0
    """Its intercept."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        for name, known in (("blocks", BLOCKS), ("codes", CODES)):
            of_field = checks.several(name, getattr(self, name))
            put(
                self,
                **{
                    name: tuple(
                        checks.choice(f"{name}[{at}]", one, known)
                        for at, one in enumerate(of_field)
                    )
                },
            )
        sizes = checks.several("sizes", self.sizes, len(self.codes))
        put(
            self,
            width=checks.whole("width", self.width, 1, WIDEST),
            sizes=tuple(
                checks.whole(f"sizes[{at}]", size, 1, MOST) for at, size in enumerate(sizes)
            ),
            hidden=checks.whole("hidden", self.hidden, 1, WIDEST),
            scale=checks.number("scale", self.scale, -LARGEST, LARGEST),
            shift=checks.number("shift", self.shift, -LARGEST, LARGEST),
        )

    @property
    def shapes(self) -> Shapes:
        """Of the tensors of the model."""
        numbers = {"mean": (self.width,), "deviation": (self.width,)}
        tables = {f"tables.{at}": (size,) for at, size in enumerate(self.sizes)}
        return {
            **numbers,
            **tower_shapes("network", self.width, (self.hidden, self.hidden), 1),
            **tables,
        }


class CTRModel(nn.Module):
    """Log-odds of a response: a small network over the numbers plus one learned value for every code.

    Shapes: Q pairs, W numbers, L codes.
        numbers: (Q, W) float32, raw: the model standardises them
        codes:   (Q, L) int64
        returns: (Q,) calibrated logits
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: RankerConfig, seed: int = 0) -> None:
        super().__init__()
        of_kind("config", config, RankerConfig)
        self.config = config
        self.register_buffer("mean", torch.zeros(config.width, dtype=torch.float32))
        self.register_buffer("deviation", torch.ones(config.width, dtype=torch.float32))
        generator = torch.Generator().manual_seed(seed)
        self.network = tower(
            config.width, (config.hidden, config.hidden), 1, generator, activation=nn.ReLU, gain=0.1
        )
        self.tables = nn.ParameterList(
            [torch.zeros(size, dtype=torch.float32) for size in config.sizes]
        )

    @torch.no_grad()
    def start_from(self, numbers: Tensor, rate: float) -> None:
        """Standardise by the rows (Q, W) and start at their response rate."""
        self.mean.copy_(numbers.mean(dim=0))
        deviation = numbers.std(dim=0)  # NaN of a single row
        self.deviation.copy_(deviation.where(deviation > 1e-3, 1e-3))
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        rate = min(rate, 1 - 1e-6)  # where all were responded to
        last.bias.fill_(math.log(rate / (1 - rate)))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        logits: Tensor = self.network((numbers - self.mean) / self.deviation).squeeze(1)
        for table, column in zip(self.tables, codes.unbind(dim=1), strict=True):
            logits = logits + table[column]
        return logits * self.config.scale + self.config.shift


class CTRRanker:
    """A trained `CTRModel` on a catalogue; implements `policies.base.Ranker`.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the model was trained on a catalogue of another size.
    """

    def __init__(self, catalog: Catalog, model: CTRModel) -> None:
        of_kind("catalog", catalog, Catalog)
        of_kind("model", model, CTRModel)
        self.items = Items.of(catalog)
        sizes = code_sizes(self.items)
        expected = tuple(sizes[name] for name in model.config.codes)
        if model.config.sizes != expected:
            raise ValueError(
                f"The ranker knows {model.config.sizes} values of {model.config.codes}, but this catalogue has "
                f"{expected}: it was trained on another one."
            )
        self.model = model.to(self.items.vectors.device).eval()
        of_blocks = (key for name in model.config.blocks for key in BLOCKS[name].keys)
        of_codes = (key for name in model.config.codes for key in CODES[name].keys)
        self._needed = tuple(dict.fromkeys((*of_blocks, *of_codes)))

    @torch.no_grad()
    def logits(self, observation: Observation) -> Tensor:
        """Log-odds of a response for every candidate: (B, C) float32, -inf at padding.

        Raises:
            ValueError: If the observation lacks a key that the model looks at.
        """
        check_keys(observation, self._needed)
        pairs = Pairs.of(observation, self.items)
        numbers, codes = pair_inputs(pairs, self.model.config.blocks, self.model.config.codes)
        part = CACHED if numbers.device.type == "cpu" else max(len(numbers), 1)
        parts = zip(numbers.split(part), codes.split(part), strict=True)
        return pairs.spread(torch.cat([self.model(*inputs) for inputs in parts]))


def pair_inputs(
    pairs: Pairs, blocks: tuple[str, ...], codes: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """What a `CTRModel` takes of some pairs: numbers (Q, W) float32 and codes (Q, L) int64."""
    numbers = torch.cat([BLOCKS[name].values(pairs) for name in blocks], dim=1)
    return numbers, torch.stack([CODES[name].values(pairs) for name in codes], dim=1)


def config_for(
    items: Items, blocks: tuple[str, ...], codes: tuple[str, ...], width: int
) -> RankerConfig:
    """The configuration of a model of these inputs."""
    sizes = code_sizes(items)
    return RankerConfig(blocks, codes, width, tuple(sizes[name] for name in codes))


# ---- files -----------------------------------------------------------------------------------------------------------


def save_model(model: CTRModel, path: Path) -> None:
    """Write a model to `path` (safetensors): weights, and the configuration in its metadata, whole or not at all.

    Raises:
        TypeError: If the model is none.
        OSError: If the file cannot be written.
    """
    of_kind("model", model, CTRModel)
    write_model(path, model, KIND, asdict(model.config))


def load_model(path: Path = WEIGHTS) -> CTRModel:
    """Read what `save_model` wrote.

    Errors: FileNotFoundError; ValueError where the file is no CTR model, its tensors do not fit its
    configuration, or a number in it is not finite. The sentence names the file, and the tensor or
    the field.
    """
    tensors, told = read_model(path, KIND, FIELDS)
    try:
        config = RankerConfig(**told)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    check_shapes(path, tensors, config.shapes)
    model = CTRModel(config)
    model.load_state_dict(tensors)
    return model.eval()


# ---- policy ----------------------------------------------------------------------------------------------------------


class GreedyCTR:
    """The K candidates that the ranker scores best."""

    draws = 0

    def __init__(self, inputs: PolicyInputs) -> None:
        self._items = len(inputs.catalog)
        self._slate_size = inputs.slate_size
        self._ranker = inputs.need_ranker("greedy_ctr")
        self._pool = max(inputs.pool, inputs.slate_size)
        self._check = ObservationCheck(inputs.observation_space, inputs.catalog)

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K). By way of the pool, so that ties fall as they do in the re-rankers."""
        first = self._check(observation)
        candidates = candidates_of(observation, self._items)
        pool = Pool.best(logits_of(self._ranker, observation, candidates), candidates, self._pool)
        pool.check(candidates, whole=first)
        return filled(pool.items[:, : self._slate_size], self._slate_size)


@register_policy("greedy_ctr", Untuned)
def greedy_ctr(inputs: PolicyInputs, parameters: Untuned) -> Policy:
    """Build `GreedyCTR`."""
    return GreedyCTR(inputs)
