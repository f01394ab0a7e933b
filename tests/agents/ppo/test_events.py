"""TensorBoard's curves of a training that goes on: no point twice, none lost."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from agents.ppo.events import cut_events
from tests.support.curves import event_files


def write(folder: Path, steps: range) -> Path:
    """Points of one tag; the file that they went to."""
    before = set(folder.glob("events*"))
    logger = configure(str(folder), ["tensorboard"])
    for step in steps:
        logger.record("a", float(step))
        logger.dump(step)
    logger.close()
    (path,) = set(folder.glob("events*")) - before
    return path


def points(folder: Path) -> list[int]:
    events = [event for path in event_files(folder) for event in EventFileLoader(str(path)).Load()]
    return [event.step for event in events for _ in event.summary.value]


def test_what_is_written_again_is_dropped_and_torn_ends_too(tmp_path: Path) -> None:
    torn = write(tmp_path, range(1, 6))
    torn.write_bytes(torn.read_bytes()[:-9])  # killed amid the point of step 5
    (tmp_path / "checkpoint.safetensors").write_text("not an event")
    assert points(tmp_path) == [1, 2, 3, 4]
    cut_events(tmp_path, 3)
    assert points(tmp_path) == [1, 2, 3]
    write(tmp_path, range(4, 7))
    assert sorted(points(tmp_path)) == [1, 2, 3, 4, 5, 6]
    cut_events(tmp_path, 0)
    assert points(tmp_path) == []
    assert list(tmp_path.glob("events*"))  # the head of every file
    cut_events(tmp_path, None)
    assert not list(tmp_path.glob("events*"))
    cut_events(tmp_path / "nowhere", 3)
