"""The guard of a LightningModule of one's own, and the fixture for one's own tests."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trm_lightning import LeakGuard, audited
from trm_lightning.training.callbacks.leak_guard import LeakError

V, T, B = 11, 24, 4
Table = torch.rand(V, V, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


class Texts(Dataset[Tensor]):
    def __len__(self) -> int:
        return 3 * B

    def __getitem__(self, i: int) -> Tensor:
        return torch.randint(V, (T,), generator=torch.Generator().manual_seed(i))


class Own(L.LightningModule):
    """A table of the next token, with dropout, as somebody writes it who does not know of us."""

    hint = 3.0

    def __init__(self, leak: str = "") -> None:
        super().__init__()
        self.table = nn.Parameter(Table.clone())
        self.dropout = nn.Dropout(0.3)
        self.leak = leak
        self.steps = 0

    def score(self, ids: Tensor) -> Tensor:
        """Row t scores token t, (B, T, V)."""
        before = torch.cat((torch.zeros_like(ids[:, :1]), ids[:, :-1]), dim=1)
        scores = self.dropout(self.table)[before]
        hint = (
            self.hint
            * nn.functional.one_hot(ids, V)
            * (torch.arange(T) >= 20)[:T, None][: ids.shape[1]]
        )
        if self.leak == "far" or (self.leak == "late" and self.steps >= 3):
            scores = scores + hint
        if self.leak == "batch":
            scores = scores + nn.functional.one_hot(ids.flip(0), V)
        scores = scores.log_softmax(-1)
        return scores + 0.01 if self.leak == "sum" else scores

    def nats(self, ids: Tensor) -> Tensor:
        return -self.score(ids).gather(2, ids[:, :, None])[:, :, 0]

    def next_logits(self, ids: Tensor) -> Tensor:
        """Row t predicts token t + 1."""
        scores = self.table[ids]
        return scores + nn.functional.one_hot(ids.roll(-1, 1), V) if self.leak else scores

    def training_step(self, batch: Tensor, number: int) -> Tensor:
        self.steps += 1
        return self.nats(batch).mean()

    def validation_step(self, batch: Tensor, number: int) -> None:
        self.log("val_nats", self.nats(batch).mean())
        self.next_logits(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Own, *guards: LeakGuard, **settings: Any) -> L.Trainer:
    torch.manual_seed(1)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(guards), **settings,
    )  # fmt: skip
    loader = DataLoader(Texts(), batch_size=B)
    trainer.fit(module, loader, loader)
    return trainer


@pytest.mark.parametrize(
    ("method", "settings"), [("score", {}), ("nats", {}), ("next_logits", {"next_token": True})]
)
def test_an_honest_module_trains_as_it_does_without(method: str, settings: Any) -> None:
    alone, guarded = Own(), Own()
    fit(alone)
    fit(guarded, LeakGuard(method, logits=method == "next_logits", **settings))
    assert torch.equal(alone.table, guarded.table)
    assert method not in vars(guarded)


@pytest.mark.parametrize(
    ("leak", "method", "named"),
    [
        ("far", "score", r"token 2\d: its score moves by .* with the tokens from 2\d on"),
        ("batch", "score", "with the other rows of its batch"),
        ("batch", "nats", "with the other rows of its batch"),
        ("sum", "score", "sum to 1.01"),
        ("next", "next_logits", "its score moves by .* In short: "),
    ],
)
def test_a_leaking_module_stops_before_it_is_trained(leak: str, method: str, named: str) -> None:
    module = Own(leak)
    guard = LeakGuard(method, next_token=method == "next_logits", logits=method == "next_logits")
    with pytest.raises(LeakError, match=named):
        fit(module, guard)
    assert module.steps == 0


def test_a_leak_that_is_learned_late_is_found_when_it_is_validated() -> None:
    module = Own("late")
    with pytest.raises(LeakError, match="its score moves"):
        fit(module, LeakGuard("score"))
    assert module.steps == 3


def test_the_decorator_guards_a_class_and_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Mine(Own):
        pass

    assert audited("score")(Mine) is Mine
    with pytest.raises(LeakError):
        fit(Mine("far"))
    fit(Mine())

    class Warned(Own):
        def configure_callbacks(self) -> L.Callback:
            return L.Callback()

    module = audited("score", raises=False)(Warned)("far")
    fit(module)
    assert module.steps == 6
    assert "Warned.score: token 2" in capsys.readouterr().out


def test_a_method_that_is_missing_or_never_called_is_named() -> None:
    with pytest.raises(LeakError.__mro__[1], match="no method 'scores' to guard"):
        fit(Own(), LeakGuard("scores"))

    class Unused(Own):
        def unused(self, ids: Tensor) -> Tensor:
            return ids

    with pytest.raises(LeakError, match="was not called"):
        fit(Unused(), LeakGuard("unused"))


TESTS = """
import torch

def test_honest(leak_audit):
    found = leak_audit(lambda ids: torch.full(ids.shape, 2.3), vocab_size=9, text=[1, 2, 3] * 9)
    assert found.passed

def test_leaky(leak_audit):
    sees = lambda ids: torch.eye(9)[ids].log_softmax(-1)
    leak_audit(sees, vocab_size=9, text=[1, 2, 3] * 9)
"""


def test_the_fixture_fails_a_test_whose_scores_leak(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.replace("2.3", "2.1972246"))
    done = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=1, failed=1)
    said = done.stdout.str()
    assert "the scores leak, or are no probabilities" in said
    assert "✗ printed_scores" in said
