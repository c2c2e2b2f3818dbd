"""`resume=…`: which stored run a call goes on with, in that run's own folder.

Nothing in the folder is rewritten before training goes on, so that a kill at any moment leaves it
resumable. What is trained is the stored config, see `resumed_config.py`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from trm_lightning.cli import launch
from trm_lightning.cli.compose import Call
from trm_lightning.cli.overrides import merge, of_loggers, parse_overrides
from trm_lightning.errors import UserError
from trm_lightning.runs.find import OUTPUTS, all_runs, find_run, last_checkpoint
from trm_lightning.runs.stored_text import read_yaml_list


@dataclass(frozen=True)
class Resumption:
    """A stored run that a call goes on with.

    Attributes:
        checkpoint: absolute path of the checkpoint that was named or found.
        own: the overrides that this call puts into the stored config.
        hydras: the call's overrides of Hydra's own settings.
    """

    checkpoint: Path
    own: list[str]
    hydras: list[str]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.checkpoint.parent.parent

    def call_again(self) -> list[str]:
        """The overrides of a call that resumes the same: Lightning's other processes make it."""
        return [*self.own, *self.hydras, f"resume={_quote(self.checkpoint)}"]

    def hydra_overrides(self) -> list[str]:
        """What Hydra itself is told: the folder, in which it writes no config of its own."""
        return [
            *self.hydras,
            f"resume={_quote(self.checkpoint)}",
            f"hydra.run.dir={_quote(self.folder)}",
            "hydra.output_subdir=null",
        ]


def find(call: Call, overrides: list[str]) -> Resumption | None:
    """Return what `resume=…` of a call stands for; None where a new run is to start.

    `resume=<run folder or checkpoint>` names a run; `resume=auto` is the newest unfinished run
    that was started with this call's overrides.

    Raises:
        UserError: no such run or checkpoint, or --multirun is given as well.
    """
    given = {o.key_or_group: o for o in parse_overrides(overrides)}
    wanted = given["resume"].value() if "resume" in given else None
    if wanted is None:
        return None
    if call.multirun:
        raise UserError(
            "resume continues one run, and --multirun asks for several",
            "Leave --multirun out, and give resume the folder of one of the sweep's jobs.",
        )
    lines = merge(overrides, without="resume")
    own = [line for line in lines if not line.startswith(("hydra.", "hydra/"))]
    hydras = [line for line in lines if line not in own and not line.startswith("hydra.run.dir=")]
    if wanted != "auto":
        checkpoint = _named_checkpoint(str(wanted))
        _refuse_links(checkpoint.parent.parent)
        return Resumption(checkpoint, own, hydras)
    fixed = given.get("hydra.run.dir")
    folder = _newest_unfinished(own, Path(str(fixed.value())) if fixed else None)
    if folder is None:
        return None
    _refuse_links(folder)
    # The run has this call's overrides already; loggers are built from this call's all the same.
    kept = [*(line for line in own if line.startswith("trust=")), *of_loggers(own)]
    return Resumption(last_checkpoint(folder).resolve(), kept, hydras)


def is_automatic(overrides: list[str]) -> bool:
    """Return whether the same call goes on with what it has begun: `resume=auto`."""
    given = {o.key_or_group: o for o in parse_overrides(overrides)}
    return "resume" in given and given["resume"].value() == "auto"


def _named_checkpoint(wanted: str) -> Path:
    """The absolute path of the checkpoint that a run or a checkpoint's own path names."""
    place = find_run(wanted, "resume", lambda folder: last_checkpoint(folder).is_file())
    checkpoint = (last_checkpoint(place) if place.is_dir() else place).resolve()
    if not place.exists():
        raise UserError(
            f"resume={place}: there is no such run folder or checkpoint",
            f"Runs are in {OUTPUTS}/<date>/; resume=auto finds the newest unfinished one.",
        )
    if not checkpoint.is_file():
        raise UserError(
            f"resume={place}: the run has no checkpoints/last.ckpt",
            "It ended before its first checkpoint; start it again without resume.",
        )
    if checkpoint.parent.name != "checkpoints":
        raise UserError(
            f"resume={place}: the checkpoint lies in no run folder",
            "A checkpoint is resumed inside the run folder that trained it, in checkpoints/.",
        )
    return checkpoint


def _refuse_links(folder: Path) -> None:
    """Refuse to write into a run whose files are links: training would add to what they lead to."""
    for file in folder.iterdir():
        if file.is_symlink() and not file.is_dir():
            raise UserError(f"{file} is a link, and training would write there.", "Remove it.")


def _newest_unfinished(own: list[str], fixed: Path | None) -> Path | None:
    """The newest run with the same overrides and no results.json; says what was found."""
    folders = all_runs() if fixed is None else [fixed] if _overrides_file(fixed).is_file() else []
    task = {line for line in own if not line.startswith("trust=")}
    unfinished = [
        folder
        for folder in folders
        if last_checkpoint(folder).is_file() and not (folder / "results.json").exists()
    ]
    differing = {folder: sorted(task ^ set(_started_with(folder))) for folder in unfinished}
    same = next((folder for folder in unfinished if not differing[folder]), None)
    if same is not None:
        say(f"resume=auto continues {same}")
    elif not unfinished:
        say("resume=auto: there is no unfinished run with a checkpoint, so a new one starts.")
    else:
        nearest_run = min(unfinished, key=lambda folder: len(differing[folder]))
        say(
            f"resume=auto: none of {len(unfinished)} unfinished runs has these settings, so a new "
            f"one starts. The nearest, {nearest_run}, differs in "
            f"{', '.join(differing[nearest_run])}."
        )
    return same


def say(text: str) -> None:
    """Print a line, once: DDP processes repeat the whole command line."""
    if launch.rank() == 0:
        print(text, file=sys.stderr)


def _overrides_file(folder: Path) -> Path:
    return folder / ".hydra" / "overrides.yaml"


def _started_with(folder: Path) -> list[str]:
    """The overrides that a run was started with, but for Hydra's and what belongs to a call."""
    try:
        return stored_overrides(folder)
    except UserError as error:
        say(error.what)
        return [f"an unreadable {_overrides_file(folder).name}"]


def stored_overrides(folder: Path) -> list[str]:
    """The overrides that a run was started with, but for Hydra's and what belongs to a call.

    Raises:
        UserError: the file is damaged.
    """
    file = _overrides_file(folder)
    stored = read_yaml_list(file)
    try:
        lines = merge(stored, without="resume")
    except UserError as error:
        raise UserError(f"{file} cannot be read: {error.what.splitlines()[0]}") from error
    return [line for line in lines if not line.startswith(("hydra.", "hydra/", "trust="))]


def _quote(path: Path) -> str:
    """A path as a value in Hydra's override grammar."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
