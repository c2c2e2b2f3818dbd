"""Untrained nets whose scores differ from token to token."""

from typing import TypeVar

import torch
from torch import nn

from trm_lightning.models import LanguageModel

Net = TypeVar("Net", bound=LanguageModel)


def spread(net: Net) -> Net:
    """Enlarge the weights of an untrained post-norm net, which starts close to doing nothing."""
    for module in net.modules() if net.norm == "post" else ():
        if isinstance(module, nn.Linear | nn.Embedding):
            with torch.no_grad():
                module.weight.mul_(50 * module.weight.shape[1] ** -0.5)
    return net
