"""The leak audit of a net with the text that it is scored on, and how its outcome is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trm_lightning.data import TextDataModule
from trm_lightning.leakage.audit import Audit, Decode, HeldOut, audit
from trm_lightning.models import AutoregressiveNet, LanguageNet, RecursiveNet
from trm_lightning.sampling.sample import Draw, sample_batch

GIVEN_THE_ANSWER = (
    "NOT A LIKELIHOOD: this model is given the tokens that it is scored on. Its numbers are no\n"
    "perplexities, and cannot be compared with any."
)


def audit_scores(
    net: LanguageNet,
    data: TextDataModule,
    *,
    split: str = "val",
    trained: bool = True,
    thorough: bool = True,
    train_steps: int = 0,
) -> dict[str, Audit]:
    """Audit all that a net is scored by: one audit for each name in ``net.scorers()``.

    Args:
        net: the net; one that is given the answer is audited as it starts without it, too.
        data: set up.
        split: whose windows are counted, and whose entropy is the floor, where it is known.
        trained: False leaves the floor out, which a net that has learned nothing cannot pass.
        thorough: see :func:`audit`.
        train_steps: see :func:`audit`.
    """
    blind = net.without_answer()
    nets = [net] if blind is net else [net, blind]
    text, floor = data.splits[split], data.splits[split].entropy_floor_nats
    entropy = floor * text.n_tokens if trained and floor is not None else None
    held_out = HeldOut(text.tokens, data.eval_windows(split), entropy)
    return {
        name: audit(
            each,
            held_out=held_out,
            decode=decoder(each),
            thorough=thorough,
            train_steps=train_steps,
        )
        for name, each in zip(net.scorers(), nets, strict=True)
    }


def verdict(audits: Mapping[str, Audit]) -> dict[str, Any]:
    """Return what checkpoints and results keep of audits, as plain containers.

    ``leaks`` says whether a number that is called a perplexity is none.
    """
    return {
        "passed": all(audit.passed for audit in audits.values()),
        "leaks": any(name.startswith("ppl") and audit.failed for name, audit in audits.items()),
        "failed": {name: audit.failed for name, audit in audits.items()},
    }


def decoder(net: LanguageNet) -> Decode | None:
    """Return how a net writes text; None for a net that :func:`sample_batch` does not know."""
    if not isinstance(net, AutoregressiveNet | RecursiveNet):
        return None

    def decode(n_tokens: int) -> tuple[Tensor, Tensor]:
        draw = _RecordedDraw(torch.Generator().manual_seed(0))
        nothing = torch.empty(1, 0, dtype=torch.long, device=next(net.parameters()).device)
        ids = torch.cat(list(sample_batch(net, nothing, n_tokens, draw)), dim=1)
        return ids[0], torch.cat(draw.drawn_from, dim=1)[0, :n_tokens]

    return decode


@dataclass(frozen=True)
class _RecordedDraw(Draw):
    """Draws as usual, and keeps the distributions that it drew from."""

    drawn_from: list[Tensor] = field(default_factory=list)

    def __call__(self, log_probs: Tensor) -> Tensor:
        self.drawn_from.append(log_probs)
        return super().__call__(log_probs)
