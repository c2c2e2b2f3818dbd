"""A report from its composed config to ``report.html``."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from trm_lightning.errors import UserError
from trm_lightning.reports.analysis import analysis_report
from trm_lightning.reports.comparison import comparison_report
from trm_lightning.reports.document import Report
from trm_lightning.reports.folders import has_results, kind_of
from trm_lightning.reports.page import write_report
from trm_lightning.reports.run import run_report
from trm_lightning.runs.find import find_run
from trm_lightning.runs.verify import verify

_log = logging.getLogger(__name__)


def report(cfg: DictConfig) -> None:
    """Write the report of ``cfg.path`` into that folder, or check its files.

    Raises:
        UserError: for a folder that is missing, without results, half-written or damaged.
    """
    if cfg.check:
        _check(find_run(cfg.path, "path"))
        return
    folder = find_run(cfg.path, "path", has_results)
    makers: dict[str, Callable[[Path], Report]] = {
        "run": partial(run_report, trust=cfg.trust),
        "analysis": analysis_report,
        "comparison": comparison_report,
    }
    make = makers[kind_of(folder)]
    try:
        pages = write_report(make(folder), folder)
    except UserError:
        raise
    except Exception as error:  # numbers, each of the right type, that contradict each other
        _log.debug("The report could not be made.", exc_info=True)
        raise UserError(
            f"What {folder} holds does not fit together: {type(error).__name__}: {error}",
            "A file in it may be damaged; hydra.verbose=true tells where that was found.",
        ) from error
    print("\n".join(f"Written to {page}" for page in pages))


def write_comparison(folder: Path) -> None:
    """Write the report of a comparison into its folder, and print where."""
    pages = write_report(comparison_report(folder), folder)
    print("\n".join(f"Written to {page}" for page in pages))


def _check(folder: Path) -> None:
    """Print which files of a folder are as they were written.

    Raises:
        UserError: naming those that are not.
    """
    found = verify(folder)
    for file, damage in found.items():
        print(f"{'DAMAGED' if damage else 'whole':8s}{file}")
    wrong = [damage for damage in found.values() if damage]
    if wrong:
        raise UserError(f"{len(wrong)} of {len(found)} files are damaged.\n" + "\n".join(wrong))
