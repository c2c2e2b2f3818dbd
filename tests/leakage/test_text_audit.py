"""The audit of any function that scores a text, from Python and by the command."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHORT_PLAY
from offenders import make
from test_audit_command import audit_config
from torch import Tensor

from trm_lightning import audit
from trm_lightning.errors import UserError
from trm_lightning.leakage.command import audit_command
from trm_lightning.models import AR

Scorer = Callable[[Tensor], Any]
V, N = 19, 64
TEXT = np.random.default_rng(5).integers(V, size=N)
UNKNOWN = 3
TABLE = torch.rand(V, V, generator=torch.Generator().manual_seed(2)) + 0.1
TABLE = (TABLE / TABLE.sum(dim=1, keepdim=True)).log()


def before(ids: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(ids[:1]), ids[:-1]))


def distributions(ids: Tensor) -> Tensor:
    return TABLE[before(ids)]


def own(log_probs: Tensor, ids: Tensor) -> Tensor:
    return log_probs.gather(1, ids[:, None])[:, 0]


def nats(ids: Tensor) -> Tensor:
    return -own(distributions(ids), ids)


class Cache:
    """Mixes in the counts of the text so far; :attr:`first` counts a token before it is scored."""

    first = False

    def __init__(self) -> None:
        self.counts = torch.ones(V)

    def __call__(self, ids: Tensor) -> Tensor:
        found = []
        for i, row in zip(ids.tolist(), distributions(ids), strict=True):
            self.counts[i] += self.first
            mixed = 0.5 * row.exp() + 0.5 * self.counts / self.counts.sum()
            found.append(mixed[i].log())
            self.counts[i] += not self.first
        return torch.stack(found)


class ScoresFirst(Cache):
    def reset(self) -> None:
        self.counts = torch.ones(V)


class CountsFirst(ScoresFirst):
    first = True


def verifier() -> Scorer:
    """Score a text in blocks of 16 by one window with cached keys, as speculative decoding does."""
    model = make(AR, vocab_size=V, window_size=N)

    def score(ids: Tensor) -> Tensor:
        with torch.no_grad():
            window = model.open_window()
            states = [window.read(torch.zeros(1, 1, dtype=torch.long))]  # the start token
            for block in ids[:-1].split(16):
                states.append(window.read(block[None]))
            return window.distribution(torch.cat(states, dim=1))[0]

    return score


HONEST: dict[str, Callable[[], Scorer]] = {
    "distributions": lambda: distributions,
    "nats": lambda: nats,
    "log-probabilities in numpy": lambda: lambda ids: -nats(ids).numpy(),
    "a cache that scores first": ScoresFirst,
    "speculative decoding's verifier": verifier,
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_function_raises_no_alarm(name: str) -> None:
    result = audit(HONEST[name](), vocab_size=V, text=TEXT, entropy=1.0, seconds=120)
    assert result.failed == [] and result.passed, str(result)
    assert "changed from 64 of 64 positions on" in str(result)


def stride_with_itself(ids: Tensor) -> Tensor:
    """Score blocks of 16, each with a context that reaches one token too far."""
    found = -nats(ids)
    found[16::16] = own(TABLE[ids[16::16]], ids[16::16])
    return found


def far_chunks(ids: Tensor) -> Tensor:
    hint = torch.zeros(len(ids), V)
    hint[torch.arange(len(ids)), ids] = (torch.arange(len(ids)) // 8 % 2 == 1) * 1e-4
    return torch.log_softmax(distributions(ids) + hint, dim=-1)


def hashed(ids: Tensor) -> Tensor:
    return distributions(ids) + before(ids)[:, None] % 3


def adapts_first(ids: Tensor) -> Tensor:
    bias = torch.bincount(ids, minlength=V) / len(ids)
    return torch.log_softmax(distributions(ids) + bias, dim=-1)


OFFENDERS: dict[str, tuple[Callable[[], Scorer], str]] = {
    "a stride that scores a token in its own context": (lambda: stride_with_itself, "normalised"),
    "of size 1e-4 in every second chunk": (lambda: far_chunks, "printed_scores"),
    "adaptation before scoring": (lambda: adapts_first, "printed_scores"),
    "a cache that counts first": (CountsFirst, "normalised"),
    "a cache that outlives the text": (Cache, "history"),
    "unnormalised by 0.1 %": (lambda: lambda ids: nats(ids) - math.log(1.001), "normalised"),
    "hashed cache": (lambda: hashed, "normalised"),
    "input equal to output": (lambda: lambda ids: torch.full(ids.shape, 1e-3), "normalised"),
    "easy tokens counted twice": (
        lambda: lambda ids: torch.cat((nats(ids), nats(ids)[ids < 4])),
        "each_token_once",
    ),
    "unknown words dropped": (lambda: lambda ids: nats(ids)[ids != UNKNOWN], "each_token_once"),
}  # fmt: skip


@pytest.mark.parametrize("name", OFFENDERS)
def test_offending_function_is_caught_by_the_check_meant_for_it(name: str) -> None:
    build, meant = OFFENDERS[name]
    result = audit(build(), vocab_size=V, text=TEXT)
    assert meant in result.failed, str(result)


def test_the_offending_token_is_shown_in_the_text() -> None:
    words = [f"w{i}" for i in range(V)]
    result = audit(
        adapts_first, vocab_size=V, text=TEXT, decode=lambda ids: " ".join(words[i] for i in ids)
    )
    (check,) = [check for check in result.checks if check.name == "printed_scores"]
    assert check.position == 0 and f"»w{TEXT[0]}« w{TEXT[1]}" in check.detail


def test_a_score_under_the_entropy_is_a_finding() -> None:
    assert audit(nats, vocab_size=V, text=TEXT, entropy=9.0).failed == ["entropy_floor"]


@pytest.mark.parametrize(
    ("text", "vocab_size"), [([1], V), ([[1, 2]], V), ([1, V], V), ([0, 0], 1)]
)
def test_texts_that_cannot_be_scored_are_refused(text: Any, vocab_size: int) -> None:
    with pytest.raises(UserError):
        audit(nats, vocab_size=vocab_size, text=text)


MODULE = """
import torch

