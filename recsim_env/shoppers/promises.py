"""What a shopper returned, held against what it promises (`recsim_env.shoppers.base.Shopper`).

There is one function for each method, and one sentence for a broken promise: which method returned
what, and what was expected. The simulator checks types, shapes and devices at every answer. Numbers
it checks at every answer on a CPU, and at the first answer of each method on a GPU, where a look
takes a synchronisation. Of shoppers that are `trusted` it checks the first answer of each method
alone. `recsim_env.testing.check_shopper` checks all of it at every answer. On the device `meta`,
where tensors have no numbers, only types, shapes and devices are checked.

Each function raises ValueError.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from recsim_env import checks, trees
from recsim_env.catalog import MOST_ITEMS, Catalog
from recsim_env.noise import MOST_DRAWS
from recsim_env.shoppers.base import HIDDEN, Shopper, checked_discounts, name_of
from recsim_env.shoppers.cold import NEW_CANDIDATES, NEWCOMER
from recsim_env.tensors import shared
from recsim_env.types import Response

TAKEN = (
    "recent_slates",
    "recent_clicks",
    "recent_days",
    "candidates",
    NEWCOMER,
    NEW_CANDIDATES,
)
"""Keys of an observation that are the simulator's own."""
WATCHED = 16
"""Rows of the candidates and of an observation whose numbers are looked at: the whole of them can
be large."""
PLACE = ("day", "week", "store")
"""Keys of `when_and_where`."""
MOST_NUMBER = torch.finfo(torch.float32).max
"""The largest finite number of days or of items bought elsewhere."""
_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_DEPTH = 4  # of a hidden state: how deep its tensors are looked for


def trusted(shopper: Shopper[Any]) -> bool:
    """Tell whether the class of a shopper, and not one above it, says `trusted = True`."""
    return bool(vars(type(shopper)).get("trusted", False))


def check_parts(shopper: Any) -> None:
    """Check that an object is a `Shopper` whose `__init__` called that of `Shopper`.

    Raises:
        ValueError: If it is none, or if one of its attributes is missing or of the wrong type.
    """
    if not isinstance(shopper, Shopper):
        raise ValueError(f"shopper is {checks.told(shopper)}, but it must be a Shopper.")
    name = name_of(shopper)
    try:
        catalog, device = shopper.catalog, shopper.device
        numbers = {
            "slate_size": (shopper.slate_size, 1, None),
            "max_candidates": (shopper.max_candidates, 1, MOST_ITEMS),
            "start_draws": (shopper.start_draws, 0, MOST_DRAWS),
            "visit_draws": (shopper.visit_draws, 0, MOST_DRAWS),
        }
        flags = {
            name: getattr(shopper, name)
            for name in (
                "never_leave",
                "tells_purchases",
                "tells_outside_reward",
                "serves_newcomers",
            )
        }
    except AttributeError as error:
        raise ValueError(
            f"{name}.{error.name} is missing, but a Shopper must have it: `super().__init__` sets "
            "it."
        ) from error
    if not isinstance(catalog, Catalog):
        raise ValueError(f"{name}.catalog is {checks.told(catalog)}, but it must be a Catalog.")
    if not isinstance(device, torch.device):
        raise ValueError(f"{name}.device is {checks.told(device)}, but it must be a torch.device.")
    for part, (value, least, most) in numbers.items():
        checks.whole(f"{name}.{part}", value, least, most)
    for part, value in flags.items():
        checks.flag(f"{name}.{part}", value)

    # What only some have.
    if shopper.new_items is not None:
        checks.tensor(f"{name}.new_items", shopper.new_items, (len(catalog),), torch.bool)
    if shopper.discounts != ():
        checked_discounts(f"{name}.discounts", shopper.discounts)


