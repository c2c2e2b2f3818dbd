"""Kept states give the scores of whole windows; drafted and verified text is distributed alike."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from distributions import chi_square, rng
from spread import spread
from torch import Tensor

from trm_lightning.errors import UserError
from trm_lightning.models import TRM, Looped
from trm_lightning.models.recursive import Recursive
from trm_lightning.sampling import ngrams, speculative
from trm_lightning.sampling.command import count_layers
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.ngrams import NgramDrafts
from trm_lightning.sampling.sample import sample, sample_batch
from trm_lightning.sampling.speculative import verify

V, L = 7, 12
N_TEXTS = 1400


def make_net(chunk_size: int, n_recursions: int = 1, **changes: Any) -> Recursive:
    torch.manual_seed(3)
    arguments: dict[str, Any] = {
        "vocab_size": V, "start_token": 0, "window_size": L, "width": 8, "n_layers": 2,
        "n_heads": 2, "norm": "post", "n_refinements": 1, "chunk_size": chunk_size,
    }  # fmt: skip
    if n_recursions:
        return spread(TRM(**(arguments | changes), n_recursions=n_recursions)).eval()
    return spread(Looped(**(arguments | changes))).eval()


def some_tokens(n_rows: int = 1) -> Tensor:
    return torch.randint(V, (n_rows, L), generator=rng(1))


# Kept keys and values.


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4])
@pytest.mark.parametrize("cuts", [[5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [2, 3, 9], [7, 10]])
@torch.no_grad()
def test_a_window_read_in_parts_has_the_states_of_the_whole(
    cuts: list[int], chunk_size: int, positions: str
) -> None:
    changes = {"positions": positions, "n_refinements": 2, "n_supervision": 2}
    net = make_net(chunk_size, **changes).double()
    tokens = some_tokens(2)
    scores = net.log_probs(tokens)
    net.n_refinements, net.n_supervision = net.scoring_depth, 1  # one forward is a score's depth
    expected = net(tokens)
    assert torch.equal(net.logits(expected.answer).float().log_softmax(dim=-1), scores)
    window, inputs = net.open_window(), net.shift_right(tokens)
    bounds = [0, *cuts, L]
    for begin, end in itertools.pairwise(bounds):
        states = window.read(inputs[:, begin:end])
        torch.testing.assert_close(states, expected.answer[:, begin:end], rtol=0, atol=1e-12)
        if chunk_size > 1:
            chunk = (end - 1) // chunk_size
            columns = expected.lookahead_columns // chunk_size == chunk
            torch.testing.assert_close(
                window.look_ahead, expected.lookahead[:, columns], rtol=0, atol=1e-12
            )


@pytest.mark.parametrize("chunk_size", [1, 3])
@torch.no_grad()
def test_what_is_forgotten_leaves_no_trace(chunk_size: int) -> None:
    net, tokens = make_net(chunk_size).double(), some_tokens()
    inputs = net.shift_right(tokens)
    window = net.open_window()
    window.read(inputs[:, :7])
    # From another text: rows of the present chunk and of the next.
    window.read((inputs[:, 7:11] + 1) % V)
    window.truncate(7)
    expected = net(tokens).answer[:, 7:]
    torch.testing.assert_close(window.read(inputs[:, 7:]), expected, rtol=0, atol=1e-12)


def test_a_full_window_reads_no_more() -> None:
    window = make_net(3).open_window()
    window.read(some_tokens())
    with pytest.raises(ValueError, match="do not fit"):
        window.read(some_tokens()[:, :1])


@pytest.mark.parametrize("factorization", ["left_to_right", "parallel"])
def test_a_token_runs_once(factorization: str) -> None:
    """What runs after the first token of a text are the states of new tokens, not the window."""
    net = make_net(3, factorization=factorization)
    rows: list[int] = []
    net.layers[-1].mlp.register_forward_hook(lambda _module, x, _y: rows.append(x[0].shape[1]))
    list(sample_batch(net, torch.empty(1, 0, dtype=torch.long), L, Sampler(rng())))
    # L causal states and two look-ahead states per chunk; two passes run each of them. The last
    # two tokens that are predicted in parallel are never read.
    n_unread = 2 if factorization == "parallel" else 0
    assert sum(rows) == 2 * (L - n_unread + 2 * L // 3)


# Speculative sampling.


def exact(net: Recursive, prompt: list[int], n: int, draw: Sampler) -> Tensor:
    """Return the probability of each text of n tokens by the chain rule over ``log_probs``."""
    v = net.vocab_size
    texts = torch.tensor(list(itertools.product(range(v), repeat=n)))
    windows = torch.cat((torch.tensor([prompt]).expand(len(texts), -1), texts), dim=1)
    with torch.no_grad():
        probs = draw.probs(net.log_probs(windows, first=len(prompt)))
    return probs.gather(2, texts[:, :, None])[:, :, 0].prod(dim=1)


def counted(
    net: Recursive,
    prompt: list[int],
    n: int,
    draw: Sampler,
    n_texts: int,
    drafts: NgramDrafts | None = None,
) -> Tensor:
    """Return how often each text of n tokens is written in ``n_texts`` calls."""
    powers = net.vocab_size ** torch.arange(n - 1, -1, -1)
    counts = torch.zeros(net.vocab_size**n)
    text = torch.tensor([prompt])
    for _ in range(n_texts):
        blocks = sample_batch(net, text, n, draw, speculative=True, drafts=drafts)
        counts[int(torch.cat(list(blocks), dim=1)[0] @ powers)] += 1
    return counts


def bound(expected: Tensor) -> float:
    """Return the 0.9999 quantile (Wilson and Hilferty) of what :func:`chi_square` gives."""
    degrees = int((expected >= 5).sum())  # and all rarer cells together are one more
    return degrees * (1 - 2 / (9 * degrees) + 3.719 * (2 / (9 * degrees)) ** 0.5) ** 3


def accept_all(drafted: Tensor, proposed: Tensor, wanted: Tensor, draw: Sampler) -> Tensor:
    return drafted


def redraw_from_all(drafted: Tensor, proposed: Tensor, wanted: Tensor, draw: Sampler) -> Tensor:
    """The right acceptance, and a replacement from p where p - q is due."""
    ids = verify(drafted, proposed, wanted, draw)
    last = len(ids) - 1
    if ids[last] != drafted[last]:
        ids[last] = draw.draw(wanted[last])
    return ids


FILTERS = {"temperature": 0.7, "top_p": 0.9}


@pytest.mark.parametrize(
    ("prompt", "settings", "rule"),
    [
        pytest.param([1, 0, 2], {}, verify, marks=pytest.mark.slow),
        ([1, 0, 2, 2], {}, verify),  # the rest of a chunk and the next one's first token
        ([1, 0, 2], FILTERS, verify),
        pytest.param([1, 0, 2], {}, accept_all, marks=pytest.mark.slow),
        ([1, 0, 2], FILTERS, accept_all),
        ([1, 0, 2], {}, redraw_from_all),
    ],
)
def test_texts_are_as_frequent_as_their_exact_probability(
    prompt: list[int], settings: dict[str, Any], rule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 27 texts of three tokens; the wrong rules fail the very same test."""
    monkeypatch.setattr(speculative, "verify", rule)
    net = make_net(3, vocab_size=3, n_layers=1, n_recursions=0)
    draw = Sampler(rng(), **settings)
    likelihood = exact(net, prompt, 3, draw)
    assert float(likelihood.sum()) == pytest.approx(1, abs=1e-5)
    counts = counted(net, prompt, 3, draw, N_TEXTS)
    assert (chi_square(counts, likelihood) < bound(likelihood * N_TEXTS)) == (rule is verify)
    # Nothing that filters rule out is ever written.
    assert counts[likelihood == 0].sum() == 0 or rule is not verify


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, verify),
        ({}, accept_all),
        pytest.param(FILTERS, verify, marks=pytest.mark.slow),
        pytest.param({}, redraw_from_all, marks=pytest.mark.slow),
    ],
)
def test_texts_from_ngrams_are_as_frequent_as_their_exact_probability(
    settings: dict[str, Any], rule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, with drafts from a text that the model does not follow."""
    monkeypatch.setattr(speculative, "verify", rule)
    net = make_net(1, vocab_size=3, n_layers=1, n_recursions=0)
    drafts = NgramDrafts(torch.randint(3, (200,), generator=rng(4)).numpy(), 3, 2)
    draw = Sampler(rng(), **settings)
    likelihood = exact(net, [1, 0, 2], 3, draw)
    counts = counted(net, [1, 0, 2], 3, draw, N_TEXTS, drafts)
    assert (chi_square(counts, likelihood) < bound(likelihood * N_TEXTS)) == (rule is verify)


def witten_bell(text: list[int], context: list[int], vocab_size: int) -> list[float]:
    """Count again for each question: the definition, in plain Python."""
    probs = [1 / vocab_size] * vocab_size
    for n in range(min(len(context), ngrams.ORDER) + 1):
        seen = context[len(context) - n :]
        after = Counter(text[i + n] for i in range(len(text) - n) if text[i : i + n] == seen)
        if not after:
            break
        total = after.total() + len(after)
        probs = [(after[v] + len(after) * p) / total for v, p in enumerate(probs)]
    return probs


def test_ngrams_are_counted_and_smoothed_as_defined() -> None:
    text = torch.randint(4, (150,), generator=rng(2)).tolist()
    drafts = NgramDrafts(np.array(text, dtype=np.uint16), 5, 1)  # 4 is never seen
    contexts = [text[i : i + n] for n in range(8) for i in (0, 20, 77)]
    for context in [*contexts, text[-3:], [4], [0, 4], [4, 0], [0, 1, 2, 3, 0, 1]]:
        found = drafts.probs(context)
        assert found.tolist() == pytest.approx(witten_bell(text, context, 5), abs=1e-12)
        assert found.sum() == pytest.approx(1) and found.min() > 0


@pytest.mark.parametrize("n_prompt", [0, 1, L - 1, 2 * L + 1])
def test_without_chance_ngrams_write_the_same_in_fewer_runs(n_prompt: int) -> None:
    net = make_net(1).double()
    prompt = [1 + i * 5 % (V - 1) for i in range(n_prompt)]
    plain = list(sample(net, prompt, 4 * L, Sampler(rng(), temperature=0)))
    # What the model writes, for the n-grams to learn, and another text.
    for tokens, few in ((plain, True), (some_tokens()[0].tolist(), False)):
        drafts = NgramDrafts(np.array(tokens), V, 3)
        with count_layers(net) as blocks:
            drafted = list(sample(net, prompt, 4 * L, Sampler(rng(), temperature=0), drafts=drafts))
        assert drafted == plain
        runs = len(blocks) / (len(net.layers) * net.n_passes)
        assert not few or runs < 3 * L


def test_drafts_that_nothing_verifies_are_refused() -> None:
    drafts = NgramDrafts(np.arange(V), V, 2)
    with pytest.raises(UserError, match="cannot verify drafts"):
        sample(make_net(3), [], 5, Sampler(rng()), drafts=drafts)
    with pytest.raises(UserError, match="n_drafts must be at least 1"):
        NgramDrafts(np.arange(V), V, 0)


def test_verified_tokens_are_distributed_as_wanted() -> None:
    """The rule alone, for one token, many times: any p and q, and q that misses tokens of p."""
    wanted = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    draw = Sampler(rng())
    for proposed in ([0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0], [0.5, 0.3, 0.2, 0.0]):
        q = torch.tensor([proposed], dtype=torch.float64)
        drafts = draw.draw(q.expand(4000, -1))
        ids = torch.cat([verify(d[None], q, wanted[None], draw) for d in drafts])
        counts = torch.bincount(ids, minlength=4).float()
        assert counts[3] == 0
        # 16.3 is the 0.999 quantile at 3 degrees of freedom.
        assert chi_square(counts, wanted) < 16.3
        drafted = torch.bincount(drafts, minlength=4).float()
        assert chi_square(drafted, wanted) > 100 or proposed == wanted.tolist()


@pytest.mark.parametrize("chunk_size", [2, 3, 4, 6])
@pytest.mark.parametrize("n_prompt", [0, 1, 5, 2 * L + 1])
def test_without_chance_both_ways_write_the_same(chunk_size: int, n_prompt: int) -> None:
    net = make_net(chunk_size).double()
    prompt = [1 + i * 5 % (V - 1) for i in range(n_prompt)]
    texts = [
        list(sample(net, prompt, 3 * L, Sampler(rng(), temperature=0), speculative=ahead))
        for ahead in (True, False)
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 3 * L


def refined(net: Recursive, n_tokens: int, speculative: bool) -> float:
    """Return how often states are refined to write a text from nothing."""
    with count_layers(net) as blocks:
        ids = list(sample(net, [], n_tokens, Sampler(rng()), speculative=speculative))
    assert len(ids) == n_tokens
    return len(blocks) / (len(net.layers) * net.scoring_depth * (net.n_recursions + 1))


@pytest.mark.parametrize(("bound", "n_blocks"), [(1e-9, 2 * 3), (1e6, 2 + 1 + 1)])
def test_a_pass_over_what_has_halted_runs_all_blocks_but_the_last(
    bound: float, n_blocks: int
) -> None:
    net = make_net(2, n_refinements=3, n_recursions=0, exit_threshold=bound)
    with count_layers(net) as blocks:
        ids = list(sample(net, [], L, Sampler(rng()), speculative=False))
    assert len(blocks) == len(ids) * n_blocks


@pytest.mark.parametrize("chunk_size", [2, 3, 4, 6])
def test_fewer_runs_than_tokens_where_the_draft_is_good(chunk_size: int) -> None:
    net = make_net(chunk_size)
    assert refined(net, L, speculative=False) == L
    assert refined(net, L, speculative=True) <= L
    # Without a scale all states predict the same: no draft is ever rejected.
    net.final_norm.weight.data.zero_()
    assert refined(net, L, speculative=True) == L // chunk_size + 1


def test_batches_are_written_token_by_token() -> None:
    net = make_net(3)
    blocks = list(sample_batch(net, some_tokens(4), 5, Sampler(rng()), speculative=True))
    assert [block.shape for block in blocks] == [(4, 1)] * 5
