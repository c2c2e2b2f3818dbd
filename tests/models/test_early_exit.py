"""Adaptive depth: what halts, when, and that nothing else changes."""

import itertools
from typing import Any

import pytest
import torch
from conftest import Configure
from omegaconf import OmegaConf
from spread import spread
from torch import Tensor

from trm_lightning.errors import UserError
from trm_lightning.evaluation.command import evaluate
from trm_lightning.leakage.audit import audit
from trm_lightning.leakage.printed import CallWatch
from trm_lightning.leakage.verdict import decoder
from trm_lightning.models import TRM, Looped
from trm_lightning.models.recursive import Recursive
from trm_lightning.training.fit import train

V, L, DEPTH = 13, 12, 6
KINDS: dict[str, tuple[type[Recursive], dict[str, Any]]] = {
    "looped": (Looped, {}),
    "looped_parallel": (Looped, {"factorization": "parallel"}),
    "trm": (TRM, {"n_recursions": 1, "n_layers": 2}),
}


def make_model(kind: str, exit_threshold: float | None, **changes: Any) -> Recursive:
    torch.manual_seed(3)
    arguments: dict[str, Any] = {
        "vocab_size": V, "start_token": 0, "window_size": L, "width": 8, "n_layers": 1,
        "n_heads": 2, "norm": "post", "chunk_size": 3, "n_refinements": DEPTH,
    }  # fmt: skip
    model, own = KINDS[kind]
    return spread(model(**(arguments | own | changes), exit_threshold=exit_threshold)).eval()


