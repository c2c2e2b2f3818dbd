"""A tokenizer from a JSON file of Hugging Face's ``tokenizers`` library."""

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer as Backend

from trm_lightning.data.bpe_tokenizers import ByteLevelBPE
from trm_lightning.data.text_stream import file_sha256, refuse_surrogates
from trm_lightning.errors import UserError

# How published tokenizers name what stands before a text, the likeliest first.
_STARTS = (
    "<|endoftext|>", "<s>", "<bos>", "<BOS>", "<|begin_of_text|>", "[BOS]", "[CLS]", "<eos>",
)  # fmt: skip


class HuggingFaceTokenizer(ByteLevelBPE):
    """A fitted tokenizer as the ``tokenizers`` library saves it; the training text changes nothing.

    Text is encoded in blocks of about a million characters that begin with a blank or a line end.
    A tokenizer that puts a blank before every text, as SentencePiece's do, puts one before each.

    Args:
        path: of the JSON file.
        start_token: stands before a text's first token; None for the usual name that is there.

    Raises:
        UserError: from ``prepare``: the file cannot be read, is not of the library, or has no such
            token.
    """

    kind = "huggingface"
    lossless = False
    _sha256: str
    _content: dict[str, Any]
    _splits_like_gpt2: bool
    _vocab_size: int

    def __init__(self, path: str, start_token: str | None = None) -> None:
        self.path = str(path)
        self.start_token = start_token

    def prepare(self, cache_dir: Path) -> None:
        """See ``Tokenizer``."""
        self._sha256 = file_sha256(Path(self.path).expanduser())
        loaded = self.fit()
        if self.start_token and loaded.backend.token_to_id(self.start_token) is None:
            raise UserError(f"{self.path} has no token {self.start_token!r}.")

    def key(self) -> dict[str, Any]:
        """See ``Tokenizer``: the file's content, wherever it lies."""
        return {"kind": self.kind, "file": self._sha256, "start_token": self.start_token}

    def fit(self, train: object = (), held_out: object = ()) -> Self:
        """See ``Tokenizer``; the text is not read."""
        try:
            text = Path(self.path).expanduser().read_text(encoding="utf-8")
            backend = Backend.from_str(text)
        except Exception as error:  # the library raises no narrower one
            raise UserError(
                f"{self.path} is not a tokenizer of the tokenizers library: {error}.",
                "Give the tokenizer.json that its save() writes.",
            ) from error
        backend.no_truncation()
        backend.no_padding()
        return self._fitted(backend)

    def _fitted(self, backend: Backend) -> Self:
        fitted = super()._fitted(backend)
        fitted._content = json.loads(backend.to_str())
        fitted._splits_like_gpt2 = _splits_like_gpt2(fitted._content)
        fitted._vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        return fitted

    @property
    def vocab_size(self) -> int:
        """Number of ids: the largest and one, since some tokenizers leave ids out."""
        return self._vocab_size

    @property
    def start_id(self) -> int:
        """That of ``start_token``, or of the first of the usual names; 0 where there is none."""
        names = [self.start_token] if self.start_token else _STARTS
        found = (self.backend.token_to_id(name) for name in names)
        return next((i for i in found if i is not None), 0)

    @property
    def unknown_id(self) -> int | None:
        """See ``Tokenizer``."""
        model = self._content["model"]
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else self.backend.token_to_id(token)

    def encode(self, text: str) -> np.ndarray:
        """See ``Tokenizer``.

        Raises:
            UserError: the text holds half of a surrogate pair, or a word that is not in the
                vocabulary, which has no unknown token.
        """
        if self._splits_like_gpt2:
            return super().encode(text)
        refuse_surrogates(text)
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        except Exception as error:  # the library raises no narrower one
            raise UserError(f"{self.path} cannot encode the text: {error}.") from error
        return np.array(encoding.ids, dtype=np.int64)


def _splits_like_gpt2(content: dict[str, Any]) -> bool:
    """Return whether a tokenizer splits text by GPT-2's rule alone."""
    rule = content.get("pre_tokenizer") or {}
    return (
        content.get("normalizer") is None
        and rule.get("type") == "ByteLevel"
        and rule.get("use_regex", True)
        and not rule.get("add_prefix_space", True)
    )
