"""Sampling draws from the distribution that scores, within a window and beyond it."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from distributions import chi_square, rng
from spread import spread
from torch import Tensor, nn

from trm_lightning.errors import UserError
from trm_lightning.models import AR, TRM, LanguageModel, Looped, SourceTRM
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.sample import sample, sample_batch

V, L, C = 11, 12, 3
BASE: dict[str, Any] = {
    "vocab_size": V, "start_token": 0, "window_size": L, "width": 16, "n_layers": 2,
    "n_heads": 2, "dropout": 0.3, "norm": "post",
}  # fmt: skip
KINDS: dict[str, tuple[type[LanguageModel], dict[str, Any]]] = {
    "ar": (AR, {}),
    "ar_rotary": (AR, {"positions": "rotary"}),
    "trm": (TRM, {"n_recursions": 1}),
    "trm_parallel": (TRM, {"n_recursions": 1, "factorization": "parallel"}),
    "looped": (Looped, {}),
    "source_query": (SourceTRM, {"n_recursions": 1, "start": "query"}),
    "source_target": (SourceTRM, {"n_recursions": 1, "start": "target"}),
}


def make_net(kind: str, **changes: Any) -> LanguageModel:
    torch.manual_seed(5)
    model, own = KINDS[kind]
    recursion = {} if model is AR else {"chunk_size": C, "n_refinements": 1, "n_supervision": 2}
    return spread(model(**(BASE | recursion | own | changes))).eval()


@pytest.fixture(params=KINDS)
def net(request: pytest.FixtureRequest) -> LanguageModel:
    return make_net(request.param)


class Recorder(Sampler):
    """Draws as usual, and keeps the distributions that it was given."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(generator)
        self.given: list[Tensor] = []

    def __call__(self, log_probs: Tensor) -> Tensor:
        self.given.append(log_probs)
        return super().__call__(log_probs)


def sampled(net: LanguageModel, prompt: list[int], n: int) -> tuple[list[int], Tensor]:
    """Return n sampled ids and the distributions (n, V) that they were drawn from."""
    recorder = Recorder(rng(3))
    blocks = sample_batch(net, torch.tensor([prompt], dtype=torch.long), n, recorder)
    ids = torch.cat(list(blocks), dim=1)[0].tolist()
    return ids, torch.cat(recorder.given, dim=1)[0, :n]


def windows(net: LanguageModel, text: list[int], n_prompt: int) -> Iterator[list[int]]:
    """Yield, for each token of ``text`` after the prompt, the window that ends with it.

    Written from the description of the rules, one token at a time.
    """
    size, parallel = net.chunk_size, net.factorization == "parallel"
    kept = net.open_window() is not None
    begin = 0
    for t in range(n_prompt, len(text)):
        grid = n_prompt % size if parallel and n_prompt >= size else 0
        chunk_begin = (t - grid) // size * size + grid
        if not kept or t == n_prompt:  # with kept states the window stays until it is full
            begin = max(chunk_begin - (L - size), grid)
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
    assert list(sample(net, [4, 2], L - 2, Sampler(rng(), temperature=0))) == text[2:]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("source_target", "ar_rotary")])
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

    def frequencies(draw: Sampler) -> Tensor:
        blocks = sample_batch(net, torch.tensor([prompt] * n), C, draw)
        codes = torch.cat(list(blocks), dim=1) @ torch.tensor([9, 3, 1])
        return torch.bincount(codes, minlength=27)

    assert chi_square(frequencies(Sampler(rng())), likelihood) < 60.1
    # A sampler of other distributions, flatter by a third, is found out.
    assert chi_square(frequencies(Sampler(rng(), temperature=1.33)), likelihood) > 60.1


def test_a_seed_determines_the_text_and_global_draws_stay_as_they_were(net: LanguageModel) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        list(sample(net, [1], 20, Sampler(rng(seed)))) for seed in (1, 1, 2)
    )  # fmt: skip
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


def test_tokens_come_as_they_are_drawn() -> None:
    calls = 0

    class Counting(Sampler):
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
        Sampler(rng(), temperature=-1, top_k=0, top_p=1.5)
    for name in ("temperature", "top_k", "top_p"):
        assert name in error.value.what
    with pytest.raises(UserError, match="n_tokens"):
        sample(make_net("ar"), [], 0, Sampler(rng()))


def test_a_net_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        sample(make_net("ar").train(), [], 1, Sampler(rng()))


@pytest.mark.parametrize(
    "net",
    [
        make_net("ar", window_size=1),
        make_net("ar", window_size=2),
        make_net("trm", window_size=2, chunk_size=1),
        make_net("trm_parallel", window_size=4, chunk_size=2),
        make_net("source_query", window_size=4, chunk_size=2),
    ],
)
def test_the_smallest_windows(net: LanguageModel) -> None:
    assert len(list(sample(net, [1, 2, 3], 6, Sampler(rng())))) == 6


class Bigram(LanguageModel):
    """A model of the user's own: nothing but scores."""

    def __init__(self) -> None:
        super().__init__(vocab_size=V, start_token=0, window_size=L)
        self.table = nn.Parameter(torch.randn(V, V, generator=rng(1)))

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        start = torch.zeros_like(tokens[:, :1])
        before = torch.cat((start, tokens[:, :-1]), dim=1)
        return torch.log_softmax(self.table[before].cumsum(dim=1), dim=-1)[:, first:]


def test_any_model_that_scores_can_write() -> None:
    model = Bigram().eval()
    prompt, drawn = [3, 1, 4], []
    for token in sample(model, prompt, 2 * L, Sampler(rng(), temperature=0)):
        window = [*prompt, *drawn][-(L - 1) :]
        seen = torch.tensor([[*window, 0]])
        assert token == int(model.log_probs(seen)[0, -1].argmax())
        drawn.append(token)
    assert len(drawn) == 2 * L and len(set(drawn)) > 1
