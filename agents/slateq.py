"""SlateQ: the long-term value of a slate, as a mixture of the long-term values of its items.

Ie et al. 2019, "SlateQ: a tractable decomposition for reinforcement learning with recommendation
sets": section 4 (the decomposition and its Q-learning), section 5 (finding a slate). With one click
or none a visit, where only the click matters to reward and future, the value of showing slate A in
state s is

    Q(s, A) = sum over i of A and "no click" of P(i | s, A) Q(s, i)
            = Q(s, none) + sum over i of A of P(i | s, A) gain(s, i),         gain(s, i) = Q(s, i) - Q(s, none)

because the chances sum to 1; and Q(s, i) is what follows when i is clicked, learned from visits in
which it was:

    Q(s, i) <- r + discount * max over slates A' of Q(s', A')

**Several clicks.** Shoppers here may click several positions of a slate. The second form above goes
on: P(i | s, A) is then the chance that i is among the clicks C, gains add up, and

    Q(s, none) + sum over i of C of gain(s, i) <- r + discount * max over A' of Q(s', A')

is fitted on every visit. With at most one click that is SlateQ to the letter. Under position-based
clicks Q(s, A) is linear in the slate, so the K best of sigmoid(logit_i) gain(s, i), best first, are
exactly the best slate.

**Hidden states.** What follows a click on i is what the click causes only if s is the whole state.
A shop does not see patience or boredom, and a click is good news about both: learned from clicks,
an item whose click says much about the shopper looks as if it made the shopper stay.
`slateq_chances` therefore fits Q(s, A) itself to the same target,

    Q(s, none) + sum over i of A of P(i | s, A) gain(s, i) <- r + discount * max over A' of Q(s',
    A')

Both have the same solution where the paper's assumptions hold; but given what the shop knows, A
depends on nothing but the exploration, so here no news is taken for an effect. It costs variance:
what was clicked is not used.

**Reward.** r is the whole reward of the visit, terms of the slate as a whole (diversity) included.
Such a one is spread over the items it came with, so the objective is the environment's as far as a
sum over items can tell it: how the items of one slate go together is beyond the decomposition.

The values of the next visit come from its own state s' (google/recsim passes s to its target
network, its issue 26), with the slate chosen by the trained network and judged by the averaged one
(van Hasselt et al. 2016, double DQN).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from agents.base import Ground, Learned, Watch, register_agent, unwatched
from agents.keeper import Keeper, optimizer_state, restore_optimizer
from policies.base import filled, tuned
from policies.composer import Composer, ComposerConfig
from policies.rankers.networks import Standardizer, tower
from recsim_env import noise
from recsim_env.rollout import draws_for
from recsim_env.settings import AMOUNT, ONE_OR_MORE, POSITIVE, RATE, SHARE, WIDTH, settle
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

WATCHES = 10
"""How often `Ground.watch` is called on the way."""
BELIEVED_CLICKS = 10.0
"""How many expected clicks of each position the belief that it is always looked at counts as."""
TINY = 1e-30


@dataclass(frozen=True)
class SlateQConfig:
    """Hyper-parameters of SlateQ."""

    gamma: float = tuned(0.9, 0.9, 0.99)
    """Discount a visit."""
    temperature: float = tuned(1.27, 0.1, 1.5)
    """Exploration: scale of the Gumbel noise on the logits, so that the untrained agent samples
    from their softmax at this temperature."""
    attribution: Literal["clicks", "chances"] = "clicks"
    """What a visit teaches: the values of what was clicked, as in the paper, or of all that was
    shown, each by its chance of a click; see the module."""
    learning_rate: float = 2e-3
    """Of Adam at the start; it falls to 0 along a line."""
    batch_size: int = 512
    """Visits in an update."""
    updates: int = 3
    """Updates after every visit of all shoppers."""
    memory: int = 20_480
    """Visits that are remembered."""
    warm_up: int = 5_120
    """Visits served before the first update."""
    target_rate: float = 0.02
    """How far the averaged network moves towards the trained one at an update."""
    reward_scale: float = 0.1
    """Factor on the environment's reward: a network learns values of the order of 1 faster."""
    huber: float = 10.0
    """Scaled reward from which on an error counts linearly. A shopper who leaves is an error of the
    order of a whole return and must keep its weight, so this only guards against blow-ups."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened."""
    pool: int = 64
    """P, how many of the best candidates by CTR are looked at."""
    hidden: int = 64
    """Width of the state's two hidden layers."""
    item_hidden: int = 32
    """Width of the layer where state and item meet."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            gamma=SHARE,
            temperature=AMOUNT,
            learning_rate=RATE,
            batch_size=ONE_OR_MORE,
            updates=ONE_OR_MORE,
            memory=ONE_OR_MORE,
            target_rate=RATE,
            reward_scale=POSITIVE,
            huber=POSITIVE,
            max_grad_norm=POSITIVE,
            pool=ONE_OR_MORE,
            hidden=WIDTH,
            item_hidden=WIDTH,
        )
        if self.gamma == 1:
            raise ValueError(f"gamma is {self.gamma!r}, but it must be at least 0 and below 1.")


@dataclass(frozen=True)
class SlateQChancesConfig(SlateQConfig):
    """SlateQ that learns from all that was shown."""

    gamma: float = tuned(0.97, 0.9, 0.99)
    """As in `SlateQConfig`, like the others here."""
    temperature: float = tuned(0.5, 0.1, 1.5)
    attribution: Literal["clicks", "chances"] = "chances"


# ---- what is looked at -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visits:
    """B visits before the slate. Dimensions: B visits, P pool, F state features, Z item features."""

    features: Tensor
    """(B, F) float32, the state."""
    items: Tensor
    """(B, P, Z) float32, what is known of each pool item, finite everywhere."""
    logits: Tensor
    """(B, P) float32, how much each appeals for now; -inf where the pool has no item."""
    ids: Tensor
    """(B, P) int64 catalogue items, -1 where the pool has no item."""

    def at(self, places: Tensor) -> Visits:
        """The same with the pool cut to places (B, K)."""
        of_items = places.unsqueeze(2).expand(-1, -1, self.items.shape[2])
        return Visits(
            self.features,
            self.items.gather(1, of_items),
            self.logits.gather(1, places),
            self.ids.gather(1, places),
        )

    def slates(self, places: Tensor, size: int) -> Tensor:
        """Item ids (B, size) of places (B, at most size)."""
        return filled(self.ids.gather(1, places), size)


Look = Callable[[Observation], Visits]
"""How a learner sees an observation."""


class ComposerLook:
    """The state, the pool and its cues as `policies.composer.Composer` has them."""

    def __init__(self, composer: Composer) -> None:
        self.composer = composer

    @torch.no_grad()
    def __call__(self, observation: Observation) -> Visits:
        """Z is the logit, the cues and the principal components."""
        view = self.composer.view(observation)
        absent = view.pool.items < 0
        logits = view.pool.logits.masked_fill(absent, -torch.inf)
        items = torch.cat(
            [logits.masked_fill(absent, 0.0).unsqueeze(2), view.cues, view.vectors], dim=2
        )
        return Visits(view.features, items, logits, view.pool.items)


# ---- how shoppers choose, and the best slate for that ----------------------------------------------------------------


def top_k(appeal: Tensor, gains: Tensor, size: int) -> Tensor:
    """The items with the best appeal * gain, best first (Ie et al. 2019, section 5, there with `Q(s, none)` = 0).

    Shapes: appeal (B, P) not negative, 0 = no item; gains (B, P); returns places (B, min(size, P))
    int64.
    """
    scores = (appeal * gains).masked_fill(appeal <= 0, -torch.inf)
    return scores.topk(min(size, scores.shape[1]), dim=1).indices


def greedy(appeal: Tensor, gains: Tensor, none: float, size: int) -> Tensor:
    """Adds the item that makes the slate so far worth most, and again (Ie et al. 2019, section 5).

    A slate is worth sum(appeal * gain) / (none + sum(appeal)), the gain expected from a single
    choice.

    Shapes: as `top_k`; none is the appeal of clicking nothing.
    """
    weighted, taken = appeal * gains, appeal <= 0
    value, mass = torch.zeros_like(appeal[:, :1]), torch.full_like(appeal[:, :1], none)
    places = []
    for _ in range(min(size, appeal.shape[1])):
        worth = (value + weighted) / (mass + appeal).clamp(min=TINY)
        chosen = worth.masked_fill(taken, -torch.inf).argmax(dim=1, keepdim=True)
        value, mass = value + weighted.gather(1, chosen), mass + appeal.gather(1, chosen)
        taken = taken.scatter(1, chosen, True)
        places.append(chosen)
    return torch.cat(places, dim=1)


class Choice(Protocol):
    """How shoppers click in a slate."""

    def chances(self, logits: Tensor) -> Tensor:
        """Chance of a click at each position: logits (B, K) of a slate, top position first; returns (B, K)."""

    def best(self, logits: Tensor, gains: Tensor, size: int) -> Tensor:
        """The slate with the most gain: logits, gains (B, P); returns places (B, min(size, P)) int64."""

    def learn(self, logits: Tensor, clicks: Tensor, shown: Tensor) -> None:
        """Learn from B slates: logits (B, K), clicks (B, K) bool, shown (B, K) bool."""

    def state(self) -> dict[str, Tensor]:
        """What was learned, for `restore`."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state` gave."""


