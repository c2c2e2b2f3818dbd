"""Findings come with a short text and a script that shows them again."""

import re
from pathlib import Path

import pytest
import torch
from conftest import TINY, Configure
from offenders import OFFENDERS, L, V
from test_audit_command import audit_config
from test_text_audit import MODULE, TEXT
from torch import Tensor
from warm import WarmProcess

from trm_lightning import audit
from trm_lightning.data import EvalWindows
from trm_lightning.leakage.audit import audit as audit_model
from trm_lightning.leakage.command import audit_command
from trm_lightning.leakage.example import Example, script
from trm_lightning.leakage.held_out import HeldOut
from trm_lightning.leakage.outcome import Audit
from trm_lightning.training.fit import train

DATA = [override for override in TINY if "data." in override]
NET = ["model.width=16", "model.n_heads=2", "train_steps=0", "device=cpu"]


def shown_again(output: str) -> str:
    """Run the script that a command has printed, and return what it prints."""
    script = re.search(r"^import torch\n.*?\nprint\(.*?$", output, re.M | re.S)
    assert script is not None, output
    assert len(script[0].splitlines()) <= 12
    printed: list[str] = []
    exec(script[0], {"print": lambda *values: printed.append(" ".join(map(str, values)))})
    return printed[0]


def number(text: str) -> float:
    found = re.search(r"[-\d.]+(e-?\d+)?", text)
    assert found is not None, text
    return float(found[0])


FUNCTIONS = (
    MODULE
    + """
TABLE = torch.randn(19, 19, generator=torch.Generator().manual_seed(0)).log_softmax(-1)

def sees_five_ahead(ids):
    ahead = torch.cat((ids[5:], ids[:5]))
    scores = TABLE[torch.cat((ids[:1] * 0, ids[:-1]))]
    scores[:40] += 0.0
    return (scores + 0.5 * torch.nn.functional.one_hot(ahead, 19)).log_softmax(-1)

def sums_to_more(ids):
    return TABLE[torch.cat((ids[:1] * 0, ids[:-1]))] + 0.01

def nats_of_less(ids):
    return -sums_to_more(ids).gather(1, ids[:, None])[:, 0]

def drops(ids):
    return torch.full((int((ids != 3).sum()),), 2.95)
"""
)


@pytest.mark.parametrize(
    ("function", "check", "honest"),
    [
        ("knows", "printed_scores", 0.0),
        ("sees_five_ahead", "printed_scores", 0.0),
        ("sums_to_more", "normalised", 1.0),
        ("nats_of_less", "normalised", 1.0),
    ],
)
def test_the_script_of_a_function_shows_the_finding(
    function: str,
    check: str,
    honest: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = f"functions_{function}"
    (tmp_path / f"{module}.py").write_text(FUNCTIONS)
    (tmp_path / "ids.json").write_text(str(TEXT.tolist()))
    monkeypatch.chdir(tmp_path)
    cfg = audit_config(f"scorer={module}:{function}", "ids=ids.json", "vocab_size=19")
    assert audit_command(cfg).n_failed > 0
    output = capsys.readouterr().out
    assert f"{check} in a text as short as was found:" in output
    assert abs(number(shown_again(output)) - honest) > 1e-3


def test_a_text_without_a_score_for_each_token_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "functions_drops.py").write_text(FUNCTIONS)
    (tmp_path / "ids.json").write_text(str(TEXT.tolist()))
    monkeypatch.chdir(tmp_path)
    cfg = audit_config("scorer=functions_drops:drops", "ids=ids.json", "vocab_size=19")
    assert audit_command(cfg).n_failed == 1
    n_dropped = int((TEXT == 3).sum())
    assert shown_again(capsys.readouterr().out) == f"64 torch.Size([{64 - n_dropped}])"


@pytest.mark.parametrize("kind", ["again", "prefix"])
def test_scripts_of_functions_with_a_memory(kind: str) -> None:
    preamble = (
        "import torch\nseen = []\n"
        "def score(ids):\n    seen.extend(ids.tolist())\n"
        "    return torch.arange(len(ids)) * 1.0 + len(ids) + len(seen)"
    )
    example = Example(kind, (1, 2, 3), 1, distributions=False)
    found = number(shown_again(script(example, preamble)).removeprefix("tensor("))
    assert found == {"again": 6.0, "prefix": 1.0}[kind]


def test_the_text_is_as_short_as_the_leak_allows() -> None:
    def five_ahead(ids: Tensor) -> Tensor:
        ahead = torch.cat((ids[5:], torch.zeros(5, dtype=torch.long)))[: len(ids)]
        return torch.log_softmax(torch.nn.functional.one_hot(ahead, 19).float(), dim=-1)

    (check,) = [c for c in audit(five_ahead, vocab_size=19, text=TEXT).checks if c.example][:1]
    assert check.example is not None
    assert len(check.example.ids) == 6 and check.example.changed == [5]
    assert check.example.position == 0


def test_examples_survive_json() -> None:
    found = audit(lambda ids: torch.eye(19)[ids].log_softmax(-1), vocab_size=19, text=TEXT)
    again = Audit.from_dict(found.as_dict())
    assert again == found and any(check.example for check in again.checks)


@pytest.mark.parametrize(
    "name", ["positions beyond 20", "where scoring begins", "in large batches"]
)
def test_models_that_leak_in_some_calls_only_have_an_example(name: str) -> None:
    build, _ = OFFENDERS[name]
    text = torch.randint(1, V, (400,), generator=torch.Generator().manual_seed(0)).numpy()
    held_out = HeldOut(text, EvalWindows(text, L, L // 2, batch_size=16))
    found = audit_model(build(), held_out=held_out)
    example = found.checks[0].example
    assert found.checks[0].name == "printed_scores" and example is not None
    model = build()

    def score(ids: tuple[int, ...]) -> Tensor:
        batch = torch.tensor(ids).repeat(example.n_rows, 1)
        return next(iter(model.scorers().values()))(batch, example.first)[0].detach()

    place = example.position - example.first
    assert example.position <= example.changed[0]
    assert float((score(example.ids) - score(example.other))[place].abs().max()) > 0
    assert example.first == 0 or name == "where scoring begins"
    assert (example.n_rows > 1) == (name == "in large batches")


def test_the_script_of_an_untrained_model_runs_as_pasted(tmp_path: Path, warm: WarmProcess) -> None:
    done = warm.call("audit", "model=leaky_chunk_mask", *DATA, *NET, folder=tmp_path, limit=240)
    assert done.returncode == 1, done.stderr
    assert number(shown_again(done.stdout).removeprefix("tensor(")) > 0


def test_the_script_of_a_run_names_the_run(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure("model=leaky_chunk_mask")
    train(cfg)
    capsys.readouterr()
    assert audit_command(audit_config(f"run={cfg.run_dir}", "train_steps=0", "device=cpu")).n_failed
    output = capsys.readouterr().out
    assert f"load_run('{cfg.run_dir}', 'cpu')" in output
    assert number(shown_again(output).removeprefix("tensor(")) > 0
