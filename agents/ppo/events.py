"""TensorBoard's events of a training that goes on: every step of every curve stands there once."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from recsim_env.files import replacing


def cut_events(folder: Path, step: int | None) -> None:
    """Drop what a training wrote after the `step` from which it goes on, for it will write that again.

    Torn ends, which a killed process leaves, go as well. None = the training begins anew: nothing
    is left.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        records = [
            (int(Event.FromString(record).step), record)
            for record in RawEventFileLoader(str(path)).Load()
        ]
        kept = [record for at, record in records if step is not None and at <= step]
        if not kept:
            path.unlink()
            continue
        with replacing(path) as temporary, temporary.open("wb") as file:
            writer = RecordWriter(file)
            for record in kept:
                writer.write(record)
