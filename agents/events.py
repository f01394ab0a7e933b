"""TensorBoard's events of a training that goes on: every step of every curve stands there once."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from recsim_env.files import replacing


def cut_events(folder: Path, step: int) -> int | None:
    """Drop what a training wrote after the `step` from which it goes on, for it will write that again.

    Torn ends, which a killed process leaves, go as well. Returns the last step that is left; None where none is.
    """
    left: list[int] = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        records = [(int(Event.FromString(record).step), record) for record in RawEventFileLoader(str(path)).Load()]
        kept = [(at, record) for at, record in records if at <= step]
        left += [at for at, _ in kept]
        with replacing(path) as temporary, temporary.open("wb") as file:
            writer = RecordWriter(file)
            for _, record in kept:
                writer.write(record)
    return max(left, default=None)