def check_state(shopper: Shopper[Any], found: Any, batch: int) -> None:
    """Check that `start` returned a hidden state of which rows can be taken and put.

    Raises:
        ValueError: If a part has no row a shopper, if several numbers of it lie at one place, or if
            it stands in the state twice.
    """
    try:
        parts = list(trees.leaves(found))
        trees.length(found)
    except TypeError as error:
        broken(shopper, "start", "returned a state that cannot be taken apart", f"{error}"[:-1])

    seen: dict[int, str] = {}
    for place, part in parts:
        # every part has a row a shopper
        where = f"the state's {place.removeprefix('/')!r}" if place else "the state"
        if isinstance(part, Tensor) and part.ndim == 0:
            broken(
                shopper, "start", f"returned a number as {where}", "it must have a row a shopper"
            )
        if len(part) != batch:
            found_rows = f"returned {len(part)} rows as {where}"
            broken(shopper, "start", found_rows, f"it must have {batch}, one a shopper")
        if not isinstance(part, Tensor):
            continue

        # rows are put in place, so no number may share its memory with another
        if overlaps(part):
            broken(
                shopper,
                "start",
                f"returned {where}, in which several numbers lie at one place",
                "rows are written into it: it must be a tensor of its own, such as a clone",
            )
        at = part.data_ptr() if part.layout == torch.strided and not part.is_meta else 0
        if at and at in seen and part.numel():
            broken(
                shopper,
                "start",
                f"returned the memory of {seen[at]} as {where} too",
                "every part of a state must have memory of its own",
            )
        seen[at] = where


def check_spaces(shopper: Any, found: Any) -> None:
    """Check that `spaces` returned a space for each key, and no key of the simulator's."""
    expected = "it must return a space of Gymnasium's for each key of observe"
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        broken(shopper, "spaces", f"returned {checks.told(found)}", expected)
    for key, space in found.items():
        if not isinstance(space, _SPACES):
            kinds = ", ".join(kind.__name__ for kind in _SPACES)
            broken(
                shopper,
                "spaces",
                f"returned {checks.told(space)} for {key!r}",
                f"it must be one of {kinds}",
            )
    taken = sorted(found.keys() & set(TAKEN))
    if taken:
        broken(shopper, "spaces", f"returned the keys {taken}", "those are the simulator's own")


