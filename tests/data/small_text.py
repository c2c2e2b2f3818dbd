"""A small text of the user's as a data module, for the tests of this folder."""

from pathlib import Path

from trm_lightning.data import CharacterTokenizer, TextCorpus, TextDataModule, Tokenizer

TEXT = "".join(f"line {i} of a text that has {i * i} words.\n" for i in range(60))


def module(
    path: Path, tokenizer: Tokenizer | None = None, split=(0.9, 0.1), **arguments
) -> TextDataModule:
    """The data module of a file or folder; its cache lies beside it."""
    arguments = {"window_size": 16, "batch_size": 4} | arguments
    corpus = TextCorpus(str(path), split)
    return TextDataModule(
        "small",
        corpus,
        tokenizer or CharacterTokenizer(),
        cache_dir=str(path.parent / "cache"),
        **arguments,
    )


def ready(data: TextDataModule) -> TextDataModule:
    data.prepare_data()
    data.setup()
    return data


def cache_folders(path: Path) -> list[Path]:
    return sorted((path.parent / "cache" / "tokens").iterdir())
