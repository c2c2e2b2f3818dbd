"""AR and the notes' model against plain float64 formulas that share no code with them."""

import math

import pytest
import torch
from torch import Tensor

from trm_lightning.models import AR, SourceTRM

Weights = dict[str, Tensor]
SMALL = {"vocab_size": 11, "start_token": 1, "width": 16, "n_layers": 2, "n_heads": 4}


def plain_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def plain_attention(x: Tensor, w: Weights, name: str, n_heads: int, causal: bool) -> Tensor:
    """Attention head by head, row by row, over one sequence (T, D)."""
    n, width = x.shape
    d = width // n_heads
    qkv = x @ w[f"{name}.qkv.weight"].T + w[f"{name}.qkv.bias"]
    heads = []
    for h in range(n_heads):
        q, k, v = (qkv[:, part * width + h * d : part * width + (h + 1) * d] for part in range(3))
        rows = []
        for t in range(n):
            seen = t + 1 if causal else n
            score = (k[:seen] @ q[t]) / math.sqrt(d)
            rows.append((score.exp() / score.exp().sum()) @ v[:seen])
        heads.append(torch.stack(rows))
    return torch.cat(heads, 1) @ w[f"{name}.out.weight"].T + w[f"{name}.out.bias"]


def plain_blocks(x: Tensor, w: Weights, n_layers: int, n_heads: int, causal: bool) -> Tensor:
    for i in range(n_layers):
        b = f"blocks.{i}"
        x = x + plain_attention(
            plain_norm(x, w, f"{b}.norm_attention"), w, f"{b}.attention", n_heads, causal
        )
        h = plain_norm(x, w, f"{b}.norm_mlp") @ w[f"{b}.mlp.0.weight"].T + w[f"{b}.mlp.0.bias"]
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        x = x + h @ w[f"{b}.mlp.3.weight"].T + w[f"{b}.mlp.3.bias"]
    return x


def plain_source_trm(
    tokens: Tensor, w: Weights, n_context: int, n_refinements: int, n_recursions: int, n_heads: int
) -> Tensor:
    """The notes' warm-started model for one window (N + C,): logits (C, V) of the chunk."""
    n_layers = len({key.split(".")[1] for key in w if key.startswith("blocks.")})
    embedded = w["token_embedding.weight"][tokens] + w["position_embedding.weight"][: len(tokens)]
    context = plain_blocks(embedded[:n_context], w, n_layers, n_heads, causal=True)
    y, z = embedded[n_context:], torch.zeros_like(embedded[n_context:])

    def one_pass(x: Tensor) -> Tensor:
        rows = torch.cat((context, x))
        return plain_blocks(rows, w, n_layers, n_heads, causal=False)[n_context:]

    for refinement in range(n_refinements):
        with torch.set_grad_enabled(refinement == n_refinements - 1):
            for _ in range(n_recursions):
                z = one_pass(y + z)
            y = one_pass(y + z)
    return plain_norm(y, w, "final_norm") @ w["token_embedding.weight"].T


def randomised(net: torch.nn.Module) -> Weights:
    """Give every weight, also norms and biases, a random value; return them by name."""
    generator = torch.Generator().manual_seed(5)
    for p in net.double().parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return {k: p.detach().clone().requires_grad_() for k, p in net.named_parameters()}


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_warm_start_is_the_notes_function(n_layers: int, chunk_size: int) -> None:
    settings = SMALL | {"n_layers": n_layers, "window_size": 6 + chunk_size}
    net = SourceTRM(**settings, chunk_size=chunk_size, n_refinements=3, n_recursions=2)
    w = randomised(net)
    tokens = torch.randint(11, (3, 6 + chunk_size), generator=torch.Generator().manual_seed(0))
    logits = net.logits(net(tokens, first=6)[0])
    expected = torch.stack([plain_source_trm(row, w, 6, 3, 2, 4) for row in tokens])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)

    targets = tokens[:, 6:].flatten()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).backward()
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), targets).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, w[name].grad, rtol=1e-8, atol=1e-10, msg=name)


