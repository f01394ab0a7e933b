"""Files are written whole or not at all, and a folder that is being written has one writer.

`replacing` is the only way in which this project writes a file: into a temporary file beside it,
which takes its place in one move. A process that is killed leaves what stood there before, and at
most a temporary file, which `locked` sweeps away when the folder is next written to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recsim_env import checks

LOCK = ".lock"
HOLDER = ".lock.json"
SPARE = 1 << 16
"""Free bytes below which a disk counts as full."""
FRESH, COMING, GONE = "fresh", "coming", "gone"
"""Folders of `refilling`: the new contents, the same on their way, and the old ones."""
HOST = socket.gethostname().replace(".", "-")
"""This machine, in the names of temporary files."""
TEMPORARY = re.compile(r"\..+\.(?P<process>[0-9]+)(@(?P<host>[^.]+))?\.[0-9a-f]{8}\.tmp")
"""Names of the temporary files of `replacing`; no other file is ever swept away."""


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`, whose file takes the place of `path` in the end.

    It does so where the block ends without an error. The temporary name holds the process, its
    machine and a random number, so that no two writers share it. Folders are made as needed.

    Raises:
        TypeError: If `path` is no path.
        ValueError: If it has no name, as that of a root folder.
        OSError: If the file cannot be written, on a full disk for example; the message names
            `path`, and what stood there before is whole.
    """
    path = checks.path("path", path)
    if not path.name:
        raise ValueError(f"path is {str(path)!r}, but it must be that of a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}@{HOST}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        before = "; what stood there before is whole" if path.exists() else ""
        raise unwritten(path, error, before) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def unwritten(path: Path, error: Exception, after: str = "") -> OSError:
    """The error that a file or folder could not be written, with the reason in the system's words.

    Libraries tell of a full disk in words of their own, or not at all.

    Args:
        path: The file or folder.
        error: What a library raised, or the system.
        after: How the message ends.
    """
    number = getattr(error, "errno", None) or 0
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    if not number and _is_full(path):
        number, reason = errno.ENOSPC, os.strerror(errno.ENOSPC)
    return OSError(number, f"could not be written ({reason}){after}", str(path))


def _is_full(path: Path) -> bool:
    """Whether less than `SPARE` bytes are free where a path lies."""
    there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free < SPARE


def write_text(path: Path | str, text: str) -> None:
    """Replace a text file, encoded as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: object) -> None:
    """Replace a JSON file.

    Raises:
        ValueError: If `content` holds NaN or an infinite number, which JSON does not know.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_bytes(path: Path | str, content: bytes) -> None:
    """Replace a file by these bytes."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Replace a safetensors file.

    The metadata lie in the same file, so that weights and their description never part.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(held, dict(metadata) if metadata is not None else None)
    with replacing(path) as temporary:
        temporary.write_bytes(
            content
        )  # `save_file` has a temporary file of its own, which a kill would leave


def read_tensors(path: Path | str, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors whose names begin with `prefix`, and the metadata, of a safetensors file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, cut off or something else; the message names it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, IsADirectoryError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}): it is cut off, or something else."
        ) from None


def read_json(path: Path | str) -> Any:
    """Read a JSON file, encoded as UTF-8.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, cut off or something else; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no readable JSON ({error}): it is cut off, or something else."
        ) from None


def read_object(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or holds a value of another kind; the message names it.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is {checks.told(content)}, but it must be a JSON object.")
    return content


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside a place, and move it there when the block has filled it.

    What a block that was killed left beside the place is removed first, and what one that fails
    leaves at once.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    part.rename(folder)


@contextlib.contextmanager
def refilling(
    folder: Path, aside: Path, last: str, stale: Callable[[Path], Iterable[Path]] = lambda at: ()
) -> Iterator[Path]:
    """Yield a new folder, whose contents take their place in `folder` when the block has filled it.

    Nothing that stands there is touched before. Then files and folders change places by moves
    alone, and a process that is killed between two of them leaves all of both: `refill` goes on.
    What has no successor and is not stale stays.

    Args:
        folder: Where the contents go.
        aside: A folder in it, where everything happens; it is gone in the end.
        last: Name of the file that says that the contents are whole: it goes first, and comes last.
        stale: Lists what of an earlier content goes even where the new one has nothing of its name.
    """
    refill(folder, aside, last, stale)
    try:
        with building(aside / FRESH) as part:
            yield made(part)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.rmdir()  # unless there is something else in it
        raise
    refill(folder, aside, last, stale)


def refill(
    folder: Path, aside: Path, last: str, stale: Callable[[Path], Iterable[Path]] = lambda at: ()
) -> None:
    """Go on with a `refilling` that was cut off when it had begun to move; else do nothing."""
    fresh, coming, gone = (aside / name for name in (FRESH, COMING, GONE))
    if fresh.is_dir():
        old = {folder / child.name for child in fresh.iterdir()} | {*stale(folder)}
        made(gone)
        for path in sorted(old, key=lambda path: path.name != last):
            if path.exists():
                path.replace(gone / path.name)
        fresh.replace(coming)
    if coming.is_dir():
        # The rest goes first: no remains of it are taken for something unfinished later.
        for path in aside.iterdir():
            if path not in (coming, gone):
                remove(path)
        for path in sorted(coming.iterdir(), key=lambda path: path.name == last):
            path.replace(folder / path.name)
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(aside)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def made(folder: str | os.PathLike[str]) -> Path:
    """Make a folder where there is none, and those above it.

    Raises:
        OSError: If it cannot be made; the message names it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from error
    return path


def _not_writable(folder: Path, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    return OSError(error.errno or 0, f"the folder cannot be written to ({reason})", str(folder))


class FolderInUse(RuntimeError):
    """Another process writes into a folder."""


@contextlib.contextmanager
def locked(folder: Path | str, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes into a folder; the lock goes with the process.

    Temporary files that a killed process left in the folder are removed: see `sweep`.

    Args:
        folder: The folder.
        wait: Whether to wait for another process to end, which a line on stderr says; otherwise it
            is an error.

    Raises:
        FolderInUse: If another process holds the folder; the message says which.
        OSError: If the folder cannot be made or written to; the message names it.
    """
    folder = made(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        held = f"{folder} is being written by {_holder(folder)}"
        if not wait:
            raise FolderInUse(f"{held}: wait for it, or use another folder.") from None
        print(f"{held}: waiting for it.", file=sys.stderr)
        lock.acquire(timeout=-1)
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        for left in folder.glob(".*.tmp"):
            if TEMPORARY.fullmatch(left.name):
                left.unlink(missing_ok=True)
        sweep(folder)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "command": command,
            "since": since,
        }
        write_json(folder / HOLDER, holder)
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def sweep(folder: Path | str) -> None:
    """Remove the temporary files in and below a folder whose processes run no longer."""
    for left in Path(folder).rglob(".*.tmp"):
        if not _runs(left):
            left.unlink(missing_ok=True)


def _runs(temporary: Path) -> bool:
    """Whether the process that writes a temporary file of `replacing` still runs, or may."""
    name = TEMPORARY.fullmatch(temporary.name)
    if name is None:
        return True  # not a name that `replacing` gives: it is not ours to remove
    if name["host"] not in (None, HOST):
        return True  # nobody knows here: the folder is shared with the machine that does
    try:
        os.kill(int(name["process"]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it runs, and belongs to somebody else
        return True
    return True


def _holder(folder: Path) -> str:
    try:
        held = json.loads((folder / HOLDER).read_text())
        return (
            f"process {held['process']} on {held['host']} since {held['since']} ({held['command']})"
        )
    except (OSError, ValueError, KeyError):
        return "another process"
