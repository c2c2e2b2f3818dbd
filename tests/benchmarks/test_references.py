"""The benchmark's plain models compute what ours do."""

from pathlib import Path

import pytest
import torch
from benchmark_tiny import configured, pairs
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from trm_lightning.benchmarks import references, subjects
from trm_lightning.cli.compose import conf_dir
from trm_lightning.optim.muon import Muon
from trm_lightning.training import TrainingModule


@pytest.fixture
def cfg(tmp_path: Path) -> DictConfig:
    return configured(tmp_path)


def difference(module: TrainingModule, reference: references.PlainNet, tokens: Tensor) -> float:
    """The largest difference in the loss or in any gradient, relative to the largest gradient."""
    ours, theirs = subjects.loss_of(module)(tokens), reference.loss(tokens)
    ours.backward()
    theirs.backward()
    found = {n: p.grad for n, p in module.model.named_parameters() if p.grad is not None}
    renamed = references.renamed(found, reference)
    expected = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
    assert renamed.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in expected.values())
    gradients = max(float((renamed[n] - expected[n]).abs().max()) for n in expected)
    return max(float((ours - theirs).detach().abs()) / float(theirs.detach()), gradients / largest)


@pytest.mark.parametrize("name", ["gpt", "baseline", "target", "query"])
def test_references_compute_what_our_nets_do(cfg: DictConfig, name: str) -> None:
    torch.manual_seed(1)
    for dtype, close in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        module, reference = pairs(cfg)[name]
        module, reference = module.to(dtype), reference.to(dtype)
        with torch.no_grad():  # no weight is where it starts, norms and biases included
            for weight in module.model.parameters():
                weight += 0.1 * torch.randn_like(weight)
        references.load_from(reference, module.model)
        tokens = torch.randint(13, (5, cfg.notes.window))
        assert difference(module, reference, tokens) < close
        # Negative control: one weight moved a little is noticed.
        module.zero_grad()
        reference.zero_grad()
        with torch.no_grad():
            module.model.layers[0].attention.qkv.weight[-1, 0] += 1e-2
        assert difference(module, reference, tokens) > 10 * close


@pytest.mark.parametrize("model", ["ar", "looped", "trm"])
def test_shipped_models_are_those_of_the_configs(cfg: DictConfig, model: str) -> None:
    module = subjects.shipped(cfg, model, 8).train()
    assert type(module.make_optimizer(module.model)) is Muon
    settings = OmegaConf.merge(
        *(OmegaConf.load(conf_dir() / "model" / f"{name}.yaml") for name in ("looped", model))
    )
    assert settings._target_.endswith(type(module.model).__name__)
    for name in (
        ("n_refinements", "chunk_size", "intermediate_loss_weight") if model != "ar" else ()
    ):
        assert getattr(module.model, name) == settings[name]


def test_a_step_counts_what_it_computes(cfg: DictConfig) -> None:
    """Of the references, whose products are written down; see test_flops.py for our models."""
    tokens = torch.randint(13, (3, 8))
    linear, head = 2 * 12 * 16**2, 2 * 16 * 13  # of a token

    def blocks(rows: int) -> int:
        return 2 * (rows * linear + 2 * 2 * rows**2 * 16)

    refinement = (2 + 1) * blocks(8)
    expected = {
        "gpt": 3 * 3 * (blocks(8) + 8 * head),
        "baseline": 3 * 3 * (blocks(8) + 8 * head),
        "target": 3 * (3 * (blocks(6) + 2 * head) + 3 * refinement + 2 * refinement),
    }
    for name, flops in expected.items():
        assert subjects.flops_of(pairs(cfg)[name][1].loss, tokens) == flops, name


def learned(net: torch.nn.Module, loss: subjects.Loss, batches: list[Tensor]) -> float:
    """Train, and return the mean loss of the last quarter of the steps."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for tokens in batches:
        optimizer.zero_grad()
        nats = loss(tokens)
        nats.backward()
        optimizer.step()
        losses.append(nats.item())
    return sum(losses[-len(losses) // 4 :]) / (len(losses) // 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "baseline", "target", "query"])
def test_references_learn_as_our_nets_do(tmp_path: Path, name: str) -> None:
    cfg = configured(
        tmp_path, "net.dropout=0.1", "net.width=32", "data.batch_size=16", "data.window_size=8"
    )
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    cfg.net.vocab_size = data.vocab_size
    batches = list(data.train_batches(200))
    ours, theirs = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        module, reference = pairs(cfg)[name]
        references.load_from(reference, module.model)
        ours.append(learned(module.model, subjects.loss_of(module), batches))
        theirs.append(learned(reference, reference.loss, batches))
    start = torch.tensor(float(data.vocab_size)).log()
    mean = [sum(values) / 3 for values in (ours, theirs)]
    spread = max(max(values) - min(values) for values in (ours, theirs))
    assert max(mean) < 0.9 * start
    assert abs(mean[0] - mean[1]) < 2 * spread + 0.02
