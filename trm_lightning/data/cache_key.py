"""What the token ids of a data set depend on: the key of its cache, and its fingerprint."""

import ast
import hashlib
import inspect
import json
import sys
import textwrap
from typing import Any

from trm_lightning.data.corpus import Corpus
from trm_lightning.data.tokenizer import Tokenizer

CODE_VERSION = 1  # raise it when a change of code changes the ids of every data set


def cache_key(corpus: Corpus, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return everything that determines the ids, as plain values."""
    return {
        "version": CODE_VERSION,
        "corpus": {"class": type(corpus).__name__, **corpus.key(), **_code(corpus)},
        "tokenizer": {**tokenizer.key(), **_code(tokenizer)},
    }


def fingerprint_of(key: dict[str, Any]) -> str:
    """Return a hash of the key, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _code(part: Corpus | Tokenizer) -> dict[str, Any]:
    """Identify the code of a part: its version, and the source of classes outside the package.

    Version 1 adds nothing, so fingerprints made before there were versions stay valid. Comments
    and layout of the source do not count.
    """
    code: dict[str, Any] = {} if part.version == 1 else {"version": part.version}
    known = sys.stdlib_module_names | {"trm_lightning"}
    own = [cls for cls in type(part).__mro__ if cls.__module__.partition(".")[0] not in known]
    try:
        sources = [ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(c)))) for c in own]
    except (OSError, TypeError):  # defined where there is no file: only its version is known
        return code
    if sources:
        code["source"] = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    return code
