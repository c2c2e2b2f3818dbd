"""A data set from its composed config to token ids on the disk."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from trm_lightning.data.datamodule import TextDataModule
from trm_lightning.data.shards import write_shards


def prepare(cfg: DictConfig) -> None:
    """Prepare ``cfg.data``, print its sizes, and write ``cfg.shards`` where that is set.

    Raises:
        UserError: the text is missing or bad, or a file cannot be written.
    """
    data: TextDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    print(f"{data.name}, {data.vocab_size:,} different tokens, data {data.fingerprint}")
    for name, split in data.splits.items():
        counts, unknown = split.counts, 100 * split.counts.unknown / split.counts.tokens
        print(
            f"  {name:14s} {counts.tokens:15,} tokens {counts.words:15,} words "
            f"{counts.characters:15,} characters  {unknown:.1f} % unknown"
        )
    if cfg.shards is not None:
        for file in write_shards(data, Path(cfg.shards).expanduser()):
            print(f"  wrote {file}")
