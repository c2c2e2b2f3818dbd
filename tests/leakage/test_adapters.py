"""The audit of programs, of models that predict the next token, and of masked models."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_audit_command import audit_config
from test_text_audit import TABLE, TEXT, V, before
from torch import Tensor, nn
from torch.nn.functional import one_hot

from trm_lightning import audit, audit_masked
from trm_lightning.errors import UserError
from trm_lightning.leakage.causal_lm import load_causal_lm, next_token_scorer
from trm_lightning.leakage.command import audit_command
from trm_lightning.leakage.program import ProgramScorer

LOOP = """
import math, sys
for line in sys.stdin:
    ids = [int(word) for word in line.split()]
    print({answer}, flush=True)
"""
NATS = f'" ".join(str(math.log({V})) for i in ids)'
LEAKS = f'" ".join(str(math.log({V}) + 0.01 * (ids[i + 1] if i + 1 < len(ids) else 0))' + (
    " for i in range(len(ids)))"
)


def program(folder: Path, answer: str) -> str:
    (folder / "score.py").write_text(LOOP.format(answer=answer))
    return f"{sys.executable} {folder / 'score.py'}"


@pytest.mark.parametrize(("answer", "fails"), [(NATS, False), (LEAKS, True)])
def test_a_program_is_audited_as_a_function_is(
    answer: str, fails: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ids.json").write_text(json.dumps(TEXT.tolist()))
    command = program(tmp_path, answer)
    cfg = audit_config(
        f"program='{command}'", f"ids={tmp_path / 'ids.json'}", f"vocab_size={V}", "seconds=5"
    )
    audited = audit_command(cfg)
    (found,) = audited.audits.values()
    assert ("printed_scores" in found.failed) == fails, str(found)
    assert bool(audited.n_failed) == fails
    assert ("score = ProgramScorer(" in capsys.readouterr().out) == fails


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("sys.exit(3)", "ended without an answer \\(exit status 3\\)"),
        ("'I will not'", "something else than numbers: 'I will not'"),
    ],
)
def test_programs_that_go_wrong_are_named(answer: str, named: str, tmp_path: Path) -> None:
    scorer = ProgramScorer(program(tmp_path, answer))
    with scorer, pytest.raises(UserError, match=named):
        scorer(torch.tensor([1, 2]))


def test_a_program_that_does_not_answer_or_does_not_exist_is_given_up(tmp_path: Path) -> None:
    scorer = ProgramScorer(program(tmp_path, "__import__('time').sleep(60)"), seconds=0.5)
    with scorer, pytest.raises(UserError, match="no answer in"):
        scorer(torch.tensor([1, 2]))
    with pytest.raises(UserError, match="cannot be started"):
        ProgramScorer("no-such-program-here")(torch.tensor([1]))


class NextToken(nn.Module):
    """Predicts from the token just read, as GPT does; ``peeks`` reads the next one."""

    def __init__(self, peeks: bool = False) -> None:
        super().__init__()
        self.table = nn.Parameter(TABLE.clone())
        self.peeks = peeks

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.table[ids] * (1.0 + self.training)
        if self.peeks:
            logits = logits + one_hot(ids.roll(-1, dims=1), V)
        return logits


def test_a_model_that_predicts_the_next_token_scores_as_its_table_does() -> None:
    scores = next_token_scorer(NextToken(), start=0)(torch.from_numpy(TEXT))
    torch.testing.assert_close(scores, TABLE[before(torch.from_numpy(TEXT))])
    without_start = next_token_scorer(NextToken())(torch.from_numpy(TEXT))
    assert torch.equal(without_start[1:], scores[1:])
    assert float(without_start[0].exp().sum()) == pytest.approx(1)


@pytest.mark.parametrize("start", [None, 0])
@pytest.mark.parametrize("window", [None, 16, 7])
def test_next_token_models_are_audited(start: int | None, window: int | None) -> None:
    honest = audit(next_token_scorer(NextToken(), start, window), vocab_size=V, text=TEXT)
    assert honest.passed, str(honest)
    leaky = audit(next_token_scorer(NextToken(True), start, window), vocab_size=V, text=TEXT)
    assert "printed_scores" in leaky.failed


def save_gpt(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)


@pytest.mark.slow  # needs the extra transformers
def test_a_model_of_transformers_is_audited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_gpt(tmp_path / "gpt")
    (tmp_path / "ids.json").write_text(json.dumps(TEXT.tolist()))
    ids = [f"ids={tmp_path / 'ids.json'}", "seconds=5", "device=cpu"]
    assert audit_command(audit_config(f"transformers={tmp_path / 'gpt'}", *ids)).n_failed == 0
    assert "All checks passed." in capsys.readouterr().out
    own = load_causal_lm(str(tmp_path / "gpt")).score(torch.from_numpy(TEXT[:20]))
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gpt")
    text = torch.cat((torch.zeros(1, dtype=torch.long), torch.from_numpy(TEXT[:20])))
    loss = model(text[None], labels=text[None]).loss
    picked = own.gather(1, torch.from_numpy(TEXT[:20])[:, None]).mean()
    assert -picked.item() == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.slow
def test_a_folder_that_is_no_model_of_transformers_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="cannot be opened"):
        load_causal_lm(str(tmp_path))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs transformers"):
        load_causal_lm("gpt2")


class WithLogits(nn.Module):
    """Returns its logits as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.own = NextToken()

    def forward(self, ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.own(ids))


