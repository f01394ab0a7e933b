"""Training of `CartCompletion` on baskets of which a random part is hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.settings import AMOUNT, ONE_OR_MORE, RATE, SEED, SHARE, Within, settle
from recsim_env.shoppers.carts.examples import LARGEST_BASKET, CartExamples, masked
from recsim_env.shoppers.carts.lift import PairLift
from recsim_env.shoppers.carts.model import CartCompletion, CompletionConfig
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.weights import MOST as SIZES

Progress = Callable[[int, int], None]
"""Is called after each step with its number and that of all."""
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class CompletionFit:
    """How a completion is fitted."""

    epochs: int = 3
    """Number of passes over the baskets; in each, other parts of them are hidden."""
    batch: int = 256
    """Number of baskets of a step."""
    learning_rate: float = 5e-3
    """Peak learning rate of AdamW; it rises over a twentieth of the steps and falls to zero."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW."""
    hidden_size: int = 48
    """Width of item vectors and attention."""
    head_size: int = 48
    """Width of the hidden part of each pair."""
    dropout: float = 0.1
    """Share of the attention's activations that are hidden in training."""
    use_cart: bool = True
    """Whether the model sees the cart; False is for ablations."""
    use_lift: bool = True
    """Whether it sees the lift of the pairs; False is for ablations."""
    seed: int = 0
    """Seed of the initial weights, the hidden parts, the order, and dropout."""

    def __post_init__(self) -> None:
        """Check the type and the range of every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            epochs=ONE_OR_MORE,
            batch=ONE_OR_MORE,
            learning_rate=RATE,
            weight_decay=AMOUNT,
            hidden_size=Within(1, SIZES["hidden"]),
            head_size=Within(2, SIZES["hidden"]),
            dropout=SHARE,
            seed=SEED,
        )


def fit_completion(
    examples: CartExamples,
    catalog: Catalog,
    promotions: StorePromotions,
    lift: PairLift,
    own_lift: Tensor,
    config: CompletionFit,
    progress: Progress = lambda step, steps: None,
) -> CartCompletion:
    """Fit a model on one CPU thread or a GPU, and return it in eval mode.

    The global random generators stand afterwards where they stood.

    Args:
        examples: the baskets
        catalog: the items
        promotions: what the stores promote
        lift: what carts say about items that are not in the basket
        own_lift: (N, N) log lift with the basket itself left out, for items that are in it
        config: how
        progress: is told each step
    """
    assert catalog.embedding is not None
    with torch.random.fork_rng(devices=[]):
        # the model, whose first weights and dropout come from torch's own generator
        torch.manual_seed(config.seed)
        generator = torch.Generator().manual_seed(config.seed)
        model = CartCompletion(
            CompletionConfig(
                len(catalog),
                catalog.embedding.shape[1],
                config.hidden_size,
                head_size=config.head_size,
                dropout=config.dropout,
                use_cart=config.use_cart,
                use_lift=config.use_lift,
            )
        )
        model.train()

        # one cycle of the learning rate over all epochs
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        steps = config.epochs * -(-len(examples) // config.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=steps + 1, pct_start=WARM_UP
        )
        step = 0
        for _ in range(config.epochs):
            for rows in torch.randperm(len(examples), generator=generator).split(config.batch):
                loss = completion_loss(
                    model, examples, rows, catalog.embedding, promotions, lift, own_lift, generator
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                step += 1
                progress(step, steps)
    model.train(False)
    return model


def completion_loss(
    model: CartCompletion,
    examples: CartExamples,
    rows: Tensor,
    text: Tensor,
    promotions: StorePromotions,
    lift: PairLift,
    own_lift: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Compute the cross-entropy (), a visit, of the rest of baskets with random carts.

    Items that were not bought are a sample; the offset corrects for it.

    Args:
        model: the model
        examples: the baskets
        rows: (B,) int64 those of the batch
        text: (N, text_width) embeddings
        promotions: as for `fit_completion`
        lift: as for `fit_completion`
        own_lift: as for `fit_completion`
        generator: draws the carts
    """
    # a random part of each basket is the cart
    items = examples.items[rows].long()
    basket = items[:, :LARGEST_BASKET]
    width = max(int((basket >= 0).sum(dim=1).max()), 1)
    basket = basket[:, :width]
    stay = masked(basket, torch.rand(len(rows), width + 1, generator=generator))
    cart = basket.where(stay, -1)
    vectors = model.vectors(text)
    visit = model.visit(
        vectors,
        examples.context[rows],
        examples.held[rows].long(),
        examples.counts[rows].float(),
        cart,
    )

    # what is scored: the basket, and the sample of items that were not bought
    columns = torch.cat([torch.arange(width), torch.arange(LARGEST_BASKET, items.shape[1])])
    scored, offset = items[:, columns], examples.offset[rows][:, columns]
    stats = examples.stats[rows][:, columns].float()
    at = scored.clamp(min=0)
    of_cart = torch.cat(
        [
            lift.of_carts(cart, at[:, :width], own_lift),
            lift.of_carts(cart, at[:, width:]),
        ],
        dim=1,
    )
    week = examples.week[rows].clamp(max=len(promotions.item_context) - 1).unsqueeze(1)
    promoted = promotions.placement[examples.store_week[rows].unsqueeze(1), at] > 0
    logits = model(vectors, visit, at, stats, promotions.item_context[week, at], promoted, of_cart)

    # items of the cart are known, and do not count
    label = torch.zeros_like(logits)
    label[:, :width] = 1.0
    counted = (scored >= 0).float()
    counted[:, :width] *= ~stay
    each = F.binary_cross_entropy_with_logits(logits + offset, label, reduction="none")
    return (each * counted).sum() / len(rows)
