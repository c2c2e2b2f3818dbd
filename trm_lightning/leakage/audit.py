"""The leak audit: does what scores a token know the token? See :func:`audit`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from trm_lightning.leakage import consistency as paths
from trm_lightning.leakage import held_out as text
from trm_lightning.leakage import perturbation as checks
from trm_lightning.leakage.consistency import Decode
from trm_lightning.leakage.held_out import HeldOut
from trm_lightning.leakage.scores import embedding_of, undisturbed
from trm_lightning.leakage.window import Finding, Probe
from trm_lightning.models import LanguageModel

N_RANDOM_ROWS = 64
# What it means that a check has passed.
MEANINGS = {
    "suffix_perturbation": "no token from t on moves a score of the tokens up to t",
    "gradient": "scores depend on tokens before them, and on no other",
    "target_swap": "the scored token alone moves nothing, wherever scoring begins",
    "random_tokens": "random tokens cost log V nats or more",
    "normalised": "probabilities sum to one",
    "each_token_once": "evaluation windows score each token of the split once",
    "batch_neighbours": "other rows of a batch move nothing",
    "batch_size": "a row scores the same alone and among others",
    "incremental": "growing prefixes and written text score as the whole window does",
    "blind_halting": "the number of passes does not depend on the token that is scored",
    "entropy_floor": "the held-out text costs no fewer nats than its own entropy",
}


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: a key of MEANINGS.
        passed: None where the check does not apply to the model.
        detail: what was found wrong, or why it does not apply; else what passing means.
        position: of the first offending token of its window; of the split for
            ``each_token_once``.
    """

    name: str
    passed: bool | None
    detail: str
    position: int | None = None

    def __str__(self) -> str:
        """One line of a table."""
        mark = {True: "✓", False: "✗", None: "–"}[self.passed]
        place = "" if self.position is None else f"token {self.position}: "
        return f"{mark} {self.name:20s} {place}{self.detail}"


@dataclass(frozen=True)
class Audit:
    """The outcomes of all checks of one model."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check.name for check in self.checks if check.passed is False]

    def __str__(self) -> str:
        """A table, one line for each check."""
        return "\n".join(map(str, self.checks))

    def as_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON and checkpoints."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def audit(
    model: LanguageModel,
    *,
    held_out: HeldOut | None = None,
    decode: Decode | None = None,
    thorough: bool = True,
    train_steps: int = 0,
) -> Audit:
    """Try a model with every check that applies to it; it is left as it was, to the last bit.

    Args:
        model: the model; gradients are looked at too where it has a ``token_embedding``.
        held_out: the split that perplexities are told of.
        decode: writes n tokens from an empty prompt as the model generates text, and gives the
            distributions that they were drawn from.
        thorough: also perturb a window of full length, and score ``held_out`` where its entropy
            is known. Without it the audit of a small model takes a second or two.
        train_steps: before ``random_tokens``, train a copy on random tokens for so many steps; 0
            for none.
    """
    with undisturbed(model), torch.no_grad():
        model.train(False)
        probe = Probe.of(model)
        tries = _tries(probe, held_out, decode, thorough, train_steps)
        return Audit([_checked(name, find) for name, find in tries.items()])


Try = Callable[[], Finding | None] | str  # a check to run, or why it does not apply


def _tries(
    probe: Probe, held_out: HeldOut | None, decode: Decode | None, thorough: bool, train_steps: int
) -> dict[str, Try]:
    """Return the checks in the order of MEANINGS."""
    model = probe.model
    embeds = embedding_of(model) is not None
    entropy_known = thorough and held_out is not None and held_out.entropy_nats is not None
    return {
        "suffix_perturbation": lambda: checks.suffix_perturbation(probe, whole_window=thorough),
        "gradient": (lambda: checks.gradient(probe)) if embeds else "has no token_embedding",
        "target_swap": lambda: checks.target_swap(probe),
        "random_tokens": lambda: _random_tokens(probe, train_steps),
        "normalised": lambda: text.normalised(probe),
        "each_token_once": (
            "no text was given"
            if held_out is None
            else lambda: text.each_token_once(model, held_out)
        ),
        "batch_neighbours": lambda: checks.batch_neighbours(probe),
        "batch_size": lambda: checks.batch_size(probe),
        "incremental": lambda: paths.incremental(probe, decode),
        "blind_halting": lambda: paths.blind_halting(probe),
        "entropy_floor": (
            (lambda: text.entropy_floor(model, held_out))
            if held_out is not None and entropy_known
            else "asked of trained models, on text whose entropy is known"
        ),
    }


def _checked(name: str, find: Try) -> Check:
    if isinstance(find, str):
        return Check(name, None, find)
    finding = find()
    if finding is None:
        return Check(name, True, MEANINGS[name])
    return Check(name, False, finding.detail, finding.position)


def _random_tokens(probe: Probe, train_steps: int) -> Finding | None:
    vocab_size = probe.model.vocab_size
    finding = text.random_tokens(probe.model, len(probe.tokens), N_RANDOM_ROWS, vocab_size)
    if finding is None and train_steps:
        student = text.learn_random_tokens(probe.model, len(probe.tokens), train_steps)
        n_symbols = min(text.N_SYMBOLS, vocab_size)
        finding = text.random_tokens(student, len(probe.tokens), 4 * N_RANDOM_ROWS, n_symbols)
    return finding