def test_outputs_with_logits_are_read() -> None:
    text = torch.from_numpy(TEXT)
    assert torch.equal(next_token_scorer(WithLogits())(text), next_token_scorer(NextToken())(text))
    pairs = next_token_scorer(lambda ids: (TABLE[ids], "more"))(text)
    assert torch.equal(pairs, next_token_scorer(NextToken())(text))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["transformers=somewhere"], "text=file.txt or on ids"),
        (["model=ar", "text=a.txt"], "goes with transformers"),
        (["program=cat", "model=ar"], "audited alone"),
    ],
)
def test_mistakes_are_named(overrides: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        audit_command(audit_config(*overrides, "device=cpu"))


# Masked models.

MASK = V


class Masked:
    """Predicts a hidden token from the nearest visible one on its left."""

    def __call__(self, ids: Tensor, hidden: Tensor) -> Tensor:
        seen = self.seen(ids, hidden)
        last, rows = 0, []
        for i in range(len(ids)):
            rows.append(self.row(last, i, seen))
            last = last if seen[i] == MASK else int(seen[i])
        return torch.stack(rows)

    def seen(self, ids: Tensor, hidden: Tensor) -> Tensor:
        return torch.where(hidden, MASK, ids)

    def row(self, last: int, i: int, seen: Tensor) -> Tensor:
        return TABLE[last]


class Unmasked(Masked):
    def seen(self, ids: Tensor, hidden: Tensor) -> Tensor:
        return ids


class FarUnmasked(Masked):
    def seen(self, ids: Tensor, hidden: Tensor) -> Tensor:
        return torch.where(hidden & (torch.arange(len(ids)) != 40), MASK, ids)


class Unnormalised(Masked):
    def row(self, last: int, i: int, seen: Tensor) -> Tensor:
        return TABLE[last] + 0.001


class Remembers(Masked):
    calls = 0

    def row(self, last: int, i: int, seen: Tensor) -> Tensor:
        self.calls += i == 0
        return torch.log_softmax(TABLE[last] * (1 + 0.01 * self.calls), dim=0)


def bound(ids: Tensor) -> float:
    """The mean cost over orders, computed with another set of them."""
    total, order = 0.0, torch.randperm(len(ids))
    hidden, predict = torch.ones(len(ids), dtype=torch.bool), Masked()
    for part in order.tensor_split(8):
        total -= float(predict(ids, hidden)[part].gather(1, ids[part, None]).sum())
        hidden[part] = False
    return total


@pytest.mark.parametrize(
    ("predict", "claimed", "outcome"),
    [
        (Masked(), None, set()),
        (Masked(), bound, set()),
        (Unmasked(), None, {"hidden_tokens"}),
        (FarUnmasked(), None, {"hidden_tokens"}),
        (Unnormalised(), None, {"normalised"}),
        (Remembers(), None, {"history"}),
        (Masked(), lambda ids: 1.0 * len(ids), {"random_tokens"}),
    ],
)  # fmt: skip
def test_masked_models(
    predict: Any, claimed: Callable[[Tensor], float] | None, outcome: set[str]
) -> None:
    torch.manual_seed(0)
    found = audit_masked(predict, vocab_size=V, text=TEXT, claimed=claimed)
    assert outcome <= set(found.failed) and bool(found.failed) == bool(outcome), str(found)
    assert bool(found.suspicious) == (claimed not in (None, bound))


def test_a_claim_that_is_too_good_only_on_the_text_is_a_suspicion() -> None:
    learned = torch.from_numpy(TEXT)

    def claimed(ids: Tensor) -> float:
        return 10.0 if torch.equal(ids, learned) else 3.5 * len(ids)

    found = audit_masked(Masked(), vocab_size=V, text=TEXT, claimed=claimed)
    assert found.suspicious == ["claimed_bound"] and found.failed == []
