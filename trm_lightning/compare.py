"""Compare models fairly: ``python -m trm_lightning.compare data=shakespeare_word``."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from trm_lightning.cli import command


@command("compare")
def main(cfg: DictConfig) -> None:
    """Train models under one budget with several seeds each, and compare the results.

    It ends in a table, a verdict and report.html with pictures.

    The same command resumes where an earlier one stopped; finished runs are not repeated.

    Examples:
        trm-compare data=shakespeare_word models=[ar,trm] seeds=5 budget.tokens=10_000_000
        trm-compare data=builtin_word model.width=64 parity=seconds budget.seconds=600
        trm-compare study=honest_char budget=laptop
        trm-compare study=notes_word budget=smoke
        trm-compare runs=[outputs/…,outputs/…]
    """
    from trm_lightning.reports.command import write_comparison
    from trm_lightning.studies.comparison import compare

    complete = compare(cfg)
    write_comparison(Path(cfg.run_dir))
    if not complete:
        sys.exit(1)


if __name__ == "__main__":
    main()
