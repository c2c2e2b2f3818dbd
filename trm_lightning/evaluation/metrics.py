"""The metrics of a split: what they are called, what they mean, how they are computed.

A metric of ``results.json`` is an entry of :meth:`Score.as_dict`.
"""

import math
from dataclasses import dataclass
from typing import Any

from trm_lightning.data import TextCounts

NOT_A_LIKELIHOOD = (
    "NOT A LIKELIHOOD: the chunk starts at the embedding of the answer, so this number measures "
    "copying. It is no perplexity and cannot be compared with one."
)
# What the numbers of a score are called, so that none can be mistaken for another. A name that
# begins with ppl is a perplexity.
MEANINGS = {
    "ppl": "exact perplexity",
    "warm_start_ppl": NOT_A_LIKELIHOOD,
    "not_a_perplexity": "NOT A LIKELIHOOD: this model sees what it is scored on.",
    "ppl_without_answer": "exact perplexity of the same weights started without the answer",
}


@dataclass(frozen=True)
class Score:
    """A split's total nats, and counts of the text that they were summed over."""

    nats: float
    counts: TextCounts

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood of a token, in nats."""
        return self.nats / self.counts.tokens

    @property
    def perplexity(self) -> float:
        """exp(total nats / tokens scored); infinite where it overflows."""
        return safe_exp(self.nats_per_token)

    @property
    def bits_per_character(self) -> float:
        """Mean negative log-likelihood of a character, in bits."""
        return self.nats / math.log(2) / self.counts.characters

    @property
    def bits_per_byte(self) -> float:
        """Mean negative log-likelihood of a byte of the text in UTF-8, in bits."""
        return self.nats / math.log(2) / self.counts.bytes

    def as_dict(self) -> dict[str, float | int]:
        """Return everything a reader needs to compare the number with another."""
        return {
            "perplexity": self.perplexity,
            "nats_per_token": self.nats_per_token,
            "bits_per_character": self.bits_per_character,
            "bits_per_byte": self.bits_per_byte,
            "word_perplexity": safe_exp(self.nats / max(1, self.counts.words)),
            "total_nats": self.nats,
            "tokens": self.counts.tokens,
            "words": self.counts.words,
            "characters": self.counts.characters,
            "bytes": self.counts.bytes,
            "unknown_share": self.counts.unknown / self.counts.tokens,
        }


def described(name: str, score: Score) -> dict[str, Any]:
    """Return a score with the meaning of its number; ``name`` is such as ``val/ppl``."""
    kind = name.partition("/")[2]
    return {"meaning": MEANINGS[kind], "is_likelihood": kind.startswith("ppl"), **score.as_dict()}


def score_lines(name: str, score: dict[str, Any]) -> list[str]:
    """Return a described score as lines for the terminal."""
    split, _, kind = name.partition("/")
    label = {"ppl": "perplexity"}.get(kind, kind)
    line = (
        f"  {split + ' ' + label:27s} {score['perplexity']:10.3f}   "
        f"({score['tokens']:,} tokens, {score['bits_per_character']:.3f} bits per character, "
        f"{100 * score['unknown_share']:.1f} % unknown)"
    )
    return [line] if kind == "ppl" else [line, f"      {MEANINGS[kind]}"]


def safe_exp(x: float) -> float:
    """Return e to the x, infinity where a float cannot hold it."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
