"""What a learned completion of carts is worth: `python -m benchmarks.shopper.carts`.

One item of every held-out basket of two or more is hidden, and all items of the catalogue are
ranked for its place by popularity, by own history, by own history with lift, and by
`CartCompletion`, which is fitted in the same run: with the cart, without it, and with a cart but no
lift. Everything that is counted or fitted is from the training weeks (1-44); weights of baselines
are chosen on the valid weeks (45-48), and the figures are of the test weeks (49-53). The pairs that
the model without lift has learned are laid beside their lift in the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from benchmarks.lab.command import run_command
from benchmarks.lab.heldout import estimate
from benchmarks.lab.logs import SHIPPED_SHOPPER
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.plots import BLUE, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.shopper.cart_baselines import (
    OWN,
    WITH_LIFT,
    Carts,
    Weights,
    carts,
    completion,
    popularity,
)
from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate, resamples, units_of
from recsim_env.logs.schema import read_baskets, read_popularity, read_promotions
from recsim_env.shoppers.carts.checkout import fit_checkout
from recsim_env.shoppers.carts.examples import CartExamples, scored_visits
from recsim_env.shoppers.carts.fit import CompletionFit, fit_completion
from recsim_env.shoppers.carts.lift import PairLift, log_lift, pair_counts
from recsim_env.shoppers.carts.model import CartCompletion
from recsim_env.shoppers.household.memory import Keys
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.household.replay import Visits
from recsim_env.shoppers.weights import save_model

POPULAR, HISTORY, LIFT, FULL, NO_CART, NO_LIFT = MODELS = (
    "popularity",
    "own history",
    "own history + lift",
    "completion",
    "completion, no cart",
    "completion, no lift",
)
HIT, NEW_HIT = 10, 50
"""Places of a list that count for any hidden item, and for one that the household never bought."""
FREQUENT = 40
"""Baskets of the training weeks that hold both items of a pair whose lift is compared."""
Score = Callable[[Carts], Tensor]


@dataclass(frozen=True)
class Config(Threads, Results):
    """Rank the rest of held-out carts by a learned completion and by its baselines."""

    log: Path = SHIPPED_SHOPPER
    """Folder with catalogue, baskets, promotions and popularity of a log; it is only read."""
    fit: CompletionFit = field(default_factory=CompletionFit)
    """How the completion is fitted."""
    output: Path = Path("runs/carts")
    """Folder that the fitted completion is written into."""
    baskets: int = 100_000
    """Most baskets of the training weeks that it is fitted to; of more, a random part is taken."""
    carts: int = 5_000
    """Most carts that are reported; of more, a random part is taken."""
    tuning_carts: int = 2_000
    """Most carts on which the weights of baselines are chosen."""
    checkout_baskets: int = 20_000
    """Most baskets, empty ones among them, from which it learns when a basket is complete."""
    states: int = 4
    """Number of visits over which the learned association of a pair is averaged."""


@dataclass(frozen=True)
class Data:
    """The tables of a log, and the lift of its training weeks."""

    catalog: Catalog
    visits: Visits
    keys: Keys
    promotions: StorePromotions
    split: dict[str, Tensor]
    counts: Tensor
    lift: PairLift

    @classmethod
    def load(cls, folder: Path) -> Data:
        """Read a folder, and count pairs in its training weeks.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is not as its schema says.
        """
        catalog = Catalog.load(folder)
        n = len(catalog)
        baskets = read_baskets(folder / "baskets.parquet", n)
        visits = Visits.of(baskets)
        promotions = StorePromotions.of(
            read_promotions(folder / "promotions.parquet", n),
            read_popularity(folder / "popularity.parquet", n),
            n,
        )
        split = {
            name: torch.from_numpy((baskets["split"] == name).to_numpy().copy())
            for name in ("train", "valid", "test")
        }
        counts = pair_counts(visits, split["train"].nonzero().flatten(), n)
        table = log_lift(counts, int(split["train"].sum()))
        return cls(
            catalog,
            visits,
            Keys.of(catalog.kind, catalog.category),
            promotions,
            split,
            counts,
            PairLift(table, catalog.kind, catalog.category),
        )

    def examples(self, most: int, items: int, seed: int) -> CartExamples:
        """Take baskets of the training weeks with so many items or more, `most` at most."""
        generator = torch.Generator().manual_seed(seed)
        chosen = scored_visits(self.visits, self.split["train"], items)
        order = torch.rand(len(chosen), generator=generator).masked_fill(~chosen, 2.0).argsort()
        chosen[order[most:]] = False
        return CartExamples.of(self.visits, self.keys, self.promotions, chosen, generator)

    def carts(self, split: str, most: int, seed: int) -> Iterable[Carts]:
        """Hide one item of the baskets of a split."""
        within = self.split[split]
        return carts(self.visits, self.keys, self.promotions, self.lift, within, most, seed)


# ---- fitting and tuning --------------------------------------------------------------------------


def fitted(config: Config, data: Data, console: Console) -> dict[str, CartCompletion]:
    """Fit the completion and its ablations to the same baskets."""
    examples = data.examples(config.baskets, 1, config.fit.seed)
    own_lift = log_lift(data.counts, int(data.split["train"].sum()), left_out=1)
    found = {}
    for name, changes in {
        FULL: {},
        NO_CART: {"use_cart": False},
        NO_LIFT: {"use_lift": False},
    }.items():
        start = time.perf_counter()
        found[name] = fit_completion(
            examples,
            data.catalog,
            data.promotions,
            data.lift,
            own_lift,
            replace(config.fit, **changes),
        )
        seconds = time.perf_counter() - start
        console.print(f"{name}: fitted to {len(examples):,} baskets in {seconds:.0f} s")
    whole = data.examples(config.checkout_baskets, 0, config.fit.seed)
    assert data.catalog.embedding is not None
    fit_checkout(found[FULL], whole, data.catalog.embedding, config.fit.seed)
    return found


@torch.no_grad()
def tuned(batches: Iterable[Carts]) -> dict[str, tuple[Weights, Weights]]:
    """Choose the weights of each baseline that hit most: among all items, and among new ones."""
    hits = torch.zeros(len(WITH_LIFT), 2)
    for batch in batches:
        for at, weights in enumerate(WITH_LIFT):
            anywhere, new = batch.ranks(weights.scores(batch))
            hits[at, 0] += (anywhere < HIT).sum()
            hits[at, 1] += ((new < NEW_HIT) & batch.new).sum()
    own = torch.tensor([weights in OWN for weights in WITH_LIFT]).unsqueeze(1)
    chosen = {HISTORY: hits.masked_fill(~own, -1.0), LIFT: hits}
    return {
        name: (WITH_LIFT[int(of[:, 0].argmax())], WITH_LIFT[int(of[:, 1].argmax())])
        for name, of in chosen.items()
    }


# ---- measuring -----------------------------------------------------------------------------------


@torch.no_grad()
def ranked(
    batches: Iterable[Carts],
    weights: dict[str, tuple[Weights, Weights]],
    models: dict[str, CartCompletion],
    text: Tensor,
) -> pl.DataFrame:
    """Rank every hidden item by every model: one row for each cart and model."""
    vectors = {name: model.vectors(text) for name, model in models.items()}
    frames = []
    for batch in batches:
        scores: dict[str, tuple[Tensor, Tensor]] = {POPULAR: (popularity(batch),) * 2}
        for name, (anywhere, new) in weights.items():
            scores[name] = anywhere.scores(batch), new.scores(batch)
        for name, model in models.items():
            scores[name] = (completion(model, vectors[name], batch),) * 2
        for name, (of_all, of_new) in scores.items():
            frames.append(
                pl.DataFrame(
                    {
                        "model": [name] * len(batch.visit),
                        "visit": batch.visit.numpy(),
                        "household": batch.household.numpy(),
                        "cart": (batch.cart >= 0).sum(dim=1).numpy(),
                        "new": batch.new.numpy(),
                        "rank": batch.ranks(of_all)[0].numpy(),
                        "new_rank": batch.ranks(of_new)[1].numpy(),
                    }
                )
            )
    return pl.concat(frames)


@torch.no_grad()
def paired_items(config: Config, data: Data, model: CartCompletion) -> pl.DataFrame:
    """Compare the learned association of frequent pairs with their lift, early and late.

    The association of a pair is what one item alone in the cart adds to the logit of the other,
    less what an item of a frequent pair adds to it on average; both ways round, over some visits.
    The lift is not shrunk here, so pairs that nobody bought in the later weeks are left out.
    """
    later = (data.split["valid"] | data.split["test"]).nonzero().flatten()
    later_counts = pair_counts(data.visits, later, data.keys.n_items)
    frequent = (torch.triu(data.counts, 1) >= FREQUENT) & (later_counts > 0)
    first, second = frequent.nonzero(as_tuple=True)
    early = log_lift(data.counts, int(data.split["train"].sum()), prior=0.0)
    late = log_lift(later_counts, len(later), prior=0.0)

    # what each item alone in the cart adds
    singles = torch.cat([first, second]).unique()
    vectors = model.vectors(data.catalog.embedding)
    place = torch.full((data.keys.n_items,), -1)
    place[singles] = torch.arange(len(singles))
    total, seen = torch.zeros(len(singles), len(singles)), 0
    for batch in data.carts("valid", config.states, config.fit.seed):
        for row in range(len(batch.visit)):
            here = slice(row, row + 1)
            known = batch.stats[here, singles], batch.item_context[here, singles]
            promoted, empty = batch.promoted[here, singles], torch.full((1, 1), -1)
            for part in singles.split(256):
                cart = torch.cat([part.unsqueeze(1), empty])
                visit = model.visit(
                    vectors,
                    batch.context[here].expand(len(cart), -1),
                    batch.held[here].expand(len(cart), -1),
                    batch.bought[here].expand(len(cart), -1),
                    cart,
                )
                size = len(cart), len(singles)
                logits = model(
                    vectors,
                    visit,
                    singles.expand(size),
                    known[0].expand(*size, -1, -1),
                    known[1].expand(*size, -1),
                    promoted.expand(size),
                    data.lift.of_carts(cart, singles.expand(size)),
                )
                total[place[part]] += logits[:-1] - logits[-1:]
            seen += 1
    learned = total / max(seen, 1)
    learned = learned - learned.mean(dim=0, keepdim=True)
    a, b = place[first], place[second]
    return pl.DataFrame(
        {
            "first": first.numpy(),
            "second": second.numpy(),
            "baskets": data.counts[first, second].numpy(),
            "lift": early[first, second].numpy(),
            "later_lift": late[first, second].numpy(),
            "learned": ((learned[a, b] + learned[b, a]) / 2).numpy(),
        }
    )


# ---- the report ----------------------------------------------------------------------------------


def report(rows: pl.DataFrame, pairs: pl.DataFrame, samples: int = 1_000) -> Report:
    """Make the tables, the figures and the picture, with a bootstrap over households."""
    hits = {name: _hits(rows.filter(pl.col("model") == name)) for name in MODELS}
    household, number = units_of(hits[FULL]["household"].to_numpy())
    draws = resamples(number, samples)

    def rate(of: np.ndarray, among: np.ndarray) -> Estimate:
        sums = np.bincount(household, of * among, number), np.bincount(household, among, number)
        value = float(sums[0].sum() / sums[1].sum())
        with np.errstate(invalid="ignore"):
            drawn = (draws @ sums[0]) / (draws @ sums[1])
        return estimate(value, drawn, int((sums[1] > 0).sum()))

    everything = np.ones(len(household))
    new = hits[FULL]["new"].to_numpy().astype(float)
    summary: dict[str, Estimate] = {}
    lines: list[dict[str, object]] = []
    base = hits[LIFT]
    for name, own in hits.items():
        at10, at50 = own["hit"].to_numpy(), own["new_hit"].to_numpy()
        less = at10 - base["hit"].to_numpy(), at50 - base["new_hit"].to_numpy()
        key = name.replace(",", "").replace(" + ", "_").replace(" ", "_")
        summary[f"{key}/hit10"] = rate(at10, everything)
        summary[f"{key}/new_hit50"] = rate(at50, new)
        lines.append(
            {
                "ranked by": name,
                f"hit@{HIT}": summary[f"{key}/hit10"],
                "above own history + lift": None if name == LIFT else rate(less[0], everything),
                f"hit@{NEW_HIT}, never bought": summary[f"{key}/new_hit50"],
                "above it": None if name == LIFT else rate(less[1], new),
            }
        )
        if name == FULL:
            summary["visit.cart_hit10_minus_lift"] = rate(less[0], everything)
            summary["visit.cart_new_hit50_minus_lift"] = rate(less[1], new)
    of_cart = [hits[FULL][name].to_numpy() - hits[NO_CART][name].to_numpy() for name in KINDS]
    summary["cart_brings/hit10"] = rate(of_cart[0], everything)
    summary["cart_brings/new_hit50"] = rate(of_cart[1], new)
    told = [
        ("log lift, training weeks", "log lift, later weeks", "lift", "later_lift"),
        ("learned without lift", "log lift, training weeks", "learned", "lift"),
        ("learned without lift", "log lift, later weeks", "learned", "later_lift"),
    ]
    agreement: list[dict[str, object]] = []
    for one, other, left, right in told if len(pairs) > 2 else ():
        found = Estimate(float(np.corrcoef(pairs[left], pairs[right])[0, 1]), n=len(pairs))
        summary[f"pairs/{left}_{right}"] = found
        agreement.append({"of": one, "with": other, "pairs": len(pairs), "correlation": found})
    table = f"{markdown(lines)}\n{markdown(agreement)}" if agreement else markdown(lines)
    return Report(table, summary, picture(summary))


KINDS = ("hit", "new_hit")


def _hits(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("visit").with_columns(
        hit=(pl.col("rank") < HIT).cast(pl.Float64),
        new_hit=(pl.col("new_rank") < NEW_HIT).cast(pl.Float64),
    )


def picture(summary: dict[str, Estimate]) -> Figure:
    """Draw by how much the completion is above own history with lift, and above itself blind."""
    lines = [
        ("hit@10, above own history + lift", summary["visit.cart_hit10_minus_lift"], BLUE),
        ("hit@10, above no cart", summary["cart_brings/hit10"], BLUE),
        ("hit@50 never bought, above lift", summary["visit.cart_new_hit50_minus_lift"], BLUE),
        ("hit@50 never bought, above no cart", summary["cart_brings/new_hit50"], BLUE),
    ]
    return level_intervals(lines, "difference in the share of hidden items that are hit", mark=0)


def main(config: Config) -> None:
    """Fit, tune, rank and report."""
    use_threads(config.threads)
    run, console = Run("carts", config, results=config.results), Console()
    data = Data.load(config.log)
    models = fitted(config, data, console)
    weights = tuned(data.carts("valid", config.tuning_carts, config.fit.seed))
    for name, (anywhere, new) in weights.items():
        console.print(f"{name}: {anywhere} for all items, {new} for new ones")
    text = data.catalog.embedding
    assert text is not None
    rows = ranked(data.carts("test", config.carts, config.fit.seed), weights, models, text)
    pairs = paired_items(config, data, models[NO_LIFT])
    run.publish(rows, report(rows, pairs), pairs)
    save_model(models[FULL], config.output)
    console.print(f"the completion is in {config.output}")


if __name__ == "__main__":
    run_command(main, Config)
