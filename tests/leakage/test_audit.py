"""The leak audit passes honest nets, and catches each kind of leak by the check meant for it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from spread import spread
from torch import Tensor, nn

from trm_lightning.data import EvalWindows
from trm_lightning.leakage.audit import audit
from trm_lightning.leakage.held_out import HeldOut
from trm_lightning.leakage.outcome import CHECKS, Audit
from trm_lightning.leakage.verdict import decoder
from trm_lightning.models import AR, TRM, LanguageModel, Looped, SourceTRM, leaky

V, L = 23, 12
BASE: dict[str, Any] = {
    "vocab_size": V, "start_token": 0, "window_size": L, "width": 8, "n_layers": 2,
    "n_heads": 2, "dropout": 0.2, "norm": "post",
}  # fmt: skip
RECURSION: dict[type[LanguageModel], dict[str, Any]] = {
    AR: {},
    TRM: {"chunk_size": 3, "n_refinements": 1, "n_recursions": 1, "n_supervision": 2},
    Looped: {"chunk_size": 3, "n_refinements": 1, "n_supervision": 2},
    SourceTRM: {"chunk_size": 3, "n_refinements": 1, "n_recursions": 1, "n_supervision": 2},
}


def make(kind: type[LanguageModel] = AR, **arguments: Any) -> Any:
    torch.manual_seed(3)
    recursion = next(own for base, own in RECURSION.items() if issubclass(kind, base))
    return spread(kind(**(BASE | recursion | arguments)))


def held_out(n: int = 40, entropy_nats: float | None = None) -> HeldOut:
    tokens = np.random.default_rng(0).integers(V, size=n).astype(np.uint16)
    return HeldOut(tokens, EvalWindows(tokens, L, L // 2, batch_size=3), entropy_nats)


def cheap(net: LanguageModel) -> Audit:
    return audit(net, thorough=False, decode=decoder(net), held_out=held_out())


# Checks that the cheap form leaves to the scoring of the text and to trained models.
UNTRIED = ["printed_scores", "history", "entropy_floor", "training_gap"]


def finding(result: Audit, name: str) -> tuple[int | None, str]:
    (check,) = [check for check in result.checks if check.name == name]
    assert check.passed is False, f"{name} has passed"
    return check.position, check.detail


# Honest nets.

VARIANTS = [
    (kind, {"factorization": factorization, **rest})
    for kind in (TRM, Looped)
    for factorization in ("parallel", "left_to_right")
    for rest in ({"norm": "pre", "positions": "rotary"}, {"norm": "post", "positions": "learned"})
]
VARIANTS.append((TRM, {"answer_sees_input": False}))
VARIANTS.append((SourceTRM, {"start": "query"}))


@pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda v: "-".join([v[0].__name__, *map(str, v[1].values())])
)
def test_every_recursive_model_passes(variant: tuple[type[LanguageModel], dict[str, Any]]) -> None:
    kind, arguments = variant
    result = cheap(make(kind, **arguments))
    assert result.failed == [], str(result)
    assert [c.name for c in result.checks] == list(CHECKS)
    assert [c.name for c in result.checks if c.passed is None] == UNTRIED


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_autoregressive_net_passes(norm: str, positions: str) -> None:
    result = cheap(make(norm=norm, positions=positions))
    assert result.failed == [], str(result)


@pytest.mark.parametrize("size", [1, 2, 6])
@pytest.mark.parametrize("factorization", ["parallel", "left_to_right"])
def test_every_chunk_size_passes(size: int, factorization: str) -> None:
    arguments = {"chunk_size": size, "factorization": factorization, "n_supervision": 1}
    result = cheap(make(TRM, n_layers=1, **arguments))
    assert result.failed == [], str(result)


@pytest.mark.parametrize("kind", [AR, TRM, Looped])
def test_honest_nets_pass_the_thorough_form(kind: type[LanguageModel]) -> None:
    result = audit(make(kind, dropout=0.0), train_steps=30, held_out=held_out(entropy_nats=50.0))
    assert result.failed == [], str(result)


def test_weights_started_without_the_answer_pass() -> None:
    net = make(SourceTRM, start="target")
    assert cheap(net).failed
    assert cheap(net.without_answer()).failed == []


# Negative controls: each, and the checks that are meant to catch it.

CONTROLS: dict[str, tuple[type[LanguageModel], dict[str, str], set[str]]] = {
    "target_start": (SourceTRM, {"start": "target"}, {"target_swap", "random_tokens"}),
    "chunk_mask": (leaky.LeakyChunkMask, {}, {"suffix_perturbation", "gradient", "random_tokens"}),
    "context_mask": (leaky.LeakyContextMask, {}, {"suffix_perturbation", "gradient"}),
    "pooled_chunk": (leaky.LeakyPooledChunk, {}, {"suffix_perturbation", "gradient"}),
    "batch_statistics": (leaky.LeakyBatchStatistics, {}, {"batch_neighbours", "batch_size"}),
}
INNOCENT = {"normalised", "each_token_once"}  # no control touches what these look at


@pytest.mark.parametrize("control", CONTROLS)
def test_each_control_is_caught_by_the_check_meant_for_it(control: str) -> None:
    kind, arguments, meant = CONTROLS[control]
    net = make(kind, **arguments)
    assert not net.is_likelihood
    assert not any(name.startswith("ppl") for name in list(net.scorers())[:1])
    result = audit(
        net,
        decode=decoder(net),
        held_out=held_out(),
        train_steps=60 if "random_tokens" in meant else 0,
    )
    assert meant <= set(result.failed), str(result)
    assert not INNOCENT & set(result.failed), str(result)


def test_a_leak_within_a_pair_spares_its_second_token() -> None:
    """The mean of two positions tells the first of them its own token, and the second nothing."""
    net = make(leaky.LeakyPooledChunk, chunk_size=1, n_supervision=1)
    tokens = torch.arange(1, 7)[None]
    changed = tokens.clone()
    changed[:, 3] += 9  # read by position 4, the first of a pair, and so known to no earlier one
    with torch.no_grad():
        net.eval()
        assert torch.equal(net.log_probs(tokens)[:, :4], net.log_probs(changed)[:, :4])
    assert finding(cheap(net), "suffix_perturbation")[0] == 0


# Leaks that a single check alone can see.


class Unnormalised(AR):
    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        return super().log_probs(tokens, first) + 0.01


class SizeOfBatch(AR):
    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        return torch.log_softmax(super().log_probs(tokens, first) * len(tokens), dim=-1)


class SeesNothing(AR):
    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        return super().forward(torch.zeros_like(tokens), first)


class LeaksInTraining(AR):
    def shift_right(self, tokens: Tensor) -> Tensor:
        return tokens if self.training else super().shift_right(tokens)


class LeaksWhereScoringBegins(AR):
    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        whole = super().log_probs(tokens)[:, first:]
        if first == 0:
            return whole
        hint = nn.functional.one_hot(tokens[:, first:], self.vocab_size)
        return torch.log_softmax(whole + hint, dim=-1)


class LeaksFarInTheWindow(AR):
    def shift_right(self, tokens: Tensor) -> Tensor:
        return torch.cat((super().shift_right(tokens)[:, :10], tokens[:, 10:]), dim=1)


class HaltsByTheTarget(AR):
    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        scores = super().log_probs(tokens, first)
        unlikely = scores[:, -1].gather(1, tokens[:, -1:]) < scores[:, -1].mean()
        if unlikely.any():
            self.final_norm(torch.zeros(1, self.width))  # one more layer for a hard token
        return scores


class TakesTargets(AR):
    def log_probs(self, tokens: Tensor, first: int = 0, targets: None = None) -> Tensor:
        return super().log_probs(tokens, first)


class CarriesTheAnswer(TRM):
    def forward(self, tokens: Tensor, *arguments: Any, **options: Any) -> Any:
        refined = super().forward(tokens, *arguments, **options)
        y, z = refined.state
        hint = self.token_embedding(nn.functional.pad(tokens, (0, y.shape[1] - tokens.shape[1])))
        object.__setattr__(refined, "state", (y + hint, z))
        return refined


ONLY = [
    (Unnormalised, "normalised"),
    (SizeOfBatch, "batch_size"),
    (SeesNothing, "gradient"),
    (LeaksInTraining, "suffix_perturbation"),
    (LeaksWhereScoringBegins, "target_swap"),
    (HaltsByTheTarget, "blind_halting"),
    (TakesTargets, "blind_halting"),
    (CarriesTheAnswer, "suffix_perturbation"),
]


@pytest.mark.parametrize(("kind", "name"), ONLY, ids=lambda x: getattr(x, "__name__", x))
def test_a_leak_is_found_by_its_check(kind: type[LanguageModel], name: str) -> None:
    result = cheap(make(kind, dropout=0.0))
    finding(result, name)
    # The same leak may show in the checks that score in two ways; nowhere else.
    allowed = {name, "target_swap", "incremental", "blind_halting"}
    assert set(result.failed) <= allowed, str(result)


def test_findings_say_where() -> None:
    position, detail = finding(cheap(make(LeaksInTraining)), "suffix_perturbation")
    assert position == 0 and "train mode" in detail
    position, detail = finding(cheap(make(CarriesTheAnswer)), "suffix_perturbation")
    assert position == 0 and "loss of supervision step 2" in detail
    position, detail = finding(cheap(make(SeesNothing)), "gradient")
    assert position == 1 and "no token before it" in detail
    position, _ = finding(cheap(make(LeaksWhereScoringBegins)), "target_swap")
    assert position == 1  # where scoring begins at 0, it does not leak
    assert "targets" in finding(cheap(make(TakesTargets)), "blind_halting")[1]


def test_gradients_that_have_exploded_raise_no_alarm() -> None:
    net = make(norm="pre")
    with torch.no_grad():
        net.final_norm.weight.mul_(1e25)
        net.token_embedding.weight.mul_(1e15)
    assert "gradient" not in cheap(net).failed


def test_the_thorough_form_looks_into_the_whole_window() -> None:
    net = make(LeaksFarInTheWindow)
    assert "suffix_perturbation" not in cheap(net).failed
    position, _ = finding(audit(net), "suffix_perturbation")
    assert position == 10


def test_text_drawn_from_another_distribution_is_found() -> None:
    net = make()
    decode = decoder(net)
    assert decode is not None

    def hotter(n_tokens: int) -> tuple[Tensor, Tensor]:
        ids, drawn_from = decode(n_tokens)
        drawn_from[2:] = torch.log_softmax(drawn_from[2:] / 2, dim=-1)
        return ids, drawn_from

    position, detail = finding(audit(net, decode=hotter, thorough=False), "incremental")
    assert position == 2 and "drawn" in detail


# Counting.


def windows_without(n_left_out: int) -> HeldOut:
    whole = held_out()
    batches = [(tokens, first) for tokens, first in whole.windows]
    tokens, first = batches[1]
    batches[1] = (tokens, first + n_left_out)
    return HeldOut(whole.tokens, batches)


@pytest.mark.parametrize("n_left_out", [1, -1])
def test_tokens_left_out_or_scored_twice_are_found(n_left_out: int) -> None:
    result = audit(make(), held_out=windows_without(n_left_out), thorough=False)
    position, _ = finding(result, "each_token_once")
    assert position == L  # the first batch holds one whole window


def test_a_split_that_ends_early_is_found() -> None:
    whole = held_out()
    result = audit(make(), held_out=HeldOut(whole.tokens, list(whole.windows)[:-1]), thorough=False)
    position, detail = finding(result, "each_token_once")
    assert position is not None and 0 < position < 40 and "left out" in detail


def test_no_score_below_the_entropy_of_the_text() -> None:
    net, n = make(), 40
    net.requires_grad_(False)
    nats = sum(
        -float(net.eval().log_probs(t, f).gather(2, t[:, f:, None]).sum())
        for t, f in held_out(n).windows
    )
    lucky = audit(
        net.requires_grad_(), held_out=held_out(n, entropy_nats=nats + 19)
    )  # e^-19: luck is conceivable
    assert "entropy_floor" not in lucky.failed
    too_good = audit(net.requires_grad_(), held_out=held_out(n, entropy_nats=nats + 21))
    assert f"{nats / n:.4f} nats" in finding(too_good, "entropy_floor")[1]


class Mixed(AR):
    """Uniform, with a little more for the answer."""

    bonus = 0.0

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        hint = nn.functional.one_hot(tokens[:, first:], self.vocab_size) * self.bonus
        return torch.log_softmax(hint, dim=-1)


def test_random_tokens_cost_log_v() -> None:
    net = make(Mixed)
    assert "random_tokens" not in cheap(net).failed  # exactly log V: not fewer
    net.bonus = 0.01
    position, detail = finding(cheap(net), "random_tokens")
    assert position == 0 and f"{math.log(V):.4f}" in detail


# What an audit leaves behind: nothing.


@pytest.mark.parametrize("training", [True, False])
def test_an_audit_disturbs_nothing(training: bool) -> None:
    net = make(TRM).train(training)
    net.blocks[0].eval()
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, second = (audit(net, train_steps=2, decode=decoder(net)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training is training and not net.blocks[0].training
    assert net.blocks[1].training is training
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    assert first.as_dict() == second.as_dict()  # and it is the same every time


def test_the_table_has_a_line_for_each_check() -> None:
    result = audit(make(Unnormalised), held_out=held_out(), thorough=False)
    lines = [line.strip() for line in str(result).splitlines() if line.startswith("  ")]
    assert len(lines) == len(CHECKS)
    assert "normalised FAILED: probabilities over one vocabulary sum to one" in str(result)
    assert "causal: a score depends on earlier tokens only" in str(result)
    assert [line for line in lines if line.startswith("✗")] == [
        line for line in lines if "normalised" in line.split()[1]
    ]
    assert "token 0: the probabilities of its score sum to 1.01005" in "\n".join(lines)
    assert [line.split()[1] for line in lines if line[0] == "–"] == UNTRIED
