"""Text that several processes tokenize: the same ids, and nothing left when something ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_text import cache_folders, module, ready
from worker_functions import first_letter

import trm_lightning.data.workers as worker_processes
from trm_lightning.data import (
    BPETokenizer,
    CharacterTokenizer,
    Tokenizer,
    WhitespaceTokenizer,
    WordTokenizer,
)
from trm_lightning.data.split_writer import Encode
from trm_lightning.data.text_counts import TextCounts
from trm_lightning.data.text_stream import BLOCK_CHARACTERS, safe_blocks
from trm_lightning.data.workers import Blocks, LostWorkerError, Workers
from trm_lightning.errors import UserError

TEXT = "".join(f"Line {i}:  naïve café, it's {i * i} & x{i % 7}_y 中文 😀.\n" for i in range(900))
FITTABLE = [
    CharacterTokenizer(),
    WordTokenizer(min_count=1),
    WhitespaceTokenizer(),
    BPETokenizer(400),
]
PATIENCE = 60  # seconds


def tokenized(tokenizer: Tokenizer, workers: Workers, size: int) -> tuple[dict, list, TextCounts]:
    """Fit on the text and encode it, in blocks of some size."""

    def text() -> Blocks:
        return Blocks(safe_blocks([TEXT], size), workers, len(TEXT))

    fitted = tokenizer.fit(text(), text())
    encode = Encode(fitted, np.dtype(np.uint16), fitted.unknown_id)
    ids, counts = zip(*text().map(encode), strict=True)
    total = sum(counts[1:], counts[0])
    return fitted.fitted_state(), np.concatenate(ids).tolist(), total


@pytest.fixture(scope="module")
def pools():
    with Workers(1) as one, Workers(2) as two, Workers(3) as three:
        yield [one, two, three]


@pytest.mark.parametrize("tokenizer", FITTABLE, ids=lambda tokenizer: tokenizer.kind)
def test_ids_do_not_depend_on_workers_or_blocks(tokenizer, pools):
    reference = tokenizer.fit([TEXT], [TEXT])
    whole = reference.encode(TEXT).tolist()
    for workers in pools:
        for size in (1000, 4096):
            state, ids, counts = tokenized(tokenizer, workers, size)
            assert ids == whole and state == reference.fitted_state()
            assert counts.tokens == len(whole) and counts.characters == len(TEXT)
            assert counts.words == len(TEXT.split()) and counts.bytes == len(TEXT.encode())
    assert [len(workers._workers) for workers in pools] == [0, 2, 3]  # they did the work


def test_a_cache_that_workers_build_is_the_same(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text(TEXT * (3 * BLOCK_CHARACTERS // len(TEXT)), encoding="utf-8")
    alone = ready(module(path, WordTokenizer()))
    monkeypatch.setenv("TRM_DATA_WORKERS", "2")
    (tmp_path / "cache").rename(tmp_path / "alone")
    shared = module(path, WordTokenizer())
    started = []
    start = worker_processes._Worker
    monkeypatch.setattr(worker_processes, "_Worker", lambda: started.append(start()) or started[-1])
    ready(shared)
    assert len(started) == 2
    assert shared.ids_digest == alone.ids_digest
    assert shared.tokenizer.state() == alone.tokenizer.state()


def test_an_error_in_a_worker_is_the_error_here(pools):
    results = pools[1].map(first_letter, ["a", "b", "bad", "c", "d", "e"], 0)
    assert [next(results), next(results)] == ["a", "b"]
    with pytest.raises(UserError) as error:
        next(results)
    assert (error.value.what, error.value.hint) == ("A bad block.", "Mend it.")
    assert list(pools[1].map(first_letter, ["xy", "z"], 0)) == ["x", "z"]  # it goes on


def test_an_error_that_cannot_be_sent_is_no_wait_for_ever(pools):
    with pytest.raises(TypeError, match="code"):
        list(pools[1].map(first_letter, ["a", "odd", "b", "c"], 0))
    assert list(pools[1].map(first_letter, ["xy", "z"], 0)) == ["x", "z"]


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_worker_that_is_killed_is_named(pools):
    with pytest.raises(LostWorkerError, match="was killed"):
        list(pools[1].map(first_letter, ["a", "die", *"bcdefgh"], 0))


def test_what_only_this_process_knows_is_done_here():
    with Workers(2) as workers:
        assert list(workers.map(lambda block: block + "!", ["a", "b"], 0)) == ["a!", "b!"]
        assert not workers._workers


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_a_bad_number_of_workers_is_named(value, monkeypatch):
    monkeypatch.setenv("TRM_DATA_WORKERS", value)
    with pytest.raises(UserError, match="TRM_DATA_WORKERS"):
        Workers()


SCRIPT = """
import signal, sys
from trm_lightning.data import TextCorpus, TextDataModule, WordTokenizer
_, text, cache = sys.argv
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
data = TextDataModule("small", TextCorpus(text), WordTokenizer(), 16, 4, cache_dir=cache)
data.prepare_data()  # with no guard around it: workers do not run the script again
print(data.ids_digest)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_process(tmp_path, number):
    text, script = tmp_path / "text.txt", tmp_path / "script.py"
    text.write_text(TEXT * 200, encoding="utf-8")
    script.write_text(SCRIPT)
    environment = os.environ | {"TRM_DATA_WORKERS": "2", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(script), str(text), str(tmp_path / "cache")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: len(children(process.pid)) >= 2)
            workers = children(process.pid)
            process.send_signal(number)
            assert process.wait(PATIENCE)
        finally:
            process.kill()
    wait_for(lambda: not any(alive(worker) for worker in workers))
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    alone = ready(module(text, WordTokenizer()))
    assert printed.stdout.strip() == alone.ids_digest
    assert not [path for path in cache_folders(text) if path.name.startswith(".")]


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return [int(child) for child, command in commands.items() if b"spawn_main" in command]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(happened) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)
