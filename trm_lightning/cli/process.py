"""Process-wide state that one job of a sweep would otherwise leave to the next."""

import functools
import gc
import logging
import sys

from trm_lightning.cli import launch


def reset(environment: dict[str, str | None]) -> None:
    """Put back what earlier jobs, or the check of the config, may have changed.

    Args:
        environment: the launch variables as the process found them (`launch.environment`).
    """
    launch.restore_environment(environment)
    _reset_loggers()
    if "torch" in sys.modules:
        _reset_torch()


def release() -> None:
    """Give back a finished job's memory, and start the device's peak count anew."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def silence_console() -> None:
    """Take the console from the logs: of several processes only the first speaks."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h) is logging.StreamHandler]:
        root.removeHandler(handler)


def _reset_loggers() -> None:
    """Let Lightning's messages go to the run's log.

    Lightning gives its loggers a console of their own when it is imported before logging is set
    up, and then the log file gets nothing.
    """
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _reset_torch() -> None:
    import torch

    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(_threads_at_start())


@functools.cache
def _threads_at_start() -> int:
    import torch

    return torch.get_num_threads()
