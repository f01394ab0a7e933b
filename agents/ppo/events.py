"""Keeps the TensorBoard events of a resumed training free of duplicate steps."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from recsim_env.files import replacing


def cut_events(folder: Path, step: int | None) -> None:
    """Remove the events after the `step` from which a training resumes and writes them again.

    Incomplete records, which a killed process leaves at the end of a file, are removed as well.

    Args:
        folder: the folder of the event files
        step: the last step to keep; None = the training starts from the beginning, keep nothing
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
