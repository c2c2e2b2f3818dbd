"""The built-in corpus' grammar: an endless play whose probabilities are known exactly.

The grammar is a set of generator functions. Each yields the exact distribution of the next word,
receives the word that was drawn, and continues. The distribution therefore depends only on the
words so far, and the probability of a text is the product of its words' probabilities. Raise
``BuiltinPlay.version`` when a change here changes the text. What a model can learn, by distance:

- which words follow which, and which objects a verb prefers;
- number: determiner, noun and verb agree, also across a relative clause ("the dogs that the cook
  sees run"), and a pronoun agrees with the previous subject, sentences earlier;
- the speaker named at the head of the line has favourite nouns, adjectives, verbs and an adverb;
- nouns of a scene return in it, and the characters who entered speak, most likely the one just
  addressed.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import TypeVar

from trm_lightning.data import builtin_words as lex
from trm_lightning.data.builtin_words import PLURAL, SINGULAR

NEW_LINE = "\n"
_BITS = 64
_N_REMEMBERED = 8  # the last nouns of a scene, which are likely to return


class Choices:
    """Words with integer weights, so that sampling is the same on every platform."""

    def __init__(self, weights: dict[str, int]) -> None:
        self.weights = weights
        self._words = list(weights)
        self._cumulative = list(accumulate(weights.values()))
        self.total = self._cumulative[-1]

    def draw(self, bits: int) -> str:
        """Return the word for a uniform 64-bit number."""
        return self._words[bisect_right(self._cumulative, bits * self.total >> _BITS)]


Mixture = Sequence[tuple[int, Choices]]  # (weight, choices), ...
T = TypeVar("T")
Part = Generator[Mixture, str, T]  # part of the grammar: yields mixtures, is sent words, returns T
Grammar = Part[None]


def distribution(mixture: Mixture) -> dict[str, float]:
    """Return the probability of each possible word."""
    words = {word: 0.0 for _, choices in mixture for word in choices.weights}
    return {word: probability(mixture, word) for word in words}


def probability(mixture: Mixture, word: str) -> float:
    """Return the probability of one word; 0 if the mixture does not hold it."""
    hits = sum(weight * c.weights.get(word, 0) / c.total for weight, c in mixture)
    return hits / sum(weight for weight, _ in mixture)


def draw(mixture: Mixture, bits: Iterator[int]) -> str:
    """Sample a word with two of the uniform 64-bit numbers."""
    ends = list(accumulate(weight for weight, _ in mixture))
    _, choices = mixture[bisect_right(ends, next(bits) * ends[-1] >> _BITS)]
    return choices.draw(next(bits))


def _uniform(words: Iterable[str]) -> Choices:
    weights: dict[str, int] = {}
    for word in words:
        weights[word] = weights.get(word, 0) + 1
    return Choices(weights)


def _zipf(words: Sequence[str]) -> Choices:
    return Choices({word: 10_000 // (rank + 3) for rank, word in enumerate(words)})


@cache
def _only(word: str) -> Mixture:
    return [(1, _uniform([word]))]


def _number_pair(forms: Sequence[tuple[str, str]]) -> tuple[Choices, Choices]:
    return _zipf([f[SINGULAR] for f in forms]), _zipf([f[PLURAL] for f in forms])


_PLACES = _uniform(lex.PLACES)
_NAMES = _zipf(lex.NAMES)
_DETERMINERS = Choices({word: weight for word, weight, _ in lex.DETERMINERS})
_NUMBERS_AFTER = {word: numbers for word, _, numbers in lex.DETERMINERS}
_NOUNS = _number_pair(lex.NOUNS)
_TRANSITIVE = _number_pair(lex.TRANSITIVE)
_INTRANSITIVE = _number_pair(lex.INTRANSITIVE)
_ADJECTIVES = _zipf(lex.ADJECTIVES)
_ADVERBS = _zipf(lex.ADVERBS)
_NOUN_OF = {form: noun for noun in lex.NOUNS for form in noun}
_TRANSITIVE_FORMS = {form for verb in lex.TRANSITIVE for form in verb}
_NUMBER_WEIGHTS = ((SINGULAR, 3), (PLURAL, 2))
_PRONOUNS = [_uniform([pronoun]) for pronoun in lex.PRONOUNS]
_THAT = _uniform(["that"])
_NEW_LINES = _uniform([NEW_LINE])
_END_OF_TURN = 14
_CLAUSE_ENDS = [(6, _uniform(["."])), (1, _uniform(["and"]))]


class _Taste:
    """A speaker's favourite words."""

    def __init__(self, index: int) -> None:
        self.nouns = _number_pair(lex.every(lex.NOUNS, start=5 * index, step=1, n=5))
        self.verbs = _number_pair(lex.every(lex.TRANSITIVE, start=2 * index, step=1, n=2))
        self.adjectives = _uniform(lex.every(lex.ADJECTIVES, start=2 * index, step=1, n=2))
        self.adverb = _uniform(lex.every(lex.ADVERBS, start=index, step=1, n=1))


_TASTES = {name: _Taste(index) for index, name in enumerate(lex.NAMES)}
_OBJECTS = {
    form: _number_pair(lex.every(lex.NOUNS, start=7 * index, step=11, n=4))
    for index, verb in enumerate(lex.TRANSITIVE)
    for form in verb
}


