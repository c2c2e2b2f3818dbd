"""Make the token ids of a text, before training: ``python -m trm_lightning.prepare data=…``."""

from omegaconf import DictConfig

from trm_lightning.cli import command


@command("prepare")
def main(cfg: DictConfig) -> None:
    """Make the token ids of a data set, where training finds them; print what it holds.

    With shards=FOLDER it also writes them as train.bin and val.bin, which nanoGPT reads.

    Examples:
        trm-prepare data=text data.path=books data.level=bpe
        trm-prepare data=shakespeare_char shards=shakespeare_char
        trm-train data=shards data.path=shakespeare_char
    """
    from trm_lightning.data.command import prepare

    prepare(cfg)


if __name__ == "__main__":
    main()
