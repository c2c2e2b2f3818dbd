"""TensorBoard's event files of a run that is resumed."""

from collections.abc import Iterator
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from trm_lightning.files import write_atomically

BY_TOKENS = "by_tokens/"  # tags whose x axis is tokens and not optimizer steps


def drop_events_after(folder: Path, step: int, tokens: int) -> None:
    """Drop what a killed run wrote after its last checkpoint: TensorBoard would show it twice.

    A last record that the kill cut short goes as well.

    Args:
        folder: of the run; its event files may lie at any depth.
        step: optimizer steps of the checkpoint; -1 where there is none.
        tokens: that it has seen; likewise.
    """
    for file in folder.rglob("events.out.tfevents.*"):
        kept = [event for event in _events(file) if _is_before(event, step, tokens)]
        if not kept:
            file.unlink()
            continue
        with write_atomically(file) as temporary, temporary.open("xb") as stream:
            writer = RecordWriter(stream)
            for event in kept:
                writer.write(event.SerializeToString())


def _events(file: Path) -> Iterator[Event]:
    yield from LegacyEventFileLoader(str(file)).Load()


def _is_before(event: Event, step: int, tokens: int) -> bool:
    tags = [value.tag for value in event.summary.value]
    return event.step <= (tokens if tags and tags[0].startswith(BY_TOKENS) else step)
