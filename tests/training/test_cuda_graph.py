"""Which training steps are replayed as a CUDA graph; what one does is for test_gpu.py to say."""

from typing import Any

import lightning as L
import pytest
import torch
from conftest import Configure
from omegaconf import DictConfig
from test_training import made
from torch.optim import Optimizer

from trm_lightning.training import TrainingModule
from trm_lightning.training import fit as training
from trm_lightning.training.build import build_trainer
from trm_lightning.training.cuda_graph import can_be_graphed


class Watching(L.Callback):
    """Wants to be called between the backward pass and the update, in every step."""

    def on_before_optimizer_step(self, *args: Any) -> None:
        """Do nothing."""


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingModule, "device", torch.device("cuda"))


def decided(
    cfg: DictConfig, *callbacks: L.Callback, optimizer: type[Optimizer] | None = None
) -> bool:
    _, module = made(cfg)
    trainer = build_trainer(cfg, module, list(callbacks))
    if optimizer is not None:
        return can_be_graphed(trainer, module, optimizer(module.model.parameters(), lr=0.1))  # type: ignore[call-arg]
    return can_be_graphed(trainer, module, module.make_optimizer(module.model))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_plain_run_on_one_gpu_is_graphed(
    configure: Configure, on_gpu: None, optimizer: str
) -> None:
    assert decided(configure("model=trm", f"optimizer={optimizer}"), L.Callback())


def test_what_a_graph_leaves_out_keeps_a_run_from_it(
    configure: Configure, on_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configure("model=trm")
    assert not decided(cfg, Watching())
    assert not decided(cfg, optimizer=torch.optim.SGD)
    assert not decided(cfg, optimizer=torch.optim.AdamW)  # counts its steps on the CPU
    assert not decided(configure("model=trm", "trainer=ddp_cpu"))
    monkeypatch.setattr(L.pytorch.plugins.Precision, "scaler", object(), raising=False)
    assert not decided(cfg)


def test_what_every_run_calls_back_does_not_keep_it_from_a_graph(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, decisions = training.build_trainer, []

    def watched(cfg: DictConfig, module: TrainingModule, callbacks: list[L.Callback]) -> L.Trainer:
        trainer = build(cfg, module, callbacks)
        with monkeypatch.context() as patch:
            patch.setattr(TrainingModule, "device", torch.device("cuda"))
            optimizer = module.make_optimizer(module.model)
            decisions.append(can_be_graphed(trainer, module, optimizer))
        return trainer

    monkeypatch.setattr(training, "build_trainer", watched)
    training.train(configure("model=trm", "progress=true", "callbacks=early_stopping"))
    assert decisions == [True]


def test_a_cpu_has_no_graphs(configure: Configure) -> None:
    assert not decided(configure("model=trm"))


@pytest.mark.parametrize(
    ("settings", "alike"),
    [
        (["model=ar"], True),
        (["model=trm"], True),
        (["model=looped", "model.chunk_size=4"], True),
        (["model=source_trm"], True),
        (["model=trm", "model.n_supervision=2"], False),
        (["model=trm", "model.exit_threshold=0.1"], False),
    ],
)
def test_steps_are_alike_where_nothing_is_carried_drawn_or_decided(
    configure: Configure, settings: list[str], alike: bool
) -> None:
    assert made(configure(*settings))[1].model.cuda_graph_safe == alike
