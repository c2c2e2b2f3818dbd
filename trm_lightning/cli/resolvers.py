"""The `${name:…}` functions that YAML files of conf/ may use besides Hydra's own."""

import functools
import re
import secrets
from datetime import datetime

from omegaconf import OmegaConf

from trm_lightning.cli import launch


@functools.cache
def run_id() -> str:
    """Six hex digits that keep two runs of the same second apart.

    One per process, not one per config: Lightning resolves `hydra.run.dir` a second time when it
    starts its DDP processes, and must find the same folder.
    """
    return launch.shared_id() or secrets.token_hex(3)


@functools.cache
def run_time() -> str:
    """`YYYY-MM-DD/HH-MM-SS` of this process's start, or nothing that ranks could disagree on."""
    return "launched/run" if launch.shared_id() else datetime.now().strftime("%Y-%m-%d/%H-%M-%S")


def begin_run() -> None:
    """Give the next run of this process a time and an id of its own."""
    run_id.cache_clear()
    run_time.cache_clear()


def slug(text: object, length: int = 60) -> str:
    """Text made safe and short enough for a folder's name."""
    return re.sub(r"[^\w.,=+-]+", "-", str(text)).strip("-.")[:length].rstrip("-.,=")


def budget_suffix(budget: object) -> str:
    """What a comparison's folder is called after its budget, where that has a name."""
    return f"_{slug(budget)}" if isinstance(budget, str) else ""


def subtract(a: int, b: int) -> int:
    """Difference of two integers, e.g. `${sub:${model.window},1}`."""
    return int(a) - int(b)


def register() -> None:
    """Register them all; may be called again."""
    # Cached in the config too: a launcher's worker gets the sweep's config with the sweep's folder.
    OmegaConf.register_new_resolver("run_id", run_id, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("run_time", run_time, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("slug", slug, replace=True)
    OmegaConf.register_new_resolver("budget_suffix", budget_suffix, replace=True)
    OmegaConf.register_new_resolver("sub", subtract, replace=True)
