"""TRM and Looped against a plain float64 formula that shares no code with them."""

import math

import pytest
import torch
from torch import Tensor

from trm_lightning.models import AR, TRM, Looped
from trm_lightning.models.recursive import Recursive

Weights = dict[str, Tensor]
HEADS = 2
SMALL = {
    "vocab_size": 11, "start_token": 1, "width": 8, "n_layers": 2, "n_heads": HEADS,
    "window_size": 12, "norm": "post",
}  # fmt: skip


def randomised(net: torch.nn.Module) -> Weights:
    generator = torch.Generator().manual_seed(5)
    for p in net.double().parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return {k: p.detach().clone().requires_grad_() for k, p in net.named_parameters()}


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / ((x * x).mean() + 1e-6).sqrt() * weight


def plain_block(rows: list[Tensor], seen: list[list[int]], w: Weights, b: str) -> list[Tensor]:
    """One post-norm block, row by row and head by head; ``seen`` lists what each row looks at."""
    width = len(rows[0])
    d = width // HEADS
    qkv = [w[f"{b}.attention.qkv.weight"] @ x + w[f"{b}.attention.qkv.bias"] for x in rows]
    out = []
    for i, x in enumerate(rows):
        mixed = []
        for h in range(HEADS):
            q = qkv[i][h * d : (h + 1) * d]
            keys = torch.stack([qkv[j][width + h * d : width + (h + 1) * d] for j in seen[i]])
            values = torch.stack([qkv[j][2 * width + h * d :][:d] for j in seen[i]])
            share = torch.exp(keys @ q / math.sqrt(d))
            mixed.append(share / share.sum() @ values)
        attended = w[f"{b}.attention.out.weight"] @ torch.cat(mixed)
        x = rms_norm(x + attended + w[f"{b}.attention.out.bias"], w[f"{b}.norm_attention.weight"])
        hidden = w[f"{b}.mlp.0.weight"] @ x + w[f"{b}.mlp.0.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        mlp = w[f"{b}.mlp.3.weight"] @ hidden + w[f"{b}.mlp.3.bias"]
        out.append(rms_norm(x + mlp, w[f"{b}.norm_mlp.weight"]))
    return out


def plain_logits(known: list[int], offset: int, w: Weights, net: Recursive) -> Tensor:
    """Logits of the token after ``known`` (offset 0), or ``offset`` further in its chunk.

    Rows are named (position, looks ahead) and made from ``known`` alone.
    """
    size, read = net.chunk_size, [1, *known]
    names = [(p, False) for p in range(len(read))]
    last_chunk = (len(read) - 1) // size
    names += [(p, True) for p in range(size * (last_chunk + 1)) if p % size]
    rows, seen = [], []
    for p, ahead in names:
        begin = p - p % size
        token = w["token_embedding.weight"][read[begin if ahead else p]]
        row = token * math.sqrt(len(token)) + w["position_embedding.weight"][p]
        rows.append(row + w["query"][p % size - 1] if ahead else row)
        reach = begin if ahead else p
        seen.append([
            j for j, (q, other) in enumerate(names)
            if (not other and q <= reach) or (other and q // size == p // size)
        ])  # fmt: skip

    def one_pass(rows: list[Tensor]) -> list[Tensor]:
        for i in range(2):
            rows = plain_block(rows, seen, w, f"blocks.{i}")
        return rows

    y = z = [torch.zeros_like(row) for row in rows]
    for _ in range(net.scoring_depth):
        for _ in range(net.n_recursions):
            z = one_pass([x + a + b for x, a, b in zip(rows, y, z, strict=True)])
        inputs = rows if getattr(net, "answer_sees_input", True) else [0 * row for row in rows]
        y = one_pass([x + a + b for x, a, b in zip(inputs, y, z, strict=True)])
    wanted = (len(known) + offset, True) if offset else (len(known), False)
    state = rms_norm(y[names.index(wanted)], w["final_norm.weight"])
    return w["token_embedding.weight"] @ state


KINDS = {
    "trm": (TRM, {"n_recursions": 2}),
    "paper's answer": (TRM, {"n_recursions": 1, "answer_sees_input": False}),
    "looped": (Looped, {}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factorization", ["left_to_right", "parallel"])
@pytest.mark.parametrize(("chunk_size", "n_refinements"), [(1, 2), (2, 1), (3, 2)])
def test_each_token_is_predicted_from_the_tokens_before_alone(
    chunk_size: int, n_refinements: int, factorization: str, kind: str
) -> None:
    model, own = KINDS[kind]
    net = model(
        **SMALL,
        **own,
        chunk_size=chunk_size,
        n_refinements=n_refinements,
        factorization=factorization,
    )
    w = randomised(net)
    tokens = torch.randint(11, (1, 8), generator=torch.Generator().manual_seed(0))
    expected = []
    for t in range(8):
        offset = t % chunk_size if factorization == "parallel" else 0
        expected.append(plain_logits(tokens[0, : t - offset].tolist(), offset, w, net))
    logits = net.logits(net(tokens).answer)[0]
    torch.testing.assert_close(logits, torch.stack(expected), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        net.eval().log_probs(tokens)[0], torch.stack(expected).log_softmax(-1).float(),
        rtol=0, atol=1e-5,
    )  # fmt: skip

    torch.nn.functional.cross_entropy(logits, tokens[0]).backward()
    torch.nn.functional.cross_entropy(torch.stack(expected), tokens[0]).backward()
    for name, parameter in net.named_parameters():
        found, wanted = parameter.grad, w[name].grad
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(
            zero if found is None else found, zero if wanted is None else wanted,
            rtol=1e-8, atol=1e-10, msg=name,
        )  # fmt: skip


def test_the_look_ahead_is_the_other_factorization() -> None:
    """What is supervised beside the scores are the scores of the same net in parallel."""
    net = TRM(**SMALL, chunk_size=3, n_refinements=1, n_recursions=1)
    tokens = torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(3))
    refined = net.eval()(tokens, first=4)
    assert refined.lookahead_columns.tolist() == [0, 1, 3, 4, 6, 7]
    net.factorization = "parallel"
    parallel = net(tokens, first=4)
    torch.testing.assert_close(refined.lookahead, parallel.answer[:, refined.lookahead_columns])
    torch.testing.assert_close(parallel.lookahead, refined.answer[:, refined.lookahead_columns])
    assert (refined.lookahead - parallel.lookahead).abs().max() > 0.1


def test_equal_shapes_have_equal_parameters() -> None:
    """Nothing is there that nothing reads: the recursion adds no parameter to AR's."""
    counts = {
        "ar": AR(**SMALL).n_parameters(),
        "looped": Looped(**SMALL, n_refinements=3).n_parameters(),
        "trm": TRM(**SMALL, n_refinements=2, n_recursions=2).n_parameters(),
    }
    assert len(set(counts.values())) == 1, counts
    chunks = TRM(**SMALL, n_refinements=2, n_recursions=2, chunk_size=3)
    assert chunks.n_parameters() - counts["ar"] == chunks.query.numel() == 2 * SMALL["width"]


@pytest.mark.parametrize("model", [Looped, TRM])
def test_only_the_last_refinements_carry_gradient(model: type[Recursive]) -> None:
    """``backprop_depth`` of 1 gives the gradient of one refinement from a constant state."""
    own = {"n_recursions": 1} if model is TRM else {}
    torch.manual_seed(0)
    truncated = model(**SMALL, **own, n_refinements=3, backprop_depth=1)
    torch.manual_seed(0)
    one = model(**SMALL, **own, n_refinements=1)
    torch.manual_seed(0)
    whole = model(**SMALL, **own, n_refinements=3)
    tokens = torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():  # two refinements of the same weights
        torch.manual_seed(0)
        before = model(**SMALL, **own, n_refinements=2)(tokens).state
    truncated.supervision_step(tokens).loss.backward()
    one.supervision_step(tokens, state=before).loss.backward()
    whole.supervision_step(tokens).loss.backward()
    for (name, p), q in zip(truncated.named_parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    first, full = (m.blocks[0].mlp[0].weight.grad for m in (truncated, whole))
    assert not torch.allclose(first, full)


def test_a_supervision_step_continues_where_the_one_before_stopped() -> None:
    model = TRM(**SMALL, n_refinements=2, n_recursions=2).eval()
    tokens = torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        step = model.supervision_step(tokens)
        second = model.supervision_step(tokens, state=step.state)
        at_depths = [-d.gather(2, tokens[:, :, None]).mean()
                     for d in model.log_probs_at(tokens, [2, 4])]  # fmt: skip
    torch.testing.assert_close(torch.stack([step.nll, second.nll]), torch.stack(at_depths))
    assert all(not part.requires_grad for part in step.state)


def test_the_loss_has_every_part_at_its_weight() -> None:
    arguments = SMALL | {"chunk_size": 3, "n_refinements": 3}
    tokens = torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    model = Looped(**arguments, intermediate_loss_weight=0.3, lookahead_loss_weight=0.2).eval()
    step = model.supervision_step(tokens)
    with torch.no_grad():
        nats = [-d.gather(2, tokens[:, :, None])[:, :, 0]
                for d in model.log_probs_at(tokens, [1, 2, 3])]  # fmt: skip
        model.factorization = "parallel"
        ahead = -model.log_probs(tokens).gather(2, tokens[:, :, None])[:, :, 0]
    later = torch.arange(12) % 3 > 0
    expected = nats[2].mean() + 0.3 * (nats[0].mean() + nats[1].mean())
    expected = expected + 0.2 * ahead[:, later].mean()
    torch.testing.assert_close(step.loss.detach(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(step.nll.detach(), nats[2].mean(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_visibility_each_state_of_a_chunk_sees_the_text_and_itself_alone() -> None:
    """A chunk's second token then scores as if its chunk began with it, query and all."""
    made = {**SMALL, "n_refinements": 2, "chunk_size": 3}
    apart = Looped(**made, chunk_visibility=False)
    together = Looped(**made)
    randomised(apart)
    together.double().load_state_dict(apart.state_dict())
    tokens = torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(0))
    isolated = together.ablations()["no mutual visibility"][1](tokens, 0)
    torch.testing.assert_close(apart.log_probs(tokens), isolated)
    assert not torch.allclose(apart.log_probs(tokens), together.log_probs(tokens))
    assert "no mutual visibility" not in apart.ablations()
    assert apart.open_window() is None