def check_candidates(shopper: Any, found: Any, batch: int, *, numbers: bool = True) -> None:
    """Check that `candidates` returned distinct items in range, padded at the end with -1.

    Args:
        shopper: The shopper.
        found: What `candidates` returned.
        batch: B.
        numbers: Whether the numbers are looked at, those of the first `WATCHED` rows.
    """
    shape, items = (batch, shopper.max_candidates), len(shopper.catalog)
    _check_tensor(shopper, "candidates", "", found, shape, torch.int64)
    if found.is_meta or not numbers:
        return
    rows = found[:1] if shared(found) else found[:WATCHED]
    if rows.is_cpu and _distinct(rows, items):
        return

    # name the first thing that is wrong; rows off the CPU get here untested
    _check_numbers(
        shopper,
        "candidates",
        "",
        rows,
        (rows >= -1) & (rows < items),
        f"an item is 0 to {items - 1}, padding is -1",
    )
    after_padding = torch.zeros_like(rows, dtype=torch.bool)
    after_padding[:, 1:] = (rows[:, 1:] >= 0) & (rows[:, :-1] < 0)
    _check_numbers(
        shopper,
        "candidates",
        "",
        rows,
        ~after_padding,
        "padding with -1 must stand at the end of a row",
    )

    # in sorted rows, an item that is there twice stands beside itself
    ordered = rows.sort(dim=1).values
    twice = torch.zeros_like(after_padding)
    twice[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if bool(twice.any()):
        row, place = twice.nonzero()[0].tolist()
        broken(
            shopper,
            "candidates",
            f"returned the item {int(ordered[row, place])} twice in row {row}",
            "the candidates of a row must be distinct",
        )


def check_observation(
    shopper: Any,
    known: Mapping[str, gymnasium.Space[Any]],
    found: Any,
    batch: int,
    state: Any = None,
    *,
    numbers: bool = True,
) -> None:
    """Check that `observe` returned what `spaces` declared, in tensors of its own.

    Args:
        shopper: The shopper.
        known: What `spaces` returned.
        found: What `observe` returned.
        batch: B.
        state: The hidden state that was observed, whose memory must not be handed out; None means
            that it is not looked at.
        numbers: Whether the numbers are looked at, those of the first `WATCHED` rows.
    """
    if not isinstance(found, Mapping):
        broken(
            shopper,
            "observe",
            f"returned {checks.told(found)}",
            "it must return a mapping of tensors",
        )
    if found.keys() != known.keys():
        broken(
            shopper,
            "observe",
            f"returned the keys {sorted(found)}",
            f"spaces() declared the keys {sorted(known)}",
        )

    hidden = {memory_of(tensor) for tensor in tensors_of(state)}
    for key, value in found.items():
        space = known[key]
        _check_tensor(
            shopper, "observe", key, value, (batch, *(space.shape or ())), _dtype_of(space.dtype)
        )
        if value.is_meta or not numbers:
            continue

        # the numbers, and whose memory they are
        inside = _inside(space, value[:WATCHED].cpu().numpy())
        if not inside.all():
            broken(
                shopper,
                "observe",
                f"returned {key!r} outside of its space in row {np.argwhere(~inside)[0, 0]}",
                f"spaces() declared {checks.told(space)}",
            )
        if value.numel() and memory_of(value) in hidden:
            broken(
                shopper,
                "observe",
                f"returned the memory of the hidden state as {key!r}",
                "a tensor that is returned must be new, such as a clone",
            )


def check_offer(shopper: Any, found: Any, items: Tensor) -> None:
    """Check that `on_offer` returned None, or whether each item (B, K) is on offer."""
    if found is not None:
        _check_tensor(shopper, "on_offer", "", found, tuple(items.shape), torch.bool)


def check_response(
    shopper: Any,
    found: Any,
    shown: Tensor,
    running: Tensor | None = None,
    *,
    numbers: bool = True,
) -> None:
    """Check that `respond` returned what `Response` says.

    Args:
        shopper: The shopper.
        found: What `respond` returned.
        shown: (B, K) bool, what it was given.
        running: (B,) bool, rows whose numbers matter; None means all.
        numbers: Whether the numbers are looked at.
    """
    if not isinstance(found, Response):
        broken(shopper, "respond", f"returned {checks.told(found)}", "it must return a Response")
    batch, size = shown.shape
    _check_tensor(shopper, "respond", "clicks", found.clicks, (batch, size), torch.bool)
    _check_tensor(
        shopper, "respond", "probability", found.probability, (batch, size), torch.float32
    )
    _check_tensor(shopper, "respond", "left", found.left, (batch,), torch.bool)
    _check_tensor(shopper, "respond", "days", found.days, (batch,), torch.float32)
    _check_tensor(shopper, "respond", "elsewhere", found.elsewhere, (batch,), torch.float32)
    if found.leaving is None and shopper.tells_leaving:
        broken(shopper, "respond", "returned no leaving", "tells_leaving is True")
    for key in ("purchases", "outside_reward"):
        there, promised = getattr(found, key) is not None, getattr(shopper, f"tells_{key}")
        if there != promised:
            said = f"returned {key}" if there else f"returned no {key}"
            broken(shopper, "respond", said, f"tells_{key} is {promised}")
    for key, shape, dtype in (
        ("leaving", (batch,), torch.float32),
        ("purchases", (batch, size), torch.bool),
        ("purchase_probability", (batch, size), torch.float32),
        ("outside_reward", (batch,), torch.float32),
        ("basket", (batch, "L"), torch.int64),
        ("carried", (batch, "L"), torch.int64),
    ):
        if (told := getattr(found, key)) is not None:
            _check_tensor(shopper, "respond", key, told, shape, dtype)
    _check_whole(shopper, found, batch)
    if numbers and not shown.is_meta and not (shown.is_cpu and _plausible(shopper, found, shown)):
        _check_response_numbers(shopper, found, shown, running)


def _check_whole(shopper: Any, found: Response, batch: int) -> None:
    """Check the types of what is said of bundles, and that it is said of bundles alone."""
    for key, dtype in (("whole", torch.bool), ("whole_probability", torch.float32)):
        value = getattr(found, key)
        if (value is not None) != bool(shopper.discounts):
            said = f"no {key}" if value is None else key
            broken(shopper, "respond", f"returned {said}", f"discounts is {shopper.discounts}")
        if value is not None:
            _check_tensor(shopper, "respond", key, value, (batch,), dtype)


def _check_response_numbers(
    shopper: Any, found: Response, shown: Tensor, running: Tensor | None
) -> None:
    """Raise with the first number of a running row that cannot be."""
    batch = len(shown)
    over = (
        torch.zeros(batch, dtype=torch.bool, device=shown.device) if running is None else ~running
    )
    clicks, chance, items = found.clicks, found.probability, len(shopper.catalog)
    of_positions = over.unsqueeze(1)

    def check(key: str, value: Tensor, good: Tensor, expected: str) -> None:
        _check_numbers(shopper, "respond", key, value, good, expected)

    check("clicks", clicks, ~clicks | shown | of_positions, "it must be False where shown is False")
    check("probability", chance, _unit(chance) | of_positions, "a chance is from 0 to 1")
    check(
        "probability",
        chance,
        shown | (chance == 0) | of_positions,
        "it must be 0 where shown is False",
    )
    if found.purchases is not None:
        check(
            "purchases",
            found.purchases,
            clicks | ~found.purchases | of_positions,
            "it must be False where clicks is False",
        )
    if found.purchase_probability is not None:
        likely = found.purchase_probability
        good = _unit(likely) & (shown | (likely == 0)) | of_positions
        check("purchase_probability", likely, good, "a chance is from 0 to 1, and 0 if not shown")
    if found.whole is not None and found.whole_probability is not None:
        good = ~found.whole | (clicks == shown).all(dim=1) | over
        check("whole", found.whole, good, "then everything shown must be clicked")
        likely = found.whole_probability
        check("whole_probability", likely, _unit(likely) | over, "a chance is from 0 to 1")
    for key in ("days", "elsewhere"):
        value = getattr(found, key)
        check(
            key,
            value,
            ((value >= 0) & value.isfinite()) | over,
            "it must be a finite number of 0 or more",
        )
    if found.leaving is not None:
        check("leaving", found.leaving, _unit(found.leaving) | over, "a chance is from 0 to 1")
    if found.outside_reward is not None:
        paid = found.outside_reward
        check("outside_reward", paid, paid.isfinite() | over, "it must be a finite number")
    for key in ("basket", "carried"):
        listed = getattr(found, key)
        if listed is not None:
            allowed = (listed >= -1) & (listed < items)
            expected = f"an item is 0 to {items - 1}, padding is -1"
            check(key, listed, allowed | of_positions, expected)


def check_place(shopper: Shopper[Any], found: Any, batch: int) -> None:
    """Check that `when_and_where` returned (B,) int64 for each of its keys.

    Raises:
        ValueError: If it returned anything else, or a key that is not in `PLACE`.
    """
    if not isinstance(found, Mapping) or not found.keys() <= set(PLACE):
        keys = sorted(found) if isinstance(found, Mapping) else checks.told(found)
        expected = f"it must return a mapping whose keys are among {list(PLACE)}"
        broken(shopper, "when_and_where", f"returned {keys}", expected)
    for key, value in found.items():
        _check_tensor(shopper, "when_and_where", key, value, (batch,), torch.int64)


def check_description(shopper: Any, found: Any) -> None:
    """Check that `describe` returned strings, or lists of them for `history` and `hidden`."""
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        broken(
            shopper,
            "describe",
            f"returned {checks.told(found)}",
            "it must return a mapping with strings as keys",
        )
    for key, value in found.items():
        lines = value if isinstance(value, list) and key in ("history", HIDDEN) else [value]
        if not all(isinstance(line, str) for line in lines):
            broken(
                shopper,
                "describe",
                f"returned {checks.told(value)} as {key!r}",
                "it must be a string",
            )


def tensors_of(state: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """Yield the tensors in a hidden state, as deep as `depth` allows."""
    if isinstance(state, Tensor):
        yield state
    elif depth == 0 or isinstance(state, (str, bytes, int, float, type(None))):
        return
    elif isinstance(state, Mapping):
        for part in state.values():
            yield from tensors_of(part, depth - 1)
    elif isinstance(state, (list, tuple)):
        for part in state:
            yield from tensors_of(part, depth - 1)
    elif hasattr(state, "__dict__"):
        yield from tensors_of(vars(state), depth)


def overlaps(tensor: Tensor) -> bool:
    """Tell whether several numbers of a tensor lie at one place, as in an expanded one."""
    return tensor.layout == torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def memory_of(tensor: Tensor) -> int:
    """Return where the numbers of a tensor lie; 0 where it has none.

    Two tensors that share their memory lie at the same place.
    """
    return (
        tensor.untyped_storage().data_ptr()
        if tensor.layout == torch.strided and not tensor.is_meta
        else 0
    )


def _plausible(shopper: Any, found: Response, shown: Tensor) -> bool:
    """Tell by a few reductions whether every number of a response on a CPU is as promised."""
    if shown.numel() == 0:
        return True
    if bool((found.clicks | (found.probability != 0)).gt(shown).any()):
        return False
    if found.purchases is not None and bool(found.purchases.gt(found.clicks).any()):
        return False
    bounds = [(found.probability, 1.0), (found.days, MOST_NUMBER), (found.elsewhere, MOST_NUMBER)]
    likely = (found.leaving, found.purchase_probability, found.whole_probability)
    bounds += [(chance, 1.0) for chance in likely if chance is not None]
    if found.purchase_probability is not None and bool(
        (found.purchase_probability != 0).gt(shown).any()
    ):
        return False
    if found.whole is not None and bool(found.whole.gt((found.clicks == shown).all(dim=1)).any()):
        return False
    bounds.extend(
        (listed + 1, len(shopper.catalog))
        for listed in (found.basket, found.carried)
        if listed is not None and listed.numel()
    )
    paid = found.outside_reward
    if paid is not None and not bool(paid.isfinite().all()):
        return False
    return all(_within(value, most) for value, most in bounds)


def _within(value: Tensor, most: float) -> bool:
    """Tell whether all numbers are from 0 to `most`; NaN is not."""
    least, greatest = value.aminmax()
    return bool(least.item() >= 0 and greatest.item() <= most)


def _distinct(rows: Tensor, items: int) -> bool:
    """Tell whether rows hold distinct items from 0 to `items` - 1, padded at the end with -1."""
    if rows.numel() == 0:
        return True
    least, greatest = rows.aminmax()
    if least.item() < -1 or greatest.item() >= items:
        return False
    held = rows >= 0
    if bool((held[:, 1:] > held[:, :-1]).any()):
        return False
    marked = torch.zeros(len(rows), items + 1, dtype=torch.bool, device=rows.device)
    marked.scatter_(1, rows + 1, True)
    return bool(torch.equal(marked[:, 1:].sum(dim=1), held.sum(dim=1)))


def _inside(space: gymnasium.Space[Any], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which numbers of some rows, of the type and shape of a space, lie in it."""
    if isinstance(space, spaces.Box):
        low, high = space.low, space.high
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(1, np.int64), np.ones(1, np.int64)
    elif isinstance(space, spaces.Discrete):
        low, high = np.asarray(space.start), np.asarray(space.start + space.n - 1)
    else:
        assert isinstance(space, spaces.MultiDiscrete)
        low, high = space.start, space.start + space.nvec - 1
    inside: NDArray[np.bool_] = (values >= low) & (values <= high)
    return inside


@functools.cache
def _dtype_of(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _unit(chance: Tensor) -> Tensor:
    return (chance >= 0) & (chance <= 1)


def _check_tensor(
    shopper: Any,
    method: str,
    key: str,
    value: Any,
    shape: tuple[int | str, ...],
    dtype: torch.dtype,
) -> None:
    """Raise unless a result is a dense tensor of this type and shape on the shopper's device."""
    if (
        isinstance(value, Tensor)
        and value.dtype is dtype
        and value.layout is torch.strided
        and value.shape == shape
        and value.device.type == shopper.device.type
    ):
        return  # as nearly always, and this is asked at every visit
    of = f"{key} as " if key else ""
    lengths = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    expected = f"it must be a {str(dtype).removeprefix('torch.')} tensor of shape ({lengths})"
    if not isinstance(value, Tensor) or value.dtype != dtype or value.layout != torch.strided:
        broken(shopper, method, f"returned {of}{checks.told(value)}", expected)
    if value.ndim != len(shape) or any(
        have != want for have, want in zip(value.shape, shape, strict=True) if want != "L"
    ):
        broken(shopper, method, f"returned {of}{checks.told(value)}", expected)
    if value.device.type != shopper.device.type:
        broken(
            shopper,
            method,
            f"returned {of}a tensor on {value.device}",
            f"the shopper is on {shopper.device}",
        )


def _check_numbers(
    shopper: Any, method: str, key: str, value: Tensor, good: Tensor, expected: str
) -> None:
    """Raise with the first number of `value` for which `good`, of the same shape, is False."""
    if bool(good.all()):
        return
    place = (~good).nonzero()[0].tolist()
    of = f"{key} with " if key else ""
    broken(shopper, method, f"returned {of}{value[tuple(place)].item()} at {place}", expected)


def broken(shopper: Any, method: str, found: str, expected: str) -> NoReturn:
    """Raise ValueError: which method of a shopper returned what, and what was expected."""
    raise ValueError(f"{name_of(shopper)}.{method} {found}, but {expected}.")
