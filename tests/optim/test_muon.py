"""Muon against a singular value decomposition, torch's own, and AdamW alone."""

import copy
from typing import Any

import pytest
import torch
from conftest import Configure
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trm_lightning.models import AR
from trm_lightning.optim import muon as muon_module
from trm_lightning.optim.muon import hidden_matrices, orthogonalised
from trm_lightning.optim.optimizers import muon

SETTINGS: dict[str, Any] = {
    "lr": 1e-3,
    "matrix_lr": 1e-2,
    "weight_decay": 0.1,
    "momentum": 0.95,
    "betas": (0.9, 0.99),
}


def small_net() -> AR:
    torch.manual_seed(0)
    return AR(vocab_size=11, start_token=0, window_size=8, width=16, n_layers=2, n_heads=2)


def train_for(net: nn.Module, steps: int, optimizers: list[Any]) -> None:
    tokens = torch.randint(11, (4, 8), generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        loss = net.nll(net(tokens), tokens)
        net.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_an_update_keeps_directions_and_levels_their_sizes(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalised([matrix])[0] @ right.T
    diagonal = turned.diagonal()
    torch.testing.assert_close(turned, diagonal.diag(), rtol=0, atol=1e-4)
    assert sizes.max() / sizes.min() > 1.8
    assert diagonal.min() > 0.65 and diagonal.max() < 1.25
    # A gradient a million times as large asks for the same step.
    torch.testing.assert_close(orthogonalised([matrix * 1e6]), orthogonalised([matrix]))


def iterated(matrix: Tensor) -> Tensor:
    """The iteration as its authors write it, in float64."""
    x = matrix.double()
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("max_stack", [1, 1 << 24])
def test_matrices_are_orthogonalised_together_as_each_alone(
    monkeypatch: pytest.MonkeyPatch, max_stack: int
) -> None:
    monkeypatch.setattr(muon_module, "MAX_STACK", max_stack)
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 24), (24, 8), (16, 16), (8, 8), (16, 5), (8, 24)]
    matrices = [torch.randn(shape, generator=generator) for shape in shapes]
    matrices[0] *= torch.logspace(0, -4, 24)  # badly conditioned
    matrices[3] = torch.zeros(8, 8)
    found = orthogonalised(matrices)
    assert not found[3].any()
    for i in (0, 1, 2, 4, 5):
        torch.testing.assert_close(found[i].double(), iterated(matrices[i]), rtol=0, atol=2e-5)
        assert (found[i].double() - iterated(matrices[i] + 0.01)).abs().max() > 2e-4


def test_matrices_learn_as_in_torchs_muon_and_the_rest_as_in_adamw() -> None:
    """Torch's orthogonalises in bfloat16, hence the tolerance; all else is the same."""
    ours, theirs = small_net(), small_net()
    before = {k: p.detach().clone() for k, p in theirs.named_parameters()}
    matrices = hidden_matrices(theirs)
    inside = {id(p) for p in matrices}
    others = [p for p in theirs.parameters() if id(p) not in inside]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    reference = torch.optim.Muon(
        matrices, lr=1e-2, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    train_for(ours, 3, [muon(ours, **SETTINGS)])
    train_for(theirs, 3, [adamw, reference])
    assert len(matrices) == 8
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if name.endswith("qkv.bias"):
            continue  # a key's bias has no gradient but rounding noise
        moved = (b - before[name]).norm()
        assert (a - b).norm() < 0.1 * moved, name


def test_the_vocabulary_is_not_orthogonalised() -> None:
    """Neither embeddings nor a head of their own; what a user's net has beside linear layers."""
    net = AR(
        vocab_size=11,
        start_token=0,
        window_size=8,
        width=16,
        n_layers=1,
        n_heads=2,
        tied_head=False,
    )
    matrices = {id(p) for p in hidden_matrices(net)}
    names = {name for name, p in net.named_parameters() if id(p) in matrices}
    assert names == {
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.mlp.0.weight",
        "blocks.0.mlp.3.weight",
    }
    del net.blocks  # as in a net of a user's, without linear layers
    optimizer = muon(net, **SETTINGS)
    assert [group["orthogonal"] for group in optimizer.param_groups] == [False, False]


def test_a_block_that_runs_four_times_takes_steps_half_as_long(configure: Configure) -> None:
    rates = []
    for passes in ("model.n_refinements=1", "model.n_refinements=4"):
        cfg = configure("model=looped", "optimizer=muon", passes)
        net = instantiate(cfg.model, vocab_size=11, start_token=0)
        groups = instantiate(cfg.optimizer)(net).param_groups
        rates.append([group["lr"] for group in groups])
    (lr, _, once), (same_lr, _, four_times) = rates
    assert (same_lr, four_times) == (lr, once / 2)


def test_a_stopped_optimizer_goes_on_bit_for_bit() -> None:
    straight, stopped = small_net(), small_net()
    train_for(straight, 4, [muon(straight, **SETTINGS)])
    first = muon(stopped, **SETTINGS)
    train_for(stopped, 2, [first])
    second = muon(stopped, **SETTINGS)
    fresh = copy.deepcopy(stopped)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train_for(stopped, 2, [second])
    train_for(fresh, 2, [muon(fresh, **SETTINGS)])
    assert all(map(torch.equal, straight.parameters(), stopped.parameters()))
    assert not all(map(torch.equal, straight.parameters(), fresh.parameters()))


def test_the_schedule_reaches_both_rates(configure: Configure) -> None:
    cfg = configure("model=ar", "optimizer=muon", "schedule=constant", "schedule.warmup_steps=4")
    net = small_net()
    optimizer = instantiate(cfg.optimizer)(net)
    schedule = instantiate(cfg.schedule)(optimizer, total_steps=8, time_share=lambda: 0.0)
    train_for(net, 1, [optimizer, schedule])
    rates = {group["orthogonal"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {
        False: pytest.approx(cfg.optimizer.lr / 2),
        True: pytest.approx(cfg.optimizer.matrix_lr / 2),
    }


def sizes_of(matrices: list[Tensor]) -> list[float]:
    return [float(p.detach().norm()) for p in matrices]


def test_weight_decay_shrinks_matrices_and_embeddings_alike() -> None:
    """With no gradient but decay, every matrix loses the same share."""
    net = small_net()
    optimizer = muon(net, **SETTINGS)
    tables = [*hidden_matrices(net), net.token_embedding.weight]
    before = sizes_of(tables)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shares = [new / old for new, old in zip(sizes_of(tables), before, strict=True)]
    assert shares == [pytest.approx(1 - 1e-4, abs=1e-6)] * len(tables)


class NoReading(TorchDispatchMode):
    """Fails where a tensor's value is asked for: a GPU would have to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value is read"
        return func(*args, **(kwargs or {}))


def test_a_rate_in_a_tensor_is_used_where_it_lies() -> None:
    """A recorded step reads it anew each time; rounding apart, the steps are the same."""
    nets = small_net(), small_net()
    plain, recorded = (muon(net, **SETTINGS) for net in nets)
    rates = [torch.tensor(group["lr"]) for group in recorded.param_groups]
    for group, rate in zip(recorded.param_groups, rates, strict=True):
        group["lr"] = rate
    for factor in (1.0, 0.5, 0.25):
        for group, rate in zip(plain.param_groups, rates, strict=True):
            group["lr"] *= factor
            rate.fill_(group["lr"])
        train_for(nets[0], 2, [plain])
        with NoReading():
            train_for(nets[1], 2, [recorded])
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        if not name.endswith("qkv.bias"):  # a key's bias has a gradient of rounding noise
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
