"""Text from a trained model: prompt in, tokens out as they are drawn."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from omegaconf import DictConfig

from trm_lightning.data import Tokenizer
from trm_lightning.errors import UserError
from trm_lightning.models import LanguageNet, RecursiveNet
from trm_lightning.runs.load import LoadedRun, find_device, load_run
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
    run = load_run(cfg.run, find_device(cfg.device), cfg.halt_below)
    prompt = encode_prompt(run, str(cfg.prompt))
    if not run.net.is_likelihood:
        _note("this model was trained with the answer in view; it writes without it.")
    generator = torch.Generator().manual_seed(cfg.seed)
    start = time.perf_counter()
    n_blocks = len(run.net.layers)
    with count_blocks(run.net) as blocks:
        for i in range(cfg.n_samples):
            if cfg.n_samples > 1:
                print(f"--- {i + 1} ---")
            ids = sample(
                run.net,
                prompt,
                cfg.n_tokens,
                temperature=cfg.temperature,
                top_k=cfg.top_k,
                top_p=cfg.top_p,
                generator=generator,
            )
            print(run.tokenizer.decode(prompt), end="")
            for piece in text_pieces(run.tokenizer, prompt, ids):
                print(piece, end="", flush=True)
            print()
    seconds, n = time.perf_counter() - start, cfg.n_tokens * cfg.n_samples
    _note(
        f"{n} tokens in {seconds:.1f} s, {n / seconds:.0f} tokens/s, "
        f"{len(blocks) / n_blocks / n:.1f} passes through the blocks per token"
        + _tokens_per_run(run.net, n, len(blocks) / n_blocks)
    )


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
def count_blocks(net: LanguageNet) -> Iterator[list[None]]:
    """Give a list that grows by an entry with each block that runs: a pass has one per layer.

    A block of which only keys and values are computed does not count.
    """
    blocks: list[None] = []
    # What every kind of pass calls as a module, once.
    handles = [
        layer.mlp.register_forward_hook(lambda *_: blocks.append(None)) for layer in net.layers
    ]
    try:
        yield blocks
    finally:
        for handle in handles:
            handle.remove()


def _tokens_per_run(net: LanguageNet, n_tokens: int, n_passes: float) -> str:
    """Say how many tokens a run of the recursion gives, where states look ahead."""
    if not isinstance(net, RecursiveNet) or net.attention != "recursive":
        return ""
    if net.halt_below is not None:
        return f", {n_passes / n_tokens:.2f} passes per token"
    n_runs = n_passes / (net.scoring_depth * (net.n_recursions + 1))
    return f", {n_tokens / n_runs:.2f} tokens per run of the recursion"


def _note(text: str) -> None:
    print(text, file=sys.stderr)
