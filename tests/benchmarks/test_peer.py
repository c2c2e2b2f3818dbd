"""nanoGPT's model beside ours: the same work, and refusals where there is no such model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_tiny import configured
from omegaconf import DictConfig
from torch import nn

from trm_lightning.benchmarks import peer, subjects
from trm_lightning.errors import UserError

# Names of the peer's modules, and ours.
NAMES = {
    "transformer.h.": "blocks.",
    ".ln_1.": ".norm_attention.",
    ".attn.c_attn.": ".attention.qkv.",
    ".attn.c_proj.": ".attention.out.",
    ".ln_2.": ".norm_mlp.",
    ".mlp.c_fc.": ".mlp.0.",
    ".mlp.c_proj.": ".mlp.3.",
    "transformer.ln_f.": "final_norm.",
    "transformer.wte.": "token_embedding.",
    "transformer.wpe.": "position_embedding.",
    "lm_head.": "token_embedding.",
}


@pytest.fixture
def cfg(tmp_path: Path) -> DictConfig:
    return configured(tmp_path)


def our_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def active(net: nn.Module) -> list[str]:
    return [name for name, part in net.named_modules() if isinstance(part, nn.Dropout)]


def test_the_peer_computes_what_our_baseline_does(
    cfg: DictConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    module: Any = peer.load_peer(cfg.peer)
    gpt = peer.peer_model(cfg, module, 0.0)
    assert capsys.readouterr().out == ""
    ours = subjects.ar(cfg, cfg.window, norm="pre")
    weights = ours.model.state_dict()
    gpt.load_state_dict({name: weights[our_name(name)] for name in gpt.state_dict()})
    tokens = torch.randint(13, (3, 8))
    for net in (gpt, peer.with_our_sites(gpt)):
        loss = subjects.loss_of(ours)(tokens)
        torch.testing.assert_close(peer.peer_loss(net, tokens), loss)
    assert sum(p.numel() for p in gpt.parameters()) == ours.model.n_parameters()
    with torch.no_grad():
        next(gpt.parameters())[3, 0] += 0.1
    assert abs(peer.peer_loss(gpt, tokens) - loss) > 1e-4


def test_dropout_moves_to_our_sites(cfg: DictConfig) -> None:
    module: Any = peer.load_peer(cfg.peer)
    gpt = peer.with_our_sites(peer.peer_model(cfg, module, 0.3))
    block: Any = gpt.transformer.h[0]  # type: ignore[union-attr, index]
    assert active(block) == ["mlp.gelu.1", "mlp.dropout"]
    assert block.mlp.gelu[1].p == block.attn.dropout == 0.3
    assert len(active(gpt)) == 2 * cfg.net.n_layers


def test_without_a_peer_the_section_is_skipped(
    cfg: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, said in ((None, "peer=path/to/nanoGPT"), (str(tmp_path), f"{tmp_path}/model.py")):
        cfg.peer = path
        assert peer.peer_rows(cfg, torch.device("cpu")) == []
        shown = capsys.readouterr().out
        assert "skipped" in shown and said in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [("GPT = 1", "defines no GPTConfig"), ("1 / 0", "could not be imported: division by zero")],
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "model.py").write_text(text)
    with pytest.raises(UserError, match=message):
        peer.load_peer(str(tmp_path))
