"""A stored config is data: it names classes of this package, and nothing else is built from it.

A run folder may come from anyone. Hydra would import and call whatever a ``_target_`` names, at
any depth, and resolve ``${…}``; so a config is checked before it is used at all. Classes from
elsewhere are built where the user names their modules in the same call (``trust=my_models``).
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import optim
from torch.optim import lr_scheduler

from trm_lightning.data import Corpus, TextDataModule, Tokenizer, text_data
from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel

ROOMS = ("trm_lightning.data.", "trm_lightning.models.")
KINDS = (Corpus, LanguageModel, TextDataModule, Tokenizer)
NAMED = frozenset(
    {
        "lightning.pytorch.Trainer",
        "lightning.pytorch.callbacks.EarlyStopping",
        "lightning.pytorch.loggers.CSVLogger",
        "lightning.pytorch.loggers.TensorBoardLogger",
        "trm_lightning.optim.optimizers.adamw",
        "trm_lightning.optim.optimizers.muon",
        "trm_lightning.optim.schedules.constant",
        "trm_lightning.optim.schedules.cosine",
        "trm_lightning.optim.schedules.exponential",
        "trm_lightning.training.callbacks.lr_range.LrRange",
        "trm_lightning.training.loggers.Board",
    }
)
MOST_DEPTH = 20
_KEYWORDS = ("_target_", "_partial_")  # of Hydra's own, those that conf/ uses
_PLAIN = (str, int, float, bool, type(None))


def stored_config(
    run: dict[str, Any], file: Path, trust: str | Iterable[str] = (), loggers: bool = True
) -> DictConfig:
    """Return the config that a checkpoint holds, checked.

    ``data.cache_dir`` is left out: where this machine keeps its caches, no file says.

    Args:
        run: the checkpoint's description of its run.
        file: the checkpoint, for messages.
        trust: modules (with what is in them) or classes that may be built besides the package's.
        loggers: whether the stored loggers are to be built; else they are left out.

    Raises:
        UserError: naming what is not plain data, or is not the package's and not trusted.
    """
    trust = [trust] if isinstance(trust, str) else list(trust)
    config, tokenizer = run.get("config"), run.get("tokenizer")
    if not isinstance(config, dict) or not isinstance(tokenizer, dict):
        raise UserError(f"{file} is not a checkpoint of trm_lightning.")
    if not loggers:
        config = {key: value for key, value in config.items() if key != "logger"}
    for place, name in _targets(config, file):
        if not (_is_shipped(name) or _is_trusted(name, trust)):
            raise _refused(file, place, name)
    kind = str(tokenizer.get("kind"))
    if kind not in Tokenizer._shipped and not _is_trusted(kind, trust):
        raise _refused(file, "tokenizer", kind)
    checked: DictConfig = OmegaConf.create(config)
    if isinstance(config.get("data"), dict):
        checked.data.pop("cache_dir", None)
    return checked


def foreign_modules(config: dict[str, Any]) -> list[str]:
    """Return the modules to trust for opening a run: those of its classes that are its own.

    Loggers are built by training alone.
    """
    opened = {key: value for key, value in config.items() if key != "logger"}
    names = (name for _, name in _targets(opened, Path("config")))
    return sorted({name.rpartition(".")[0] for name in names if not _is_shipped(name)})


def _targets(node: Any, file: Path, place: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Walk a config; yield each ``_target_`` with its place.

    Raises:
        UserError: at the first value that is not plain data.
    """
    if depth > MOST_DEPTH:
        raise UserError(f"{file}: its config is nested too deeply at {place}.")
    if isinstance(node, dict):
        for key, value in node.items():
            here = f"{place}.{key}" if place else str(key)
            hydras = isinstance(key, str) and key.startswith("_") and key.endswith("_")
            if not isinstance(key, str) or (hydras and key not in _KEYWORDS):
                raise UserError(f"{file}: {here} has no place in a stored config.")
            if key == "_target_":
                yield place, str(value)
            yield from _targets(value, file, here, depth + 1)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _targets(value, file, f"{place}[{i}]", depth + 1)
    elif type(node) not in _PLAIN or (isinstance(node, str) and "${" in node):
        raise UserError(f"{file}: {place} is not a plain value: {str(node)[:80]!r}.")


def _is_shipped(name: str) -> bool:
    if name in NAMED or _is_of_torch(name):
        return True
    if not name.startswith(ROOMS):
        return False
    try:
        found = get_object(name)
    except (HydraException, ImportError, ValueError):
        return False
    return found is text_data or (
        isinstance(found, type) and issubclass(found, KINDS) and found.__module__.startswith(ROOMS)
    )


def _is_of_torch(name: str) -> bool:
    """Return whether a name is an optimizer or a schedule of torch's."""
    if not re.fullmatch(r"torch\.optim\.(lr_scheduler\.)?[A-Z]\w*", name):
        return False
    found = getattr(
        lr_scheduler if "lr_scheduler" in name else optim, name.rpartition(".")[2], None
    )
    return isinstance(found, type) and issubclass(found, optim.Optimizer | lr_scheduler.LRScheduler)


def _is_trusted(name: str, trust: Iterable[str]) -> bool:
    return any(name == trusted or name.startswith(f"{trusted}.") for trusted in trust)


def _refused(file: Path, place: str, name: str) -> UserError:
    return UserError(
        f"{file}: {place} is {name}, which is not of trm_lightning: a stored config builds "
        "nothing else.",
        "It would run code of its module. If you wrote or read that, say so: "
        f"trust={name.rpartition('.')[0] or name} (several: 'trust=[a,b]'), or give the "
        "--config-dir that names it.",
    )
