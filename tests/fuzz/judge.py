"""What comes of a call with one odd argument, and whether that is right.

A call is right where a good value is accepted and means what it says, and where a bad value is
refused by one sentence of the project's own that names the argument. Everything else is a fault: a
wrong value that is accepted, a good one that is refused, a traceback out of somebody else's code, a
call that does not end or that takes memory without bound.
"""

from __future__ import annotations

import contextlib
import dis
import re
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import gymnasium
import torch

from tests.fuzz.values import label_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("recsim_env", "policies", "agents", "benchmarks")
PATIENCE = 120.0
"""Seconds after which a call is taken for one that never ends; loaded machines are slow."""
HEADROOM = 3 << 30
"""Bytes of address space that a call may take on top of what the process has."""
LONGEST = 900
"""Characters of the longest sentence that can still be called one."""
RIGHT = ("clear", "right")
"""Verdicts that are as they should be."""
VERDICTS = (*RIGHT, "unclear", "silent", "refused good", "changed", "alloc", "hang")
"""All verdicts: `clear` a bad value is refused and named, `right` a good one is accepted and means
what it says, `unclear` a bad value ends in another error, `silent` it is accepted or means
something else, `refused good` a good one is refused, `changed` a refused call left a trace, `alloc`
memory without bound, `hang` no end."""

ACCEPT, REFUSE, EITHER = "accept", "refuse", "either"
"""What must come of a call: EITHER where both are defensible, and then what is accepted must still
be sound."""


@dataclass(frozen=True)
class Case:
    """A call and what must come of it."""

    label: str
    """The call as a person would write it."""
    call: Callable[[], Any]
    """The call; a fresh one each time."""
    expected: str
    """ACCEPT, REFUSE or EITHER."""
    names: tuple[str, ...] = ()
    """Of which a refusal must hold one: the argument, or the file, column or tensor."""
    sound: Callable[[Any], object] = lambda result: None
    """Called with what came of an accepted call; raises AssertionError where that is wrong."""
    state: Callable[[], Any] | None = None
    """What a refused call must not change, as something that can be compared."""
    promised: tuple[type[BaseException], ...] = (
        ValueError,
        TypeError,
        OSError,
        LookupError,
        gymnasium.error.Error,
    )
    """What a refusal may raise."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    verdict: str
    """One of VERDICTS."""
    message: str = ""
    """The error, or what is wrong with the result."""
    case: Case = field(repr=False, default_factory=lambda: Case("", lambda: None, EITHER))

    @property
    def right(self) -> bool:
        """Whether it is as it should be."""
        return self.verdict in RIGHT

    def __str__(self) -> str:
        return f"{self.verdict}: {self.case.label} [{self.case.expected} {', '.join(self.case.names)}] -> {self.message}"


class _Hang(BaseException):
    """The call took too long."""


def judge(case: Case) -> Outcome:
    """Make the call and say what came of it."""
    before = case.state() if case.state else None
    try:
        with bounded():
            result = case.call()
            if case.expected != REFUSE:
                case.sound(result)
    except KeyboardInterrupt:
        raise
    except _Hang:
        return Outcome("hang", f"no end after {PATIENCE:.0f} s", case)
    except AssertionError as error:
        return Outcome("silent", f"accepted, but {_first_line(error)}", case)
    except BaseException as error:
        outcome = _refusal(case, error)
        if outcome.right and case.state and not equal(before, case.state()):
            return Outcome(
                "changed", f"refused, but the state is another: {_first_line(error)}", case
            )
        return outcome
    if case.expected == REFUSE:
        return Outcome("silent", f"accepted: {label_of(result)}", case)
    return Outcome("right", "", case)


def _refusal(case: Case, error: BaseException) -> Outcome:
    error = _inner(error)
    told = f"{type(error).__name__}: {_first_line(error)} ({_place(error)})"
    if _of_memory(error):
        return Outcome("alloc", told, case)
    reason = unclear(case, error)
    if case.expected == ACCEPT:
        return Outcome("refused good", told, case)
    return Outcome("unclear", f"{told}; {reason}", case) if reason else Outcome("clear", told, case)


def _inner(error: BaseException) -> BaseException:
    """What Gymnasium's `make` wrapped: it adds all options to the sentence of a TypeError, so all
    would be named."""
    wrapped = " was raised from the environment creator for " in str(error)
    return error.__cause__ if wrapped and error.__cause__ is not None else error


def unclear(case: Case, error: BaseException) -> str:
    """What a refusal lacks; nothing where it is one clear sentence of a promised class that names
    the argument."""
    text = str(error)
    if not isinstance(error, case.promised):
        return f"{type(error).__name__} is not promised"
    if not any(named(name, text) for name in case.names):
        return "the argument is not named"
    if not _deliberate(error):
        return "not raised on purpose by the project"
    if len(re.sub(r"\S{200,}", "..", text)) > LONGEST:  # a path may be as long as it likes
        return f"{len(text)} characters"
    return "" if "\n" not in text.strip() else "more than one line"


def named(name: str, text: str) -> bool:
    """Whether a text holds a name as a word of its own."""
    return (
        re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", text, re.IGNORECASE)
        is not None
    )


def _deliberate(error: BaseException) -> bool:
    """Whether a `raise` of the project, or of Gymnasium for its own errors, made the error, and no
    accident did.

    A call with an argument that a function does not know is told by Python, which names it.
    """
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        return True
    frame, place = _raised_at(error.__traceback__)
    if frame is None or not _raises(frame, place):
        return False
    file = Path(frame.f_code.co_filename)
    ours = any(str(file).startswith(str(ROOT / package)) for package in PACKAGES)
    return ours or (isinstance(error, gymnasium.error.Error) and "gymnasium" in file.parts)


def _raised_at(trace: TracebackType | None) -> tuple[FrameType | None, int]:
    """The frame that raised, and its instruction; context managers of the standard library pass an
    error on."""
    found: tuple[FrameType | None, int] = (None, 0)
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name != "contextlib.py":
            found = (trace.tb_frame, trace.tb_lasti)
        trace = trace.tb_next
    return found


def _raises(frame: FrameType, place: int) -> bool:
    return dis.opname[frame.f_code.co_code[place]] in ("RAISE_VARARGS", "RERAISE")


def _of_memory(error: BaseException) -> bool:
    text = str(error)
    return (
        isinstance(error, MemoryError) or "allocate memory" in text or "Unable to allocate" in text
    )


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame for frame in frames if any(f"/{package}/" in frame.filename for package in PACKAGES)
    ]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def _first_line(error: BaseException) -> str:
    try:
        return str(error).strip().partition("\n")[0][:300]
    except Exception:
        return f"an {type(error).__name__} that cannot be written"


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Within a time, within some memory, without warnings, and with torch's settings put back at
    the end."""
    dtype = torch.get_default_dtype()
    old, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (min(_size() + HEADROOM, hard if hard > 0 else 1 << 62), hard)
    )
    handler = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, (old, hard))
        torch.set_default_dtype(dtype)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise _Hang


def _size() -> int:
    """Bytes of address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def equal(one: Any, other: Any) -> bool:
    """Whether two states are the same, tensors bit for bit (NaN equals NaN)."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and torch.equal(_bits(one), _bits(other))
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            equal(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return (
        tensor.nan_to_num(nan=1.5e300)
        if tensor.dtype == torch.float64
        else tensor.nan_to_num(nan=1.5e30)
    )
