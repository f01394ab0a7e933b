"""A CTR ranker of two towers for shops that keep impression logs: fast over a whole catalogue.

    log-odds(i) = bias_i + q(x) . v_i + h(x_c) + k . fatigue_i
    P(click on i at position j) = e_j sigmoid(log-odds(i))

x is what the shop knows of the shopper, and x_c the part of it on the item's category c. v_i is the
item's embedding times a learned matrix, plus a few numbers of its own; fatigue_i counts how often
the item itself was shown and responded to lately. The two towers follow Covington, Adams & Sargin
2016, "Deep neural networks for YouTube recommendations", section 3. Position-based examination
(Craswell et al. 2008, "An experimental comparison of click position-bias models", section 3.2)
makes the log-odds those of an item that is looked at. The model is learned from a log and never
looks into a simulator.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from policies.features import Recent, squashed
from policies.observations import candidates_of, check_keys
from policies.pool import SHOPPERS_AT_ONCE
from policies.rankers.networks import (
    Shapes,
    Standardizer,
    check_shapes,
    read_model,
    tower,
    tower_shapes,
    write_model,
)
from recsim_env import checks
from recsim_env.settings import AMOUNT, MOST, ONE_OR_MORE, RATE, SEED, WIDTH, settle
from recsim_env.tensors import shared
from recsim_env.types import Observation

SHOPPER_KEYS = (
    "category_shown",
    "category_clicked",
    "taste",
    "exposed",
    "position_clicks",
    "familiarity",
    "visits",
)
"""Observation keys of the shopper tower; `declared` joins them where the shop asks for it."""
CATEGORY_KEYS = ("category_shown", "category_clicked")
"""Observation keys (B, G, ..) of the category tower."""
KIND, FIELDS = "two_tower", ("width", "per_category", "slate_size", "config")
"""Description of a model's file: its kind, and the keys that it holds."""


