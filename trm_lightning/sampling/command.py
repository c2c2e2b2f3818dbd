"""Text from a trained model: prompt in, tokens out as they are drawn."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from trm_lightning.data import Tokenizer
from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel
from trm_lightning.printable import printable
from trm_lightning.runs.load import LoadedRun, find_device, load_run, open_data
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.ngrams import NgramDrafts
from trm_lightning.sampling.sample import sample

# Tokens that are decoded again with each new one, so that blanks between words come out right
# and a character of several tokens is whole.
OVERLAP = 8
INCOMPLETE = "\ufffd"  # how a tokenizer decodes part of a character


def generate(cfg: DictConfig) -> None:
    """Write ``n_samples`` continuations of the prompt to standard output, as they are drawn.

    Raises:
        UserError: for a missing run, settings out of range, a device that is not there.
    """
    if cfg.n_samples < 1:
        raise UserError(f"n_samples must be at least 1 (is {cfg.n_samples}).")
    run = load_run(cfg.run, find_device(cfg.device), cfg.exit_threshold, cfg.trust)
    if run.is_puzzle:
        raise UserError(
            f"{run.folder} was trained on puzzles, and generate continues text.",
            "trm-evaluate, trm-analyze and trm-report show what it solves.",
        )
    prompt = encode_prompt(run, str(cfg.prompt))
    if not run.model.is_likelihood:
        _note("this model was trained with the answer in view; it writes without it.")
    drafts = _ngrams(run, cfg.n_drafts) if cfg.n_drafts else None
    sampler: Sampler = instantiate(cfg.sampling, generator=torch.Generator().manual_seed(cfg.seed))
    start = time.perf_counter()
    with count_layers(run.model) as calls:
        for i in range(cfg.n_samples):
            if cfg.n_samples > 1:
                print(f"--- {i + 1} ---")
            ids = sample(run.model, prompt, cfg.n_tokens, sampler, drafts=drafts)
            print(printable(run.tokenizer.decode(prompt)), end="")
            for piece in text_pieces(run.tokenizer, prompt, ids):
                print(printable(piece), end="", flush=True)
            print()
    seconds, n = time.perf_counter() - start, cfg.n_tokens * cfg.n_samples
    _note(
        f"{n} tokens in {seconds:.1f} s, {n / seconds:.0f} tokens/s"
        + _passes(run.model, n, len(calls), drafts is not None)
    )


def _ngrams(run: LoadedRun, n_drafts: int) -> NgramDrafts:
    """Count the n-grams of the text that a run was trained on."""
    data = open_data(run)
    return NgramDrafts(data.splits["train"].tokens, data.vocab_size, n_drafts)


def encode_prompt(run: LoadedRun, text: str) -> list[int]:
    """Return the prompt's ids; say how many of its tokens are not in the vocabulary."""
    ids: list[int] = run.tokenizer.encode(text).tolist()
    unknown = run.tokenizer.unknown_id
    if unknown in ids:
        _note(
            f"{ids.count(unknown)} of the prompt's {len(ids)} tokens are not in the vocabulary "
            f"and read as {run.tokenizer.token(unknown)}."
        )
    return ids


def text_pieces(tokenizer: Tokenizer, prompt: Sequence[int], ids: Iterable[int]) -> Iterator[str]:
    """Yield the text that each new token adds, nothing while a character is incomplete."""
    window = list(prompt[-OVERLAP:])
    shown = tokenizer.decode(window)
    text = shown
    for token in ids:
        window.append(token)
        text = tokenizer.decode(window)
        if not text.endswith(INCOMPLETE):
            yield text[len(shown) :]
            window = window[-OVERLAP:]
            text = shown = tokenizer.decode(window)
    yield text[len(shown) :]


@contextmanager
def count_layers(model: LanguageModel) -> Iterator[list[None]]:
    """Give a list that grows by an entry with each call of one of the model's layers."""
    calls: list[None] = []
    handles = [layer.register_forward_hook(lambda *_: calls.append(None)) for layer in model.layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _passes(model: LanguageModel, n_tokens: int, n_calls: int, drafted: bool) -> str:
    """Say how many passes through the layers a token took, and what a whole prediction gave."""
    if not model.layers:
        return ""
    n_passes = n_calls / len(model.layers)
    text = f", {n_passes / n_tokens:.2f} passes through the blocks per token"
    if (model.chunk_size == 1 and not drafted) or model.exit_threshold is not None:
        return text
    per_prediction = n_passes / (model.n_passes * model.n_supervision)
    return f"{text}, {n_tokens / per_prediction:.2f} tokens per prediction"


def _note(text: str) -> None:
    print(printable(text), file=sys.stderr)
