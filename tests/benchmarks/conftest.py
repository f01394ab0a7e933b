"""What tests of benchmarks share: Ray clusters."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two machines with a processor each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # workers give way to all others by default
        made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        made.add_node(**small)
        yield made.address
        made.shutdown()


@pytest.fixture
def nowhere() -> str:
    """An address at which no head answers."""
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"
