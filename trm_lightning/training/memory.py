"""A run that cannot fit into memory is refused before it begins."""

import os

import torch

from trm_lightning.data import TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel

STATES = 4  # of a parameter: its value, its gradient, two moments
SAVED = 8  # states of a token that a block keeps for its gradient: at least these
_BYTES = 4  # of a float32


def refuse_what_does_not_fit(
    model: LanguageModel, data: TextDataModule, device: torch.device
) -> None:
    """Compare a lower bound of what training takes with the memory of the machine or the GPU.

    Only what is certain counts: weights with gradient and moments, and what the blocks keep of
    one batch for one pass. Training takes more.

    Args:
        model: on any device, ``meta`` included.
        data: set up.
        device: that is trained on.

    Raises:
        UserError: when the bound is larger than the memory.
    """
    tokens = data.batch_size * data.window_size
    parts = {
        f"{model.n_parameters():,} parameters with gradients and moments": (
            model.n_parameters() * STATES * _BYTES
        ),
        f"the states of {tokens:,} tokens of width {getattr(model, 'width', 1):,}": (
            tokens * getattr(model, "width", 1) * _BYTES * max(1, SAVED * len(model.layers))
        ),
    }
    there = _memory(device)
    if sum(parts.values()) > there:
        listed = " and ".join(f"{name} ({size / 2**30:,.1f} GiB)" for name, size in parts.items())
        raise UserError(
            f"This run does not fit into the {there / 2**30:,.1f} GiB of {device}: it takes more "
            f"than {listed}.",
            "Lower model.width, model.n_layers, data.batch_size or data.window_size.",
        )


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not on every system
        return float("inf")
