"""Read files as a stream of text, and cut it into blocks, in bounded memory."""

import codecs
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from trm_lightning.errors import UserError

BLOCK_CHARACTERS = 1 << 20
_BLOCK_BYTES = 1 << 20
_CUT_SEARCH = 1 << 16
_LAST_SAFE_CUT = re.compile(r"(?s).*[ \n](?=\S)")


def read_utf8(path: Path) -> Iterator[str]:
    """Yield the decoded file piece by piece; a byte order mark is dropped, CRLF becomes LF.

    Raises:
        UserError: at the first byte that is not UTF-8, with its offset in the file.
    """
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    n_read = 0
    with path.open("rb") as file:
        while True:
            data = file.read(_BLOCK_BYTES)
            n_read += len(data)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                # error.object ends where the bytes read so far end.
                offset = n_read - len(error.object) + error.start
                byte = error.object[error.start]
                raise UserError(
                    f"{path} is not UTF-8: byte {byte:#04x} at offset {offset}.",
                    "Convert it first, for example: iconv -f LATIN1 -t UTF-8 IN > OUT",
                ) from error
            if text:
                yield text
            if not data:
                return


def character_range(pieces: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """Yield characters [start, stop) of the joined pieces."""
    position = 0
    for piece in pieces:
        wanted = piece[max(0, start - position) : max(0, stop - position)]
        position += len(piece)
        if wanted:
            yield wanted
        if position >= stop:
            return


def safe_blocks(pieces: Iterable[str], size: int = BLOCK_CHARACTERS) -> Iterator[str]:
    """Regroup pieces into blocks of at most ``size`` characters that can be tokenized on their own.

    A block ends just before the last of a run of blanks. No shipped tokenizer has a token that
    spans such a place (GPT-2's joins one blank to the word that follows), so the tokens of the
    blocks are the tokens of the whole text. Where 64 Ki characters hold no blank before a word,
    the cut falls within a word.
    """
    rest = ""
    for piece in pieces:
        rest += piece
        start = 0
        while len(rest) - start > size:
            cut = _safe_cut(rest, start, start + size)
            yield rest[start:cut]
            start = cut
        rest = rest[start:]
    if rest:
        yield rest


def _safe_cut(text: str, start: int, limit: int) -> int:
    match = _LAST_SAFE_CUT.match(text, max(start, limit - _CUT_SEARCH), limit + 1)
    cut = match.end() - 1 if match else limit
    return cut if cut > start else limit


def refuse_surrogates(text: str) -> None:
    """Check that the text is Unicode text.

    Raises:
        UserError: it holds half of a surrogate pair, as wrongly decoded bytes become.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text holds half a character: {text[error.start]!r} at position {error.start}.",
            "Some bytes were not UTF-8. Convert the text to UTF-8 first.",
        ) from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def count_characters(pieces: Iterable[str]) -> int:
    """Return the number of characters in all the pieces."""
    return sum(map(len, pieces))
