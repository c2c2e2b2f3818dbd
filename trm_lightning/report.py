"""Make a report: ``python -m trm_lightning.report path=outputs/…``."""

from omegaconf import DictConfig

from trm_lightning.cli import command


@command("report")
def main(cfg: DictConfig) -> None:
    """Write report.html, report.md and figures/ for a run, an analysis or a comparison.

    With check=true it checks a folder's files instead and writes nothing.

    Examples:
        trm-report path=outputs/2025-01-31/12-00-00_builtin_word_trm_1a2b3c
        trm-report path=outputs/…/analysis
        trm-report path=outputs/comparisons/default
        trm-report path=latest check=true
    """
    from trm_lightning.reports.command import report

    report(cfg)


if __name__ == "__main__":
    main()
