"""Where a result comes from: command, commit, versions and hardware."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root folder of the checkout."""
PACKAGES = ("torch", "gymnasium", "transformers", "stable-baselines3", "numpy", "polars")
"""Packages whose versions decide a result."""
WRITTEN = ("benchmarks/results", "README.md", "docs")
"""What benchmarks and reports write themselves: a change there does not make a checkout dirty."""


def command() -> str:
    """The command line of this process, for a person to type again."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def git_state(root: Path = ROOT) -> dict[str, str | bool | None]:
    """The commit that is checked out, and whether files differ from it; None without git.

    What the benchmarks themselves write (`WRITTEN`) does not make a checkout dirty.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--", ".", *(f":!{path}" for path in WRITTEN))
    return {
        "commit": git("rev-parse", "--verify", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of `PACKAGES`; None where a package is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def hardware() -> dict[str, str | int | float | None]:
    """The processor, the cores and memory of this process, torch's threads, and the GPU or None."""
    import torch

    sizes = getattr(os, "sysconf_names", {})
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if "SC_PHYS_PAGES" in sizes
        else None
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists() and (
        found := re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
    ):
        return found[1].strip()
    return platform.processor() or platform.machine()