def honest(ids):
    return torch.full(ids.shape, torch.tensor(19.0).log())

def knows(ids):
    return torch.log_softmax(5.0 * torch.nn.functional.one_hot(ids, 19), dim=-1)

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scoring_of_mine.py").write_text(MODULE)
    (tmp_path / "ids.json").write_text(json.dumps(TEXT.tolist()))
    np.save(tmp_path / "ids.npy", TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_audits_a_function_of_the_users_own(
    module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ["ids=ids.json", f"vocab_size={V}"]
    assert audit_command(audit_config("scorer=scoring_of_mine:honest", *ids)).n_failed == 0
    assert "All checks passed." in capsys.readouterr().out
    ids = ["ids=ids.npy", f"vocab_size={V}", "json=out.json"]
    assert audit_command(audit_config("scorer=scoring_of_mine:knows", *ids)).n_failed > 0
    content = json.loads((module / "out.json").read_text())
    assert "printed_scores" in content["failed"]["scoring_of_mine:knows"]


def test_the_command_takes_ids_and_tokens_of_a_data_set(
    module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "def own_words(ids):\n    return 9.0 - (ids > 2) * 1.0\n"
    (module / "scoring_of_words.py").write_text(own)
    scorer = "scorer=scoring_of_words:own_words"
    assert audit_command(audit_config(scorer, "seconds=0.2", *SHORT_PLAY)).n_failed > 0
    assert "scoring_of_words:own_words on builtin_word" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["scorer=scoring_of_mine"], "names no function"),
        (["scorer=no_such_module:f"], "cannot be imported"),
        (["scorer=scoring_of_mine:nothing"], "cannot be imported"),
        (["scorer=scoring_of_mine:number"], "is a int, not a function"),
        (["scorer=scoring_of_mine:honest", "model=ar"], "audited alone"),
        (["ids=ids.json", "model=ar"], "goes with scorer"),
        (["scorer=scoring_of_mine:honest", "ids=none.json", "vocab_size=19"], "cannot be read"),
        (["scorer=scoring_of_mine:honest", "ids=scoring_of_mine.py", "vocab_size=19"], "cannot be"),
    ],
)
def test_mistakes_with_functions_are_named(module: Path, overrides: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        audit_command(audit_config(*overrides))
