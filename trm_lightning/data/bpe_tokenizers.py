"""Byte pair encoding: trained on the corpus, or GPT-2's."""

import copy
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from trm_lightning.data.find_or_download import PublishedFile, locate
from trm_lightning.data.text_stream import file_sha256, refuse_surrogates, safe_blocks
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.data.unit_cache import UnitCache
from trm_lightning.errors import UserError

END_OF_TEXT = "<|endoftext|>"
_N_BYTES = 256
_PIECE_CHARACTERS = 1 << 15  # the library encodes a batch of pieces on all cores
_LONGEST_WORD = 1024  # characters; the library takes minutes to learn from longer ones
_MORE = f"{{{_LONGEST_WORD + 1},}}"
# GPT-2's rule joins none of these to what follows: an English word, what stands between blanks (as
# the library counts them), a run of blanks but for its last.
_BLANK = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_UNIT = re.compile(
    rf" ?[A-Za-z]++(?=[\x00-\x7f]|\Z)| ?[^{_BLANK}]+|[{_BLANK}]+(?![^{_BLANK}])|[{_BLANK}]"
)
_MOST_CHARACTERS = 1 << 26  # to learn from
_LONG_WORD = re.compile(rf"(?<![^\W_])[^\W_]{_MORE}|(?<![^\w\s]|_)(?:[^\w\s]|_){_MORE}")


class ByteLevelBPE(Tokenizer):
    """Encodes any text, so there is no unknown token."""

    backend: Backend
    lossless = True
    _units: UnitCache

    def rule(self) -> dict[str, Any]:
        """See ``Tokenizer``: the library trains and splits, each of its versions as it sees fit."""
        return {"tokenizers": tokenizers.__version__}

    def fitted_state(self) -> dict[str, Any]:
        """See ``Tokenizer``."""
        return {"tokenizers_json": self.backend.to_str()}

    def with_fitted_state(self, fitted: dict[str, Any]) -> Self:
        """See ``Tokenizer``."""
        return self._fitted(Backend.from_str(fitted["tokenizers_json"]))

    def _fitted(self, backend: Backend) -> Self:
        fitted = copy.copy(self)
        fitted.backend = backend
        fitted._units = UnitCache(partial(_encode_batch, backend))
        return fitted

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return self.backend.get_vocab_size()

    @property
    def start_id(self) -> int:
        """``<|endoftext|>``."""
        start = self.backend.token_to_id(END_OF_TEXT)
        assert start is not None
        return start

    def encode(self, text: str) -> np.ndarray:
        """See ``Tokenizer``.

        Raises:
            UserError: the text holds half of a surrogate pair.
        """
        refuse_surrogates(text)
        special = self.backend.get_added_tokens_decoder().values()
        units = _UNIT.findall(text)
        short = max(map(len, units), default=0) <= _LONGEST_WORD
        if short and not any(token.content in text for token in special):
            return self._units.ids(units)
        ids = [np.array(ids, dtype=np.int64) for ids in _encode_batch(self.backend, _pieces(text))]
        return np.concatenate(ids) if ids else np.empty(0, dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def token(self, token_id: int) -> str:
        """See ``Tokenizer``."""
        return self.decode([token_id])


class BPETokenizer(ByteLevelBPE):
    """Byte pair encoding trained on the training split: on all of 64 Mi characters, and of a longer
    text on as much, in blocks that lie evenly spread.

    Args:
        vocab_size: largest number of ids: ``<|endoftext|>``, the 256 bytes and the merges.

    Raises:
        UserError: vocab_size is 256 or less, too few for the bytes.
    """

    kind = "bpe"
    version = 2

    def __init__(self, vocab_size: int = 4096) -> None:
        if vocab_size <= _N_BYTES:
            raise UserError(
                f"vocab_size is {vocab_size}; byte pair encoding needs at least {_N_BYTES + 1}."
            )
        self.vocab_limit = vocab_size

    def settings(self) -> dict[str, Any]:
        """See ``Tokenizer``."""
        return {"vocab_size": self.vocab_limit}

    def fit(self, train: Iterable[str], held_out: Iterable[str]) -> Self:
        """See ``Tokenizer``."""
        backend = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_limit,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        blocks = _spread(train, _MOST_CHARACTERS)
        pieces = (piece for block in blocks for piece in _pieces(block))
        backend.train_from_iterator(pieces, trainer)
        return self._fitted(backend)


class GPT2Tokenizer(ByteLevelBPE):
    """GPT-2's published 50,257 tokens and ``<PAD>``, as in the system that is
    reproduced: 50,258 entries.

    Its files come from ``$TRM_DATA_DIR/gpt2``, else the cache folder, else a download.

    Args:
        base_url: folder that holds ``vocab.bpe`` and ``encoder.json``.
    """

    kind = "gpt2"
    _checksums = (
        ("vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
        ("encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    )

    def __init__(
        self, base_url: str = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._paths: list[Path] = []  # merges, vocabulary

    def prepare(self, cache_dir: Path) -> None:
        """See ``Tokenizer``."""
        files = [
            PublishedFile(f"gpt2/{name}", sha256, f"{self.base_url}/{name}")
            for name, sha256 in self._checksums
        ]
        self._paths = [locate(file, cache_dir) for file in files]

    def key(self) -> dict[str, Any]:
        """See ``Tokenizer``: the files' contents, whatever their address."""
        return {
            "kind": self.kind,
            "files": [file_sha256(path) for path in self._paths],
        }

    def fit(self, train: Iterable[str], held_out: Iterable[str]) -> Self:
        """See ``Tokenizer``; the text is not read."""
        merges, vocabulary = map(str, self._paths)
        backend = _byte_level(models.BPE.from_file(vocabulary, merges))
        backend.add_special_tokens([AddedToken(END_OF_TEXT), AddedToken("<PAD>")])
        return self._fitted(backend)


def _spread(blocks: Iterable[str], most: int) -> list[str]:
    """Return all blocks; of longer text every second, fourth and so on: ``most`` characters."""
    kept: list[str] = []
    step, size = 1, 0
    for i, block in enumerate(blocks):
        if i % step == 0:
            kept.append(block)
            size += len(block)
        while size > most and len(kept) > 1:
            kept, step = kept[::2], 2 * step
            size = sum(map(len, kept))
    return kept


def _encode_batch(backend: Backend, texts: Iterable[str]) -> list[list[int]]:
    encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _pieces(text: str) -> Iterator[str]:
    """Cut the text where no token spans, and words of more letters than any language writes."""
    refuse_surrogates(text)
    for block in safe_blocks([text], _PIECE_CHARACTERS):
        start = 0
        longest = max(map(len, block.split()), default=0)
        for word in _LONG_WORD.finditer(block) if longest > _LONGEST_WORD else ():
            for cut in range(word.start() + _LONGEST_WORD, word.end(), _LONGEST_WORD):
                yield block[start:cut]
                start = cut
        yield block[start:]


def _byte_level(model: models.BPE) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend
