"""A tokenizer of the user's own through the whole life of a run, by the commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trm_lightning.data import tokenizer_from_state
from trm_lightning.errors import UserError

MODULE = '''
import numpy as np
from trm_lightning.data import Tokenizer


class Bytes(Tokenizer):
    """One id per byte; id 256 stands before the text."""

    vocab_size = 257
    start_id = 256

    def encode(self, text):
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode(errors="replace")
'''
DATA = """
defaults: [builtin_char]
name: bytes
tokenizer:
  _target_: my_tokenizers.Bytes
"""
SMALL = ["debug=fast", "data=bytes", "threads=1", "progress=false", "data.window_size=32",
         "data.corpus.train_words=3000", "+data.corpus.val_words=300",
         "+data.corpus.test_words=300", "hydra.run.dir=run"]  # fmt: skip


def call(command: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = (sys.executable, "-m", f"trm_lightning.{command}", *words)
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def test_it_trains_scores_and_writes(tmp_path: Path) -> None:
    (tmp_path / "my_tokenizers.py").write_text(MODULE)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "bytes.yaml").write_text(DATA)
    done = call("train", "--config-dir", "conf", *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    scored = call("evaluate", "run=run", folder=tmp_path)
    assert scored.returncode == 0 and "val perplexity" in scored.stdout, scored.stderr
    written = call("generate", "run=run", "prompt='The king'", "n_tokens=5", folder=tmp_path)
    assert written.returncode == 0 and written.stdout.startswith("The king"), written.stderr
    (tmp_path / "my_tokenizers.py").unlink()
    lost = call("generate", "run=run", folder=tmp_path)
    assert lost.returncode == 2 and "my_tokenizers.Bytes cannot be imported" in lost.stderr
    assert "Traceback" not in lost.stderr


@pytest.mark.parametrize("path", ["os.path", "pathlib.Path", "nowhere.Tokenizer", "Bytes"])
def test_nothing_but_a_tokenizer_is_restored(path: str) -> None:
    with pytest.raises(UserError, match="tokenizer"):
        tokenizer_from_state({"class": path, "settings": {}, "fitted": {}})
