"""Exported models on Hugging Face's hub, by addresses such as ``hf://user/name``."""

import logging
import re
from pathlib import Path

from trm_lightning.data.find_or_download import resolve_cache_dir
from trm_lightning.errors import UserError, need
from trm_lightning.runs.exported import CARD, CONFIG, HF_TOKENIZER, TOKENIZER_STATE, WEIGHTS

PREFIX = "hf://"
FILES = (CONFIG, WEIGHTS, TOKENIZER_STATE, HF_TOKENIZER, CARD)  # no others are downloaded
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def local_copy(address: str | Path) -> Path:
    """Return the folder that an address of a run names; one of the hub is downloaded first.

    Only the files of an export are, data all of them. A commit is downloaded once; it is kept in
    the cache folder.

    Args:
        address: a path; or ``hf://user/name``, with ``@`` and a branch, tag or commit behind it
            where that is not the main branch.

    Raises:
        UserError: where the hub has no such model, or cannot be reached.
    """
    if not str(address).startswith(PREFIX):
        return Path(address)
    name, _, revision = str(address).removeprefix(PREFIX).partition("@")
    check_name(name, str(address))
    need("huggingface_hub", "hub")
    from huggingface_hub import HfApi, snapshot_download

    quieten()
    cache = resolve_cache_dir(None) / "hub"
    try:
        commit = str(HfApi().model_info(name, revision=revision or None).sha)
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ValueError(f"it names the commit {commit!r}")
        folder = cache / f"{name.replace('/', '--')}@{commit[:12]}"
        patterns = list(FILES)
        snapshot_download(name, revision=commit, local_dir=folder, allow_patterns=patterns)
    except Exception as error:  # the library's own errors, its HTTP client's, the system's
        raise hub_error(f"{address} could not be downloaded", error, f"See {cache}.") from error
    return folder


def check_name(name: str, given: str) -> None:
    """Check that a name is one of the hub's.

    Raises:
        UserError: where it is none.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{given} is no address of the hub.", "It looks like user/name.")


def quieten() -> None:
    """Keep each request of the hub's HTTP client off the screen, where results are printed."""
    for name in ("httpx", "httpx2"):  # by its version
        logging.getLogger(name).setLevel(logging.WARNING)


def hub_error(what: str, error: Exception, cached: str = "") -> UserError:
    """Return what a user can do about an error of the hub's."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    hint = "Look at the name and at the network; a private model needs `hf auth login`."
    return UserError(f"{what}: {reason}", f"{hint} {cached}".strip())
