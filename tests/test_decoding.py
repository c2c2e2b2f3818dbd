"""Sampling draws from the distribution that scores, within a window and beyond it."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from spread import spread
from torch import Tensor

from trm_lightning.errors import UserError
from trm_lightning.models import AR, LanguageModel, Recursive
from trm_lightning.sampling.sample import Draw, sample, sample_batch

V, L, C = 11, 12, 3
BASE: dict[str, Any] = {
    "vocab_size": V, "start_token": 0, "window_size": L, "width": 16, "n_layers": 2,
    "n_heads": 2, "dropout": 0.3, "norm": "post",
}  # fmt: skip
KINDS: dict[str, dict[str, str]] = {
    "ar": {},
    "ar_rotary": {"positions": "rotary"},
    "draft_cached_sequential": {"chunk_start": "draft"},
    "query_cached_parallel": {"chunk_start": "query", "factorization": "parallel"},
    "query_joint_sequential": {"chunk_start": "query", "attention": "joint"},
    "query_joint_parallel": {
        "chunk_start": "query", "attention": "joint", "factorization": "parallel",
    },
    "query_recursive_sequential": {"chunk_start": "query", "attention": "recursive"},
    "query_recursive_parallel": {
        "chunk_start": "query", "attention": "recursive", "factorization": "parallel",
    },
    "target_cached_parallel": {"chunk_start": "target", "factorization": "parallel"},
}  # fmt: skip


def make_net(kind: str, **changes: Any) -> LanguageModel:
    torch.manual_seed(5)
    arguments = BASE | KINDS[kind] | changes
    if kind.startswith("ar"):
        return spread(AR(**arguments)).eval()
    recursion = {"n_refinements": 1, "n_recursions": 1, "n_supervision": 2}
    return spread(Recursive(**({"chunk_size": C} | recursion | arguments))).eval()


@pytest.fixture(params=KINDS)
def net(request: pytest.FixtureRequest) -> LanguageModel:
    return make_net(request.param)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recorder(Draw):
    """Draws as usual, and keeps the distributions that it was given."""

    given: list[Tensor]

    def __call__(self, log_probs: Tensor) -> Tensor:
        self.__dict__.setdefault("given", []).append(log_probs)
        return super().__call__(log_probs)


def sampled(net: LanguageModel, prompt: list[int], n: int) -> tuple[list[int], Tensor]:
    """Return n sampled ids and the distributions (n, V) that they were drawn from."""
    draw = Recorder(rng(3))
    blocks = sample_batch(net, torch.tensor([prompt], dtype=torch.long), n, draw)
    ids = torch.cat(list(blocks), dim=1)[0].tolist()
    return ids, torch.cat(draw.given, dim=1)[0, :n]


def windows(net: LanguageModel, text: list[int], n_prompt: int) -> Iterator[list[int]]:
    """Yield, for each token of ``text`` after the prompt, the window that ends with it.

    Written from the description of the rules, one token at a time.
    """
    begin = max(n_prompt - (L - 1), 0)
    for t in range(n_prompt, len(text)):
        if isinstance(net, Recursive):
            grid = n_prompt % C if net.factorization == "parallel" and n_prompt >= C else 0
            chunk_begin = (t - grid) // C * C + grid
            # With kept states the window stays where it is until it is full.
            slides = net.attention != "recursive" or t == n_prompt
            begin = max(chunk_begin - (L - C), grid) if slides else begin
        if t - begin == L:
            begin = t - L // 2
        yield text[begin : t + 1]


@pytest.mark.parametrize("n_prompt", [0, 1, 5, L, 3 * L + 1])
def test_each_token_is_drawn_from_the_distribution_that_scores_it(
    net: LanguageModel, n_prompt: int
) -> None:
    prompt = [1 + i * 7 % (V - 1) for i in range(n_prompt)]
    ids, drawn_from = sampled(net, prompt, 2 * L + 1)
    assert len(ids) == 2 * L + 1
    scorer = net if net.is_likelihood else net.without_answer()
    with torch.no_grad():
        for window, log_probs in zip(windows(net, prompt + ids, n_prompt), drawn_from, strict=True):
            expected = scorer.log_probs(torch.tensor([window]))[0, -1]
            torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=0)


def test_the_comparison_above_notices_one_changed_token(net: LanguageModel) -> None:
    ids, drawn_from = sampled(net, [1, 2, 3], C)
    changed = torch.tensor([[1, 4, 3, *ids]])
    scorer = net if net.is_likelihood else net.without_answer()
    with torch.no_grad():
        expected = scorer.log_probs(changed)[0, 3:]
    assert (drawn_from - expected).abs().max() > 1e-3


def test_greedy_with_kept_keys_equals_greedy_by_full_evaluation() -> None:
    net = make_net("ar")
    text = [4, 2]
    with torch.no_grad():
        while len(text) < L:
            text.append(int(net.log_probs(torch.tensor([[*text, 0]]))[0, -1].argmax()))
    assert list(sample(net, [4, 2], L - 2, temperature=0, generator=rng())) == text[2:]


def chi_square(counts: Tensor, probs: Tensor) -> float:
    """Pearson's statistic; cells with an expectation below 5 count as one."""
    expected = probs.double() * counts.sum()
    rare = expected < 5
    expected = torch.cat((expected[~rare], expected[rare].sum()[None]))
    counts = torch.cat((counts[~rare], counts[rare].sum()[None]))
    return float(((counts - expected) ** 2 / expected.clamp(min=1)).sum())


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in ("target_cached_parallel", "ar_rotary")]
)
def test_frequencies_of_chunks_agree_with_their_likelihood(kind: str) -> None:
    """All 27 chunks of three tokens after a prompt; 60.1 is the 0.9998 quantile at 26 degrees."""
    net = make_net(kind, vocab_size=3)
    prompt, n = [1, 0, 2], 2000
    chunks = torch.tensor(list(itertools.product(range(3), repeat=C)))
    texts = torch.cat((torch.tensor([prompt]).expand(27, -1), chunks), dim=1)
    with torch.no_grad():
        log_probs = net.log_probs(texts, first=3)
    likelihood = log_probs.gather(2, chunks[:, :, None]).sum(dim=(1, 2)).exp()
    assert float(likelihood.sum()) == pytest.approx(1, abs=1e-5)

    def frequencies(draw: Draw) -> Tensor:
        blocks = sample_batch(net, torch.tensor([prompt] * n), C, draw)
        codes = torch.cat(list(blocks), dim=1) @ torch.tensor([9, 3, 1])
        return torch.bincount(codes, minlength=27)

    assert chi_square(frequencies(Draw(rng())), likelihood) < 60.1
    # A sampler of other distributions, flatter by a third, is found out.
    assert chi_square(frequencies(Draw(rng(), temperature=1.33)), likelihood) > 60.1


