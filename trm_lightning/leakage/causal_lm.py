"""Models that predict the next token, as scorers that an audit takes; those of transformers too.

Shapes: N tokens of a text, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trm_lightning.errors import UserError, need
from trm_lightning.leakage.text_probe import TextScorer


def next_token_scorer(
    model: Callable[[Tensor], Any], start: int | None = None, window: int | None = None
) -> TextScorer:
    """Return a scorer of texts made of a model that predicts the next token.

    Args:
        model: maps ids (1, N) to logits (1, N, V), of which row t predicts token t + 1; or returns
            them as the attribute ``logits`` or as the first of several values. A module is put into
            evaluation mode at every call.
        start: id that is put before a text, so that its first token is predicted too. Without
            one, the first token costs log V.
        window: longest text that the model reads. A longer one is read in windows that overlap by
            half.

    Returns:
        A function of ids (N,) that returns log-probabilities (N, V).
    """
    device = torch.device("cpu")
    if isinstance(model, nn.Module):
        device = next(model.parameters()).device

    def logits(ids: Tensor) -> Tensor:
        if isinstance(model, nn.Module):
            model.eval()
        found = model(ids[None].to(device))
        found = getattr(found, "logits", found)
        found = found[0] if isinstance(found, tuple) else found
        return found[0].float().cpu()

    def score(ids: Tensor) -> Tensor:
        with torch.no_grad():
            text = ids if start is None else torch.cat((torch.tensor([start]), ids))
            predictions = _windows(logits, text, window or len(text))
        if start is None:
            even = torch.zeros(1, predictions.shape[-1])
            predictions = torch.cat((even, predictions[:-1]))
        else:
            predictions = predictions[:-1]
        return torch.log_softmax(predictions, dim=-1)

    return score


def _windows(logits: Callable[[Tensor], Tensor], text: Tensor, window: int) -> Tensor:
    """Return the logits (N, V) of a text that is read in windows which overlap by half."""
    step = max(1, window // 2)
    parts = [logits(text[:window])]
    for begin in range(step, len(text) - window + step, step):
        done = begin - step + window  # tokens that have been read
        parts.append(logits(text[begin : begin + window])[done - begin :])
    return torch.cat(parts)


@dataclass(frozen=True)
class CausalLM:
    """A language model of transformers.

    Attributes:
        score: maps ids (N,) to log-probabilities (N, V).
        vocab_size: V.
        tokenizer: its own; None where the folder has none.
    """

    score: TextScorer
    vocab_size: int
    tokenizer: Any

    def decode(self, ids: list[int]) -> str:
        """Return ids as text, or as numbers where there is no tokenizer."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return str(self.tokenizer.decode(ids))

    def encode(self, path: Path) -> list[int]:
        """Return the ids of a text file.

        Raises:
            UserError: where the file cannot be read, or the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise UserError("This model comes without a tokenizer.", "Give ids=…, not text=….")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"text={path} cannot be read: {error}") from error
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def load_causal_lm(name: str, device: torch.device | None = None) -> CausalLM:
    """Open a causal language model of transformers; no code of its folder is run.

    Args:
        name: a folder, or a name on the hub.
        device: to put it on; None is the CPU.

    Raises:
        UserError: where transformers is missing, or cannot open the model.
    """
    need("transformers", "transformers")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"transformers={name} cannot be opened: {reason}") from error
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        tokenizer = None
    config = model.config
    score = next_token_scorer(
        model.to(device or torch.device("cpu")),
        start=getattr(config, "bos_token_id", None),
        window=getattr(config, "max_position_embeddings", None),
    )
    return CausalLM(score, config.vocab_size, tokenizer)
