"""The text that a run's model wrote after each validation, from its ``samples.txt``."""

import re
from pathlib import Path

from trm_lightning.reports.document import Listing, Section
from trm_lightning.runs.stored_text import read_text

SAMPLES = "samples.txt"
N_EARLIER = 10  # samples of the folded list, evenly spread over training
_HEADING = re.compile(r"^--- step (\d{1,15}) ---\n", re.MULTILINE | re.ASCII)
_TEXT = (
    "Before ▸ stands the end of the validation split's first window, after it what the model adds, "
    "drawn at temperature 1 with the same random numbers at every step."
)
_BOARDS = (
    "The first puzzles of the validation split. A model that answers all cells together gives the "
    "likeliest symbol of each, one that writes the answer the likeliest after those before. Wrong "
    "cells are marked with !."
)


def sample_section(folder: Path, puzzles: bool = False) -> list[Section]:
    """Return the last sample of a run, with earlier ones folded; no section without samples.

    Args:
        folder: of the run.
        puzzles: the samples are boards, not text.
    """
    file = folder / SAMPLES
    if not file.is_file():
        return []
    samples = read_samples(read_text(file, errors="replace"))
    if not samples:
        return []
    step, text = samples[-1]
    listings = [Listing(f"After step {step:,}", text, prose=not puzzles)]
    earlier = samples[:-1]
    if earlier:
        spread = earlier[:: max(1, -(-len(earlier) // N_EARLIER))]
        told = "\n\n".join(f"After step {step:,}\n{text}" for step, text in spread)
        listings.append(Listing("Earlier in training", told, folded=True, prose=not puzzles))
    if puzzles:
        return [Section("What the model answers", _BOARDS, listings=listings)]
    return [Section("What the model writes", _TEXT, listings=listings)]


def read_samples(text: str) -> list[tuple[int, str]]:
    """Return each sample with its optimizer step."""
    _, *parts = _HEADING.split(text)
    return [
        (int(step), body.strip("\n")) for step, body in zip(parts[::2], parts[1::2], strict=True)
    ]
