"""Flips, zeroings and truncations over every file of a run folder that is read back."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHORT_PLAY, TINY
from test_killed import difference
from warm import WarmProcess

from trm_lightning.errors import UserError
from trm_lightning.runs.checkpoint_file import read_checkpoint
from trm_lightning.runs.history import read_lines
from trm_lightning.runs.stored_text import read_json

pytestmark = pytest.mark.faults
N_DAMAGES = 200
READERS = {
    "checkpoints/last.ckpt": read_checkpoint,
    "checkpoints/best.ckpt": read_checkpoint,
    "results.json": read_json,
    "metrics.jsonl": read_lines,
    "audit.json": read_json,
    "tokenizer.json": None,  # a copy for the reader; the checkpoint holds the run's own
}


@pytest.fixture(scope="module")
def good(warm: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    ended = warm.call("train", *TINY, *SHORT_PLAY, "model=ar", "hydra.run.dir=run", folder=folder)
    assert ended.returncode == 0, ended.output
    return folder / "run"


def damaged(content: bytes, draw: random.Random) -> bytes:
    place, size = draw.randrange(len(content)), draw.choice((1, 1, 16, 512))
    kind = draw.choice(("flip", "flip", "zero", "cut"))
    if kind == "cut":
        return content[:place]
    part = content[place : place + size]
    flipped = bytes(byte ^ 1 << draw.randrange(8) for byte in part)
    new = bytes(len(part)) if kind == "zero" else flipped
    return content[:place] + new + content[place + size :]


def test_damage_is_found_or_without_effect(good: Path, tmp_path: Path, tell: Any) -> None:
    draw, held, wrong = random.Random(3), 0, []
    names = [name for name, reader in READERS.items() if reader]
    for i in range(N_DAMAGES):
        name = names[i % len(names)]
        reader: Any = READERS[name]
        whole, file = good / name, tmp_path / Path(name).name
        file.write_bytes(damaged(whole.read_bytes(), draw))
        wanted = reader(whole)
        try:
            found = reader(file)
        except UserError:
            held += 1
            continue
        if name == "metrics.jsonl" and found == wanted[: len(found)]:
            held += 1  # cut short, as a kill does
        elif difference(wanted, found):
            wrong.append(f"{name}, {i}: {difference(wanted, found)}")
        else:
            held += 1
    tell("flips, zeroings, truncations: found or without effect", held, N_DAMAGES)
    assert not wrong, "\n".join(wrong)


def test_a_damaged_last_checkpoint_falls_back(
    warm: WarmProcess, good: Path, tmp_path: Path, tell: Any
) -> None:
    draw, wrong, n_tries = random.Random(4), [], 10
    for i in range(n_tries):
        run = tmp_path / str(i) / "run"
        shutil.copytree(good, run)
        (run / "results.json").unlink()
        last = run / "checkpoints" / "last.ckpt"
        last.write_bytes(damaged(last.read_bytes(), draw))
        ended = warm.call("train", "resume=run", folder=run.parent)
        same = ended.returncode == 0 and not difference(
            torch.load(good / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"],
            torch.load(last, weights_only=True)["state_dict"],
        )
        if not same:
            wrong.append(f"{i}: {ended}")
    held = n_tries - len(wrong)
    tell("a damaged last.ckpt: the run goes on from the one before, equal", held, n_tries)
    assert not wrong, "\n".join(wrong)
