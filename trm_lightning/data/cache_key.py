"""What the token ids of a data set depend on: the key of its cache, and its fingerprint.

The fingerprint is of the text, the split, the tokenizer's settings and their versions: runs record
it, so it stays the same under a change of code that changes no id. The cache's own key has the code
as well: its files are never read by other code than that which wrote them.
"""

import ast
import hashlib
import inspect
import json
import sys
import textwrap
import unicodedata
from pathlib import Path
from typing import Any

from trm_lightning.data.corpus import Corpus
from trm_lightning.data.text_stream import file_sha256
from trm_lightning.data.tokenizer import Tokenizer

CODE_VERSION = 1  # raise it when a change of code changes the ids of every data set
_BEYOND_THE_IDS = {"__init__", "datamodule", "eval_windows", "train_batches", "build_lock"}


def cache_key(corpus: Corpus, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what the fingerprint is made of, as plain values."""
    return {
        "version": CODE_VERSION,
        "corpus": {"class": type(corpus).__name__, **corpus.key(), **_code(corpus)},
        "tokenizer": {**tokenizer.key(), **_code(tokenizer)},
    }


def code_key(corpus: Corpus, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what else could change the ids: source files, rules, and Python's Unicode tables."""
    files = {
        path for path in Path(__file__).parent.glob("*.py") if path.stem not in _BEYOND_THE_IDS
    }
    for cls in _foreign_classes(corpus) + _foreign_classes(tokenizer):
        try:
            files.add(Path(inspect.getsourcefile(cls) or ""))
        except (TypeError, OSError):  # defined where there is no file
            continue
    return {
        "files": sorted(f"{path.name} {file_sha256(path)}" for path in files if path.is_file()),
        "rule": tokenizer.rule(),
        "unicode": unicodedata.unidata_version,
    }


def hash_of(content: dict[str, Any]) -> str:
    """Return the SHA-256 of plain values, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint_of(key: dict[str, Any]) -> str:
    """Return a hash of the key, 16 hexadecimal digits."""
    return hash_of(key)[:16]


def _foreign_classes(part: Corpus | Tokenizer) -> list[type]:
    known = sys.stdlib_module_names | {"trm_lightning"}
    return [cls for cls in type(part).__mro__ if cls.__module__.partition(".")[0] not in known]


def _code(part: Corpus | Tokenizer) -> dict[str, Any]:
    """Identify the code of a part: its version, and the source of classes outside the package.

    Version 1 adds nothing, so fingerprints made before there were versions stay valid. Comments
    and layout of the source do not count.
    """
    code: dict[str, Any] = {} if part.version == 1 else {"version": part.version}
    own = _foreign_classes(part)
    try:
        sources = [ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(c)))) for c in own]
    except (OSError, TypeError):  # defined where there is no file: only its version is known
        return code
    if sources:
        code["source"] = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    return code
