"""The words of the built-in corpus. Every form belongs to one word only."""

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")
SINGULAR, PLURAL = 0, 1


def every(words: Sequence[_T], start: int, step: int, n: int) -> list[_T]:
    """Return n words: from ``start`` on every ``step``-th one, wrapping around the end."""
    return [words[(start + step * i) % len(words)] for i in range(n)]


def _words(text: str) -> list[str]:
    return text.split()


def _nouns(text: str) -> list[tuple[str, str]]:
    return [(noun, noun + "s") for noun in text.split()]


def _verbs(text: str) -> list[tuple[str, str]]:
    return [(verb + "s", verb) for verb in text.split()]


NAMES = _words("Anna Boris Clara David Elsa Felix Greta Hugo Irma Jonas Klara Leo")
LABELS = {name: f"{name.upper()}:" for name in NAMES}
NAME_OF_LABEL = {label: name for name, label in LABELS.items()}
PLACES = _words("garden kitchen forest harbour market castle cellar valley")
# (word, weight, the numbers that a noun after it may have)
DETERMINERS = [
    ("the", 8, (SINGULAR, PLURAL)),
    ("my", 4, (SINGULAR, PLURAL)),
    ("a", 4, (SINGULAR,)),
    ("this", 2, (SINGULAR,)),
    ("every", 1, (SINGULAR,)),
    ("these", 2, (PLURAL,)),
    ("some", 2, (PLURAL,)),
    ("many", 1, (PLURAL,)),
]
PRONOUNS = ("it", "they")  # by number
NOUNS = _nouns(
    "dog cook king queen letter horse song sailor baker candle river door "
    "farmer book crow spider table soldier teacher ring boat poet window bell "
    "painter lamp bird sister brother cousin knight kettle hammer basket mirror coat "
    "tailor ghost gardener pirate wolfhound rabbit kitten mule pony frog turtle lion "
    "tiger bear rider doctor judge miller weaver robber cloud storm flower tree"
)
TRANSITIVE = _verbs(
    "see follow hear like fear help call want find paint sell bring "
    "break hide clean count draw guard know lose move need pull remember"
)
INTRANSITIVE = _verbs(
    "sleep wait run sing return wander tremble laugh fall shine rest arrive "
    "dance listen stumble smile"
)
ADJECTIVES = _words(
    "old little red happy quiet clever brave tired golden white strange lonely "
    "tall gentle proud silent broken hungry dark young famous patient foolish merry"
)
ADVERBS = _words("again today slowly outside together tonight often gladly here now soon always")
