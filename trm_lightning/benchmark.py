"""Measure how fast everything is: ``python -m trm_lightning.benchmark``."""

from omegaconf import DictConfig

from trm_lightning.cli import command


@command("benchmark")
def main(cfg: DictConfig) -> None:
    """Measure training, scoring, generation, data, start-up and scaling on this machine.

    Plain implementations of the same nets run in the same rounds, so that a ratio holds also on
    a machine that does other work. Needs no text: nets are measured on random tokens.

    Examples:
        trm-benchmark threads=1
        trm-benchmark sections=[training] repetitions=9 net.norm=pre
        trm-benchmark sections=[data,lightning,startup] data=shakespeare_word
        trm-benchmark sections=[peer] peer=path/to/nanoGPT threads=1 clock=cpu
        trm-benchmark device=cuda batch=256
    """
    from trm_lightning.benchmarks.command import benchmark

    benchmark(cfg)


if __name__ == "__main__":
    main()