def test_more_gradient_would_be_noticed() -> None:
    """The gradient check above can tell which refinements carry gradient."""
    gradients = []
    for backprop_depth in (1, 3):
        net = SourceTRM(
            **SMALL,
            window_size=8,
            chunk_size=2,
            n_refinements=3,
            n_recursions=2,
            backprop_depth=backprop_depth,
        )
        randomised(net)
        tokens = torch.arange(8)[None]
        torch.nn.functional.cross_entropy(
            net.logits(net(tokens, first=6)[0]).flatten(0, 1), tokens[0, 6:]
        ).backward()
        gradients.append(net.blocks[0].mlp[0].weight.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_baseline_is_a_causal_transformer() -> None:
    net = AR(**SMALL, window_size=7)
    w = randomised(net)
    tokens = torch.randint(11, (7,), generator=torch.Generator().manual_seed(1))
    inputs = torch.cat((torch.tensor([1]), tokens[:-1]))
    x = w["token_embedding.weight"][inputs] + w["position_embedding.weight"]
    states = plain_blocks(x, w, 2, 4, causal=True)
    expected = plain_norm(states, w, "final_norm") @ w["token_embedding.weight"].T
    torch.testing.assert_close(net.logits(net(tokens[None]))[0], expected, rtol=0, atol=1e-9)


def test_the_authors_fix_learns_its_queries_through_every_refinement() -> None:
    """Queries are drawn from N(0, 1), and the answer does not enter."""
    torch.manual_seed(0)
    arguments = SMALL | {"width": 64, "window_size": 34, "chunk_size": 2}
    model = SourceTRM(**arguments, n_refinements=3, n_recursions=1, backprop_depth=3, start="query")
    assert model.query is not None and 0.8 < float(model.query.detach().std()) < 1.2
    tokens = torch.randint(11, (4, 34), generator=torch.Generator().manual_seed(0))
    model.supervision_step(tokens, first=32).loss.backward()
    assert model.query.grad is not None and float(model.query.grad.abs().sum()) > 0
    other = tokens.clone()
    other[:, 32:] = (tokens[:, 32:] + 1) % 11
    with torch.no_grad():
        same = model.eval().log_probs(tokens, 32), model.log_probs(other, 32)
    assert torch.equal(*same)
    assert model.is_likelihood and list(model.scorers()) == ["ppl"]


@pytest.mark.parametrize(("width", "std"), [(64, 0.088), (128, 0.0625)])
def test_attention_is_initialised_as_the_notes_leave_it(width: int, std: float) -> None:
    """Their ``nn.MultiheadAttention`` keeps torch's own draw of the input projection."""
    torch.manual_seed(0)
    reference = torch.nn.MultiheadAttention(width, 4).in_proj_weight
    arguments = SMALL | {"width": width, "window_size": 8}
    for attention_init, expected in (("xavier", std), ("normal", 0.02)):
        model = AR(**arguments, attention_init=attention_init)
        found = model.blocks[0].attention.qkv.weight
        assert found.shape == reference.shape
        assert abs(float(found.std()) / expected - 1) < 0.05
    assert abs(float(reference.std()) / std - 1) < 0.05


def test_parameters_are_those_of_the_notes() -> None:
    """1,041,152 for words, 108,480 for characters; baseline and TRM alike."""
    for vocab_size, width, window, published in (
        (5000, 128, 34, 1_041_152), (65, 64, 66, 108_480),
    ):  # fmt: skip
        shape = {
            "vocab_size": vocab_size, "start_token": 0, "window_size": window, "width": width,
            "n_layers": 2, "n_heads": 4,
        }  # fmt: skip
        trm = SourceTRM(**shape, chunk_size=2, n_refinements=3, n_recursions=6)
        assert trm.n_parameters() == AR(**shape).n_parameters() == published
