"""A report from its composed config to ``report.html``."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from trm_lightning.reports.analysis import analysis_report
from trm_lightning.reports.comparison import comparison_report
from trm_lightning.reports.document import Report
from trm_lightning.reports.folders import has_results, kind_of
from trm_lightning.reports.page import write_report
from trm_lightning.reports.run import run_report
from trm_lightning.runs.find import find_run


def report(cfg: DictConfig) -> None:
    """Write the report of ``cfg.path`` into that folder.

    Raises:
        UserError: for a folder that is missing, without results or half-written.
    """
    folder = find_run(cfg.path, "path", has_results)
    makers: dict[str, Callable[[Path], Report]] = {
        "run": partial(run_report, trust=cfg.trust),
        "analysis": analysis_report,
        "comparison": comparison_report,
    }
    pages = write_report(makers[kind_of(folder)](folder), folder)
    print("\n".join(f"Written to {page}" for page in pages))
