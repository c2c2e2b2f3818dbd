"""Score a trained model exactly: ``python -m trm_lightning.evaluate run=outputs/…``."""

from omegaconf import DictConfig

from trm_lightning.cli import command


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Score every token of a split once and write the numbers to the run's evaluation.json.

    Some of the calls that are summed are made again with other tokens: a model that sees what it is
    scored on gets no perplexity.

    Examples:
        trm-evaluate run=outputs/2025-01-31/12-00-00_builtin_word_trm_1a2b3c
        trm-evaluate run=outputs/…/checkpoints/last.ckpt split=test
        trm-evaluate run=outputs/… stride=1
    """
    from trm_lightning.evaluation.command import evaluate
    from trm_lightning.leakage.printed import CallWatch

    evaluate(cfg, CallWatch)


if __name__ == "__main__":
    main()
