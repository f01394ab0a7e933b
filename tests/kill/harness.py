"""Kills a command in a child process, runs it again, and compares what it leaves.

The child is forked after everything was imported, so a trial takes no longer than the command
itself. Nothing that starts threads may have been used in the parent: it only imports, forks and
waits.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
"""Audit events of operations that change a folder; the fifth kind is `open` for writing."""
WRAPPED = ("rename", "replace", "remove", "unlink", "mkdir", "rmdir", "open")
"""Functions of `os` after which a child may be killed."""
KILLED = {-signal.SIGKILL, -signal.SIGPROF, -signal.SIGXFSZ}
"""How a child that was killed ends. SIGPROF and SIGXFSZ end a process as SIGKILL does where nobody
handles them."""
DONE, FAILED = 0, 1


@dataclass(frozen=True)
class Kill:
    """When a child is killed: exactly one of these."""

    before: int | None = None
    """Before the n-th operation on a file below its folder, counted from 1."""
    after: int | None = None
    """After that."""
    seconds: float | None = None
    """After so many seconds of processor time: a moment that does not depend on what else runs."""
    size: int | None = None
    """Where a file would grow beyond so many bytes: in the middle of writing it."""


@dataclass(frozen=True)
class Command:
    """Something that goes on where it was killed."""

    name: str
    run: Callable[[Path, Path], None]
    """Does everything, or what is missing, in a folder (second) from inputs (first)."""
    left: Callable[[Path], dict[str, Any]]
    """What it leaves in its folder, as JSON, without clocks: equal for equal results."""
    prepare: Callable[[Path], None] = lambda inputs: None
    """Makes the inputs."""
    tail: Callable[[Path, Path], None] | None = None
    """Run once more at the end where that is another call, with more seeds for example; None =
    `run`."""


@dataclass
class Result:
    """Of the trials of one command."""

    command: str
    trials: int = 0
    killed: int = 0
    """Trials in which at least one kill came before the end."""
    kills: int = 0
    resumed: int = 0
    equal: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every trial went on and ended as the unbroken one."""
        return self.trials == self.resumed == self.equal


# ---- in the child --------------------------------------------------------------------------------


