"""One process at a time trains in a run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trm_lightning.errors import UserError
from trm_lightning.files import remove_temporary


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold a run folder's lock; the system releases it when the process ends, however it does.

    Temporary files that a killed process left are removed.

    Raises:
        UserError: another process holds the lock.
    """
    try:
        with FileLock(folder / ".lock", blocking=False):
            for place in (folder, folder / "checkpoints"):
                remove_temporary(place)
            yield
    except Timeout:
        raise UserError(
            f"Another process is training in {folder}.",
            "Wait until it has ended, or choose another folder: hydra.run.dir=…",
        ) from None
