"""Our baseline beside nanoGPT's own model, imported from a checkout that the user names.

Both train on the same windows with the same AdamW, at equal shape and vocabulary. nanoGPT drops
out after the embeddings and after the attention's projection, which our blocks do not, and not
after the GELU, which they do. So it is measured as it is, with its sites moved to ours, and
without dropout; only the last two compare equal work.
"""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from trm_lightning.benchmarks.references import START
from trm_lightning.benchmarks.subjects import (
    ar,
    flops_of,
    plain_adamw,
    random_tokens,
    shipped,
    training_step,
)
from trm_lightning.benchmarks.timing import Variant, measure, peak
from trm_lightning.benchmarks.training import variant_of
from trm_lightning.errors import UserError

NANO = "nanoGPT"
NANO_SITES = f"{NANO}, our dropout sites"
NANO_DRY = f"{NANO}, no dropout"
ADAMW = "AR, AdamW"


def peer_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure optimizer steps of nanoGPT's model and of ours; nothing where there is no peer."""
    module = load_peer(cfg.peer)
    if module is None:
        return []
    window, both = cfg.window, (NANO, NANO_SITES)
    tokens = random_tokens(cfg, cfg.batch, window, device)
    dry = ar(cfg, window, norm="pre", dropout=0.0)
    muon = shipped(cfg, "ar", window, positions="learned")
    variants = [
        peak(device),
        _variant(cfg, NANO, peer_model(cfg, module, cfg.net.dropout), tokens),
        _variant(cfg, NANO_SITES, with_our_sites(peer_model(cfg, module, cfg.net.dropout)), tokens),
        _variant(cfg, NANO_DRY, peer_model(cfg, module, 0.0), tokens),
        variant_of(ADAMW, ar(cfg, window), tokens, both),
        variant_of("AR, learned positions", muon, tokens, (*both, ADAMW)),
        variant_of("AR", shipped(cfg, "ar", window), tokens, both),
        variant_of("AR, AdamW, norm=pre", ar(cfg, window, norm="pre"), tokens, both),
        variant_of("AR, AdamW, norm=pre, no dropout", dry, tokens, (NANO_DRY,)),
    ]
    return measure(
        "peer", variants, device, cfg.repetitions, cfg.seconds_per_measurement, cfg.clock
    )


def load_peer(path: str | None) -> ModuleType | None:
    """Import ``model.py`` of the folder ``path``; say so and return None where there is none.

    Raises:
        UserError: for a file that cannot be imported or has no ``GPT`` and ``GPTConfig``.
    """
    if path is None:
        print("peer: skipped; peer=path/to/nanoGPT measures its model beside ours.")
        return None
    file = Path(path) / "model.py"
    if not file.is_file():
        print(f"peer: skipped; there is no {file}.")
        return None
    spec = importlib.util.spec_from_file_location("trm_lightning_benchmark_peer", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{file} could not be imported: {error}", f"Check peer={path}.") from error
    missing = [name for name in ("GPT", "GPTConfig") if not hasattr(module, name)]
    if missing:
        raise UserError(
            f"{file} defines no {' and no '.join(missing)}, so it is not nanoGPT's.",
            "Give the folder of a nanoGPT checkout.",
        )
    return module


def peer_model(cfg: DictConfig, module: ModuleType, dropout: float) -> nn.Module:
    """Return the peer's GPT in the shape of ``cfg.net``, without what it prints."""
    config = module.GPTConfig(
        block_size=cfg.window, vocab_size=cfg.net.vocab_size, n_layer=cfg.net.n_layers,
        n_head=cfg.net.n_heads, n_embd=cfg.net.width, dropout=dropout,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        model: nn.Module = module.GPT(config)
    return model


def with_our_sites(gpt: Any) -> nn.Module:
    """Move a GPT's dropout to where our blocks have it: attention, GELU and MLP."""
    gpt.transformer.drop = nn.Identity()
    for block in gpt.transformer.h:
        block.mlp.gelu = nn.Sequential(block.mlp.gelu, nn.Dropout(block.mlp.dropout.p))
        block.attn.resid_dropout = nn.Identity()
    model: nn.Module = gpt
    return model


def peer_loss(gpt: nn.Module, tokens: Tensor) -> Tensor:
    """Return the mean nats of all tokens (B, T), the first after a start token as in ours."""
    inputs = F.pad(tokens[:, :-1], (1, 0), value=START)
    _, loss = gpt(inputs, tokens)
    nats: Tensor = loss
    return nats


def _variant(cfg: DictConfig, name: str, gpt: nn.Module, tokens: Tensor) -> Variant:
    gpt.to(tokens.device).train()

    def loss(ids: Tensor) -> Tensor:
        return peer_loss(gpt, ids)

    step = training_step(gpt, loss, plain_adamw(gpt), tokens)
    return Variant(name, step, tokens.numel(), flops_of(loss, tokens))
