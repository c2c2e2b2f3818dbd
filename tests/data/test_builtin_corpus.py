"""The built-in play: its stated probabilities are those of its text, at every level."""

import hashlib
import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from trm_lightning.data import BuiltinPlay, CharacterTokenizer, TextDataModule, WhitespaceTokenizer
from trm_lightning.data.builtin_corpus import next_words, sample_play, spell
from trm_lightning.data.builtin_grammar import distribution, play
from trm_lightning.errors import UserError


def data(tmp_path, tokenizer, **words) -> TextDataModule:
    words = {"train_words": 20_000, "val_words": 1500, "test_words": 500} | words
    data = TextDataModule(
        "builtin", BuiltinPlay(**words), tokenizer, 16, 4, cache_dir=str(tmp_path)
    )
    data.prepare_data()
    data.setup()
    return data


def words_of(text: str) -> list[str]:
    return text.replace("\n", " \n ").replace("  ", " ").strip(" ").split(" ")


SCENE = words_of("Scene in the garden .\nEnter Anna , Boris and Clara .\nANNA:")


def states(words):
    """Each word with the distribution it was drawn from, from the visible text alone."""
    grammar = play()
    mixture = next(grammar)
    for word in words:
        yield word, distribution(mixture)
        mixture = grammar.send(word)


def segment(previous: str, word: str) -> str:
    """The characters that a word adds to the text."""
    return word if word == "\n" or previous in ("", "\n") else f" {word}"


def test_text_is_the_same_on_every_platform():
    text, nats = sample_play(3000, (0, 1))
    assert hashlib.sha256(text.encode()).hexdigest().startswith("d47cf13988783ea4")
    assert nats / len(words_of(text)) == pytest.approx(2.1, abs=0.1)
    assert text != sample_play(3000, (0, 2))[0]


def test_words_and_text_are_one_to_one():
    text, _ = sample_play(3000, (0, 0))
    assert spell(words_of(text)) == text
    assert text.startswith("Scene in the ") and text.endswith("Exeunt .\n\n")
    assert "Exeunt .\n\nScene" in text


def test_probabilities_sum_to_one():
    words = words_of(sample_play(3000, (3, 0))[0])
    for word, possible in states(words):
        assert math.fsum(possible.values()) == pytest.approx(1, abs=1e-12)
        assert 0 < possible[word] <= 1


@pytest.mark.parametrize("temper", [1.0, 0.9])
def test_frequencies_agree_with_the_stated_probabilities(temper):
    """Count minus expected count, in standard deviations; tempered probabilities must fail."""
    difference, variance = defaultdict(float), defaultdict(float)
    for word, stated in states(words_of(sample_play(12_000, (4, 0))[0])):
        tempered = {w: p**temper for w, p in stated.items()}
        total = sum(tempered.values())
        difference[word] += 1
        for other, weight in tempered.items():
            difference[other] -= weight / total
            variance[other] += weight / total * (1 - weight / total)
    z = [difference[w] / math.sqrt(v) for w, v in variance.items() if v > 5]
    assert len(z) > 200
    agrees = max(map(abs, z)) < 4 and np.mean(np.square(z)) < 1.25
    assert agrees == (temper == 1.0)


def test_floor_is_that_of_the_words_on_disk(tmp_path):
    words = data(tmp_path, WhitespaceTokenizer())
    for split in words.splits.values():
        visible = words_of(words.tokenizer.decode(split.tokens.tolist()))
        assert len(visible) == split.n_tokens
        nats = math.fsum(-math.log(possible[word]) for word, possible in states(visible))
        assert split.entropy_floor_nats == pytest.approx(nats / split.n_tokens, rel=1e-12)
        assert 8 < math.exp(split.entropy_floor_nats) < 20 or split.n_tokens < 1000