@dataclass(frozen=True)
class TwoTowerConfig:
    """Sizes of the network, and how it is fitted."""

    width: int = 16
    """Number of dimensions in which shopper and item are compared."""
    hidden: int = 96
    """Width of each of the shopper tower's two hidden layers."""
    category_hidden: int = 24
    """Width of the category tower's hidden layer."""
    dims: int = 32
    """Largest number of components of the item embedding that are used."""
    epochs: int = 6
    """Number of passes over the log."""
    batch_size: int = 2048
    """Number of slates of an optimiser step."""
    learning_rate: float = 3e-3
    """Initial learning rate of AdamW (Loshchilov & Hutter 2019); it falls to 0 along a cosine."""
    weight_decay: float = 0.01
    """Weight decay of the networks."""
    own_decay: float = 0.3
    """Weight decay of each item's own numbers; large, so that those of rarely shown items stay near
    0."""
    seed: int = 0
    """Seed of the initial weights and of the order of the slates."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            width=WIDTH,
            hidden=WIDTH,
            category_hidden=WIDTH,
            dims=WIDTH,
            epochs=ONE_OR_MORE,
            batch_size=ONE_OR_MORE,
            learning_rate=RATE,
            weight_decay=AMOUNT,
            own_decay=AMOUNT,
            seed=SEED,
        )

    def shapes(
        self, items: int, dims: int, width: int, per_category: int, slate_size: int
    ) -> Shapes:
        """Shapes of the tensors of a model, by name.

        Args:
            items: number of items N
            dims: number of components of an item's vector
            width: number of numbers F of a shopper
            per_category: number of numbers F_c of a category
            slate_size: number of slate positions K
        """
        return {
            "vectors": (items, dims),
            "category": (items,),
            "standardize.mean": (width,),
            "standardize.deviation": (width,),
            **tower_shapes("of_shopper", width, (self.hidden, self.hidden), self.width + 1),
            "standardize_category.mean": (per_category,),
            "standardize_category.deviation": (per_category,),
            **tower_shapes("of_category", per_category, (self.category_hidden,), 1),
            "of_item": (dims, self.width),
            "own": (items, self.width),
            "bias": (items,),
            "fatigue": (2,),
            "examination": (slate_size,),
        }


class TwoTower(nn.Module):
    """The model of the two towers.

    Shapes: B shoppers, N items, G categories, K positions, F numbers of a shopper, F_c of a
    category.
    """

    vectors: Tensor
    category: Tensor

    def __init__(
        self,
        vectors: Tensor,
        category: Tensor,
        width: int,
        per_category: int,
        slate_size: int,
        config: TwoTowerConfig,
    ) -> None:
        super().__init__()
        checks.instance("config", config, TwoTowerConfig)
        items, dims = checks.tensor("vectors", vectors, ("N", "D"), torch.float32).shape
        checks.tensor("category", category, (items,), torch.int64)
        for name, size in (
            ("width", width),
            ("per_category", per_category),
            ("slate_size", slate_size),
        ):
            checks.whole(name, size, 1, MOST)

        # the towers, which start near 0
        generator = torch.Generator().manual_seed(config.seed)
        self.config = config
        self.register_buffer("vectors", vectors)
        self.register_buffer("category", category)
        self.standardize = Standardizer(width)
        self.of_shopper = tower(
            width,
            (config.hidden, config.hidden),
            config.width + 1,
            generator,
            gain=0.1,
            activation=nn.ReLU,
        )
        self.standardize_category = Standardizer(per_category)
        self.of_category = tower(
            per_category, (config.category_hidden,), 1, generator, gain=0.1, activation=nn.ReLU
        )

        # items start from their vectors alone, and learn what is their own
        self.of_item = nn.Parameter(
            torch.randn(dims, config.width, generator=generator, dtype=torch.float32)
            / math.sqrt(dims)
        )
        self.own = nn.Parameter(torch.zeros(items, config.width, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(items, dtype=torch.float32))
        self.fatigue = nn.Parameter(torch.zeros(2, dtype=torch.float32))
        self.examination = nn.Parameter(
            torch.full((slate_size,), 2.0, dtype=torch.float32)
        )  # log-odds; the top position is always seen

    def items(self) -> Tensor:
        """Vectors of all items: (N, width)."""
        return self.vectors @ self.of_item + self.own

    def shopper(self, whole: Tensor, by_category: Tensor) -> tuple[Tensor, Tensor]:
        """Query (B, width) and log-odds by category (B, G), from x (B, F) and x_c (B, G, F_c)."""
        out = self.of_shopper(self.standardize(whole))
        of_category = self.of_category(self.standardize_category(by_category)).squeeze(2)
        return out[:, :-1], of_category + out[:, -1:]

    def log_odds(
        self, whole: Tensor, by_category: Tensor, slates: Tensor, fatigue: Tensor
    ) -> Tensor:
        """Log-odds (B, K) of items that are looked at: slates (B, K), fatigue (B, K, 2)."""
        query, of_category = self.shopper(whole, by_category)
        liked = torch.einsum("bd,bkd->bk", query, self.items()[slates])
        return (
            liked
            + of_category.gather(1, self.category[slates])
            + self.bias[slates]
            + fatigue @ self.fatigue
        )

    def examined(self) -> Tensor:
        """Probability that each position is looked at: (K,), 1 at the top."""
        return torch.cat([self.examination.new_ones(1), torch.sigmoid(self.examination[1:])])


class TwoTowerRanker:
    """A fitted `TwoTower` on a catalogue; implements `policies.inputs.Ranker`.

    Raises:
        TypeError: If `model` is no `TwoTower`.
    """

    def __init__(self, model: TwoTower) -> None:
        checks.instance("model", model, TwoTower)
        self.model = model.eval()
        with torch.no_grad():
            self._items = model.items().T.contiguous()  # (width, N)
        self._numbers = len(model.category)

    @torch.no_grad()
    def logits(self, observation: Observation) -> Tensor:
        """Log-odds of a response to every candidate that is looked at: (B, C), -inf at padding.

        Raises:
            ValueError: If the observation lacks a key that the model looks at.
        """
        check_keys(
            observation, (*SHOPPER_KEYS, "recent_slates", "recent_clicks"), optional=("declared",)
        )
        candidates = candidates_of(observation, self._numbers)
        most = SHOPPERS_AT_ONCE if candidates.device.type == "cpu" else len(candidates)
        parts = [slice(start, start + most) for start in range(0, len(candidates), most)]
        seen = {
            name: observation[name] for name in (*SHOPPER_KEYS, "recent_slates", "recent_clicks")
        }
        seen |= {name: observation[name] for name in ("declared",) if name in observation}
        scores = [
            self._part({name: value[part] for name, value in seen.items()}, candidates[part])
            for part in parts
        ]
        return scores[0] if len(scores) == 1 else torch.cat(scores)

    @torch.no_grad()
    def looks(self, observation: Observation) -> Tensor:
        """The chance that each position is looked at, the same for all shoppers: (1, K)."""
        return self.model.examined().unsqueeze(0)

    def _part(self, observation: Observation, candidates: Tensor) -> Tensor:
        """Compute `logits` for some of the shoppers."""
        scores = self._catalogue(observation)
        if shared(
            candidates
        ):  # a column for everybody costs a small part of what an item for each does
            candidates = candidates[:1]
            scores = scores.index_select(1, candidates[0].clamp(min=0))
        else:
            scores = scores.gather(1, candidates.clamp(min=0))
        return scores.masked_fill_(candidates < 0, -math.inf)

    def _catalogue(self, observation: Observation) -> Tensor:
        """Log-odds of a response to every item: (B, N)."""
        model, recent = self.model, Recent.of(observation)
        query, of_category = model.shopper(*tower_inputs(observation))
        scores = torch.addmm(model.bias, query, self._items).add_(
            of_category.index_select(1, model.category)
        )
        tired = model.fatigue[0] * recent.shown + model.fatigue[1] * recent.clicked
        return scores.scatter_add_(1, recent.items, tired)


def tower_inputs(observation: Observation) -> tuple[Tensor, Tensor]:
    """Numbers that the towers see: x (B, F) and x_c (B, G, F_c) float32."""
    flat = [observation[name].flatten(1) for name in SHOPPER_KEYS]
    logs = squashed(torch.cat(flat, dim=1))
    log_of = dict(
        zip(SHOPPER_KEYS, logs.split([values.shape[1] for values in flat], dim=1), strict=True)
    )
    visits = observation["visits"]
    columns = [observation[name].flatten(1) / (visits + 5) for name in ("taste", "exposed")]
    columns += [observation[name] for name in ("declared",) if name in observation]
    counts = [observation[name] for name in CATEGORY_KEYS]
    counts += [log_of[name].view_as(observation[name]) for name in CATEGORY_KEYS]
    many = log_of["visits"].unsqueeze(1).expand(-1, counts[0].shape[1], -1)
    return torch.cat([logs, *columns], dim=1), torch.cat([*counts, many], dim=2)


# ---- files ----


def save_two_tower(ranker: TwoTowerRanker, path: Path) -> None:
    """Write a ranker to `path` (safetensors), with its shape in the metadata, atomically.

    Raises:
        TypeError: If `ranker` is no `TwoTowerRanker`.
        OSError: If the file cannot be written.
    """
    checks.instance("ranker", ranker, TwoTowerRanker)
    model = ranker.model
    told = {
        "width": len(model.standardize.mean),
        "per_category": len(model.standardize_category.mean),
        "slate_size": len(model.examination),
        "config": asdict(model.config),
    }
    write_model(path, model, KIND, told)


def load_two_tower(path: Path, device: torch.device | str = "cpu") -> TwoTowerRanker:
    """Read what `save_two_tower` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no two-tower ranker, its tensors do not fit its configuration, or
            a number in it is not finite. The sentence names the file, and the tensor or the field.
    """
    tensors, told = read_model(path, KIND, FIELDS)
    try:
        config, sizes = _described(told)
        items, dims = checks.tensor(
            "the tensor 'vectors'", tensors.get("vectors"), ("N", "D"), torch.float32
        ).shape
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    check_shapes(path, tensors, config.shapes(items, dims, *sizes), whole=("category",))
    if (
        items == 0
        or not 0 <= int(tensors["category"].min()) <= int(tensors["category"].max()) < items
    ):
        raise ValueError(
            f"{path}: the tensor 'category' must hold numbers from 0 to {items - 1}, one an item."
        )
    model = TwoTower(tensors["vectors"], tensors["category"], *sizes, config)
    model.load_state_dict(tensors)
    return TwoTowerRanker(model.to(device))


def _described(told: dict[str, object]) -> tuple[TwoTowerConfig, tuple[int, int, int]]:
    """Read configuration and F, F_c, K of a description.

    Raises:
        TypeError: If the configuration is no mapping.
        ValueError: If a field is missing, unknown or not as said; the sentence names it.
    """
    fields = checks.mapping("config", told["config"])
    known = [field.name for field in dataclasses.fields(TwoTowerConfig)]
    for name in sorted(fields.keys() ^ set(known)):
        raise ValueError(
            f"config has the fields {sorted(fields)}, but they must be {known}: {name!r} is one "
            "too many or few."
        )
    sizes = [checks.whole(name, told[name], 1) for name in ("width", "per_category", "slate_size")]
    return TwoTowerConfig(**fields), (sizes[0], sizes[1], sizes[2])
