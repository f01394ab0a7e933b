"""Cells are played here one after the other, or on the machines of a Ray cluster at once.

    python -m benchmarks.agents.league                          # here
    python -m benchmarks.agents.league --ray auto               # on the cluster of this machine
    python -m benchmarks.agents.league --ray 10.0.0.1:6379      # on the cluster of that head

A benchmark gives its cells as tasks to `play_cells`, which plays those that are missing. A task has
a folder that is locked while it is played and holds what it needs to go on: the lock goes with the
process, so the cell of a killed process goes on elsewhere from its last checkpoint. What a cell
gives does not depend on where it is played, nor on the other cells.

On Ray every machine sees the checkout and all folders of the command at the same paths. A cell that
is being played by another process is waited for there, and left to that process here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks.lab.options import Cells
from benchmarks.lab.provenance import ROOT, git_state
from benchmarks.lab.threads import use_threads
from recsim_env.commands.refusals import sentence
from recsim_env.files import HOLDER, LOCK, FolderInUse, locked, remove

RETRIES = 3
"""How often a cell is started again whose worker died. One that takes every worker with it, for
example for want of memory, is then reported as failed."""
PATIENCE = 5.0
"""Seconds in which the head of a cluster must answer."""


@dataclass(frozen=True)
class Task:
    """One cell, as it is played."""

    name: str
    """The cell's name, for messages."""
    folder: Path
    """Locked while the cell is played; what lies there is removed when it is done."""
    place: str
    """Name of what `open` opens: cells of the same place share it within a process."""
    open: Callable[[], Any]
    """Opens what the cell is played in."""
    play: Callable[[Any], object]
    """Plays the cell in what `open` opened, and writes what `done` looks for."""
    done: Callable[[], bool]
    """Whether the cell is there."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    name: str
    """The name of the cell that was played."""
    minutes: float
    """Minutes that it took."""
    left: str | None = None
    """Who plays the cell, where that is another process."""
    failure: str | None = None
    """The sentence or the traceback of its error, where it failed."""


class Places:
    """What cells are played in: the last few places that were opened, `most` at once."""

    def __init__(self, most: int = 1) -> None:
        self.most = most
        self._opened: OrderedDict[str, Any] = OrderedDict()

    def get(self, place: str, open_place: Callable[[], Any]) -> Any:
        """What was opened under a name, or is opened now."""
        if place not in self._opened:
            while len(self._opened) >= self.most:
                self._opened.popitem(last=False)
            self._opened[place] = open_place()
        self._opened.move_to_end(place)
        return self._opened[place]


def there(*paths: Path) -> bool:
    """Whether all files of a cell are there."""
    return all(path.exists() for path in paths)


def play_cells(
    tasks: Sequence[Task], config: Cells, title: str, places: Places | None = None
) -> list[str]:
    """Play every cell that is missing, and show how much is left.

    A cell that fails stops no other one: its error is printed, and the next run tries it again.

    Args:
        tasks: The cells.
        config: Where they are played, and on how many threads each.
        title: What is played, for the progress bar.
        places: Holds what the cells are played in.

    Returns:
        The names of the cells that failed.

    Raises:
        ValueError: If `config.ray` names no cluster, or one whose machines are too small.
        ConnectionError: If the cluster cannot be reached.
    """
    missing = [task for task in tasks if not task.done()]
    places = places or Places()
    if not missing:
        _tidy(tasks)  # a process that was killed after its last cell left a lock behind
        return []
    failed = []
    with contextlib.ExitStack() as stack:
        if config.ray is None:
            outcomes, workers = played_here(missing, places), 1
        else:
            outcomes, workers = stack.enter_context(playing_on_ray(missing, config, places.most))
        outlook = Outlook(len(missing), workers)
        bar = stack.enter_context(tqdm(total=len(missing), desc=title, unit="cell"))
        for outcome in outcomes:
            if outcome.failure is not None:
                print(f"{outcome.name} failed: {outcome.failure}", file=sys.stderr)
                failed.append(outcome.name)
            elif outcome.left is not None:
                print(f"{outcome.left} The cell is left to that process.", file=sys.stderr)
            outlook.note(outcome)
            bar.set_postfix_str(str(outlook), refresh=False)
            bar.update()
    _tidy(tasks)
    return failed


def end(failed: Sequence[str]) -> None:
    """End the command with the exit status 1 where cells failed, and name them."""
    if failed:
        sys.exit(f"{len(failed)} cells failed: {', '.join(failed)}")


class Outlook:
    """What is left to do: the mean minutes of the cells that were played, times those left."""

    def __init__(self, cells: int, workers: int = 1) -> None:
        """Nothing is played yet.

        Args:
            cells: The number of cells.
            workers: The number of cells that are played at once.
        """
        self.left, self.workers = cells, workers
        self._played, self._minutes = 0, 0.0

    def note(self, outcome: Outcome) -> None:
        """Count a cell; one that failed or is left to another process says nothing of the rest."""
        self.left -= 1
        if outcome.failure is None and outcome.left is None:
            self._played += 1
            self._minutes += outcome.minutes

    @property
    def minutes(self) -> float | None:
        """Minutes of computation that are left; None as long as nothing was played."""
        return self._minutes / self._played * self.left if self._played else None

    def __str__(self) -> str:
        if self.minutes is None:
            return "no cell is done yet"
        told = f"about {self.minutes:.1f} minutes of computation left"
        if self.workers > 1:
            told += f", {self.minutes / min(self.workers, max(self.left, 1)):.1f} on"
            told += f" {self.workers} workers"
        return told


def played_here(tasks: Iterable[Task], places: Places) -> Iterator[Outcome]:
    """Play cells in this process, one after the other."""
    for task in tasks:
        yield play_task(task, places, wait=False)


def play_task(task: Task, places: Places, *, wait: bool) -> Outcome:
    """Play one cell, unless it is there by now.

    Args:
        task: The cell.
        places: Holds what cells are played in.
        wait: Whether to wait for another process that plays the cell.
    """
    began = time.perf_counter()
    left = failure = None
    try:
        with locked(task.folder, wait=wait):
            if not task.done():  # by another process, meanwhile
                task.play(places.get(task.place, task.open))
            if task.done():
                _empty(task.folder)
    except FolderInUse as error:
        left = str(error)
    except Exception as error:
        failure = sentence(error) or traceback.format_exc()
    return Outcome(task.name, (time.perf_counter() - began) / 60, left, failure)


def _empty(folder: Path) -> None:
    """Remove what lies in a locked folder, but for the lock."""
    for path in folder.iterdir():
        if path.name not in (LOCK, HOLDER):
            remove(path)


def _tidy(tasks: Iterable[Task]) -> None:
    """Remove the folders of the cells that are done and that nobody holds."""
    for task in tasks:
        if task.folder.exists() and task.done():
            with contextlib.suppress(FolderInUse), locked(task.folder):
                shutil.rmtree(task.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # others are at work there
                task.folder.parent.rmdir()


# ---- on a Ray cluster ----------------------------------------------------------------------------


@contextlib.contextmanager
def playing_on_ray(
    tasks: Sequence[Task], config: Cells, most: int
) -> Iterator[tuple[Iterator[Outcome], int]]:
    """Yield the outcomes of cells as a cluster gives them, and how many it plays at once."""
    assert config.ray is not None
    with joined(config.ray) as ray:
        needed, workers = _resources(ray, config)
        commit = git_state()["commit"]
        play = ray.remote(**needed, max_retries=RETRIES)(play_on_worker)
        told = (Path.cwd(), commit, config.threads, most)
        pending = {play.options(name=task.name).remote(task, *told): task for task in tasks}
        yield _outcomes(ray, pending), workers


def _outcomes(ray: Any, pending: dict[Any, Task]) -> Iterator[Outcome]:
    while pending:
        (first,), _ = ray.wait(list(pending), num_returns=1)
        task = pending.pop(first)
        try:
            yield ray.get(first)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().partition("\n")[0]
            yield Outcome(task.name, 0.0, failure=f"its worker died ({reason})")


@contextlib.contextmanager
def joined(address: str) -> Iterator[Any]:
    """Join a cluster, and give the module `ray`.

    Args:
        address: `auto` for the cluster that this machine belongs to, or HOST:PORT of its head.

    Raises:
        ValueError: If Ray is not installed, or `address` is no address.
        ConnectionError: If no head answers there.
    """
    check_cluster(address)
    import ray

    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
        )
    except (ConnectionError, RuntimeError, SystemExit) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConnectionError(
            f"ray is {address!r}, but the cluster there cannot be joined ({reason})."
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def check_cluster(address: str | None) -> None:
    """Check that a cluster can be reached, for commands that make something before they play.

    Args:
        address: `auto` for the cluster that this machine belongs to, HOST:PORT of its head, or None
            for this process, which needs none.

    Raises:
        ValueError: If Ray is not installed, or `address` is no address.
        ConnectionError: If no head answers there.
    """
    if address is None:
        return
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ValueError(
            f"ray is {address!r}, but Ray is not installed: run pip install -e '.[scale]'."
        ) from None
    _check_head(address)


def _check_head(address: str) -> None:
    """Check that somebody listens at an address, because Ray tries for two minutes and then exits.

    Raises:
        ValueError: If `address` is neither auto nor HOST:PORT.
        ConnectionError: If nobody does, or `auto` finds no cluster.
    """
    found = _own_cluster() if address == "auto" else address
    if found is None:
        raise ConnectionError(
            "ray is 'auto', but this machine belongs to no Ray cluster: run ray start --head, or "
            "ray start --address=HOST:PORT to join one."
        )
    host, _, port = found.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ValueError(f"ray is {address!r}, but it must be auto or HOST:PORT of a head.")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"ray is {address!r}, but no head answers at {found} ({error}): start one there with "
            "ray start --head."
        ) from None


def _own_cluster() -> str | None:
    """The address of the cluster that this machine belongs to, as Ray notes it."""
    if told := os.environ.get("RAY_ADDRESS"):
        return told
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return noted.read_text().strip() if noted.is_file() else None


def _resources(ray: Any, config: Cells) -> tuple[dict[str, float], int]:
    """What a cell takes of a machine, and how many cells fit into the cluster at once.

    Where no device is named and machines have GPUs, each cell has one, unless its command has no
    option for a device.

    Raises:
        ValueError: If no machine of the cluster is large enough for a cell.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    device = getattr(config, "device", "cpu")
    gpus = any(machine.get("GPU", 0) for machine in machines)
    needed = {"CPU": config.threads, "GPU": int(device == "cuda" or (device is None and gpus))}
    fit = sum(
        min(int(machine.get(kind, 0) // share) for kind, share in needed.items() if share)
        for machine in machines
    )
    if fit == 0:
        raise ValueError(
            f"ray is {config.ray!r}, but no machine there has {needed['CPU']} processors and "
            f"{needed['GPU']} GPUs, which a cell with these threads and this device takes."
        )
    return {"num_cpus": needed["CPU"], "num_gpus": needed["GPU"]}, fit


OPENED = Places()
"""What the cells of this worker are played in."""


def play_on_worker(task: Task, where: Path, commit: object, threads: int, most: int) -> Outcome:
    """Play a cell in a worker of Ray.

    Args:
        task: The cell.
        where: The working folder of the command, to which its paths are relative.
        commit: The commit of the command's checkout.
        threads: The number of threads to compute on.
        most: The number of places that the worker holds open.
    """
    here = socket.gethostname()
    if not where.is_dir():
        return _refused(task, f"{here} does not see the folder {where} of the command.")
    if _commit() != commit:
        return _refused(task, f"{here} has the commit {_commit()}, but the command has {commit}.")
    os.chdir(where)
    use_threads(threads)
    OPENED.most = most
    return play_task(task, OPENED, wait=True)


def _refused(task: Task, why: str) -> Outcome:
    return Outcome(task.name, 0.0, failure=why)


@lru_cache(1)
def _commit() -> object:
    """The commit of this machine's checkout."""
    return git_state()["commit"]
