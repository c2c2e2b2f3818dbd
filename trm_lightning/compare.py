"""Compare models fairly: ``python -m trm_lightning.compare data=shakespeare_word``."""

import sys

from omegaconf import DictConfig

from trm_lightning.cli import command


@command("compare")
def main(cfg: DictConfig) -> None:
    """Train models under one budget with several seeds each, and compare the results.

    The same command resumes where an earlier one stopped; finished runs are not repeated.

    Examples:
        trm-compare data=shakespeare_word models=[ar,trm] seeds=5 budget.tokens=10_000_000
        trm-compare data=builtin_word model.width=64 parity=seconds budget.seconds=600
        trm-compare study=honest_char seeds=3
        trm-compare study=notes_word seeds=1 scale=0.04
        trm-compare runs=[outputs/…,outputs/…]
    """
    from trm_lightning.studies.comparison import compare

    if not compare(cfg):
        sys.exit(1)


if __name__ == "__main__":
    main()
