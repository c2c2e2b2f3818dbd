"""WikiText-2 and WikiText-103: where they are downloaded from, and their published sizes."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from trm_lightning.data.corpus import SPLIT_NAMES, Corpus
from trm_lightning.data.find_or_download import PublishedFile, find_local, locate, warn_if_changed
from trm_lightning.data.parquet_text import parquet_text_bytes, read_parquet_lines
from trm_lightning.data.text_counts import TextCounts
from trm_lightning.data.text_stream import file_sha256, read_utf8, safe_blocks
from trm_lightning.errors import UserError, need

HOME = (
    "https://huggingface.co/datasets/Salesforce/wikitext/resolve/"
    "b08601e04326c79dfdd32d625aee71d232d685c3"
)
_FILE_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_TOKENS_SPLITS = {"train": "train", "val": "valid", "test": "test"}

# Published parquet files of each (size, variant): split -> checksums of its parts.
PARQUET_SHA256: dict[tuple[int, str], dict[str, list[str]]] = {
    (2, "v1"): {
        "train": ["dfc27e4360c639dc1fba1e403bfffd53af4a5c75d5363b5724d49bf12d07cce6"],
        "val": ["717de9a0c1c0b0b1dfdd8f1e6ad8a30ece618bbde81f5da8207277547d324215"],
        "test": ["e6b3913da714b63a60a571698b20ff15441fb015783ea1b5285f707d4f2f00a9"],
    },
    (2, "raw"): {
        "train": ["e83889baabc497075506f91975be5fac0d45c5290b6b20582c8cd1e853d0c9f7"],
        "val": ["204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c"],
        "test": ["5f1bea067869d04849c0f975a2b29c4ff47d867f484f5010ea5e861eab246d91"],
    },
    (103, "v1"): {
        "train": [
            "c2ecca8c3250e79518e45d125f3a9a757d8014f6b2d8435c602be87c1f79ec3b",
            "720f2503551f33c25bb822aad74d699fee4d5331a7373d0c262f1bfb01354fcf",
        ],
        "val": ["a586125adab06f115018c43507ac267ea70850ce6218cbb96e08bb3b4db0899b"],
        "test": ["abdfc9f83b1103b502924072460d4c92f277c9b49c313cef3e48cfcf7428e125"],
    },
    (103, "raw"): {
        "train": [
            "74da360f23826045b3e6ac6375411fdb15f003030aa74f2596ed08b857cb9212",
            "ba090ac30dbf5461e8dcbdd1a1b8e6f3cf9c2c756d64f0c1220450acd514f720",
        ],
        "val": ["204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c"],
        "test": ["5f1bea067869d04849c0f975a2b29c4ff47d867f484f5010ea5e861eab246d91"],
    },
}
# Published numbers of words, an <eos> after every line included.
N_TOKENS: dict[tuple[int, str], dict[str, int]] = {
    (2, "v1"): {"train": 2_088_628, "val": 217_646, "test": 245_569},
    (103, "v1"): {"train": 103_227_021, "val": 217_646, "test": 245_569},
}
_TOKENS_FILE_SHA256 = {
    "val": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
}


class WikiText(Corpus):
    """Good and featured Wikipedia articles, a line per paragraph.

    A split is read from the published text file in ``$TRM_DATA_DIR``
    (``wikitext-2/wiki.train.tokens``, ``wikitext-2-raw/wiki.train.raw``), else from its parquet
    files: those in ``$TRM_DATA_DIR``, in the cache folder, or downloaded.

    Args:
        size: 2 or 103 (million training words).
        variant: "v1" has ``<unk>`` for rare words, hence a closed vocabulary; "raw" has all words.
        base_url: folder that holds the parquet files' folders.

    Raises:
        UserError: no such size or variant; and from ``prepare``: the files cannot be
            found or downloaded, or pyarrow, which reads parquet, is missing.
    """

    def __init__(
        self,
        size: Literal[2, 103] = 2,
        variant: Literal["v1", "raw"] = "v1",
        base_url: str = HOME,
    ) -> None:
        if (size, variant) not in PARQUET_SHA256:
            raise UserError(
                f"There is no WikiText-{size} in variant {variant!r}.",
                "The sizes are 2 and 103; the variants are 'v1' and 'raw'.",
            )
        self.size = size
        self.variant = variant
        self.base_url = base_url.rstrip("/")
        self._paths: dict[str, list[Path]] = {}
        self._downloaded: set[str] = set()

    def prepare(self, cache_dir: Path) -> None:
        """See ``Corpus``."""
        for split in SPLIT_NAMES:
            text_file = find_local(self._text_file_name(split))
            if text_file:
                if self.variant == "v1" and split in _TOKENS_FILE_SHA256:
                    warn_if_changed(text_file, _TOKENS_FILE_SHA256[split])
                self._paths[split] = [text_file]
                continue
            need("pyarrow", "parquet")
            files = self._parquet_files(split)
            if not all(find_local(file.name) for file in files):
                self._downloaded.add(split)
            self._paths[split] = [locate(file, cache_dir) for file in files]

    def _text_file_name(self, split: str) -> str:
        folder, ending = {
            "v1": (f"wikitext-{self.size}", "tokens"),
            "raw": (f"wikitext-{self.size}-raw", "raw"),
        }[self.variant]
        return f"{folder}/wiki.{_TOKENS_SPLITS[split]}.{ending}"

    def _parquet_files(self, split: str) -> list[PublishedFile]:
        folder = f"wikitext-{self.size}-{'v1' if self.variant == 'v1' else 'raw-v1'}"
        checksums = PARQUET_SHA256[self.size, self.variant][split]
        names = [
            f"{folder}/{_FILE_SPLITS[split]}-{part:05d}-of-{len(checksums):05d}.parquet"
            for part in range(len(checksums))
        ]
        return [
            PublishedFile(name, sha256, f"{self.base_url}/{name}")
            for name, sha256 in zip(names, checksums, strict=True)
        ]

    def key(self) -> dict[str, Any]:
        """See ``Corpus``."""
        paths = [path for split in SPLIT_NAMES for path in self._paths[split]]
        together = hashlib.sha256("".join(map(file_sha256, paths)).encode())
        return {"source": together.hexdigest()}

    def split_names(self) -> Sequence[str]:
        """See ``Corpus``."""
        return SPLIT_NAMES

    def blocks(self, split: str) -> Iterator[str]:
        """See ``Corpus``."""
        return safe_blocks(piece for path in self._paths[split] for piece in _read(path))

    def size_estimate(self, split: str) -> int:
        """See ``Corpus``."""
        return sum(map(_text_bytes, self._paths[split]))

    def check_counts(self, split: str, counts: TextCounts) -> None:
        """Compare with the published number of words, which depends on every line end.

        Raises:
            UserError: a download differs. A file in ``$TRM_DATA_DIR`` only causes a warning.
        """
        published = N_TOKENS.get((self.size, self.variant), {}).get(split)
        found = counts.words + counts.lines  # <eos> is a word
        if published is None or found == published:
            return
        message = (
            f"The {split} split of WikiText-{self.size} has {found:,} words with one <eos> per "
            f"line; {published:,} were published (difference {found - published:+,})."
        )
        if split in self._downloaded:
            raise UserError(message, "Please report it: the download's format has changed.")
        paths = ", ".join(map(str, self._paths[split]))
        warnings.warn(f"{message} Read from {paths}.", stacklevel=2)


def _read(path: Path) -> Iterator[str]:
    return read_parquet_lines(path) if path.suffix == ".parquet" else read_utf8(path)


def _text_bytes(path: Path) -> int:
    return parquet_text_bytes(path) if path.suffix == ".parquet" else path.stat().st_size