class SingleChoice:
    """One click or none: P(i | A) = exp(logit_i) / (none + sum over A of exp(logit)), the conditional logit model.

    Args:
        none: appeal of clicking nothing
        quick: find slates by `top_k`, not `greedy`
    """

    def __init__(self, none: float, *, quick: bool = False) -> None:
        if not none > 0:
            raise ValueError(
                f"none is {none!r}, but the appeal of clicking nothing must be above 0."
            )
        self.none = none
        self.quick = quick

    def chances(self, logits: Tensor) -> Tensor:
        """(B, K)."""
        appeal = logits.exp()
        return appeal / (self.none + appeal.sum(dim=1, keepdim=True))

    def best(self, logits: Tensor, gains: Tensor, size: int) -> Tensor:
        """(B, K)."""
        appeal = logits.exp()
        return top_k(appeal, gains, size) if self.quick else greedy(appeal, gains, self.none, size)

    def learn(self, logits: Tensor, clicks: Tensor, shown: Tensor) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to take."""


class PositionBased:
    """Any number of clicks: P(i at position j) = e_j sigmoid(logit_i), each on its own; what makes `top_k` exact.

    The e_j are estimated: clicks at a position by what the logits promised there. So they also take
    up what the logits are wrong about on the whole. They matter to how much a slate is worth and,
    as long as they fall, not to which.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self._clicks = torch.full((size,), BELIEVED_CLICKS, dtype=torch.float64, device=device)
        self._promised = self._clicks.clone()

    @property
    def examination(self) -> Tensor:
        """E (K,) float32."""
        return (self._clicks / self._promised).float()

    def chances(self, logits: Tensor) -> Tensor:
        """(B, K)."""
        return (torch.sigmoid(logits) * self.examination[: logits.shape[1]]).clamp(max=1)

    def best(self, logits: Tensor, gains: Tensor, size: int) -> Tensor:
        """(B, K)."""
        return top_k(torch.sigmoid(logits), gains, size)

    def learn(self, logits: Tensor, clicks: Tensor, shown: Tensor) -> None:
        """Count."""
        width = logits.shape[1]
        self._clicks[:width] += (clicks & shown).double().sum(dim=0)
        self._promised[:width] += (torch.sigmoid(logits) * shown).double().sum(dim=0)

    def state(self) -> dict[str, Tensor]:
        """The counts."""
        return {"clicks": self._clicks, "promised": self._promised}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the counts."""
        self._clicks, self._promised = state["clicks"], state["promised"]


# ---- item values -----------------------------------------------------------------------------------------------------


class ItemValues(nn.Module):
    """Q(s, none) and the gain of every pool item. A subclass has `forward`, and `start` where it needs one."""

    def forward(self, visits: Visits) -> tuple[Tensor, Tensor]:
        """Q(s, none) (B,) and gain(s, i) = Q(s, i) - Q(s, none) (B, P)."""
        raise NotImplementedError

    def start(self, visits: Visits, level: float) -> None:
        """Before the first update: what was seen in the warm-up, and about what a visit and all after it are worth."""


class FactorisedValues(ItemValues):
    """State and item meet in one small layer, so the state's part is worked out once for the whole pool.

        x = tower(state),    Q(s, none) = a . x,    gain(s, i) = b . tanh(A x + B item_i)

    It starts with the same gain for every item and state: the best slate is then the one with the
    best logits.
    """

    def __init__(
        self, width: int, item_width: int, config: SlateQConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.standardize = Standardizer(width)
        self.standardize_item = Standardizer(item_width)
        self.state = nn.Sequential(
            tower(width, (config.hidden,), config.hidden, generator), nn.Tanh()
        )
        self.none = tower(config.hidden, (), 1, generator, gain=0.0)
        self.of_state = tower(config.hidden, (), config.item_hidden, generator)
        self.of_item = tower(item_width, (), config.item_hidden, generator)
        self.gain = tower(config.item_hidden, (), 1, generator, gain=0.0)
        _set_bias(self.gain, config.reward_scale)  # a click more and nothing else

    def forward(self, visits: Visits) -> tuple[Tensor, Tensor]:
        """(B,) and (B, P)."""
        state = self.state(self.standardize(visits.features))
        meeting = self.of_state(state).unsqueeze(1) + self.of_item(
            self.standardize_item(visits.items)
        )
        return self.none(state).squeeze(1), self.gain(torch.tanh(meeting)).squeeze(2)

    @torch.no_grad()
    def start(self, visits: Visits, level: float) -> None:
        """Fix the scale of the features, and let every value be `level`."""
        self.standardize.fit(visits.features)
        self.standardize_item.fit(visits.items[visits.ids >= 0])
        _set_bias(self.none, level)


def _set_bias(network: nn.Sequential, value: float) -> None:
    last = network[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, value)


# ---- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Visits, what was shown and what followed."""

    visits: Visits
    places: Tensor
    """(B, K) int64, the slate as places in the pool, top position first."""
    clicks: Tensor
    """(B, K) bool."""
    reward: Tensor
    """(B,) float32, scaled."""
    terminated: Tensor
    """(B,) bool, the shopper lapsed: nothing follows."""
    following: Visits
    """The next visits of the same shoppers; anything where `terminated` or not `known`."""
    known: Tensor
    """(B,) bool, False where the next visit was cut off by the horizon: such a visit teaches
    nothing."""


