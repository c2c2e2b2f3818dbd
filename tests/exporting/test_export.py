"""An exported folder: it scores as its run does, loads without Lightning, and says what it is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from conftest import SHORT_PLAY, TINY
from hydra import compose, initialize_config_dir

from trm_lightning import Run, load_run, train
from trm_lightning.cli.compose import conf_dir
from trm_lightning.errors import UserError
from trm_lightning.evaluation.command import evaluate
from trm_lightning.exporting.command import export
from trm_lightning.files import write_json
from trm_lightning.leakage.printed import CallWatch
from trm_lightning.runs.checkpoint_file import read_checkpoint
from trm_lightning.runs.history import drop_lines_after

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = "the king speaks"
# What torch and safetensors need, by file names in site-packages: nothing of Lightning or Hydra.
BARE = (
    "torch", "torchgen", "functorch", "safetensors", "typing_extensions.py", "sympy", "mpmath",
    "networkx", "filelock", "fsspec", "jinja2", "markupsafe",
)  # fmt: skip


def composed(name: str, *overrides: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose(name, list(overrides))


def exported(run: Path, *overrides: str) -> Path:
    return export(composed("export", f"run={run}", *overrides))


def trained(folder: Path, *overrides: str) -> Run:
    settings = [*TINY, *SHORT_PLAY, "data=builtin_char", f"hydra.run.dir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        return train([*settings, *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ("model=trm", "model.chunk_size=4", "ema_decay=0.9")
    return trained(tmp_path_factory.mktemp("runs") / "run", *words)


@pytest.fixture(scope="module")
def folder(run: Run) -> Path:
    return exported(run.folder, f"to={run.folder.parent / 'model'}", "license=mit")


def test_an_export_opens_and_predicts_as_its_run(run: Run, folder: Path) -> None:
    again = load_run(folder, device="cpu")
    ids = run.tokenizer.encode(TEXT)
    assert torch.equal(again.log_probs(ids), run.log_probs(ids))
    assert again.generate(TEXT, n_tokens=20) == run.generate(TEXT, n_tokens=20)


def test_scores_are_those_of_the_weights(run: Run, folder: Path) -> None:
    """Scored again, the export has the numbers of its config; the raw weights have others."""
    content = json.loads((folder / "config.json").read_text())
    for split in ("val", "test"):
        found = evaluate(
            composed("evaluate", f"run={folder}", f"split={split}", "device=cpu"), CallWatch
        )
        recorded = content["scores"][f"{split}/ppl"]
        assert found["scores"][f"{split}/ppl"]["perplexity"] == pytest.approx(
            recorded["perplexity"], rel=1e-6
        )
        assert recorded["tokens"] == found["scores"][f"{split}/ppl"]["tokens"]
        assert f"| {split}" in (folder / "README.md").read_text()
    state = read_checkpoint(run.checkpoint)["state_dict"]
    averaged = run.model.state_dict()
    assert any(not torch.equal(state[f"model.{key}"], averaged[key]) for key in averaged)


def test_scores_of_other_weights_are_left_out(run: Run) -> None:
    lines = (run.folder / "metrics.jsonl").read_bytes()
    drop_lines_after(run.folder / "metrics.jsonl", 4)  # of an earlier validation than the weights'
    try:
        folder = exported(run.folder, f"to={run.folder.parent / 'other'}")
    finally:
        (run.folder / "metrics.jsonl").write_bytes(lines)
    assert json.loads((folder / "config.json").read_text())["scores"].keys() == {"test/ppl"}


def test_the_cards_lines_load_it_with_torch_and_safetensors_alone(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    packages = Path(torch.__file__).parents[1]
    for name in (*BARE, "nvidia", "triton"):
        if (packages / name).exists():
            (tmp_path / name).symlink_to(packages / name)
    (tmp_path / "trm_lightning").symlink_to(REPOSITORY / "trm_lightning")
    ids = run.tokenizer.encode(TEXT)
    lines = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(lines.splitlines()) == 5
    code = (
        f"{lines}\nimport importlib.util, torch\n"
        "for name in ('lightning', 'hydra', 'omegaconf', 'numpy'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        f"scores = model.log_probs(torch.tensor([{ids.tolist()}]))\n"
        f"torch.save(scores.detach(), {str(tmp_path / 'scores.pt')!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = run.model.log_probs(torch.from_numpy(ids)[None])
    assert torch.equal(torch.load(tmp_path / "scores.pt"), expected)


def test_the_tokenizer_is_for_hugging_faces_library(run: Run, folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode(TEXT).ids == run.tokenizer.encode(TEXT).tolist()


SMALL = ("budget.steps=4", "test=false", "data.corpus.val_words=100", "data.window_size=8")


def test_the_notes_number_is_called_no_likelihood(tmp_path: Path) -> None:
    words = ("model=source_trm", "model.n_refinements=1", "model.n_recursions=1", *SMALL)
    folder = exported(trained(tmp_path / "run", *words).folder)
    card = (folder / "README.md").read_text()
    assert "> **NOT A LIKELIHOOD: this model is given the tokens that it is scored on." in card
    scores = json.loads((folder / "config.json").read_text())["scores"]
    found = {name: score["is_likelihood"] for name, score in scores.items()}
    assert found == {"val/warm_start_ppl": False, "val/ppl_without_answer": True}


def test_a_model_of_ones_own_that_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its class is built where it is trusted only; the card says that the audit failed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "cheats.py").write_text(
        "from trm_lightning.models import AR\n\n\nclass Cheat(AR):\n"
        "    def shift_right(self, tokens):\n        return tokens\n"
    )
    run = trained(tmp_path / "run", "model=ar", "model._target_=cheats.Cheat", *SMALL)
    folder = exported(run.folder, "trust=cheats")
    card = (folder / "README.md").read_text()
    assert "> **NOT A LIKELIHOOD: the leak audit failed." in card and "from cheats import" in card
    assert "| val   | not_a_perplexity |" in card and "| val   | ppl" not in card
    with pytest.raises(UserError, match="which is not of trm_lightning"):
        load_run(folder)
    assert load_run(folder, trust="cheats").model.leaks


def test_a_damaged_or_foreign_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    def changed(name: str, content: bytes) -> Path:
        copy = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        (copy / name).write_bytes(content)
        return copy

    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    with pytest.raises(UserError, match="damaged or exchanged"):
        load_run(changed("model.safetensors", bytes(weights)))
    config = (folder / "config.json").read_bytes()
    with pytest.raises(UserError, match="checksum is wrong"):
        load_run(changed("config.json", config.replace(b'"width": 16', b'"width": 32')))
    content = json.loads(config)
    content["model"]["class"] = "subprocess.run"
    copy = changed("config.json", b"")
    write_json(copy / "config.json", content)
    with pytest.raises(UserError, match=r"model is subprocess\.run, which is not of trm_lightning"):
        load_run(copy)


@pytest.mark.parametrize("address", ["hf://model", "hf://../etc", "hf://a/b/c", "hf://a/b?c"])
def test_what_is_no_name_of_the_hub_is_refused_before_anything_is_asked(address: str) -> None:
    with pytest.raises(UserError, match="is no address of the hub"):
        load_run(address)


def test_only_an_export_is_written_over(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="holds something else"):
        exported(run.folder, f"to={tmp_path}")
    assert (tmp_path / "thesis.txt").is_file()
    before = (folder / "model.safetensors").read_bytes()
    (folder / "left_over.txt").touch()
    assert exported(run.folder, f"to={folder}", "license=mit") == folder
    assert (folder / "model.safetensors").read_bytes() == before
    assert not (folder / "left_over.txt").exists()
    assert not list(folder.parent.glob(".*.tmp"))
