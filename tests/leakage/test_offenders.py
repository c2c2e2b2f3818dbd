"""Offenders are caught by the checks meant for them, and honest models raise no alarm."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from honest import HONEST
from offenders import OFFENDERS, L, OnceTrained, V, make

from trm_lightning.data import EvalWindows
from trm_lightning.leakage.audit import audit
from trm_lightning.leakage.held_out import HeldOut, far_below_training
from trm_lightning.leakage.printed import CallWatch, changed, cuts
from trm_lightning.leakage.verdict import decoder
from trm_lightning.models import AR, LanguageModel

TEXT = np.random.default_rng(0).integers(1, V, size=400).astype(np.uint16)  # no start token
WINDOWS = EvalWindows(TEXT, L, L // 2, batch_size=16)
# What a few calls of a validation cannot show.
THOROUGH_ONLY = {"halting by the target", "a cache of the last call"}


def thorough(names: Iterable[str], fast: set[str]) -> list[Any]:
    """Return parameters; the thorough audits of all but the ``fast`` ones are slow together."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", thorough(OFFENDERS, {*THOROUGH_ONLY, "another scorer"}))
def test_offender_is_caught_by_the_check_meant_for_it(name: str) -> None:
    build, meant = OFFENDERS[name]
    result = audit(build(), held_out=HeldOut(TEXT, WINDOWS))
    assert meant in result.failed, str(result)


def watched(model: LanguageModel, turn: int = 0) -> CallWatch:
    """Score the text as a validation does, all of whose calls are tried."""
    watch = CallWatch(model)
    watch.begin(range(len(WINDOWS)), turn)
    (scorer,) = list(watch.scorers().values())[:1]
    with torch.no_grad():
        for tokens, first in WINDOWS:
            scorer(tokens, first)
    return watch


@pytest.mark.parametrize("name", [name for name in OFFENDERS if name not in THOROUGH_ONLY])
def test_offender_is_caught_while_it_is_scored(name: str) -> None:
    (found,) = watched(OFFENDERS[name][0]()).findings.values()
    meant = OFFENDERS[name][1]
    # What leaks through the batch is a leak between tokens first.
    assert (meant if meant != "batch_neighbours" else "printed_scores") in found


@pytest.mark.parametrize("name", HONEST)
def test_honest_model_raises_no_alarm_while_it_is_scored(name: str) -> None:
    for turn in range(2):
        assert not any(watched(HONEST[name](), turn).findings.values())


@pytest.mark.parametrize("name", thorough(HONEST, {"AR", "bfloat16 weights", "looped, early exit"}))
def test_honest_model_raises_no_alarm(name: str) -> None:
    model = HONEST[name]()
    held_out = HeldOut(TEXT, WINDOWS, train_windows=WINDOWS)
    result = audit(model, held_out=held_out, decode=decoder(model))
    assert result.failed == [] and result.suspicious == [], str(result)


def test_a_finding_says_where_and_by_how_much() -> None:
    (found,) = watched(OFFENDERS["window borders"][0]()).findings.values()
    finding = found["printed_scores"]
    assert finding.position == L - 1
    assert "moves by 3" in finding.detail and f"tokens from {L - 1} on" in finding.detail


@pytest.mark.parametrize("name", ["running statistics", "adaptation before scoring"])
def test_watched_scores_are_the_ones_without_it(name: str) -> None:
    """Trying a call leaves no trace, not even in a model that keeps one of every call."""
    build = OFFENDERS[name][0]
    alone, beside = build(), build()
    with torch.no_grad():
        expected = [alone.log_probs(tokens, first) for tokens, first in WINDOWS]
        watch = CallWatch(beside)
        watch.begin({0, 1}, turn=0)
        state = torch.get_rng_state()
        seen = [watch.scorers()["ppl"](tokens, first) for tokens, first in WINDOWS]
    assert watch.n_tried == 2 and watch.findings["ppl"]
    assert all(map(torch.equal, seen, expected))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_audit_puts_running_statistics_back() -> None:
    model = OFFENDERS["running statistics"][0]()
    before = model.counts.clone()
    assert "history" in audit(model, held_out=HeldOut(TEXT, WINDOWS)).failed
    assert torch.equal(model.counts, before)


def test_a_compiled_model_is_tried_as_well() -> None:
    """Without compiling: what is compared are copies of it."""
    model = make(OnceTrained)
    model._compiled_call_impl = model._call_impl
    assert not watched(model).findings["ppl"]
    with torch.no_grad():
        model.gate.fill_(2.0)
    assert "printed_scores" in watched(model).findings["ppl"]


def test_a_model_that_cannot_be_copied_is_tried_itself() -> None:
    class Uncopied(AR):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("no copy")

    assert not watched(make(Uncopied)).findings["ppl"]


@pytest.mark.parametrize(("n_rows", "n_turns"), [(1, 32), (5, 7), (64, 1)])
def test_turns_change_every_scored_position(n_rows: int, n_turns: int) -> None:
    found = torch.cat([cuts(n_rows, 32, 64, turn) for turn in range(n_turns)])
    assert set(found.tolist()) == set(range(32, 64))
    assert {32, 63, 48} <= set(cuts(3, 32, 64, 0).tolist())


def test_all_tokens_from_the_cut_on_are_others() -> None:
    tokens = torch.from_numpy(TEXT[:400].astype(np.int64)).view(10, 40)
    rows = cuts(10, 0, 40, 0)
    others = changed(tokens, rows, V, 0, turn=0)
    assert torch.equal(others != tokens, torch.arange(40) >= rows[:, None])
    assert others.min() >= 0 and others.max() < V
    assert (others == 0).sum() > (tokens == 0).sum()  # the start token is tried


def test_a_memorised_text_is_a_suspicion() -> None:
    assert far_below_training(4.0, 4.3) is None
    finding = far_below_training(0.1, 4.3)
    assert finding is not None and "trained on as well?" in finding.detail

    class Memorised(AR):
        """Knows the held-out text by heart; on other text it is as good as it was."""

        def log_probs(self, tokens: torch.Tensor, first: int = 0) -> torch.Tensor:
            scores = super().log_probs(tokens, first)
            knows = torch.zeros(V, V)
            text = torch.from_numpy(TEXT.astype(np.int64))
            knows[text[:-1], text[1:]] = 6.0
            return torch.log_softmax(scores + knows[self.shift_right(tokens)[:, first:]], dim=-1)

    other = np.random.default_rng(9).integers(1, V, size=400).astype(np.uint16)
    trained_on = EvalWindows(other, L, L // 2, batch_size=16)
    result = audit(make(Memorised), held_out=HeldOut(TEXT, WINDOWS, train_windows=trained_on))
    assert result.passed and result.suspicious == ["training_gap"]
    assert "? training_gap" in str(result)
