"""What the comments of a YAML file say about its keys: the text of `--help`."""

import re
from pathlib import Path

_LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w@./-]+):(?P<rest>.*)$")
_TRAILING = re.compile(r"\s+# (?P<comment>.*)$")


def key_comments(file: Path) -> dict[str, str]:
    """Return the comment of each dotted key that has one.

    That is the comment at the end of its line, or else the lines of comment directly above it. A
    comment above several keys without a blank line between belongs to the first of them.
    """
    found: dict[str, str] = {}
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            above.append(text.lstrip("# "))
            continue
        match = _LINE.match(line)
        if match:
            depth = len(match["indent"])
            path = [(d, key) for d, key in path if d < depth] + [(depth, match["key"])]
            trailing = _TRAILING.search(match["rest"])
            comment = trailing["comment"] if trailing else " ".join(above)
            if comment:
                found[".".join(key for _, key in path)] = comment
        above = []
    return found
