"""Groups of tokens: by how often they occur in training, and by their part of the line."""

import re
from collections.abc import Iterable, Iterator

import numpy as np

from trm_lightning.data import Tokenizer

FREQUENCIES = ["never", "1–9", "10–99", "100–999", "1,000–9,999", "10,000 or more", "unknown"]
PARTS = ["speaker", "first word", "punctuation", "line end", "other"]
SPEAKER, FIRST_WORD, PUNCTUATION, LINE_END, OTHER = range(len(PARTS))

# A speaker has a line of his own after an empty one (Tiny Shakespeare), or a label in capitals
# (the built-in play). Every part begins with the last blank before it: no tokenizer joins tokens
# across such a place.
_LINE_HEAD = re.compile(
    r"(?P<speaker>(?:\A|(?<=\n)\n)[A-Z][^\n:]{0,40}:(?=\n|\Z)|(?:\A|\n)[A-Z]{2,}:(?= \S))"
    r"(?P<said> \S+)?"
    r"|(?P<first>(?:\A|\n|(?<=\n) )\S+)"
)


def by_frequency(
    tokens: np.ndarray, train: np.ndarray, vocab_size: int, unknown_id: int | None
) -> np.ndarray:
    """Label each token (N,) with an index into FREQUENCIES.

    Args:
        tokens: ids to label.
        train: ids of the training split.
        vocab_size: number of ids.
        unknown_id: has a label of its own; None for none.
    """
    counts = np.bincount(train, minlength=vocab_size)
    label_of_id = np.digitize(counts, [1, 10, 100, 1_000, 10_000])
    if unknown_id is not None:
        label_of_id[unknown_id] = FREQUENCIES.index("unknown")
    return np.asarray(label_of_id[tokens])


def by_part_of_line(
    blocks: Iterable[str], tokenizer: Tokenizer, tokens: np.ndarray
) -> np.ndarray | None:
    """Label each token (N,) with an index into PARTS.

    Args:
        blocks: the split's text, from its beginning.
        tokenizer: that made the tokens.
        tokens: ids of the beginning of that text.

    Returns:
        None where the text's parts, encoded one by one, are not these tokens.
    """
    labels = np.full(len(tokens), OTHER)
    n_done = 0
    for text, part in (piece for block in blocks for piece in _parts(block)):
        ids = tokenizer.encode(text)[: len(tokens) - n_done]
        if not np.array_equal(ids, tokens[n_done : n_done + len(ids)]):
            return None
        labels[n_done : n_done + len(ids)] = part
        n_done += len(ids)
        if n_done == len(tokens):
            break
    if n_done < len(tokens):
        return None
    kind = _kinds(tokenizer)[tokens]
    labels[(kind == PUNCTUATION) & (labels != SPEAKER)] = PUNCTUATION
    labels[kind == LINE_END] = LINE_END
    return labels


def _parts(block: str) -> Iterator[tuple[str, int]]:
    """Yield the pieces of a text with their labels."""
    done = 0
    for match in _LINE_HEAD.finditer(block):
        yield block[done : match.start()], OTHER
        for name, part in (("speaker", SPEAKER), ("said", FIRST_WORD), ("first", FIRST_WORD)):
            if match[name]:
                yield match[name], part
        done = match.end()
    yield block[done:], OTHER


def _kinds(tokenizer: Tokenizer) -> np.ndarray:
    """Say of each id whether it is punctuation, a line end or neither (OTHER)."""
    kinds = np.full(tokenizer.vocab_size, OTHER)
    for token_id in range(tokenizer.vocab_size):
        text = tokenizer.token(token_id)
        if text == "<eos>" or (not text.strip() and "\n" in text):
            kinds[token_id] = LINE_END
        elif text.strip() and not re.search(r"\w", text):
            kinds[token_id] = PUNCTUATION
    return kinds