def test_floor_of_characters_is_that_of_their_exact_conditionals(tmp_path):
    """p(next character) by summing over the words that go on that way, or end and let another
    begin."""
    characters = data(tmp_path, CharacterTokenizer(), val_words=300).splits["val"]
    text = "".join(BuiltinPlay(20_000, 300, 500).blocks("val"))
    words = ["", *words_of(text)]
    segments = [
        {segment(before, w): p for w, p in possible.items()}
        for before, (_, possible) in zip(words, states(words[1:]), strict=False)
    ]
    nats = 0.0
    for i, (before, word) in enumerate(pairwise(words)):
        spelled = segment(before, word)
        following = segments[i + 1] if i + 1 < len(segments) else {}
        for n in range(len(spelled)):
            possible = {s: p for s, p in segments[i].items() if s.startswith(spelled[:n])}
            going_on = sum(p for s, p in possible.items() if s.startswith(spelled[: n + 1]))
            nats -= math.log(going_on / sum(possible.values()))
        # That the word ends here is said by the first character of what follows.
        if following:
            reached = sum(p for s, p in segments[i].items() if s.startswith(spelled))
            nats -= math.log(segments[i][spelled] / reached)
    assert len(text) == characters.counts.characters == characters.n_tokens
    assert characters.entropy_floor_nats == pytest.approx(nats / len(text), rel=1e-9)


def test_no_floor_is_claimed_for_a_tokenizer_that_loses_text(tmp_path):
    lossy = data(tmp_path, WhitespaceTokenizer(max_vocab=50))
    assert all(split.entropy_floor_nats is None for split in lossy.splits.values())


def test_n_gram_models_stay_above_the_floor(tmp_path):
    splits = data(tmp_path, WhitespaceTokenizer(), train_words=60_000, val_words=6000).splits
    train, val = splits["train"].tokens.tolist(), splits["val"].tokens.tolist()
    counts = [Counter(zip(*(train[i:] for i in range(n)), strict=False)) for n in (1, 2, 3)]
    contexts = [Counter(zip(*(train[i:-1] for i in range(n)), strict=False)) for n in (1, 2)]
    size = len(set(train))
    nats = np.zeros(3)
    for a, b, c in zip(val, val[1:], val[2:], strict=False):
        p = (counts[0][c,] + 1) / (len(train) + size)
        nats[0] -= math.log(p)
        for n, context in ((1, (b,)), (2, (a, b))):
            p = (counts[n][(*context, c)] + 5 * p) / (contexts[n - 1][context] + 5)
            nats[n] -= math.log(p)
    unigram, bigram, trigram = nats / (len(val) - 2)
    floor = splits["val"].entropy_floor_nats
    assert floor + 0.5 < min(bigram, trigram) < unigram - 1


def verbs_after(line: str) -> set[str]:
    return set(next_words([*SCENE, *words_of(line)]))


def test_numbers_agree_across_a_relative_clause():
    for subject, good, bad in (("dogs", "run", "runs"), ("dog", "runs", "run")):
        for clause in ("", " that the cook sees", " that these cooks see"):
            possible = verbs_after(f"the {subject}{clause}")
            assert good in possible and bad not in possible
    assert "cooks" in verbs_after("these") and "cook" not in verbs_after("these")
    assert "they" in verbs_after("the dogs run .") and "it" not in verbs_after("the dogs run .")


def test_words_return_and_speakers_have_tastes_and_answers():
    fresh = next_words([*SCENE, "the"])
    again = next_words([*SCENE, *words_of("the tree runs . the")])
    assert again["tree"] > 5 * fresh["tree"]
    by_clara = next_words([*SCENE[:-1], "CLARA:", "the"])
    assert by_clara["river"] > 3 * fresh["river"]
    answer = next_words([*SCENE, *words_of("Boris , the dog runs .\n")])
    assert answer["BORIS:"] > 3 * answer["CLARA:"] and "ANNA:" not in answer


def test_impossible_words_are_refused():
    with pytest.raises(ValueError, match="'dogs'"):
        next_words([*SCENE, "a", "dogs"])


def test_a_split_needs_words():
    with pytest.raises(UserError, match="built-in"):
        BuiltinPlay(val_words=0)
