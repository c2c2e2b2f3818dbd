"""The nets against plain float64 formulas that share no code with them."""

import math

import pytest
import torch
from torch import Tensor

from trm_lightning.models import AR, Recursive

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
    """The sources' warm-started model for one window (N + C,): logits (C, V) of the chunk."""
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
def test_joint_warm_start_is_the_sources_function(n_layers: int, chunk_size: int) -> None:
    settings = SMALL | {"n_layers": n_layers, "window_size": 6 + chunk_size}
    net = Recursive(
        **settings,
        chunk_size=chunk_size,
        n_refinements=3,
        n_recursions=2,
        chunk_start="target",
        attention="joint",
        factorization="parallel",
    )
    w = randomised(net)
    tokens = torch.randint(11, (3, 6 + chunk_size), generator=torch.Generator().manual_seed(0))
    logits = net.logits(net(tokens, first=6).answer)
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
        net = Recursive(
            **SMALL,
            window_size=8,
            chunk_size=2,
            n_refinements=3,
            n_recursions=2,
            chunk_start="target",
            attention="joint",
            factorization="parallel",
            backprop_depth=backprop_depth,
        )
        randomised(net)
        tokens = torch.arange(8)[None]
        torch.nn.functional.cross_entropy(
            net.logits(net(tokens, first=6).answer).flatten(0, 1), tokens[0, 6:]
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


def plain_cached_trm(tokens: Tensor, w: Weights, net: Recursive, n_known: int) -> Tensor:
    """One chunk of a ``cached`` draft net, its context encoded alone: logits (C, V).

    ``tokens`` holds the context and the ``n_known`` first tokens of the chunk, nothing else.
    """
    n_heads, size = 4, net.chunk_size
    inputs = torch.cat((torch.tensor([1]), tokens))
    begin = len(tokens) - n_known
    x = w["token_embedding.weight"][inputs] + w["position_embedding.weight"][: len(inputs)]
    kept = []
    for i in range(2):
        kept.append(plain_norm(x, w, f"blocks.{i}.norm_attention"))
        x = plain_blocks(
            x,
            {
                k.replace(f"blocks.{i}.", "blocks.0."): v
                for k, v in w.items()
                if not k.startswith("blocks.") or k.startswith(f"blocks.{i}.")
            },
            1,
            n_heads,
            causal=True,
        )
    y = x[-1] + w["query"][: size - n_known]
    z = torch.zeros_like(y)

    def one_pass(s: Tensor) -> Tensor:
        for i in range(2):
            b = f"blocks.{i}"
            rows = torch.cat((kept[i], plain_norm(s, w, f"{b}.norm_attention")))
            attended = plain_attention(rows, w, f"{b}.attention", n_heads, causal=False)
            s = s + attended[len(kept[i]) :]
            h = plain_norm(s, w, f"{b}.norm_mlp") @ w[f"{b}.mlp.0.weight"].T
            h = h + w[f"{b}.mlp.0.bias"]
            h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
            s = s + h @ w[f"{b}.mlp.3.weight"].T + w[f"{b}.mlp.3.bias"]
        return s

    assert begin % size == 0
    for _ in range(net.scoring_depth):
        for _ in range(net.n_recursions):
            z = one_pass(y + z)
        y = one_pass(y + z)
    return plain_norm(y, w, "final_norm") @ w["token_embedding.weight"].T


@pytest.mark.parametrize("factorization", ["parallel", "left_to_right"])
def test_cached_chunks_of_a_window_equal_each_chunk_alone(factorization: str) -> None:
    """All chunks at once under a mask give what each gives with its context alone."""
    net = Recursive(
        **SMALL,
        window_size=9,
        chunk_size=3,
        n_refinements=2,
        n_recursions=2,
        factorization=factorization,  # type: ignore[arg-type]
    )
    w = randomised(net)
    tokens = torch.randint(11, (9,), generator=torch.Generator().manual_seed(2))
    scores = net.eval().log_probs(tokens[None])[0]
    for t in range(9):
        n_known = t % 3 if factorization == "left_to_right" else 0
        seen = tokens[: t - t % 3 + n_known]
        logits = plain_cached_trm(seen, w, net, n_known)[t % 3 - n_known]
        torch.testing.assert_close(scores[t].double(), logits.log_softmax(-1), rtol=0, atol=1e-5)
