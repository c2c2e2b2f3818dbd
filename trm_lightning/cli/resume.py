"""`resume=…`: go on with a stored run, in its own folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from trm_lightning.cli import launch
from trm_lightning.cli.compose import Call
from trm_lightning.cli.overrides import merge, parse_overrides
from trm_lightning.errors import UserError
from trm_lightning.files import write_text
from trm_lightning.runs.find import OUTPUTS, all_runs, find_run, last_checkpoint


def resolve(call: Call, overrides: list[str]) -> list[str]:
    """Replace `resume=…` by what it stands for; `call` gets the stored run's config folder.

    `resume=<run folder or checkpoint>` becomes the run's stored overrides, then this call's, then
    the checkpoint's absolute path and the run's folder. `resume=auto` does the same for the newest
    unfinished run with this call's overrides, or starts a new run where there is none. Resolving
    the result again gives the same: DDP processes repeat the whole command line.

    Raises:
        UserError: no such run or checkpoint, or --multirun is given as well.
    """
    given = {o.key_or_group: o for o in parse_overrides(overrides)}
    wanted = given["resume"].value() if "resume" in given else None
    if wanted is None:
        return overrides
    if call.multirun:
        raise UserError(
            "resume continues one run, and --multirun asks for several",
            "Leave --multirun out, and give resume the folder of one of the sweep's jobs.",
        )
    own = merge(overrides, without="resume")
    if wanted == "auto":
        fixed = given.get("hydra.run.dir")
        folder = _newest_unfinished(own, Path(str(fixed.value())) if fixed else None)
        if folder is None:
            return [*own, "resume=null"]
        checkpoint = last_checkpoint(folder).resolve()
    else:
        checkpoint = _named_checkpoint(str(wanted))
    folder = checkpoint.parent.parent
    call.resumed = folder
    _restore_flags(call, folder)
    own.extend([f"resume={_quote(checkpoint)}", f"hydra.run.dir={_quote(folder)}"])
    return merge(_stored_overrides(folder) + own)


@contextmanager
def restored_after_mistake(folder: Path | None) -> Iterator[None]:
    """Keep what a run was started with when a UserError ends its resumption.

    Hydra has by then stored the new overrides; the next `resume` would repeat the mistake.
    """
    stored = {}
    if folder is not None and launch.rank() == 0:
        stored = {file: file.read_text("utf-8") for file in (folder / ".hydra").glob("*.yaml")}
    try:
        yield
    except SystemExit as stop:
        if stop.code == 2:
            for file, text in stored.items():
                write_text(file, text)
        raise


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
    if not _overrides_file(checkpoint.parent.parent).is_file():
        raise UserError(
            f"resume={place}: {checkpoint.parent.parent} has no .hydra/overrides.yaml",
            "A checkpoint is resumed inside the run folder that trained it.",
        )
    return checkpoint


def _newest_unfinished(own: list[str], fixed: Path | None) -> Path | None:
    """The newest run with the same overrides and no results.json; says what was found."""
    folders = all_runs() if fixed is None else [fixed] if _overrides_file(fixed).is_file() else []
    task = {o for o in own if not o.startswith(("hydra.", "hydra/"))}
    unfinished = [
        folder
        for folder in folders
        if last_checkpoint(folder).is_file() and not (folder / "results.json").exists()
    ]
    differing = {folder: sorted(task ^ set(_stored_overrides(folder))) for folder in unfinished}
    same = next((folder for folder in unfinished if not differing[folder]), None)
    if same is not None:
        _say(f"resume=auto continues {same}")
    elif not unfinished:
        _say("resume=auto: there is no unfinished run with a checkpoint, so a new one starts.")
    else:
        nearest = min(unfinished, key=lambda folder: len(differing[folder]))
        _say(
            f"resume=auto: none of {len(unfinished)} unfinished runs has these settings, so a new "
            f"one starts. The nearest, {nearest}, differs in {', '.join(differing[nearest])}."
        )
    return same


def _say(text: str) -> None:
    """Print a line, once: DDP processes repeat the whole command line."""
    if launch.rank() == 0:
        print(text, file=sys.stderr)


def _overrides_file(folder: Path) -> Path:
    return folder / ".hydra" / "overrides.yaml"


def _stored_overrides(folder: Path) -> list[str]:
    """The overrides that a run was started with, without its own `resume`."""
    return merge([str(line) for line in OmegaConf.load(_overrides_file(folder))], without="resume")


def _restore_flags(call: Call, folder: Path) -> None:
    """Use the stored run's --config-name and --config-dir where this call gives none."""
    hydra = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra
    if call.config_name == call.command:
        call.config_name = hydra.job.config_name
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line" and call.config_dir is None:
            call.config_dir = Path(source.path)


def _quote(path: Path) -> str:
    """A path as a value in Hydra's override grammar."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
