"""Builders of a token cache that are killed or meet, and caches whose files are damaged."""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tqdm import tqdm

from trm_lightning.data import BuiltinPlay, CharacterTokenizer, TextDataModule
from trm_lightning.data.cache_builder import Builder

Tell = Callable[[str, int, int], None]
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]
N_KILLS, N_MEETINGS, N_DAMAGES = 20, 10, 150


def opened(cache: Path) -> TextDataModule:
    corpus = BuiltinPlay(train_words=20_000, val_words=2000, test_words=2000)
    data = TextDataModule(
        "play", corpus, CharacterTokenizer(), 16, 4,
        cache_dir=str(cache), scrambled_validation_alphabet=True,
    )  # fmt: skip
    data.prepare_data()
    return data


def contents(cache: Path) -> tuple:
    data = opened(cache)
    ids = {name: (split.tokens.tobytes(), split.counts) for name, split in data.splits.items()}
    return ids, data.tokenizer.state(), data.fingerprint, data.ids_digest


def in_a_child(work: Callable[[], object]) -> int:
    """Start the work in a process of its own and return the process's id."""
    tqdm.set_lock(threading.RLock())  # its own is shared with children, and a killed one holds it
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("good")
    opened(cache)
    return cache


def test_a_killed_builder_leaves_no_trace_in_the_next_build(
    good: Path, tmp_path: Path, tell: Tell
) -> None:
    expected = contents(good)
    start = time.perf_counter()
    opened(tmp_path / "timed")
    seconds = time.perf_counter() - start
    moments = random.Random(0)
    failed, n_midway = [], 0
    for attempt in range(N_KILLS):
        cache = tmp_path / str(attempt)
        child = in_a_child(lambda cache=cache: opened(cache))
        time.sleep(moments.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left = list((cache / "tokens").glob(".*"))
        n_midway += bool(left)
        equal = contents(cache) == expected
        # One that was killed after all but its last step leaves an empty lock file.
        files = [path for path in (cache / "tokens").iterdir() if path.suffix != ".lock"]
        if not equal or len(files) != 1:
            failed.append((attempt, left, equal))
    tell("cache builder killed: next build equal, nothing left", N_KILLS - len(failed), N_KILLS)
    assert not failed
    assert n_midway >= N_KILLS // 4  # some were killed while they wrote


def test_builders_that_meet_build_once(
    good: Path, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(good)
    build = Builder.build

    def noted(self: Builder, folder: Path) -> None:
        with (folder.parents[1] / "builds.txt").open("a") as file:
            file.write("built\n")
        build(self, folder)

    monkeypatch.setattr(Builder, "build", noted)
    failed = []
    for attempt in range(N_MEETINGS):
        cache = tmp_path / str(attempt)
        children = [in_a_child(lambda cache=cache: opened(cache)) for _ in range(3)]
        ended = [os.waitpid(child, 0)[1] for child in children]
        n_builds = len((cache / "builds.txt").read_text().splitlines())
        names = list((cache / "tokens").iterdir())
        if any(ended) or n_builds != 1 or len(names) != 1 or contents(cache) != expected:
            failed.append((attempt, ended, n_builds, names))
    tell("three cache builders at once: one build, equal", N_MEETINGS - len(failed), N_MEETINGS)
    assert not failed


def flip_a_bit(content: bytearray, choose: random.Random) -> bytes:
    content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    return bytes(content)


def zero_a_part(content: bytearray, choose: random.Random) -> bytes:
    start = choose.randrange(len(content))
    part = content[start : start + 512]
    return bytes(content[:start] + bytes(len(part)) + content[start + len(part) :])


def cut_the_end(content: bytearray, choose: random.Random) -> bytes:
    return bytes(content[: choose.randrange(len(content))])


def exchange_two_parts(content: bytearray, choose: random.Random) -> bytes:
    middle = choose.randrange(len(content))
    return bytes(content[middle:] + content[:middle])


def lengthen(content: bytearray, choose: random.Random) -> bytes:
    return bytes(content) + choose.randbytes(2)


DAMAGES = (flip_a_bit, flip_a_bit, zero_a_part, cut_the_end, exchange_two_parts, lengthen)


def test_damage_is_found_or_without_effect(
    good: Path, tmp_path: Path, tell: Tell, caplog: pytest.LogCaptureFixture
) -> None:
    expected = contents(good)
    choose = random.Random(0)
    (folder,) = (good / "tokens").iterdir()
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 6
    failed = []
    for attempt in range(N_DAMAGES):
        name, damage = names[attempt % len(names)], choose.choice(DAMAGES)
        cache = tmp_path / "damaged"
        shutil.copytree(good, cache)
        file = cache / "tokens" / folder.name / name
        file.write_bytes(damage(bytearray(file.read_bytes()), choose))
        changed = file.read_bytes() != (folder / name).read_bytes()
        caplog.clear()
        equal = contents(cache) == expected
        found = any(name in message for message in caplog.messages)
        if not equal or (changed and not found and name != "meta.json"):
            failed.append((attempt, name, damage.__name__))
        shutil.rmtree(cache)
    tell("cache file damaged: found and mended", N_DAMAGES - len(failed), N_DAMAGES)
    assert not failed
