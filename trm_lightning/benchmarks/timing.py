"""Timing in interleaved rounds, so that other load on the machine affects all variants alike.

Every round calls each variant for a while, so a ratio compares times of the same minute. Medians
and extremes are over the rounds. On a machine that others use, ``clock=cpu`` counts the seconds
that this process's threads ran: waiting for a core is not counted, spinning for a thread is.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

PEAK = "float32 matrix product 2048 x 2048"
PEAK_SIZE = 2048
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Variant:
    """Something to measure.

    Attributes:
        name: unique among what is measured together.
        call: runs it once.
        tokens: that one call trains on, scores, generates or reads; 0 where that has no meaning.
        flops: of one call, see ``count_flops``; None where they are not counted.
        references: names of the variants to compare its speed with.
        facts: further columns of its row, such as the size it was measured at.
    """

    name: str
    call: Callable[[], object]
    tokens: int = 0
    flops: float | None = None
    references: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def peak(device: torch.device) -> Variant:
    """Return the machine's attainable peak: one large matrix product."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device) for _ in range(2))
    return Variant(PEAK, lambda: a @ b, flops=2.0 * PEAK_SIZE**3)


def measure(
    section: str,
    variants: Sequence[Variant],
    device: torch.device,
    repetitions: int,
    seconds: float,
    clock: str = "wall",
) -> list[dict[str, Any]]:
    """Measure variants in rounds.

    Args:
        section: name for the progress bar and the rows.
        variants: to measure side by side.
        device: they run on.
        repetitions: number of rounds.
        seconds: how long a round repeats a variant; it is called at least once.
        clock: a key of ``CLOCKS``.

    Returns:
        A row for each variant; see :func:`row`.
    """
    rounds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    total = len(variants) * (repetitions + 1)
    bar = tqdm(total=total, desc=section, unit="call", leave=False, disable=None)
    with bar:
        calls = {}
        for variant in variants:
            bar.set_postfix_str(variant.name)
            calls[variant.name] = _calibrate(variant, device, seconds, clock)
            bar.update()
        for i in range(repetitions):
            for variant in variants[:: 1 if i % 2 == 0 else -1]:
                bar.set_postfix_str(variant.name)
                n = calls[variant.name]
                rounds[variant.name].append(_seconds(variant, device, n, clock) / n)
                bar.update()
    return [row(section, variant, rounds, variants) for variant in variants]


def row(
    section: str,
    variant: Variant,
    rounds: dict[str, list[float]],
    variants: Sequence[Variant],
) -> dict[str, Any]:
    """Return the row of a variant, as plain numbers.

    Args:
        section: name of the row's section.
        variant: of the row.
        rounds: seconds of one call in each round, by the variant's name.
        variants: all variants in ``rounds``.
    """
    seconds = rounds[variant.name]
    known = {other.name: other for other in variants}
    found: dict[str, Any] = {
        "section": section,
        "name": variant.name,
        "seconds": seconds,
        "seconds_median": statistics.median(seconds),
        "seconds_low": min(seconds),
        "seconds_high": max(seconds),
        "tokens": variant.tokens,
        "tokens_per_second": variant.tokens / statistics.median(seconds) or None,
        "times_reference": {
            name: statistics.median(
                _rate(variant, mine) / _rate(known[name], theirs)
                for mine, theirs in zip(seconds, rounds[name], strict=True)
            )
            for name in variant.references
        },
        "flops": variant.flops,
        "percent_of_peak": None,
        **variant.facts,
    }
    if variant.flops is not None and PEAK in rounds:
        shares = [
            variant.flops * best / (mine * known[PEAK].flops)  # type: ignore[operator]
            for mine, best in zip(seconds, rounds[PEAK], strict=True)
        ]
        found["percent_of_peak"] = 100 * statistics.median(shares)
    return found


def _rate(variant: Variant, seconds: float) -> float:
    return (variant.tokens or 1) / seconds


def _calibrate(variant: Variant, device: torch.device, seconds: float, clock: str) -> int:
    """Warm up; return how many calls fill ``seconds``."""
    once = _seconds(variant, device, 1, clock)
    if once < seconds:  # the first call also allocates and compiles
        once = _seconds(variant, device, 1, clock)
    return max(1, round(seconds / max(once, 1e-7)))


def _seconds(variant: Variant, device: torch.device, calls: int, clock: str) -> float:
    now = CLOCKS[clock]
    _wait(device)
    start = now()
    for _ in range(calls):
        variant.call()
    _wait(device)
    return now() - start


def _wait(device: torch.device) -> None:
    """Wait until the device is idle; a CPU runs synchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
