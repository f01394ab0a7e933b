"""A CTR model and the greedy ranker on it: what a shop does without reinforcement learning.

The model sees what an observation holds and learns from a log's training weeks. It never looks into
the simulator.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from policies.inputs import Doubts, PolicyInputs
from policies.observations import ObservationCheck, candidates_of, check_keys
from policies.parameters import NoParameters
from policies.pool import Pool
from policies.rankers.glance import Glance
from policies.rankers.networks import (
    Shapes,
    check_shapes,
    read_model,
    tower,
    tower_shapes,
    write_model,
)
from policies.rankers.pair_features import (
    ALIGNED,
    PAIR_CODES,
    PAIR_FEATURES,
    Pairs,
    RankerCatalog,
    code_sizes,
)
from policies.registry import register_policy
from policies.slates import filled
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.settings import LARGEST, MOST, WIDEST, put
from recsim_env.tensors import looked_up
from recsim_env.types import Observation, Policy

WEIGHTS = Path(__file__).parent / "weights" / "ctr_ranker.safetensors"
"""The ranker of the Complete Journey environment."""

KIND, FIELDS = "ctr_ranker", ("blocks", "codes", "width", "sizes", "hidden", "scale", "shift")
"""Description of a model's file: its kind, and the fields of `RankerConfig` that it holds."""

PAIRS_AT_ONCE = 8192
"""Number of pairs scored at once on a CPU: their activations stay in its cache, which is three
times as fast as scoring all at once."""
SPARE = 80
"""Number of candidates that are ranked beside those that are asked for, after a glance at all."""


