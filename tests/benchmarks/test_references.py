"""The benchmark's plain nets compute what ours do, and its formulas what torch counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_tiny import JOINT, configured, pairs
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from trm_lightning.benchmarks import flops, references, subjects, timing
from trm_lightning.cli.compose import conf_dir
from trm_lightning.optim.muon import Muon
from trm_lightning.training import TrainingModule


@pytest.fixture
def cfg(tmp_path: Path) -> DictConfig:
    return configured(tmp_path)


def difference(module: TrainingModule, reference: references.PlainNet, tokens: Tensor) -> float:
    """The largest difference in the loss or in any gradient, relative to the largest gradient."""
    ours, theirs = module.supervision_step(tokens, None).loss, reference.loss(tokens)
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
        tokens = torch.randint(13, (5, cfg.sources.window))
        assert difference(module, reference, tokens) < close
        # Negative control: one weight moved a little is noticed.
        module.zero_grad()
        reference.zero_grad()
        with torch.no_grad():
            module.model.layers[0].attention.qkv.weight[-1, 0] += 1e-2
        assert difference(module, reference, tokens) > 10 * close


NETS: dict[str, dict[str, Any]] = {
    "query": {"chunk_start": "query", "factorization": "parallel"},
    "draft": {"chunk_start": "draft", "factorization": "parallel"},
    "left_to_right": {"chunk_start": "draft"},
    "with gradient": {"chunk_start": "query", "factorization": "parallel", "backprop_depth": 3},
    "target": {"chunk_start": "target", **JOINT},
    "joint query": {"chunk_start": "query", **JOINT},
    "recursive": {"chunk_start": "query", "attention": "recursive"},
}


@pytest.mark.parametrize("kind", ["ar", *NETS])
def test_formulas_are_what_torch_counts(cfg: DictConfig, kind: str) -> None:
    for n_layers, norm, supervised in (1, "post", 2), (2, "pre", 8), (3, "post", 8):
        changes = {"n_layers": n_layers, "norm": norm, **NETS.get(kind, {})}
        make = subjects.ar if kind == "ar" else subjects.trm
        module = make(cfg, 8, supervised, **changes).train()
        tokens = torch.randint(13, (2, 8))
        loss = subjects.loss_of(module)
        counted = timing.count_flops(lambda loss=loss, ids=tokens: loss(ids).backward())
        formula = flops.training_flops(module.model, 2, 8, supervised)
        # How many tokens are revealed is random, and the head is all that it changes.
        head = 3 * 2 * 2 * supervised * 16 * 13
        random = head / 4 if kind == "left_to_right" else 0
        assert abs(counted - formula) <= random, (changes, supervised)


@pytest.mark.parametrize("model", ["ar", "trm"])
def test_shipped_models_are_those_of_the_configs(cfg: DictConfig, model: str) -> None:
    module = subjects.shipped(cfg, model, 8).train()
    assert type(module.make_optimizer(module.model)) is Muon
    loss, tokens = subjects.loss_of(module), torch.randint(13, (2, 8))
    answers = subjects.n_answers(module)
    assert flops.training_flops(module.model, 2, 8, 8, answers) == timing.count_flops(
        lambda: loss(tokens).backward()
    )
    if model == "trm":
        settings = OmegaConf.load(conf_dir() / "model" / "trm.yaml").net
        for name in "n_refinements", "n_recursions", "chunk_size", "attention", "chunk_start":
            assert getattr(module.model, name) == settings[name]
        assert answers == settings.n_refinements
        at_end = subjects.shipped(cfg, "trm", 8, {"chunk_size": 1}, intermediate_loss_weight=0.0)
        assert subjects.n_answers(at_end) == 1


def test_formulas_of_the_references(cfg: DictConfig) -> None:
    tokens = torch.randint(13, (3, 8))
    blocks = flops.Blocks(16, 2)
    expected = {
        "gpt": flops.causal_flops(blocks, 13, 3, 8, 8),
        "baseline": flops.causal_flops(blocks, 13, 3, 8, 8),
        "target": flops.plain_trm_flops(blocks, 13, 3, 8, 2, 3, 2),
    }
    for name, formula in expected.items():
        reference = pairs(cfg)[name][1]
        counted = timing.count_flops(lambda net=reference: net.loss(tokens).backward())
        assert counted == formula, name


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