class _Scene:
    """The state of a scene: what its words so far determine about the next ones."""

    def __init__(self, cast: list[str]) -> None:
        self.cast = cast
        self.speaker = self.previous = self.addressed = ""
        self.subject_number: int | None = None
        self.nouns: deque[tuple[str, str]] = deque(maxlen=_N_REMEMBERED)

    @property
    def taste(self) -> _Taste:
        return _TASTES[self.speaker]

    def others(self) -> list[str]:
        return [name for name in self.cast if name != self.speaker]

    def next_speakers(self) -> Mixture:
        mixture = [(3, _uniform(lex.LABELS[name] for name in self.others()))]
        likely = [(6, self.addressed), (3, self.previous)]
        mixture += [(w, _uniform([lex.LABELS[name]])) for w, name in likely if name]
        return [*mixture, (1, _uniform(["Exeunt"]))] if self.speaker else mixture

    def nouns_after(self, determiner: str, verb: str) -> list[tuple[int, Choices]]:
        mixture = []
        for number, weight in _NUMBER_WEIGHTS:
            if number not in _NUMBERS_AFTER[determiner]:
                continue
            mixture += [(4 * weight, _NOUNS[number]), (5 * weight, self.taste.nouns[number])]
            if self.nouns:
                mixture.append((9 * weight, _uniform(noun[number] for noun in self.nouns)))
            if verb:
                mixture.append((6 * weight, _OBJECTS[verb][number]))
        return mixture

    def begin_turn(self, label: str) -> None:
        self.previous, self.speaker = self.speaker, lex.NAME_OF_LABEL[label]
        self.addressed = ""


def play() -> Grammar:
    """Yield the next word's distribution from the first word on, without end."""
    while True:
        for word in ("Scene", "in", "the"):
            yield _only(word)
        yield [(1, _PLACES)]
        yield _only(".")
        yield _only(NEW_LINE)
        yield from _scene()
        for word in (".", NEW_LINE, NEW_LINE):
            yield _only(word)


def _scene() -> Grammar:
    cast: list[str] = []
    yield _only("Enter")
    word = ","
    while True:
        absent = Choices({n: w for n, w in _NAMES.weights.items() if n not in cast})
        cast.append((yield [(1, absent)]))
        if word == "and":
            break
        word = yield [(1, _uniform(["and"] if len(cast) == 3 else [",", "and"]))]
    yield _only(".")
    yield _only(NEW_LINE)
    scene = _Scene(cast)
    while (word := (yield scene.next_speakers())) != "Exeunt":
        scene.begin_turn(word)
        yield from _turn(scene)


def _turn(scene: _Scene) -> Grammar:
    word = yield _sentence_starts(scene)
    while word != NEW_LINE:
        if word in scene.cast:
            scene.addressed = word
            yield _only(",")
            word = yield _subject_starts(scene)
        while (yield from _clause(scene, word)) == "and":
            word = yield _subject_starts(scene)
        word = yield [(_END_OF_TURN, _NEW_LINES), *_sentence_starts(scene)]


def _subject_starts(scene: _Scene) -> Mixture:
    if scene.subject_number is None:
        return [(20, _DETERMINERS)]
    return [(15, _DETERMINERS), (5, _PRONOUNS[scene.subject_number])]


def _sentence_starts(scene: _Scene) -> Mixture:
    mixture = [*_subject_starts(scene), (1, _uniform(scene.others()))]
    return [*mixture, (2, _uniform([scene.previous]))] if scene.previous else mixture


def _clause(scene: _Scene, word: str) -> Part[str]:
    """Continue a clause after its subject's first word; return the word after the clause."""
    if word in lex.PRONOUNS:
        number = lex.PRONOUNS.index(word)
        word = yield _verbs(scene, number)
    else:
        number = yield from _noun_phrase(scene, word)
        word = yield [*_verbs(scene, number), (2, _THAT)]
        if word == "that":
            yield from _relative_clause(scene, number)
            word = yield _verbs(scene, number)
    scene.subject_number = number
    if word in _TRANSITIVE_FORMS:
        determiner = yield [(1, _DETERMINERS)]
        yield from _noun_phrase(scene, determiner, verb=word)
    else:
        word = yield [*_CLAUSE_ENDS, (3, scene.taste.adverb), (2, _ADVERBS)]
        if word in (".", "and"):
            return word
    return (yield _CLAUSE_ENDS)


def _verbs(scene: _Scene, number: int) -> Mixture:
    return [(4, _TRANSITIVE[number]), (3, scene.taste.verbs[number]), (3, _INTRANSITIVE[number])]


def _noun_phrase(scene: _Scene, determiner: str, verb: str = "") -> Part[int]:
    """Continue a noun phrase after its determiner; return the noun's number."""
    nouns = scene.nouns_after(determiner, verb)
    n = sum(weight for weight, _ in nouns)
    word = yield [*((5 * w, c) for w, c in nouns), (n, _ADJECTIVES), (n, scene.taste.adjectives)]
    if word not in _NOUN_OF:
        word = yield nouns
    noun = _NOUN_OF[word]
    scene.nouns.append(noun)
    return noun.index(word)


def _relative_clause(scene: _Scene, number: int) -> Grammar:
    """Continue after "that": "the cook sees", or "sees the cook" if the noun has this number."""
    word = yield [(3, _DETERMINERS), (2, _TRANSITIVE[number])]
    if word in _TRANSITIVE_FORMS:
        determiner = yield [(1, _DETERMINERS)]
        yield from _noun_phrase(scene, determiner, verb=word)
    else:
        inner_number = yield from _noun_phrase(scene, word)
        yield [(2, _TRANSITIVE[inner_number]), (1, scene.taste.verbs[inner_number])]
