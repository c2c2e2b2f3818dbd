"""Text from a data set of Hugging Face's ``datasets`` library."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trm_lightning.data.corpus import FractionCorpus
from trm_lightning.data.text_stream import file_sha256, safe_blocks
from trm_lightning.errors import UserError, need

_SPLITS = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
_ROWS_AT_A_TIME = 1000


class HuggingFaceCorpus(FractionCorpus):
    """The text column of a data set, a row after the other, each ending a line.

    Splits are those of the data set if there is one for validation; else its training split is
    cut by fractions.

    Args:
        path: name on the Hub; or a folder that ``save_to_disk`` wrote; or "text", "json", "csv",
            "parquet" with ``data_files``.
        config: the data set's configuration, where it has several.
        data_files: a file, a glob, a list, or these by split.
        column: of strings.
        revision: commit or tag on the Hub; None for the newest.
        split: fractions of the characters for train, val and, if there are three, test.

    Raises:
        UserError: bad fractions; and from ``prepare``: the library is missing, the data set cannot
            be loaded, or has no such column.
    """

    def __init__(
        self,
        path: str,
        config: str | None = None,
        data_files: str | Sequence[str] | dict[str, Any] | None = None,
        column: str = "text",
        revision: str | None = None,
        split: Sequence[float] = (0.9, 0.1),
    ) -> None:
        super().__init__(split)
        self.path = str(path)
        self.config = config
        self.data_files = data_files
        self.column = column
        self.revision = revision
        self._found: dict[str, Any] = {}

    def prepare(self, cache_dir: Path) -> None:
        """See ``Corpus``."""
        need("datasets", "datasets")
        splits = self._load()
        self._found = {
            ours: splits[theirs]
            for ours, names in _SPLITS.items()
            for theirs in names
            if theirs in splits
        }
        if "train" not in self._found:
            raise UserError(f"The data set {self.path} has no split 'train': {sorted(splits)}.")
        for dataset in self._found.values():
            feature = dataset.features.get(self.column)
            if getattr(feature, "dtype", None) not in ("string", "large_string"):
                raise UserError(
                    f"The data set {self.path} has no column of strings named {self.column!r}.",
                    f"It has: {', '.join(dataset.features)}. Name one: data.corpus.column=NAME",
                )

    def _load(self) -> dict[str, Any]:
        import datasets

        try:
            if (Path(self.path).expanduser() / "state.json").is_file():  # a single split
                return {"train": datasets.load_from_disk(str(Path(self.path).expanduser()))}
            if (Path(self.path).expanduser() / "dataset_dict.json").is_file():
                return dict(datasets.load_from_disk(str(Path(self.path).expanduser())))
            files = _plain(self.data_files)
            loaded = datasets.load_dataset(
                self.path, self.config, data_files=files, revision=self.revision
            )
            return dict(loaded)
        except Exception as error:  # of many classes, by where the data come from
            raise UserError(
                f"The data set {self.path} cannot be loaded: {type(error).__name__}: {error}",
                "Give a name on the Hub, a folder that save_to_disk wrote, or text, json, csv or "
                "parquet with data.corpus.data_files=FILES.",
            ) from error

    @property
    def _published(self) -> bool:
        return "val" in self._found

    def key(self) -> dict[str, Any]:
        """See ``Corpus``: the contents of the library's own files."""
        files = [
            file_sha256(Path(file["filename"]))
            for dataset in self._found.values()
            for file in dataset.cache_files
        ]
        source = hashlib.sha256("".join(files).encode()).hexdigest()
        fractions = None if self._published else list(self.fractions)
        return {"source": source, "column": self.column, "split": fractions}

    def split_names(self) -> Sequence[str]:
        """See ``Corpus``."""
        return tuple(self._found) if self._published else super().split_names()

    def blocks(self, split: str) -> Iterator[str]:
        """See ``Corpus``."""
        return safe_blocks(self._lines(split)) if self._published else super().blocks(split)

    def size_estimate(self, split: str) -> int:
        """See ``Corpus``."""
        if not self._published:
            return super().size_estimate(split)
        return int(self._found[split].select_columns([self.column]).data.nbytes)

    def _pieces(self) -> Iterator[str]:
        return self._lines("train")

    def _lines(self, split: str) -> Iterator[str]:
        rows = self._found[split].select_columns([self.column])
        for batch in rows.iter(batch_size=_ROWS_AT_A_TIME):
            texts = (text or "" for text in batch[self.column])
            yield "".join(text if text.endswith("\n") else f"{text}\n" for text in texts)


def _plain(files: Any) -> Any:
    """Return a config's node as the lists and dictionaries that the library takes."""
    if files is None or isinstance(files, str):
        return files
    if hasattr(files, "items"):
        return {str(split): _plain(names) for split, names in files.items()}
    return [str(name) for name in files]
