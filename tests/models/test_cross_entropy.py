"""The fast loss and the fast dropout against plain ones."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trm_lightning.models import cross_entropy as loss_module
from trm_lightning.models.cross_entropy import vocabulary_cross_entropy
from trm_lightning.models.dropout import dropout

N, D, V = 23, 6, 31


def problem(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = 5 * torch.randn(N, D, generator=generator, dtype=dtype)
    weight = torch.randn(V, D, generator=generator, dtype=dtype)
    targets = torch.randint(V, (N,), generator=generator)
    return states.requires_grad_(), weight.requires_grad_(), targets


def results(loss: Tensor, states: Tensor, weight: Tensor) -> list[Tensor]:
    (loss * 3).backward()
    assert states.grad is not None and weight.grad is not None
    return [loss.detach(), states.grad, weight.grad]


@pytest.mark.parametrize("max_logits", [1, 4 * V, 7 * V + 3, 1 << 20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradients_are_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch, max_logits: int, dtype: torch.dtype, tolerance: float
) -> None:
    monkeypatch.setitem(loss_module.MAX_LOGITS, "cpu", max_logits)
    monkeypatch.setattr(loss_module, "MIN_ROWS", 1)
    states, weight, targets = problem(dtype)
    found = results(vocabulary_cross_entropy(states, weight, targets), states, weight)
    states, weight, targets = problem(dtype)
    plain = results(F.cross_entropy(states @ weight.T, targets), states, weight)
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_a_large_vocabulary_has_the_plain_loss_and_gradients_in_bounded_memory() -> None:
    n, width, vocab_size = 2 * loss_module.MIN_ROWS + 3, 4, 50_000
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(n, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab_size, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab_size, (n,), generator=generator)
    found, expected = [], []
    for loss_of, results_of in ((vocabulary_cross_entropy, found), (plain_loss, expected)):
        x, w = states.clone().requires_grad_(), weight.clone().requires_grad_()
        with Largest() as largest:
            results_of += results(loss_of(x, w, targets), x, w)
        results_of.append(largest.n)
    assert found.pop() <= loss_module.MIN_ROWS * vocab_size
    assert expected.pop() == n * vocab_size
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


class Largest(TorchDispatchMode):
    """Notes the most numbers in a tensor that any operation returns."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.n = max(self.n, out.numel())
        return out


def plain_loss(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(states @ weight.T, targets)


def test_a_wrong_target_would_be_noticed() -> None:
    states, weight, targets = problem(torch.float64)
    found = results(vocabulary_cross_entropy(states, weight, targets), states, weight)
    states, weight, targets = problem(torch.float64)
    targets[3] = (targets[3] + 1) % V
    other = results(F.cross_entropy(states @ weight.T, targets), states, weight)
    for ours, theirs in zip(found, other, strict=True):
        assert (ours - theirs).abs().max() > 1e-3


def test_large_logits_do_not_overflow() -> None:
    states, weight, targets = problem(torch.float32)
    loss = vocabulary_cross_entropy(states * 1e4, weight, targets)
    plain = F.cross_entropy(states * 1e4 @ weight.T, targets)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)


def test_without_gradient_it_is_the_same_number() -> None:
    states, weight, targets = problem(torch.float64)
    with torch.no_grad():
        scored = vocabulary_cross_entropy(states, weight, targets)
    assert not scored.requires_grad
    torch.testing.assert_close(scored, vocabulary_cross_entropy(states, weight, targets))


def test_autocast_makes_the_products_in_its_type() -> None:
    states, weight, targets = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vocabulary_cross_entropy(states, weight, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert states.grad is not None and states.grad.dtype == torch.float32
    plain_states, plain_weight, _ = problem(torch.float32)
    plain = F.cross_entropy(plain_states @ plain_weight.T, targets)
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=0.02, atol=0)
    assert loss != plain
    torch.testing.assert_close(states.grad, plain_states.grad, rtol=0.1, atol=0.01)
    torch.testing.assert_close(weight.grad, plain_weight.grad, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5])
def test_dropout_keeps_the_asked_share_and_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 999, dtype=dtype)
    y = dropout(x, rate, training=True)
    kept = (y != 0).double()
    sigma = (rate * (1 - rate) / x.numel()) ** 0.5
    assert abs(1 - kept.mean() - rate) < 4 * sigma + 1 / 512
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), kept / kept.mean(), rtol=0.01, atol=0)
    rows, columns = kept.mean(0), kept.mean(1)  # no stripes
    assert rows.std() < 1.2 * (rate * (1 - rate) / 1000) ** 0.5
    assert columns.std() < 1.2 * (rate * (1 - rate) / 999) ** 0.5


def test_dropout_is_off_when_not_training() -> None:
    x = torch.randn(5, 5)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