def test_a_seed_determines_the_text_and_global_draws_stay_as_they_were(net: LanguageModel) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        list(sample(net, [1], 20, generator=rng(seed))) for seed in (1, 1, 2)
    )  # fmt: skip
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


def test_tokens_come_as_they_are_drawn() -> None:
    calls = 0

    class Counting(Draw):
        def __call__(self, log_probs: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().__call__(log_probs)

    blocks = sample_batch(make_net("ar"), torch.tensor([[1]]), 5, Counting(rng()))
    next(blocks)
    assert calls == 1
    assert len(list(blocks)) == 4 and calls == 5


def test_settings_out_of_range_are_all_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        sample(make_net("ar"), [], 0, temperature=-1, top_k=0, top_p=1.5, generator=rng())
    for name in ("n_tokens", "temperature", "top_k", "top_p"):
        assert name in error.value.what


def test_a_net_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        sample(make_net("ar").train(), [], 1, generator=rng())


@pytest.mark.parametrize(
    "net",
    [
        make_net("ar", window_size=1),
        make_net("ar", window_size=2),
        make_net("draft_cached_sequential", window_size=2, chunk_size=1),
        make_net("query_joint_parallel", window_size=4, chunk_size=2),
    ],
)
def test_the_smallest_windows(net: LanguageModel) -> None:
    assert len(list(sample(net, [1, 2, 3], 6, generator=rng()))) == 6


class PlainNet(LanguageModel):
    """A net of the user's own: nothing but scores."""

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        states = self.layers[0].mlp(self.token_embedding(self.shift_right(tokens)).cumsum(dim=1))
        return torch.log_softmax(self.logits(states[:, first:]), dim=-1)


def test_any_net_that_scores_can_write() -> None:
    net = spread(PlainNet(**BASE)).eval()
    prompt, drawn = [3, 1, 4], []
    for token in sample(net, prompt, 2 * L, temperature=0, generator=rng()):
        window = [*prompt, *drawn][-(L - 1) :]
        seen = torch.tensor([[*window, 0]])
        assert token == int(net.log_probs(seen)[0, -1].argmax())
        drawn.append(token)
    assert len(drawn) == 2 * L and len(set(drawn)) > 1
