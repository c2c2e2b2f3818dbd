"""The leak audit of a model with the text that it is scored on, and how its outcome is told."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trm_lightning.data import PuzzleDataModule, TextDataModule
from trm_lightning.leakage.audit import audit
from trm_lightning.leakage.consistency import Decode
from trm_lightning.leakage.held_out import HeldOut
from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.puzzles import audit_puzzles
from trm_lightning.models import LanguageModel
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.sample import sample_batch

GIVEN_THE_ANSWER = (
    "NOT A LIKELIHOOD: this model is given the tokens that it is scored on. Its numbers are no\n"
    "perplexities, and cannot be compared with any."
)


def audit_scores(
    model: LanguageModel,
    data: TextDataModule,
    *,
    split: str = "val",
    trained: bool = True,
    thorough: bool = True,
    train_steps: int = 0,
) -> dict[str, Audit]:
    """Audit all that a model is scored by: one audit for each name in ``model.scorers()``.

    Args:
        model: the model; one that is given the answer is audited as it starts without it, too.
        data: set up.
        split: whose windows are counted, and whose entropy is the floor, where it is known.
        trained: False leaves out what asks for a trained model.
        thorough: see :func:`audit`.
        train_steps: see :func:`audit`.
    """
    if isinstance(data, PuzzleDataModule):
        return {"solved": audit_puzzles(model, data, split)}
    blind = model.without_answer()
    models = [model] if blind is model else [model, blind]
    text, floor = data.splits[split], data.splits[split].entropy_floor_nats
    entropy = floor * text.n_tokens if trained and floor is not None else None
    trained_on = data.eval_windows("train") if trained and split != "train" else None
    held_out = HeldOut(text.tokens, data.eval_windows(split), entropy, trained_on)
    size = f"{text.counts.tokens:,} tokens, {text.counts.bytes:,} bytes"
    return {
        name: audit(
            each,
            scorer=name if each is model else None,
            held_out=held_out,
            decode=decoder(each),
            thorough=thorough,
            train_steps=train_steps,
        ).told({"each_token_once": size})
        for name, each in zip(model.scorers(), models, strict=True)
    }


def verdict(audits: Mapping[str, Audit]) -> dict[str, Any]:
    """Return what checkpoints and results keep of audits, as plain containers.

    ``leaks`` says whether a number that is called a perplexity, or a share of solved puzzles, is
    none.
    """
    return {
        "passed": all(audit.passed for audit in audits.values()),
        "leaks": any(
            name.startswith(("ppl", "solved")) and audit.failed for name, audit in audits.items()
        ),
        "failed": {name: audit.failed for name, audit in audits.items()},
        "suspicious": {name: audit.suspicious for name, audit in audits.items()},
    }


def decoder(model: LanguageModel) -> Decode:
    """Return how a model writes text, with the distributions that it is drawn from."""

    def decode(n_tokens: int) -> tuple[Tensor, Tensor]:
        sampler = _RecordingSampler()
        nothing = torch.empty(1, 0, dtype=torch.long, device=next(model.parameters()).device)
        ids = torch.cat(list(sample_batch(model, nothing, n_tokens, sampler)), dim=1)
        return ids[0], torch.cat(sampler.drawn_from, dim=1)[0, :n_tokens]

    return decode


class _RecordingSampler(Sampler):
    """Draws as usual, and keeps the distributions that it drew from."""

    def __init__(self) -> None:
        super().__init__(torch.Generator().manual_seed(0))
        self.drawn_from: list[Tensor] = []

    def __call__(self, log_probs: Tensor) -> Tensor:
        self.drawn_from.append(log_probs)
        return super().__call__(log_probs)
