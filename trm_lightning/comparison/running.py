"""Training the runs of a plan, one process each, so that a crash or a kill costs one at most."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from omegaconf import OmegaConf
from tqdm import tqdm

from trm_lightning.callbacks.train_log import read_lines
from trm_lightning.cli.overrides import merge
from trm_lightning.comparison.plan import Plan, PlannedRun
from trm_lightning.errors import UserError
from trm_lightning.results import MEANINGS

if sys.platform != "win32":
    import fcntl

MISTAKE = 2  # exit status of a command after a UserError
POLL_SECONDS = 1.0


def train_all(
    plan: Plan, after_each: Callable[[dict[Path, str]], None], progress: bool = True
) -> dict[Path, str]:
    """Train every run that has no results yet; a run that fails does not stop the others.

    Args:
        plan: what to train.
        after_each: called after each run with the failures so far.
        progress: whether to show a bar.

    Returns:
        Why runs failed, by folder.

    Raises:
        UserError: where a run could not even start, for a reason that the user can mend.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the run in progress has saved its state.
    """
    failures: dict[Path, str] = {}
    refuse_other_settings(plan)
    bar = tqdm(total=len(plan.runs), unit="run", dynamic_ncols=True, disable=not progress)
    with bar, _sigterm_as_ctrl_c():
        for run in plan.runs:
            bar.set_description(run.folder.name)
            if not is_finished(run.folder):
                failure = train_one(run, plan.call.flags(), bar)
                if failure is not None:
                    failures[run.folder] = failure
                    bar.write(f"{run.folder.name} failed: {failure.splitlines()[-1]}")
                after_each(failures)
            bar.set_postfix_str("", refresh=False)
            bar.update()
    return failures


def train_one(run: PlannedRun, flags: list[str], bar: "tqdm[Any]") -> str | None:
    """Train a run, or go on with it from its last checkpoint.

    Returns:
        None, or the end of what the run said when it failed.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log_file = run.folder.with_name(f"{run.folder.name}.log")
    with log_file.open("ab") as log:
        _wait_for_orphan(log, run.folder.name)
        if is_finished(run.folder):
            return None
        start = log_file.stat().st_size
        process = subprocess.Popen(
            training_command(run, flags), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        status = _follow(process, run.folder, bar)
    if status == 0:
        return None
    said = log_file.read_bytes()[start:].decode("utf-8", errors="replace").strip()
    if status == MISTAKE and not _last_checkpoint(run.folder).is_file():
        raise UserError(said or f"{run.folder.name} could not start.", f"This is in {log_file}.")
    return said or f"ended with status {status}"


def training_command(run: PlannedRun, flags: list[str]) -> list[str]:
    """Return the command that starts a run, or resumes it where it has a checkpoint."""
    command = [sys.executable, "-m", "trm_lightning.train", *flags]
    quoted = "'" + str(run.folder.resolve()).replace("\\", "\\\\").replace("'", "\\'") + "'"
    if _last_checkpoint(run.folder).is_file():
        return [*command, f"resume={quoted}"]
    if run.folder.exists():
        shutil.rmtree(run.folder)  # it ended before its first checkpoint
    return [*command, *run.overrides, f"hydra.run.dir={quoted}"]


def is_finished(folder: Path) -> bool:
    """Say whether a run has ended: its results are written last, and all at once."""
    return (folder / "results.json").is_file()


def refuse_other_settings(plan: Plan) -> None:
    """Refuse a folder whose runs were started with other settings than the plan's.

    Raises:
        UserError: naming the settings that differ.
    """
    for run in plan.runs:
        file = run.folder / ".hydra" / "overrides.yaml"
        if not file.is_file():
            continue
        stored = set(merge([str(line) for line in OmegaConf.load(file)], without="resume"))
        planned = set(run.overrides)
        if stored != planned:
            raise UserError(
                f"{run.folder} was trained with other settings: "
                f"{' '.join(sorted(stored - planned)) or 'none of'} there, "
                f"{' '.join(sorted(planned - stored)) or 'none of them'} here.",
                "Give this comparison a name of its own: name=…",
            )


def _follow(process: "subprocess.Popen[bytes]", folder: Path, bar: "tqdm[Any]") -> int:
    """Wait for a run, showing its last numbers; Ctrl-C lets it save its state first."""
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                bar.set_postfix_str(_progress(folder))
    except KeyboardInterrupt:
        bar.write("stopping; the same command goes on from here", file=sys.stderr)
        process.terminate()
        process.wait()
        raise


def _progress(folder: Path) -> str:
    history = folder / "metrics.jsonl"
    lines = read_lines(history) if history.is_file() else []
    if not lines:
        return "starting"
    seen: dict[str, float] = {}
    for line in lines:
        seen |= line
    shown = [
        f"{name} {value:.4g}"
        for name, value in seen.items()
        if name.startswith("val") and name.partition("/")[2] in MEANINGS
    ]
    return ", ".join([f"step {lines[-1]['step']:,}", *shown])


def _wait_for_orphan(log: IO[bytes], name: str) -> None:
    """Wait where an earlier comparison was killed and its training goes on alone.

    The training process inherits the lock with its standard output, so that two never train in
    one folder.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name} is being trained by another process; waiting for it", file=sys.stderr)
            fcntl.flock(log, fcntl.LOCK_EX)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"
