"""A run as a model of EleutherAI's lm-evaluation-harness.

import lm_eval
from trm_lightning import load_run
from trm_lightning.exporting.harness import HarnessModel

lm_eval.simple_evaluate(model=HarnessModel(load_run("latest")), tasks=["lambada_openai"])
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trm_lightning.errors import UserError

try:
    from lm_eval.api.model import LM
except ModuleNotFoundError as error:
    raise UserError("This needs lm_eval.", "pip install 'trm-lightning[lm-eval]'") from error

if TYPE_CHECKING:
    from trm_lightning.api import Run

MAX_TOKENS = 256  # of a continuation whose task does not say


class HarnessModel(LM):
    """Scores and writes text for the harness with a run's own tokenizer.

    A text longer than the window is scored in windows that overlap by half, so that a long
    context is cut to its end.

    Args:
        run: of a model whose numbers are likelihoods.

    Raises:
        UserError: for a model that sees the tokens that it is scored on.
    """

    def __init__(self, run: "Run") -> None:
        super().__init__()
        if "ppl" not in run.model.scorers():
            raise UserError("This model sees what it is scored on: its numbers are no likelihoods.")
        self.run = run

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return of each (context, continuation) its log-probability, and whether it is greedy."""
        return [self._continuation(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return the log-probability of each whole text; each of its tokens is scored once."""
        return [self._score(self._encode(request.args[0]), 0)[0] for request in requests]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return what follows each context, up to the first of the task's endings."""
        return [self._written(*request.args) for request in requests]

    def _continuation(self, context: str, continuation: str) -> tuple[float, bool]:
        """Score the tokens of the whole text from the first on that the context alone lacks."""
        whole, known = self._encode(context + continuation), self._encode(context)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(whole, known, strict=False))
        return self._score(whole, min(len(list(same)), len(whole) - 1))

    def _score(self, ids: np.ndarray, first: int) -> tuple[float, bool]:
        """Return the log-probability of ids (T,) from ``first`` on, and whether it is greedy."""
        log_probs = self.run.log_probs(ids)[first:]
        tokens = torch.from_numpy(ids[first:])
        picked = log_probs.gather(1, tokens[:, None]).double()
        return float(picked.sum()), bool((log_probs.argmax(dim=1) == tokens).all())

    def _written(self, context: str, settings: dict[str, Any]) -> str:
        temperature = settings.get("temperature", 0.0) if settings.get("do_sample") else 0.0
        n_tokens = settings.get("max_gen_toks", MAX_TOKENS)
        text = self.run.generate(context, n_tokens, temperature=temperature)
        text = text[len(self.run.tokenizer.decode(self._encode(context))) :]
        endings = settings.get("until") or []
        for ending in [endings] if isinstance(endings, str) else endings:
            text = text.split(ending)[0] if ending else text
        return text

    def _encode(self, text: str) -> np.ndarray:
        return self.run.tokenizer.encode(text)
