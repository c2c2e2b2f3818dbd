"""Write text with a trained model: ``python -m trm_lightning.generate run=outputs/… prompt=O``."""

import signal

from omegaconf import DictConfig

from trm_lightning.cli import command


@command("generate")
def main(cfg: DictConfig) -> None:
    """Continue a prompt with a trained model.

    Examples:
        trm-generate run=outputs/2025-01-31/12-00-00_builtin_word_trm_1a2b3c
        trm-generate run=outputs/… prompt=Romeo sampling.temperature=0.7 n_samples=3
        trm-generate run=outputs/… 'prompt="Speak, speak."' sampling.top_p=0.9
    """
    from trm_lightning.sampling.command import generate

    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `… | head` ends it quietly
    generate(cfg)


if __name__ == "__main__":
    main()
