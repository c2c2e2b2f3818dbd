"""A run that is killed at any moment goes on as if nothing had happened."""

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHORT_PLAY, TINY
from warm import Ended, WarmProcess

from trm_lightning.runs.checkpoint_file import read_checkpoint

pytestmark = pytest.mark.faults
N_KILLS = 30
SETTINGS = (
    *(word for word in TINY if not word.startswith(("logger", "budget", "checkpoint"))),
    *SHORT_PLAY, "model=trm", "model.n_supervision=2", "model.dropout=0.2", "model.n_layers=1",
    "model.n_refinements=1", "audit=false", "ema_decay=0.9",
    "budget={steps:16,tokens:null,epochs:null,seconds:null}", "checkpoint_every=4",
    "eval_every=8", "log_every=3", "optimizer.lr=0.02", "resume=auto", "hydra.run.dir=run",
)  # fmt: skip
Straight = tuple[dict[str, Any], Ended]
TIMINGS = ("seconds", "train/tokens_per_second", "checksum")


@pytest.fixture(scope="module")
def straight(
    warm: WarmProcess, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Ended]:
    """What an uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("straight")
    ended = warm.call("train", *SETTINGS, folder=folder)
    assert ended.returncode == 0, ended.output
    return left_by(folder / "run"), ended


def left_by(run: Path) -> dict[str, Any]:
    """What must be the same: weights, scores, logs, samples, pictures; nothing that tells time."""
    last, best = (
        read_checkpoint(run / "checkpoints" / f"{name}.ckpt") for name in ("last", "best")
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((run / "results.json").read_text())
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "ema", "counters", "rng")
    left = {
        "last": {key: last[key] for key in kept},
        "best": {key: best[key] for key in ("state_dict", "ema", "counters")},
        "lines": [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines],
        "scores": {key: results[key] for key in ("final", "best", "test", "optimizer_steps")},
        "samples": (run / "samples.txt").read_text(),
        "events": events_of(run),
        "files": sorted(
            str(file.relative_to(run))
            for file in run.rglob("*")
            if file.is_file() and "tfevents" not in file.name and file.name != "previous.ckpt"
        ),
    }
    return left


def events_of(run: Path) -> list[tuple[str, int, float]]:
    """The scalars that TensorBoard shows, but for timings."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    return sorted(
        (value.tag, event.step, value.simple_value or float(sum(value.tensor.float_val)))
        for file in run.rglob("events.out.tfevents.*")
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag.startswith(("train/", "val/", "by_tokens/")) and value.tag not in TIMINGS
    )


def difference(a: Any, b: Any, place: str = "") -> str:
    """Where two nested containers differ; empty if nowhere."""
    if isinstance(a, torch.Tensor):
        return "" if torch.equal(a, b) else place
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{place}: {sorted(map(str, a.keys() ^ b.keys()))}"
        return next(filter(None, (difference(a[k], b[k], f"{place}.{k}") for k in a)), "")
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{place}: {len(a)} and {len(b)} entries"
        pairs = enumerate(zip(a, b, strict=True))
        return next(filter(None, (difference(x, y, f"{place}[{i}]") for i, (x, y) in pairs)), "")
    return "" if a == b else f"{place}: {a!r} and {b!r}"


def finish(warm: WarmProcess, folder: Path) -> None:
    """Give the same command again until it has ended."""
    ended = warm.call("train", *SETTINGS, folder=folder)
    assert ended.returncode == 0, ended.output


def test_sigkill_at_random_moments(
    warm: WarmProcess, straight: Straight, tmp_path: Path, tell: Any
) -> None:
    wanted, whole = straight
    draw, held, wrong = random.Random(1), 0, []
    for i in range(N_KILLS):
        folder = tmp_path / str(i)
        folder.mkdir()
        moments = [
            draw.uniform(0.1, whole.seconds) for _ in range(1 + i % 2)
        ]  # every other one twice
        for moment in moments:
            kill = [(moment, signal.SIGKILL)]
            ended = warm.call("train", *SETTINGS, folder=folder, signals=kill)
            if ended.returncode == 0:
                break
        if not (folder / "run" / "results.json").is_file():
            finish(warm, folder)
        found = difference(wanted, left_by(folder / "run"))
        held += not found
        wrong += [f"{moments}: {found}"] if found else []
        shutil.rmtree(folder)
    tell("SIGKILL at random moments of training: equal to the uninterrupted run", held, N_KILLS)
    assert not wrong, "\n".join(wrong)


def test_sigkill_at_every_change_of_a_file(
    warm: WarmProcess, straight: Straight, tmp_path: Path, tell: Any
) -> None:
    wanted, _ = straight
    counted = tmp_path / "counted"
    counted.mkdir()
    ended = warm.call("train", *SETTINGS, folder=counted, at_event=0)
    events = [line for line in ended.output.splitlines() if line.startswith("event ")]
    assert len(events) > 40, ended.output
    held, wrong = 0, []
    for number, event in enumerate(events, start=1):
        folder = tmp_path / str(number)
        folder.mkdir()
        ended = warm.call("train", *SETTINGS, folder=folder, at_event=number)
        assert ended.returncode == -signal.SIGKILL, (event, ended)
        if not (folder / "run" / "results.json").is_file():  # else it had come to its end
            finish(warm, folder)
        found = difference(wanted, left_by(folder / "run"))
        held += not found
        wrong += [f"{event}: {found}"] if found else []
        shutil.rmtree(folder)
    tell("SIGKILL at each change of a file of one run: equal", held, len(events))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_at_any_moment_saves(
    warm: WarmProcess, straight: Straight, tmp_path: Path, tell: Any,
    number: signal.Signals,
) -> None:  # fmt: skip
    wanted, whole = straight
    draw, held, wrong, n_moments = random.Random(number), 0, [], 10
    for i in range(n_moments):
        folder = tmp_path / str(i)
        folder.mkdir()
        moment = whole.seconds * (i + draw.random()) / n_moments
        ended = warm.call("train", *SETTINGS, folder=folder, signals=[(moment, number)])
        found = ""
        if ended.returncode not in (0, 128 + number, -number):
            found = f"status {ended.returncode}\n{ended.output}"
        elif "Traceback" in ended.output:
            found = ended.output
        elif not (folder / "run" / "results.json").is_file():
            finish(warm, folder)
        found = found or difference(wanted, left_by(folder / "run"))
        held += not found
        wrong += [f"{moment:.2f} s: {found}"] if found else []
        shutil.rmtree(folder)
    tell(f"{number.name} at any moment: saved or nothing to save, then equal", held, n_moments)
    assert not wrong, "\n".join(wrong)
