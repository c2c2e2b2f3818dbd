"""Text files of a run folder. They may come from anyone: read with bounds, and as data only."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from trm_lightning.errors import UserError
from trm_lightning.files import CHECKSUM, checksum_of
from trm_lightning.printable import printable

MOST_BYTES = 16 * 2**20  # of a file that is read whole
MOST_LINES_BYTES = 512 * 2**20  # of a file that is read line by line
MOST_YAML_BYTES = 2**18  # YAML is read slowly: this takes a few seconds
MOST_DEPTH = 30
_HINT = "It may be damaged, or not of trm_lightning."


def read_text(file: Path, most_bytes: int = MOST_BYTES, errors: str = "strict") -> str:
    """Read UTF-8 text; control characters in it become visible escapes.

    Args:
        file: to read.
        most_bytes: larger files are refused.
        errors: what to do about bytes that are no UTF-8, as for ``bytes.decode``.

    Raises:
        UserError: when it cannot be read, is too large, or leads out of its folder.
    """
    return printable(_decoded(file, most_bytes, errors))


def read_json(file: Path) -> Any:
    """Read JSON, and take out its checksum; control characters in texts become visible escapes.

    Raises:
        UserError: when it cannot be read, is too large, no JSON, nested too deeply or not as it
            was written.
    """
    try:
        return parse_json(_decoded(file, MOST_BYTES))
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}.", _HINT) from error


def parse_json(text: str) -> Any:
    """Return what a JSON text holds, as :func:`read_json` does.

    Raises:
        ValueError: when it is no JSON, nested too deeply, or has another checksum than its own.
    """
    try:
        content = json.loads(text)
        checksum = content.pop(CHECKSUM, None) if isinstance(content, dict) else None
        if checksum is not None and checksum != checksum_of(content):
            raise ValueError("its checksum is wrong: it was damaged or edited")
        return _printable(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_yaml_list(file: Path) -> list[str]:
    """Read a YAML file that holds a list of words, such as a run's overrides.

    Raises:
        UserError: when it cannot be read, is too large, or holds anything else.
    """
    try:
        content = yaml.safe_load(_decoded(file, MOST_YAML_BYTES))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{file} cannot be read: {reason}.", _HINT) from error
    if not isinstance(content, list) or not all(isinstance(word, str) for word in content):
        raise UserError(f"{file} must hold a list of words.", _HINT)
    return [printable(word) for word in content]


def read_lines(file: Path) -> Iterator[bytes]:
    """Yield a file's lines one by one.

    Raises:
        UserError: when it cannot be read, is too large, or leads out of its folder.
    """
    n_bytes = 0
    with _opened(file) as stream:
        while line := stream.readline(MOST_BYTES):
            n_bytes += len(line)
            if n_bytes > MOST_LINES_BYTES:
                raise _too_large(file, MOST_LINES_BYTES)
            yield line


def read_bytes(file: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a file.

    Raises:
        UserError: when it cannot be read, is too large, or leads out of its folder.
    """
    try:
        with _opened(file) as stream:
            content = stream.read(most_bytes + 1)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    if len(content) > most_bytes:
        raise _too_large(file, most_bytes)
    return content


def _decoded(file: Path, most_bytes: int, errors: str = "strict") -> str:
    try:
        return read_bytes(file, most_bytes).decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} cannot be read: it is no UTF-8 text ({error}).", _HINT) from error


def _opened(file: Path) -> BinaryIO:
    """Open a file, unless it is a link by which a stranger's folder would show a file of ours."""
    if file.is_symlink() and not file.resolve().is_relative_to(file.parent.resolve()):
        raise UserError(f"{file} is a link that leads out of its folder.", "Put the file there.")
    try:
        return file.open("rb")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}.") from error


def _too_large(file: Path, most_bytes: int) -> UserError:
    return UserError(f"{file} is larger than {most_bytes >> 10:,} KiB: it is not read.", _HINT)


def _printable(node: Any, depth: int = 0) -> Any:
    """Return plain containers with printable texts.

    Raises:
        ValueError: when they are nested too deeply.
    """
    if depth > MOST_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(node, str):
        return printable(node)
    if isinstance(node, list):
        return [_printable(child, depth + 1) for child in node]
    if isinstance(node, dict):
        return {printable(key): _printable(child, depth + 1) for key, child in node.items()}
    return node
