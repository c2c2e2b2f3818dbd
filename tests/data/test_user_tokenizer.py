"""A tokenizer of the user's own, from its class to a trained run that is opened again."""

import importlib
import json
import linecache
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Configure
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from trm_lightning.analysis.command import analyze
from trm_lightning.cli.compose import conf_dir
from trm_lightning.data import (
    CharacterTokenizer,
    TextCorpus,
    TextDataModule,
    Tokenizer,
    tokenizer_from_state,
)
from trm_lightning.errors import UserError
from trm_lightning.evaluation.command import evaluate
from trm_lightning.leakage.printed import CallWatch
from trm_lightning.reports.command import report
from trm_lightning.runs.load import load_run
from trm_lightning.sampling.command import generate
from trm_lightning.training.fit import train

SOURCE = '''
"""What a user writes."""
import numpy as np

from trm_lightning.data import Tokenizer


class Bytes(Tokenizer):
    vocab_size = 256

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def encode(self, text):
        ids = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
        return (ids + self.shift) % 256

    def decode(self, ids):
        return bytes((i - self.shift) % 256 for i in ids).decode(errors="replace")
'''


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module ``user_bytes`` that Python finds, as in the user's working folder."""
    path = tmp_path / "code" / "user_bytes.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(path.parent))
    yield path
    sys.modules.pop("user_bytes", None)


def command(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose(name, list(overrides))


def data_module(folder: Path, tokenizer: Tokenizer) -> TextDataModule:
    path = folder / "text.txt"
    path.write_text("a text of some words\n" * 20)
    data = TextDataModule(
        "own", TextCorpus(str(path)), tokenizer, 16, 4, cache_dir=str(folder / "cache")
    )
    data.prepare_data()
    data.setup()
    return data


def test_every_command_restores_the_tokenizer_with_the_run(
    user_module: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure(
        "data=builtin_char",
        "data.tokenizer._target_=user_bytes.Bytes",
        "+data.tokenizer.shift=3",
        "model=ar",
    )
    results = train(cfg)
    del sys.modules["user_bytes"]  # as in a new process

    with pytest.raises(UserError, match="trust=user_bytes"):
        load_run(cfg.run_dir)
    assert "user_bytes" not in sys.modules  # nor was it imported
    run = load_run(cfg.run_dir, trust="user_bytes")
    assert run.tokenizer.kind == "user_bytes.Bytes" and run.tokenizer.settings() == {"shift": 3}
    assert run.tokenizer.encode("é").tolist() == [0xC3 + 3, 0xA9 + 3]
    place = f"run={cfg.run_dir}"
    evaluated = command("evaluate", place, "device=cpu", "trust=user_bytes")
    scores = evaluate(evaluated, CallWatch)["scores"]
    assert scores["val/ppl"]["total_nats"] == pytest.approx(
        results["final"]["val/ppl"]["total_nats"], rel=1e-6
    )
    capsys.readouterr()
    generate(
        command("generate", place, "prompt=Anna", "n_tokens=5", "device=cpu", "trust=[user_bytes]")
    )
    assert capsys.readouterr().out.startswith("Anna")
    rows = analyze(command("analyze", place, "max_tokens=100", "device=cpu", "trust=user_bytes"))
    assert rows["tokens"] == 100
    report(command("report", f"path={cfg.run_dir}", "trust=user_bytes"))
    assert (Path(cfg.run_dir) / "report.html").is_file()


def test_text_of_ones_own_takes_a_tokenizer_of_ones_own(
    user_module: Path, configure: Configure, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("naïve café\n" * 40, encoding="utf-8")
    cfg = configure("data=text", f"data.path={path}", "+data.tokenizer._target_=user_bytes.Bytes")
    data = instantiate(cfg.data, cache_dir=str(tmp_path / "cache"))
    data.prepare_data()
    ids = np.concatenate([split.tokens for split in data.splits.values()])
    assert bytes(ids.tolist()) == path.read_bytes()
    assert data.name == "text_bytes"


def test_a_changed_rule_is_other_data_and_a_comment_is_not(
    user_module: Path, tmp_path: Path
) -> None:
    def fingerprint(source: str) -> str:
        user_module.write_text(source)
        linecache.checkcache()  # inspect reads the source through it
        module = types.ModuleType("user_bytes")
        module.__file__ = str(user_module)
        sys.modules["user_bytes"] = module
        exec(compile(source, user_module, "exec"), module.__dict__)
        return data_module(tmp_path, module.Bytes()).fingerprint

    first = fingerprint(SOURCE)
    assert fingerprint(SOURCE.replace("vocab_size = 256", "vocab_size = 256  # bytes")) == first
    changed = fingerprint(SOURCE.replace("(ids + self.shift)", "(ids + 1 + self.shift)"))
    assert changed != first


def test_a_module_that_is_not_there_is_named(user_module: Path, tmp_path: Path) -> None:
    cls = importlib.import_module("user_bytes").Bytes
    state = json.loads(json.dumps(cls(2).state()))
    user_module.unlink()
    del sys.modules["user_bytes"]
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"user_bytes\.Bytes.* cannot be imported") as error:
        tokenizer_from_state(state)
    assert "PYTHONPATH" in error.value.hint


def test_other_arguments_than_the_stored_ones_are_named(user_module: Path) -> None:
    cls = importlib.import_module("user_bytes").Bytes
    with pytest.raises(UserError, match=r"stored settings.*'step'"):
        tokenizer_from_state({**cls().state(), "settings": {"step": 1}})
    with pytest.raises(UserError, match="is not a Tokenizer"):
        tokenizer_from_state({"kind": "pathlib.Path", "settings": {}, "fitted": {}})


class Small(Tokenizer):
    """Three ids, of which ``encode`` returns what a test asks for."""

    vocab_size = 3
    returned: object = ()

    def encode(self, text):
        return self.returned

    def decode(self, ids):
        return "".join("abc"[i] for i in ids)


class Forgetful(Small):
    def __init__(self, step: int) -> None:
        self._step = step


class Learned(Small):
    def fitted_state(self):
        return {"table": np.zeros(3)}


def test_defaults_are_enough() -> None:
    tokenizer = Small().fit(["text"], [])
    assert (tokenizer.start_id, tokenizer.unknown_id, tokenizer.lossless) == (0, None, False)
    assert tokenizer.token(2) == "c"
    assert type(tokenizer_from_state(tokenizer.state())) is Small
    assert Small.kind == f"{__name__}.Small" and CharacterTokenizer.kind == "characters"


@pytest.mark.parametrize("ids", [[0, 3], [-1], [0.5], [[0], [1]]])
def test_what_encode_returns_is_checked(ids, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Small, "returned", ids)
    with pytest.raises(UserError, match=r"Small did not return ids") as error:
        data_module(tmp_path, Small())
    assert "0 to 2" in error.value.hint


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (Forgetful(1), "no attribute for its argument 'step'"),
        (Learned(), "cannot be written as JSON"),
    ],
)
def test_state_that_cannot_be_kept_is_named_before_training(tokenizer, message, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        data_module(tmp_path, tokenizer)


def test_a_class_within_a_function_is_refused_before_training(tmp_path: Path) -> None:
    class Local(Small):
        pass

    with pytest.raises(UserError, match="cannot be imported") as error:
        data_module(tmp_path, Local())
    assert "top level" in error.value.hint
