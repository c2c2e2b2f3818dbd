"""Time and memory of a training step by the size of the vocabulary, beside the plain loss.

``plain GPT`` makes the logits of a whole batch and takes ``F.cross_entropy`` of them; the baseline,
here with the same blocks, goes through them a few rows at a time.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from omegaconf import DictConfig

from trm_lightning.benchmarks.probes import peak_memory
from trm_lightning.benchmarks.references import FusedGpt
from trm_lightning.benchmarks.subjects import ar, plain, random_tokens
from trm_lightning.benchmarks.timing import Variant, measure, peak
from trm_lightning.benchmarks.training import plain_variant, variant_of

# The plain loss holds about three times this many numbers; a larger vocabulary goes without it.
MOST_PLAIN_LOGITS = 1 << 28
STEPS = 2  # before memory is read: the second one has the optimizer's state


def vocabulary_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure optimizer steps; rows have ``size`` and, on the CPU, ``peak_bytes``."""
    variants = [peak(device)]
    for size in cfg.vocabulary:
        kinds = [False] + [True] * (size * cfg.batch * cfg.window <= MOST_PLAIN_LOGITS)
        variants += [variant(cfg, device, size, is_plain) for is_plain in reversed(kinds)]
    rows = measure(
        "vocabulary", variants, device, cfg.repetitions, cfg.seconds_per_measurement, cfg.clock
    )
    for row in rows:
        if "size" in row and device.type == "cpu":
            row["peak_bytes"] = _in_a_process_of_its_own(cfg, row["size"], row["plain"])
            if row["peak_bytes"] is not None:
                row["note"] = f"peak memory {row['peak_bytes'] / 2**20:,.0f} MiB"
    return rows


def variant(cfg: DictConfig, device: torch.device, size: int, is_plain: bool) -> Variant:
    """Return a training step with ``size`` kinds of tokens, by the plain loss or by ours."""
    cfg = cfg.copy()
    cfg.net.vocab_size = size
    tokens = random_tokens(cfg, cfg.batch, cfg.window, device)
    facts = {"size": size, "plain": is_plain}
    reference = f"plain GPT, {size:,} words"
    if is_plain:
        gpt = plain(cfg, FusedGpt, window=cfg.window)
        return plain_variant(reference, gpt, tokens, fused=True, **facts)
    known = (reference,) if size * tokens.numel() <= MOST_PLAIN_LOGITS else ()
    module = ar(cfg, cfg.window, norm="pre")
    return variant_of(f"AR, AdamW, norm=pre, {size:,} words", module, tokens, known, **facts)


def peak_of(cfg: DictConfig, size: int, is_plain: bool) -> int | None:
    """Return the bytes that this process needs at most for a training step, interpreter aside."""
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    before = peak_memory()
    step = variant(cfg, torch.device("cpu"), size, is_plain)
    for _ in range(STEPS):
        step.call()
    after = peak_memory()
    return None if before is None or after is None else after - before


def _in_a_process_of_its_own(cfg: DictConfig, size: int, is_plain: bool) -> int | None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(peak_of, cfg, size, is_plain).result()
