"""Text from models, tokenizers and files, made safe to print."""

import re

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return text with its control characters shown as escapes, such as ``\x1b``.

    A terminal obeys control characters: they could move the cursor, rename the window or hide what
    was printed before. Tabs and line ends stay. Half of a surrogate pair, which no encoding can
    write, is shown as an escape too.
    """
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