class Memory:
    """The last visits of B shoppers, on their device. The visit after one is the next one of its row.

    Args:
        rounds: visits of every shopper that are kept, at least 2
    """

    def __init__(self, rounds: int) -> None:
        if rounds < 2:
            raise ValueError(
                f"rounds is {rounds}, but a visit and the one after it must fit into the memory."
            )
        self._rounds = rounds
        self._kept: dict[str, Tensor] = {}  # (rounds, B, ...) each
        self._added = 0

    def state(self) -> dict[str, Any]:
        """What is remembered, for `restore`; the room that was never written to is left out."""
        there = min(self._added, self._rounds)
        return {
            "kept": {name: value[:there] for name, value in self._kept.items()},
            "added": self._added,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self._added = state["added"]
        self._kept = {}
        for name, value in state["kept"].items():
            self._kept[name] = value.new_zeros(self._rounds, *value.shape[1:])
            self._kept[name][: len(value)] = value

    @property
    def pairs(self) -> int:
        """How many rounds are there whose next one is there as well."""
        return max(min(self._added, self._rounds) - 1, 0)

    def add(
        self,
        visits: Visits,
        places: Tensor,
        clicks: Tensor,
        reward: Tensor,
        terminated: Tensor,
        known: Tensor,
    ) -> None:
        """Add a visit of every shopper; the shapes of `Batch`."""
        new = {**vars(visits), "places": places, "clicks": clicks, "reward": reward}
        new |= {"terminated": terminated, "known": known}
        if not self._kept:
            self._kept = {
                name: value.new_zeros(self._rounds, *value.shape) for name, value in new.items()
            }
        for name, value in new.items():
            self._kept[name][self._added % self._rounds] = value
        self._added += 1

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """Visits drawn with replacement, each as likely as any other.

        Raises:
            ValueError: If `pairs` is 0.
        """
        if self.pairs == 0:
            raise ValueError(
                "The memory holds no visit with the one after it, but a batch is made of such."
            )
        device = self._kept["reward"].device
        ago = torch.randint(self.pairs, (size,), generator=generator).to(device) + 2
        row = torch.randint(self._kept["reward"].shape[1], (size,), generator=generator).to(device)
        at = (self._added - ago) % self._rounds
        own = {
            name: self._kept[name][at, row]
            for name in ("places", "clicks", "reward", "terminated", "known")
        }
        return Batch(
            visits=self._visits(at, row),
            following=self._visits((at + 1) % self._rounds, row),
            **own,
        )

    def _visits(self, at: Tensor, row: Tensor) -> Visits:
        return Visits(
            **{name: self._kept[name][at, row] for name in ("features", "items", "logits", "ids")}
        )


# ---- learner ---------------------------------------------------------------------------------------------------------


class SlateQLearner:
    """Learns item values from batches. Knows nothing of simulators or composers.

    Args:
        network: trained in place
        choice: how shoppers click
        size: K
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
        """Networks, optimizer and what is known of the choice, for `restore`."""
        return {
            "network": dict(self.network.state_dict()),
            "averaged": dict(self.averaged.state_dict()),
            "optimizer": optimizer_state(self._optimizer),
            "choice": self.choice.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave.

        Raises:
            ValueError: If the optimizer is about another network.
        """
        restore_optimizer(self._optimizer, state["optimizer"])
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.choice.restore(state["choice"])

    def start(self, visits: Visits, level: float) -> None:
        """Set the networks on a scale; see `ItemValues.start`."""
        self.network.start(visits, level)
        self.averaged.load_state_dict(self.network.state_dict())

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """R + gamma * Q(s', A'), with A' the best slate for the trained network and Q of the averaged one: (B,)."""
        following = batch.following
        _, gains = self.network(following)
        slates = following.at(self.choice.best(following.logits, gains, self.size))
        none, gains = self.averaged(slates)
        value: Tensor = none + (self.choice.chances(slates.logits) * gains).sum(dim=1)
        return batch.reward + self.config.gamma * value.masked_fill(batch.terminated, 0.0)

    def predictions(self, batch: Batch) -> Tensor:
        """Q(s, none) plus the gains of what was clicked, or of everything shown by its chance of a click: (B,)."""
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
        """One step down the Huber loss, the learning rate times `rate`; returns the loss ()."""
        targets = self.targets(batch)
        use = (batch.known | batch.terminated).float()
        errors = nn.functional.huber_loss(
            self.predictions(batch), targets, reduction="none", delta=self.config.huber
        )
        loss = (errors * use).sum() / use.sum().clamp(min=1)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self._optimizer.step()
        with torch.no_grad():
            for old, new in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                old.lerp_(new, self.config.target_rate)
        return loss.detach()


# ---- policy ----------------------------------------------------------------------------------------------------------


class SlateQPolicy:
    """Shows the slate with the best value; with a temperature, that for logits with Gumbel noise of such a scale.

    Args:
        pool: P, the uniform numbers that a noisy slate takes
    """

    def __init__(
        self,
        look: Look,
        network: ItemValues,
        choice: Choice,
        size: int,
        *,
        pool: int = 0,
        temperature: float = 0.0,
    ) -> None:
        self.look = look
        self.network = network
        self.draws = pool if temperature > 0 else 0
        self._choice = choice
        self._size = size
        self._temperature = temperature

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K)."""
        visits = self.look(observation)
        return visits.slates(self.choose(visits, draws), self._size)

    @torch.no_grad()
    def choose(self, visits: Visits, draws: Tensor) -> Tensor:
        """Places in the pool (B, min(K, P))."""
        _, gains = self.network(visits)
        logits = visits.logits
        if self.draws:
            gumbel = -torch.log(-torch.log(draws[:, : logits.shape[1]].clamp(TINY, 1 - 2**-24)))
            logits = logits + self._temperature * gumbel
        return self._choice.best(logits, gains, self._size)


# ---- learning by serving ---------------------------------------------------------------------------------------------


def serve(
    simulator: SlateSimulator,
    look: Look,
    learner: SlateQLearner,
    *,
    pool: int,
    seed: int,
    steps: int,
    shoppers: int,
    watch: Watch = unwatched,
    keeper: Keeper | None = None,
    about: Mapping[str, object] | None = None,
) -> dict[str, float]:
    """Serve shoppers with noisy slates and learn from their visits. Returns facts: the loss, and values on the way.

    Args:
        pool: P, the widest pool that `look` returns
        seed: of the shoppers, the exploration and the batches
        steps: visits in all, at least one
        shoppers: served at once, at least one
        watch: called with the visits so far and the greedy policy as it stands
        keeper, about: keeps what is needed to go on, and what the training depends on, see
            `Keeper.found`
    """
    config, size = learner.config, learner.size
    rounds, warm_up = steps // shoppers, max(-(-config.warm_up // shoppers), 2)
    memory = Memory(max(config.memory // shoppers, 2))
    generator = torch.Generator().manual_seed(seed)
    exploring = SlateQPolicy(
        look, learner.network, learner.choice, size, pool=pool, temperature=config.temperature
    )
    best = SlateQPolicy(look, learner.averaged, learner.choice, size)
    visits = look(simulator.reset(_training_seeds(seed, shoppers)))
    losses = torch.zeros((), device=simulator.device)
    rewards, lapses, updates, first = torch.zeros_like(losses), torch.zeros_like(losses), 0, 0
    keeper = keeper or Keeper()
    like = _state(0, (losses, rewards, lapses), 0, learner, memory, generator, None)
    like["learner"]["optimizer"] = like["memory"]["kept"] = None
    if found := keeper.found(about or {}, like, simulator.device):
        first, updates, (losses, rewards, lapses) = found["round"], found["updates"], found["sums"]
        generator = found["generator"]
        learner.restore(found["learner"])
        memory.restore(found["memory"])
        simulator.restore(found["simulator"])
        visits = look(simulator.observe())
    for at in range(first, rounds):
        keeper.keep(
            partial(
                _state,
                at,
                (losses, rewards, lapses),
                updates,
                learner,
                memory,
                generator,
                simulator,
            )
        )
        if at % max(rounds // WATCHES, 1) == 0:
            watch(at * shoppers, best)
        now = simulator.episodes
        places = exploring.choose(visits, draws_for(exploring, now.seed, now.visit, now.number))
        outcome = simulator.advance(visits.slates(places, size))
        shown = simulator.episodes.recent_slates[:, 0, : places.shape[1]] >= 0
        clicks = simulator.episodes.recent_clicks[:, 0, : places.shape[1]]
        learner.choice.learn(visits.logits.gather(1, places), clicks, shown)
        reward = config.reward_scale * outcome.reward
        memory.add(visits, places, clicks, reward, outcome.terminated, ~outcome.truncated)
        rewards, lapses = rewards + reward.mean(), lapses + outcome.terminated.float().mean()
        simulator.restart(outcome.ended.nonzero().squeeze(1))
        visits = look(simulator.observe())
        if at + 1 == warm_up:
            level = rewards / (
                warm_up - config.gamma * (warm_up - lapses)
            )  # r / (1 - gamma (1 - lapse rate))
            learner.start(memory.draw(4 * config.batch_size, generator).visits, float(level))
        if at + 1 >= warm_up:
            for _ in range(config.updates):
                rate = 1 - (at + 1 - warm_up) / max(rounds - warm_up, 1)
                losses = losses + learner.update(memory.draw(config.batch_size, generator), rate)
                updates += 1
    watch(rounds * shoppers, best)
    return {
        "loss": float(losses) / max(updates, 1),
        "updates": updates,
        "reward_per_visit": float(rewards) / rounds,
    }


def _state(
    at: int,
    sums: tuple[Tensor, Tensor, Tensor],
    updates: int,
    learner: SlateQLearner,
    memory: Memory,
    generator: torch.Generator,
    simulator: SlateSimulator | None,
) -> dict[str, Any]:
    """What `serve` needs to go on with round `at`."""
    return {
        "round": at,
        "sums": sums,
        "updates": updates,
        "learner": learner.state(),
        "memory": memory.state(),
        "generator": generator,
        "simulator": None if simulator is None else simulator.state(),
    }


@register_agent("slateq_chances", SlateQChancesConfig)
@register_agent("slateq", SlateQConfig)
def slateq(ground: Ground, config: SlateQConfig) -> Learned:
    """Learn item values by serving; before the first update it is greedy CTR.

    Raises:
        ValueError: If there is no shopper or no step.
    """
    for name in ("steps", "shoppers"):
        if getattr(ground, name) < 1:
            raise ValueError(
                f"{name} is {getattr(ground, name)}, but SlateQ learns from at least one."
            )
    simulator, shoppers = ground.simulator, min(ground.shoppers, ground.steps)
    composer = Composer(ground.inputs, ComposerConfig(pool=config.pool))
    look, size, pool = ComposerLook(composer), simulator.slate_size, composer.pool_size
    example = look(simulator.reset(_training_seeds(ground.seed, 1)))
    generator = torch.Generator().manual_seed(ground.seed)
    network = FactorisedValues(example.features.shape[1], example.items.shape[2], config, generator)
    choice = PositionBased(size, simulator.device)
    learner = SlateQLearner(network.to(simulator.device), choice, size, config)

    def policy(temperature: float = 0.0) -> SlateQPolicy:
        network = copy.deepcopy(learner.averaged)
        return SlateQPolicy(look, network, choice, size, pool=pool, temperature=temperature)

    untrained, untrained_sampled = policy(), policy(config.temperature)
    facts = serve(
        simulator,
        look,
        learner,
        pool=pool,
        seed=ground.seed,
        steps=ground.steps,
        shoppers=shoppers,
        watch=ground.watch,
        keeper=ground.keeper,
        about=ground.about(config),
    )
    facts |= {f"examination/{j}": chance for j, chance in enumerate(choice.examination.tolist())}
    steps = ground.steps // shoppers * shoppers
    return Learned(policy(), policy(config.temperature), untrained, untrained_sampled, steps, facts)


def _training_seeds(seed: int, shoppers: int) -> Tensor:
    """(shoppers,) int64, other episodes for another seed."""
    key = noise.episode_key(torch.tensor([seed]), torch.tensor([0]), stream=noise.Stream.TRAINING)
    return noise.mix(key + torch.arange(shoppers))