class Operations:
    """Counts operations on files below a folder, and kills the process at one of them."""

    def __init__(self, folder: Path, kill: Kill) -> None:
        self.count = 0
        self._folder = os.fspath(folder)
        self._kill = kill
        self._armed = False
        sys.addaudithook(self._hear)
        for name in WRAPPED:
            setattr(os, name, self._then(getattr(os, name)))
        builtins.open = io.open = self._then(io.open)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITES:
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, int) or not self._inside(os.fsdecode(path)):
            return
        self.count += 1
        if self._armed or self.count == self._kill.before:
            os.kill(os.getpid(), signal.SIGKILL)
        self._armed = self.count == self._kill.after

    def _inside(self, path: str) -> bool:
        """`shutil.rmtree` names files by their folder's number, so what is relative counts."""
        return path.startswith(self._folder) or not path.startswith("/")

    def _then(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            if self._armed:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called


def in_child(act: Callable[[], Any], silent: bool = True) -> tuple[int, Any]:
    """Run a function in a forked child: its exit code, and its result (JSON) or traceback."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _end(act, writing, silent)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code, json.loads(said) if said else None


def _end(act: Callable[[], Any], writing: int, silent: bool) -> None:
    """The whole life of a child."""
    code, found = FAILED, None
    try:
        if silent:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        torch.set_num_threads(1)
        found, code = act(), DONE
    except BaseException:
        found = traceback.format_exc()
    finally:
        with contextlib.suppress(BaseException), open(writing, "w") as pipe:
            json.dump(found, pipe)
        os._exit(code)


def killed_run(command: Command, inputs: Path, work: Path, kill: Kill) -> dict[str, float]:
    """Run a command in this process until it is killed. What is returned counts what it took."""
    if kill.size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kill.size, kill.size))
    operations = Operations(work, kill)
    if kill.seconds is not None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, kill.seconds)
    began = time.process_time()
    command.run(inputs, work)
    seconds = time.process_time() - began
    signal.setitimer(signal.ITIMER_PROF, 0)
    return {"operations": operations.count, "seconds": seconds}


# ---- trials --------------------------------------------------------------------------------------


class Trials:
    """The trials of one command, below a folder of its own."""

    def __init__(self, command: Command, folder: Path) -> None:
        self.command = command
        self.result = Result(command.name)
        self._inputs, self._work = folder / "inputs", folder / "work"
        self._inputs.mkdir(parents=True)
        self._must(lambda: command.prepare(self._inputs))
        took = self._must(lambda: killed_run(command, self._inputs, self._work, Kill()))
        self.operations, self.seconds = int(took["operations"]), float(took["seconds"])
        self.largest = max(path.stat().st_size for path in self._work.rglob("*") if path.is_file())
        self._again()
        self._left = self._must(lambda: command.left(self._work))
        shutil.rmtree(self._work)

    def every_operation(self) -> Iterator[list[Kill]]:
        """One kill a trial, before and after each operation of the unbroken run."""
        for number in range(1, self.operations + 1):
            yield [Kill(before=number)]
            yield [Kill(after=number)]

    def at_random(self, count: int, generator: random.Random) -> Iterator[list[Kill]]:
        """One to three kills a trial: at a moment, at an operation, or in the middle of writing."""
        for _ in range(count):
            yield [self._drawn(generator) for _ in range(generator.choice((1, 1, 2, 3)))]

    def _drawn(self, generator: random.Random) -> Kill:
        kind = generator.choice(("seconds", "seconds", "before", "after", "size"))
        if kind == "seconds":
            return Kill(seconds=max(generator.random() * self.seconds, 1e-3))
        if kind == "size":
            return Kill(size=int(self.largest ** generator.random()))
        return Kill(**{kind: generator.randint(1, self.operations)})

    def play(self, kills: list[Kill]) -> None:
        """One trial: kill, run again and kill again, run to the end, compare."""
        self.result.trials += 1
        killed = 0
        for kill in kills:
            run = partial(killed_run, self.command, self._inputs, self._work, kill)
            code, said = in_child(run)
            if code == DONE:
                break
            if code not in KILLED:
                self._fail(kills, f"ended with {code}: {said}")
                return
            killed += 1
        self.result.kills += killed
        self.result.killed += killed > 0
        self._finish(kills)
        shutil.rmtree(self._work, ignore_errors=True)

    def _finish(self, kills: list[Kill]) -> None:
        code, said = in_child(lambda: self.command.run(self._inputs, self._work))
        if code != DONE:
            self._fail(kills, f"cannot go on ({code}): {said}")
            return
        self.result.resumed += 1
        self._again()
        found = self._must(lambda: self.command.left(self._work))
        if other := [
            key for key in found.keys() | self._left.keys() if found.get(key) != self._left.get(key)
        ]:
            told = {
                key: (str(self._left.get(key))[:300], str(found.get(key))[:300])
                for key in sorted(other)[:4]
            }
            self._fail(kills, f"differs in {sorted(other)}: {told}")
            return
        self.result.equal += 1

    def _again(self) -> None:
        """What is done is left as it is, or taken further."""
        self._must(lambda: (self.command.tail or self.command.run)(self._inputs, self._work))

    def _must(self, act: Callable[[], Any]) -> Any:
        code, said = in_child(act)
        if code != DONE:
            raise RuntimeError(f"{self.command.name} failed without a kill ({code}): {said}")
        return said

    def _fail(self, kills: list[Kill], why: str) -> None:
        self.result.failures.append(f"{self.command.name}, {kills}: {why}")
        shutil.rmtree(self._work, ignore_errors=True)
