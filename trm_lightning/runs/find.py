"""Find runs: by folder, pattern or ``latest``; and the checkpoints in them."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from trm_lightning.errors import UserError

OUTPUTS = Path("outputs")
LATEST = "latest"
BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"  # in a run's checkpoints/
_N_LISTED = 5
_log = logging.getLogger(__name__)


def last_checkpoint(folder: Path) -> Path:
    """Return where a run keeps the checkpoint to resume from."""
    return folder / "checkpoints" / LAST


def best_checkpoint(folder: Path) -> Path:
    """Return where a run keeps the checkpoint with the best validation score."""
    return folder / "checkpoints" / BEST


def has_checkpoint(folder: Path) -> bool:
    """Say whether a run can be opened."""
    return best_checkpoint(folder).is_file() or last_checkpoint(folder).is_file()


def all_runs(root: Path = OUTPUTS) -> list[Path]:
    """Return the folders under ``root`` in which a run was started, the newest first."""
    folders = {path.parent.parent for path in root.glob("**/.hydra/overrides.yaml")}
    return _newest_first(folders)


def find_run(
    wanted: str | Path, key: str = "run", usable: Callable[[Path], bool] = has_checkpoint
) -> Path:
    """Return the folder or file that a user names.

    Args:
        wanted: a path; a pattern such as ``outputs/*/*_quickstart_*``, of whose matches the newest
            usable one is taken; or ``latest``, the newest usable run under ``outputs``.
        key: the setting that named it, for messages.
        usable: says whether a folder has what is needed of it.

    Raises:
        UserError: when nothing fits, naming the newest runs that do.
    """
    text = str(wanted)
    if text == LATEST:
        found = [folder for folder in all_runs() if usable(folder)]
    elif any(sign in text for sign in "*?[") and not Path(text).exists():
        found = _newest_first(p for p in Path().glob(text) if p.is_file() or usable(p))
        if Path(text).is_absolute():
            parts = Path(text).relative_to("/")
            found = _newest_first(p for p in Path("/").glob(str(parts)) if usable(p))
    else:
        return Path(text)
    if not found:
        raise UserError(f"{key}={text}: there is no such run.", _newest_runs(usable))
    more = f", the newest of {len(found)}" if len(found) > 1 and text != LATEST else ""
    _log.info("%s=%s is %s%s", key, text, found[0], more)
    return found[0]


def find_checkpoints(wanted: str | Path) -> list[Path]:
    """Return the checkpoints of a run that may be used: its best one, its last, the one before.

    Of a file that is named itself, that one alone.

    Raises:
        UserError: when there is none.
    """
    path = find_run(wanted)
    if path.is_file():
        return [path]
    files = [path / "checkpoints" / name for name in (BEST, LAST, PREVIOUS)]
    files = [file for file in files if file.is_file()]
    if not files:
        what = "has no checkpoint in it" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}.", _newest_runs(has_checkpoint))
    return files


def resumable_checkpoints(file: Path) -> list[Path]:
    """Return the checkpoint to go on from and, where that is the last, the one before it."""
    previous = file.with_name(PREVIOUS)
    return [file, previous] if file.name == LAST and previous.is_file() else [file]


def _newest_runs(usable: Callable[[Path], bool]) -> str:
    """Return a hint that lists the newest usable runs."""
    runs = [str(folder) for folder in all_runs() if usable(folder)][:_N_LISTED]
    if not runs:
        return "Give a run folder (outputs/<day>/<run>). There is no run in ./outputs yet."
    return "Give a run folder. The newest are:\n" + "\n".join(f"  {run}" for run in runs)


def _newest_first(folders: Iterable[Path]) -> list[Path]:
    def changed(folder: Path) -> float:
        places = (folder / "metrics.jsonl", last_checkpoint(folder), folder)
        return max(place.stat().st_mtime for place in places if place.exists())

    return sorted(folders, key=changed, reverse=True)
