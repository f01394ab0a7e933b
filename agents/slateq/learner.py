"""The Q-learning update of SlateQ."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from agents.keeper import optimizer_state, restore_optimizer
from agents.slateq.choices import Choice
from agents.slateq.config import SlateQConfig
from agents.slateq.memory import Batch
from agents.slateq.values import ItemValues, Visits


class SlateQLearner:
    """Learns item values from batches of visits. It depends neither on simulators nor on composers.

    Args:
        network: the values, trained in place
        choice: the model of how shoppers click
        size: K, number of positions of a slate
        config: hyper-parameters of the update
    """

    def __init__(
        self, network: ItemValues, choice: Choice, size: int, config: SlateQConfig
    ) -> None:
        self.network = network
        self.choice = choice
        self.size = size
        self.config = config
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        self._optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)

    def state(self) -> dict[str, Any]:
        """Networks, optimizer and the state of the click model, for `restore`."""
        return {
            "network": dict(self.network.state_dict()),
            "averaged": dict(self.averaged.state_dict()),
            "optimizer": optimizer_state(self._optimizer),
            "choice": self.choice.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `state`.

        Raises:
            ValueError: If the state of the optimizer belongs to another network.
        """
        restore_optimizer(self._optimizer, state["optimizer"])
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.choice.restore(state["choice"])

    def start(self, visits: Visits, level: float) -> None:
        """Set the scale of both networks; see `ItemValues.start`."""
        self.network.start(visits, level)
        self.averaged.load_state_dict(self.network.state_dict())

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """The targets r + gamma * Q(s', A') as (B,).

        The trained network chooses the slate A', and the averaged network evaluates it.
        """
        following = batch.following
        _, gains = self.network(following)
        slates = following.at(self.choice.best(following.logits, gains, self.size))
        none, gains = self.averaged(slates)
        value: Tensor = none + (self.choice.chances(slates.logits) * gains).sum(dim=1)
        return batch.reward + self.config.gamma * value.masked_fill(batch.terminated, 0.0)

    def predictions(self, batch: Batch) -> Tensor:
        """Q(s, none) plus the gains of the shown items, weighted by `attribution`, as (B,)."""
        slates = batch.visits.at(batch.places)
        none, gains = self.network(slates)
        weight = (
            batch.clicks
            if self.config.attribution == "clicks"
            else self.choice.chances(slates.logits)
        )
        predicted: Tensor = none + (gains * weight).sum(dim=1)
        return predicted

    def update(self, batch: Batch, rate: float = 1.0) -> Tensor:
        """Take one gradient step on the Huber loss, and return the loss ().

        Args:
            batch: visits to learn from
            rate: factor on the learning rate
        """
        # visits whose next one is unknown have no target and get no weight
        targets = self.targets(batch)
        use = (batch.known | batch.terminated).float()
        errors = nn.functional.huber_loss(
            self.predictions(batch), targets, reduction="none", delta=self.config.huber
        )
        loss = (errors * use).sum() / use.sum().clamp(min=1)

        # the gradient step of the trained network
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self._optimizer.step()

        # the averaged network follows
        with torch.no_grad():
            for old, new in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                old.lerp_(new, self.config.target_rate)
        return loss.detach()