@dataclass(frozen=True)
class RankerConfig:
    """What a CTR model sees, how wide it is, and how it is calibrated."""

    blocks: tuple[str, ...]
    """Names of its features in `policies.rankers.pair_features.PAIR_FEATURES`; saved under this
    name."""
    codes: tuple[str, ...]
    """Names of its codes in `policies.rankers.pair_features.PAIR_CODES`."""
    width: int
    """Number of numbers that the features make together."""
    sizes: tuple[int, ...]
    """Number of values of each code."""
    hidden: int = 32
    """Width of the two hidden layers."""
    scale: float = 1.0
    """Slope of the calibration on validation weeks: logit = scale * raw + shift."""
    shift: float = 0.0
    """Intercept of the calibration."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        for name, known in (("blocks", PAIR_FEATURES), ("codes", PAIR_CODES)):
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
    def placements(self) -> tuple[int, int] | None:
        """Numbers of display and of mailer codes, as `LogFacts.placements`; None without them."""
        sizes = dict(zip(self.codes, self.sizes, strict=True))
        return (
            (sizes["display"], sizes["mailer"]) if {"display", "mailer"} <= sizes.keys() else None
        )

    @property
    def shapes(self) -> Shapes:
        """Shapes of the tensors of the model, by name."""
        numbers = {"mean": (self.width,), "deviation": (self.width,)}
        tables = {f"tables.{at}": (size,) for at, size in enumerate(self.sizes)}
        return {
            **numbers,
            **tower_shapes("network", self.width, (self.hidden, self.hidden), 1),
            **tables,
        }


class CTRModel(nn.Module):
    """Log-odds of a response: a small network over the numbers, plus a learned value of every code.

    Shapes: Q pairs, W numbers, L codes.
        numbers: (Q, W) float32, raw; the model standardises them
        codes:   (Q, L) int64
        returns: (Q,) calibrated logits
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: RankerConfig, seed: int = 0) -> None:
        super().__init__()
        checks.instance("config", config, RankerConfig)
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
        """Standardise by the rows (Q, W), and start at their response rate."""
        self.mean.copy_(numbers.mean(dim=0))
        deviation = numbers.std(dim=0)  # NaN for a single row
        self.deviation.copy_(deviation.where(deviation > 1e-3, 1e-3))
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        rate = min(rate, 1 - 1e-6)  # finite where all were responded to
        last.bias.fill_(math.log(rate / (1 - rate)))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Compute the calibrated logits (Q,) of pairs."""
        logits: Tensor = self.network((numbers - self.mean) / self.deviation).squeeze(1)
        for table, column in zip(self.tables, codes.unbind(dim=1), strict=True):
            logits = logits + looked_up(table, column)
        return logits * self.config.scale + self.config.shift


class CTRRanker:
    """A trained `CTRModel` on a catalogue; implements `policies.inputs.Ranker`.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the model was trained on a catalogue of another size.
    """

    def __init__(self, catalog: Catalog, model: CTRModel) -> None:
        checks.instance("catalog", catalog, Catalog)
        checks.instance("model", model, CTRModel)
        self.items = RankerCatalog.of(catalog, model.config.placements)
        expected = code_sizes(self.items, model.config.codes)
        if model.config.sizes != expected:
            raise ValueError(
                f"The ranker knows {model.config.sizes} values of {model.config.codes}, but this "
                "catalogue has "
                f"{expected}: it was trained on another one."
            )
        self.model = model.to(self.items.vectors.device).eval()
        of_features = (key for name in model.config.blocks for key in PAIR_FEATURES[name].keys)
        of_codes = (key for name in model.config.codes for key in PAIR_CODES[name].keys)
        self._needed = tuple(dict.fromkeys((*of_features, *of_codes)))
        self._glance = Glance(model, self.items) if Glance.understands(model) else None

    @torch.no_grad()
    def logits(self, observation: Observation) -> Tensor:
        """Log-odds of a response for every candidate: (B, C) float32, -inf at padding.

        Raises:
            ValueError: If the observation lacks a key that the model looks at.
        """
        check_keys(observation, self._needed)
        pairs = Pairs.of(observation, self.items)
        numbers, codes = pair_inputs(pairs, self.model.config.blocks, self.model.config.codes)
        part = PAIRS_AT_ONCE if numbers.device.type == "cpu" else max(len(numbers), 1)
        parts = zip(numbers.split(part), codes.split(part), strict=True)
        return pairs.spread(torch.cat([self.model(*inputs) for inputs in parts]))

    @torch.no_grad()
    def leading(self, observation: Observation, size: int) -> tuple[Tensor, Tensor | None]:
        """Rank the candidates that may be among the `size` best, which a `Glance` tells.

        `SPARE` more than are asked for are ranked. `benchmarks.speed.two_stages` measures how many
        of the best are missed.

        Returns:
            Their logits (B, S) and their columns (B, S); `logits` and None where there is no glance
            or where it would leave out less than half of the candidates.

        Raises:
            ValueError: If the observation lacks a key that the model looks at.
        """
        ranked = size + SPARE
        candidates = candidates_of(observation, len(self.items.category))
        if self._glance is None or 2 * ranked > candidates.shape[1]:
            return self.logits(observation), None
        check_keys(observation, self._needed)
        columns = self._glance.columns(observation, ranked)
        told = {**observation, "candidates": candidates}
        few = {name: told[name].gather(1, columns) for name in ALIGNED if name in told}
        return self.logits({**observation, **few}), columns


def pair_inputs(
    pairs: Pairs, features: tuple[str, ...], codes: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """What a `CTRModel` takes of some pairs: numbers (Q, W) float32 and codes (Q, L) int64."""
    numbers = torch.cat([PAIR_FEATURES[name].values(pairs) for name in features], dim=1)
    return numbers, torch.stack([PAIR_CODES[name].values(pairs) for name in codes], dim=1)


def config_for(
    items: RankerCatalog, features: tuple[str, ...], codes: tuple[str, ...], width: int
) -> RankerConfig:
    """The configuration of a model of these inputs; width: numbers that the features make."""
    return RankerConfig(features, codes, width, code_sizes(items, codes))


# ---- files ----


def save_model(model: CTRModel, path: Path) -> None:
    """Write a model to `path` (safetensors), with its configuration in the metadata, atomically.

    Raises:
        TypeError: If `model` is no `CTRModel`.
        OSError: If the file cannot be written.
    """
    checks.instance("model", model, CTRModel)
    write_model(path, model, KIND, asdict(model.config))


def load_model(path: Path = WEIGHTS) -> CTRModel:
    """Read what `save_model` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no CTR model, its tensors do not fit its configuration, or a
            number in it is not finite. The sentence names the file, and the tensor or the field.
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


# ---- policy ----


class GreedyCTR:
    """Shows the K candidates that the ranker scores best."""

    draws = 0

    def __init__(self, inputs: PolicyInputs) -> None:
        self._items = len(inputs.catalog)
        self._slate_size = inputs.slate_size
        self._ranker = inputs.need_ranker("greedy_ctr")
        self._pool = max(inputs.pool, inputs.slate_size)
        self._check = ObservationCheck(inputs.observation_space, inputs.catalog)
        self._doubts = Doubts()

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K), by way of the pool, so that ties fall as in the re-rankers."""
        first = self._check(observation)
        candidates = candidates_of(observation, self._items)
        pool = Pool.ranked(self._ranker, observation, candidates, self._pool, self._doubts)
        pool.check(candidates, whole=first)
        return filled(pool.items[:, : self._slate_size], self._slate_size)


@register_policy("greedy_ctr", NoParameters)
def greedy_ctr(inputs: PolicyInputs, parameters: NoParameters) -> Policy:
    """Build the policy that shows the best candidates of the ranker."""
    return GreedyCTR(inputs)