def some_tokens(n_rows: int = 4) -> Tensor:
    return torch.randint(V, (n_rows, L), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@torch.no_grad()
def test_a_bound_that_nothing_passes_leaves_all_as_it_was(kind: str) -> None:
    tokens, never = some_tokens(), make_model(kind, 1e-30)
    assert torch.equal(never.log_probs(tokens), make_model(kind, None).log_probs(tokens))
    assert bool((never.depths(tokens) == DEPTH).all())


@torch.no_grad()
def test_a_bound_that_all_pass_leaves_one_refinement(kind: str) -> None:
    tokens, at_once = some_tokens(), make_model(kind, 1e6)
    first = make_model(kind, None).log_probs_at(tokens, [1])[0]
    torch.testing.assert_close(at_once.log_probs(tokens), first)
    assert bool((at_once.depths(tokens) == 1).all())


def between(kind: str) -> Recursive:
    """A net some of whose chunks halt before the last refinement."""
    return make_model(kind, 0.25)


@torch.no_grad()
def test_chunks_differ_in_depth_and_halt_once_and_for_all(kind: str) -> None:
    tokens, net = some_tokens(), between(kind)
    depths = net.depths(tokens)
    assert 1 < depths.double().mean() < DEPTH, depths
    by_depth = net.log_probs_at(tokens, list(range(1, DEPTH + 1)))
    for depth, (before, after) in enumerate(itertools.pairwise(by_depth), start=1):
        moved = (before != after).any(dim=-1)
        assert torch.equal(moved, depths > depth)


@torch.no_grad()
def test_what_is_halted_is_what_changed_too_little() -> None:
    """Nothing sees anything else with one token per window: each row can be followed alone."""
    net = make_model("looped", None, chunk_size=1)
    tokens = torch.zeros(1, 1, dtype=torch.long)
    position = torch.zeros(1, dtype=torch.long)
    known = net.embed(tokens, position)
    y, changes, answers = torch.zeros_like(known), [], []
    for _ in range(DEPTH):
        new, _ = net.blocks[0](known + y, None, None, True)
        changes.append(float((new - y).norm() / new.norm()))
        answers.append(new)
        y = new
    for below in (1.2 * min(changes), 0.9 * changes[1]):
        depth = next((i for i, c in enumerate(changes, start=1) if c < below), DEPTH)
        halting = make_model("looped", below, chunk_size=1)
        assert halting.depths(tokens).item() == depth
        expected = torch.log_softmax(net.logits(answers[depth - 1]), dim=-1)
        torch.testing.assert_close(halting.log_probs(tokens), expected)


@torch.no_grad()
def test_states_that_know_the_same_halt_together() -> None:
    net = between("looped_parallel")
    depths = net.depths(some_tokens(16)).unflatten(1, (-1, 3))
    assert bool((depths == depths[:, :, :1]).all())
    assert len(depths.unique()) > 1


@pytest.mark.parametrize("kind", ["looped", "trm"])
def test_halting_nets_pass_the_audit(kind: str) -> None:
    net = between(kind)
    result = audit(net, thorough=False, decode=decoder(net))
    assert result.failed == [], str(result)


@torch.no_grad()
@pytest.mark.parametrize("name", ["looped", "trm"])
@pytest.mark.parametrize("parts", [[4, 3, 5], [1] * 12])
def test_a_window_read_in_parts_halts_as_a_whole_one_does(name: str, parts: list[int]) -> None:
    """Also where a part halts early, and its later passes are not run."""
    tokens, net = some_tokens(1), between(name)
    inputs, window = net.shift_right(tokens), net.open_window()
    states = torch.cat([window.read(part) for part in inputs.split(parts, dim=1)], dim=1)
    scores = torch.log_softmax(net.logits(states), dim=-1)
    torch.testing.assert_close(scores, net.log_probs(tokens), atol=1e-5, rtol=0)


def block_calls(net: Recursive, tokens: Tensor) -> int:
    calls = []
    handle = net.blocks[0].register_forward_hook(lambda *_: calls.append(None))
    net(tokens)
    handle.remove()
    return len(calls)


def test_training_runs_all_passes_and_scoring_only_those_that_matter() -> None:
    tokens, net = some_tokens(), make_model("looped", 1e6)
    assert block_calls(net, tokens) == 1
    assert block_calls(net.train(), tokens) == DEPTH


def test_what_has_halted_gets_no_gradient_from_later_passes() -> None:
    """In training the loss is that of the answer at which a chunk stopped."""
    tokens = some_tokens()
    nets = [make_model("looped", 1e6), make_model("looped", None, n_refinements=1)]
    for net in nets:
        net.train()
        net.nll(net(tokens).answer, tokens).backward()
    for (name, p), (_, q) in zip(*(net.named_parameters() for net in nets), strict=True):
        assert p.grad is not None and q.grad is not None, name
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_a_halting_run_says_how_deep_it_went(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure("model=looped", "model.n_refinements=4", "model.exit_threshold=0.3")
    train(cfg)
    capsys.readouterr()
    settings = {"run": cfg.run_dir, "device": "cpu", "split": "val", "stride": None}
    content = evaluate(
        OmegaConf.create({**settings, "trust": [], "exit_threshold": None}), CallWatch
    )
    assert content["exit_threshold"] == 0.3 and 1 <= content["mean_depth"] <= 4
    assert f"Refinements per token: {content['mean_depth']:.2f}" in capsys.readouterr().out
    # Another bound than in training: all stop at once, none does.
    at_once, never = (
        evaluate(OmegaConf.create({**settings, "trust": [], "exit_threshold": bound}), CallWatch)
        for bound in (1e6, 1e-9)
    )
    assert (at_once["mean_depth"], never["mean_depth"]) == (1, 4)
    with pytest.raises(UserError, match="exit_threshold"):
        evaluate(OmegaConf.create({**settings, "trust": [], "exit_threshold": 0}), CallWatch)


def test_only_a_net_that_refines_can_halt(configure: Configure) -> None:
    cfg = configure("model=ar")
    train(cfg)
    settings = {"run": cfg.run_dir, "device": "cpu", "split": "val", "stride": None}
    with pytest.raises(UserError, match="refines nothing"):
        evaluate(OmegaConf.create({**settings, "trust": [], "exit_threshold": 0.1}), CallWatch)


def test_halting_does_not_go_over_supervision_steps() -> None:
    with pytest.raises(UserError, match="n_supervision=1"):
        make_model("looped", 0.1, n_supervision=2)


@pytest.mark.parametrize("below", [0.0, -1.0])
def test_a_bound_must_be_over_zero(below: float) -> None:
    with pytest.raises(UserError, match="exit_threshold"):
        make_model("looped", below)


def judged(exit_threshold: float | None) -> Looped:
    """A net with a halting head whose judgement differs from state to state."""
    model = make_model("looped", exit_threshold, halt_loss_weight=0.5)
    assert isinstance(model, Looped) and model.halt is not None
    with torch.no_grad():
        generator = torch.Generator().manual_seed(4)
        model.halt.weight.copy_(0.5 * torch.randn(model.halt.weight.shape, generator=generator))
        model.halt.bias.fill_(-1.0)
    return model


@torch.no_grad()
def test_a_halting_head_decides_by_its_probability() -> None:
    """With chunks of one token each state decides alone, on its own answer."""
    tokens = some_tokens()
    never, at_once = judged(1.0), judged(1e-9)
    assert bool((never.depths(tokens) == DEPTH).all())
    assert bool((at_once.depths(tokens) == 1).all())
    some = judged(0.4)
    depths = some.depths(tokens)
    assert 1 < depths.double().mean() < DEPTH
    window = some._open(tokens, 0)
    first = window.scored(some._answers(window.blocks_pass, 1)[1])
    assert some.halt is not None
    chunks = some.halt(first).sigmoid()[..., 0].unflatten(1, (-1, 3))
    # The chunk's first state is in a group with its look-ahead states, so it is left out.
    stops = chunks[:, :, 1:] > 0.4
    assert torch.equal(depths.unflatten(1, (-1, 3))[:, :, 1:] == 1, stops)


def test_a_net_with_a_halting_head_passes_the_audit() -> None:
    net = judged(0.4)
    result = audit(net, thorough=False, decode=decoder(net))
    assert result.failed == [], str(result)


def test_the_halting_loss_is_of_right_and_wrong_answers_and_moves_the_head_alone() -> None:
    tokens, net = some_tokens(), judged(None).train()
    plain = make_model("looped", None).train()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "halt" not in k})
    step, without = net.supervision_step(tokens), plain.supervision_step(tokens)
    out = net(tokens)
    answers = torch.stack([*out.intermediate, out.answer])
    assert net.halt is not None and len(answers) == DEPTH
    guesses = net.halt(answers)[..., 0].sigmoid()
    right = net.distribution(answers).argmax(-1) == tokens
    expected = -torch.where(right, guesses, 1 - guesses).log().mean()
    torch.testing.assert_close(step.loss, without.loss + 0.5 * expected)
    step.loss.backward()
    without.loss.backward()
    for (name, ours), (_, theirs) in zip(
        ((n, p) for n, p in net.named_parameters() if "halt" not in n),
        plain.named_parameters(), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    assert net.halt.weight.grad is not None and bool(net.halt.weight.grad.abs().sum() > 0)
