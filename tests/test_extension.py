"""A model of the user's own that has nothing but ``log_probs`` works with every command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SHORT_PLAY
from warm import Ended, WarmProcess

MODULE = """
import torch
from torch import Tensor, nn
from trm_lightning.models import LanguageModel


class Lstm(LanguageModel):
    def __init__(self, vocab_size: int, start_token: int, window_size: int, width: int) -> None:
        super().__init__(vocab_size, start_token, window_size)
        self.embedding = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        start = torch.full_like(tokens[:, :1], self.start_token)
        before = torch.cat((start, tokens[:, :-1]), dim=1)
        states, _ = self.lstm(self.embedding(before))
        return torch.log_softmax(self.head(states[:, first:]).float(), dim=-1)
"""
MODEL = """
_target_: my_models.Lstm
window_size: ${data.window_size}
width: 16
"""
SMALL = [
    "data=builtin_char", "data.window_size=32", "data.batch_size=8", "trainer=cpu", "threads=1",
    "budget={steps:8,tokens:null,epochs:null,seconds:null}", "eval_every=4", *SHORT_PLAY,
]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "my_models.py").write_text(MODULE)
    (folder / "my_conf" / "model").mkdir(parents=True)
    (folder / "my_conf" / "model" / "lstm.yaml").write_text(MODEL)
    return folder


Call = Callable[..., Ended]


@pytest.fixture
def call(warm: WarmProcess, project: Path) -> Call:
    """Run a command in the user's project."""

    def called(command: str, *words: str) -> Ended:
        done = warm.call(command, "--config-dir", "my_conf", *words, folder=project, limit=200)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return called


def test_every_command_takes_it(call: Call, project: Path) -> None:
    trained = call("train", "model=lstm", "hydra.run.dir=run", *SMALL)
    assert trained.returncode == 0, trained.stderr
    assert "Lstm, " in trained.stdout and "leak audit: " in trained.stdout
    results = json.loads((project / "run" / "results.json").read_text())
    assert results["is_likelihood"] and results["audit"]["passed"]
    assert "…" in (project / "run" / "samples.txt").read_text()

    scored = call("evaluate", "run=run", "stride=8")
    assert scored.returncode == 0 and "val perplexity" in scored.stdout
    written = call("generate", "run=run", "prompt=the", "n_tokens=40")
    assert written.returncode == 0 and written.stdout.startswith("the"), written.stderr
    assert len(written.stdout.rstrip("\n")) == 43 and "40 tokens in" in written.stderr
    analyzed = call("analyze", "run=run", "max_tokens=300")
    assert analyzed.returncode == 0, analyzed.stderr
    reported = call("report", "path=run")
    assert reported.returncode == 0 and (project / "run" / "report.html").is_file()
    audited = call("audit", "run=run", "train_steps=5")
    assert audited.returncode == 0 and "All checks passed." in audited.stdout, audited.stdout
    assert "trust=[my_models]" in trained.stdout  # in the printed commands


@pytest.mark.slow
def test_it_is_compared_with_others(call: Call, project: Path) -> None:
    compared = call(
        "compare", "models=[lstm,ar]", "name=both", "seeds=1", "budget.tokens=1024",
        *[word for word in SMALL if not word.startswith("budget")],
    )  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    content = json.loads((project / "outputs/comparisons/both/comparison.json").read_text())
    assert [entry["name"] for entry in content["entries"]] == ["lstm", "ar"]
    assert all(entry["figures"]["final"]["mean"] > 1 for entry in content["entries"])
    assert call("report", "path=outputs/comparisons/both").returncode == 0
