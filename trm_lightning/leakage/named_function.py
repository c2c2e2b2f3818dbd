"""A scoring function that the user names on the command line, and the ids it is tried on."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np

from trm_lightning.errors import UserError
from trm_lightning.leakage.text_probe import TextScorer


def load_function(name: str) -> TextScorer:
    """Import ``module:function``; modules of the working directory are found as well.

    Only the command line names it: no file of a run or a data set can.

    Raises:
        UserError: where there is no such module or function.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UserError(f"scorer={name} names no function.", "Write scorer=my_module:function.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"scorer={name} cannot be imported: {error}",
            "Start the command in the folder of the module, or install its package.",
        ) from error
    if not callable(found):
        raise UserError(f"scorer={name} is a {type(found).__name__}, not a function.")
    scorer: TextScorer = found
    return scorer


def read_ids(path: Path) -> np.ndarray:
    """Read token ids (N,) from a JSON list or an ``.npy`` file.

    Raises:
        UserError: for a missing file, or one that holds something else.
    """
    try:
        if path.suffix == ".npy":
            ids = np.load(path, allow_pickle=False)
        else:
            ids = np.asarray(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"ids={path} cannot be read: {error}") from error
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"ids={path} holds no row of whole numbers.", "Write a list: [5, 2, 9].")
    return ids
