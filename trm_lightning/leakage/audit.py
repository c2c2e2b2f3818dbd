"""The leak audit: does what scores a token know the token? See :func:`audit`."""

import torch

from trm_lightning.leakage import consistency as paths
from trm_lightning.leakage import held_out as text
from trm_lightning.leakage import perturbation as checks
from trm_lightning.leakage.consistency import Decode
from trm_lightning.leakage.held_out import HeldOut, Try
from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.scores import embedding_of, undisturbed
from trm_lightning.leakage.whole_calls import try_calls
from trm_lightning.leakage.window import Finding, Probe
from trm_lightning.models import LanguageModel

N_RANDOM_ROWS = 64
WHEN_SCORED = "tried while the text is scored"


def audit(
    model: LanguageModel,
    *,
    scorer: str | None = None,
    held_out: HeldOut | None = None,
    decode: Decode | None = None,
    thorough: bool = True,
    train_steps: int = 0,
) -> Audit:
    """Try a model with every check that applies to it; it is left as it was, to the last bit.

    Args:
        model: the model; gradients are looked at too where it has a ``token_embedding``.
        scorer: the key of ``model.scorers()`` that is audited; None for the first.
        held_out: the split that perplexities are told of.
        decode: writes n tokens from an empty prompt as the model generates text, and gives the
            distributions that they were drawn from.
        thorough: also perturb a window of full length, make and try some of the calls that score
            ``held_out``, and score it where its entropy is known. Without it the audit of a small
            model takes a second or two.
        train_steps: before ``random_tokens``, train a copy on random tokens for so many steps; 0
            for none.
    """
    with undisturbed(model), torch.no_grad():
        model.train(False)
        probe = Probe.of(model, scorer)
        calls = try_calls(probe, held_out) if thorough and held_out is not None else {}
        tries = _tries(probe, held_out, decode, thorough, train_steps)
        return Audit.of({name: _either(find, calls.get(name)) for name, find in tries.items()})


def _either(find: Try, finding: Finding | None) -> Try:
    """Return the check, and first what the printed calls found of its kind."""
    return find if finding is None else lambda: finding


def _tries(
    probe: Probe, held_out: HeldOut | None, decode: Decode | None, thorough: bool, train_steps: int
) -> dict[str, Try]:
    """Return a function for each check, or why it does not apply."""
    embeds = embedding_of(probe.model) is not None
    if held_out is None:
        printed: Try = "no text was given"
    else:
        printed = (lambda: None) if thorough else WHEN_SCORED
    return {
        "printed_scores": printed,
        "suffix_perturbation": lambda: checks.suffix_perturbation(probe, whole_window=thorough),
        "gradient": (lambda: checks.gradient(probe)) if embeds else "has no token_embedding",
        "target_swap": lambda: checks.target_swap(probe),
        "blind_halting": lambda: paths.blind_halting(probe),
        "random_tokens": lambda: _random_tokens(probe, train_steps),
        "normalised": lambda: text.normalised(probe),
        "incremental": lambda: paths.incremental(probe, decode),
        "history": printed,
        "batch_neighbours": lambda: checks.batch_neighbours(probe),
        "batch_size": lambda: checks.batch_size(probe),
        **text.text_tries(probe, held_out, thorough),
    }


def _random_tokens(probe: Probe, train_steps: int) -> Finding | None:
    vocab_size = probe.model.vocab_size
    finding = text.random_tokens(probe, N_RANDOM_ROWS, vocab_size)
    if finding is None and train_steps:
        student = text.learn_random_tokens(probe, train_steps)
        finding = text.random_tokens(student, 4 * N_RANDOM_ROWS, min(text.N_SYMBOLS, vocab_size))
    return finding
