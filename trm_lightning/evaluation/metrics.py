"""The scores of ``results.json``: their names, what each means, and how each is computed.

To add a number, add it to ``Score.as_dict``. If it needs a new count of the text, such as its
syllables, add that to ``trm_lightning.data.text_counts``.
"""

import math
from dataclasses import dataclass
from typing import Any

from trm_lightning.data import TextCounts

NOT_A_LIKELIHOOD = (
    "NOT A LIKELIHOOD: the chunk starts at the embedding of the answer, so this number measures "
    "copying. It is not a perplexity and cannot be compared with one."
)
# Names of exp(nats per token), by how the nats were obtained: none can be mistaken for another.
MEANINGS = {
    "ppl": "exact perplexity",
    "warm_start_ppl": NOT_A_LIKELIHOOD,
    "not_a_perplexity": "NOT A LIKELIHOOD: the model sees the tokens that it is scored on.",
    "ppl_without_answer": "exact perplexity of the same weights started without the answer",
}


@dataclass(frozen=True)
class Score:
    """The negative log-likelihood of a split.

    Attributes:
        nats: -log p of all tokens together.
        counts: sizes of the text.
    """

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
        """Negative log-likelihood of the text per Unicode character, in bits."""
        return self._bits / self.counts.characters

    @property
    def _bits(self) -> float:
        return self.nats / math.log(2)

    def as_dict(self) -> dict[str, float | int]:
        """Return the numbers of ``results.json``, with the counts needed to compare them."""
        return {
            "perplexity": self.perplexity,
            "nats_per_token": self.nats_per_token,
            "bits_per_character": self.bits_per_character,
            "bits_per_byte": self._bits / self.counts.bytes,
            "word_perplexity": safe_exp(self.nats / max(1, self.counts.words)),
            "total_nats": self.nats,
            "tokens": self.counts.tokens,
            "words": self.counts.words,
            "characters": self.counts.characters,
            "bytes": self.counts.bytes,
            "unknown_share": self.counts.unknown / self.counts.tokens,
        }


def described(name: str, score: Score) -> dict[str, Any]:
    """Return a score's numbers with what they mean; ``name`` is such as ``val/ppl``."""
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
