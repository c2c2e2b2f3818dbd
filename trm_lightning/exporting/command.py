"""The export command: a run's best weights as a folder."""

import re
import shutil
from pathlib import Path

from omegaconf import DictConfig

from trm_lightning.errors import UserError
from trm_lightning.exporting.card import warning_of
from trm_lightning.exporting.folder import write_model
from trm_lightning.exporting.graphs import check_formats
from trm_lightning.exporting.hub import push
from trm_lightning.files import temporary_beside, write_folder_atomically
from trm_lightning.runs.exported import is_exported, read_config
from trm_lightning.runs.hub import check_name
from trm_lightning.runs.load import load_run

FOLDER = "export"


def export(cfg: DictConfig) -> Path:
    """Write ``cfg.run`` to ``cfg.to`` and say what is in it.

    Returns:
        The folder.

    Raises:
        UserError: for a missing run, a folder that holds something else, or a full disk.
    """
    if cfg.license is not None and not re.fullmatch(r"[\w.+-]+", cfg.license):
        raise UserError(f"license={cfg.license} is no identifier.", "Such as license=mit.")
    if cfg.push_to_hub is not None:
        check_name(cfg.push_to_hub, f"push_to_hub={cfg.push_to_hub}")
    formats = [cfg.format] if isinstance(cfg.format, str) else list(cfg.format)
    check_formats(formats)
    run = load_run(cfg.run, trust=cfg.trust)
    folder = run.folder / FOLDER if cfg.to is None else Path(cfg.to)
    refuse_what_is_no_export(folder)
    before = temporary_beside(folder)
    with write_folder_atomically(folder) as temporary:
        graphs = write_model(run, temporary, cfg.license, formats, cfg.trust)
        if folder.exists():
            folder.rename(before)
    shutil.rmtree(before, ignore_errors=True)
    print(f"{run.checkpoint}, step {run.optimizer_steps:,}, is exported to {folder}")
    for file in sorted(folder.iterdir()):
        print(f"  {file.name:22s} {file.stat().st_size:>12,} bytes")
    warning = warning_of(read_config(folder))
    for name, difference in graphs.items():
        print(f"{name} was read back: log-probabilities differ by {difference:.1e} at most")
    print("Its predictions are the run's, bit for bit." + (f"\n{warning}" if warning else ""))
    if cfg.push_to_hub is not None:
        print(f"It is at {push(folder, cfg.push_to_hub, cfg.private)}")
    return folder


def refuse_what_is_no_export(folder: Path) -> None:
    """Refuse to write over anything but an export.

    Raises:
        UserError: where there is something else.
    """
    if folder.exists() and not is_exported(folder):
        raise UserError(f"{folder} is there already and holds something else.", "Give to=….")
