"""What a net costs: parameters before it is trained, and arithmetic per token of training."""

import copy
import functools
import json
from typing import Any

import torch
from hydra.utils import instantiate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trm_lightning.training import TrainingModule

_WINDOWS = 4  # enough to average over the random number of revealed tokens


def build_module(config: Any, vocab_size: int) -> TrainingModule:
    """Build the untrained module of a run's config, without dropout (it costs no products)."""
    model = copy.deepcopy(config["model"])
    model["net"]["dropout"] = 0.0
    window, supervised = config["data"]["window_size"], config["data"]["supervised_tokens"]
    net = {"vocab_size": vocab_size, "start_token": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: TrainingModule = instantiate(model, net=net, supervised_tokens=supervised or window)
    return module


def training_flops_per_token(config: Any, vocab_size: int) -> float:
    """Return the floating point operations of training per token of a batch's windows.

    Counted, not estimated: the module's own supervision steps run once, forwards and backwards,
    under torch's counter of matrix products (two operations for each multiplication and addition).
    Attention counts as the dense products that it is without a fused kernel. Norms, activations
    and the optimizer are left out, as is usual.

    Args:
        config: a run's composed config as plain containers.
        vocab_size: V.
    """
    data = {key: config["data"][key] for key in ("window_size", "supervised_tokens")}
    relevant = {"model": config["model"], "data": data}
    return _count_flops(json.dumps(relevant, sort_keys=True), vocab_size) / (
        _WINDOWS * data["window_size"]
    )


@functools.cache  # a comparison asks again after each run
def _count_flops(config: str, vocab_size: int) -> int:
    """Return the operations of training on `_WINDOWS` windows; ``config`` is JSON."""
    settings = json.loads(config)
    module = build_module(settings, vocab_size).train()
    window = settings["data"]["window_size"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokens = torch.randint(vocab_size, (_WINDOWS, window))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            state = None
            for _ in range(module.model.n_supervision):
                supervised = module.supervision_step(tokens, state)
                supervised.loss.backward()
                state = supervised.state
    return counter.get_total_flops()


def count_parameters(config: Any, vocab_size: int) -> int:
    """Return the trained numbers of a run's net."""
    return build_module(config, vocab_size).net.n_parameters()
