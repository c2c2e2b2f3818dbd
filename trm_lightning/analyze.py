"""Measure what refinement does: ``python -m trm_lightning.analyze run=outputs/…``."""

from omegaconf import DictConfig

from trm_lightning.cli import command


@command("analyze")
def main(cfg: DictConfig) -> None:
    """Measure a trained model after each recursion, refinement and supervision step.

    Numbers and figures go to the folder analysis/ in the run's folder.

    Examples:
        trm-analyze run=outputs/2025-01-31/12-00-00_builtin_word_trm_1a2b3c
        trm-analyze run=outputs/… split=test depth=16
        trm-analyze run=outputs/… max_tokens=5000 ablations=false
    """
    from trm_lightning.analysis import analyze

    analyze(cfg)


if __name__ == "__main__":
    main()
