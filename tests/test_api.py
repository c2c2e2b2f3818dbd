"""The Python interface: `from trm_lightning import load_run, train`."""

import importlib
import math
from pathlib import Path

import pytest
import torch
from conftest import SHORT_PLAY, TINY

import trm_lightning
from trm_lightning import Run, load_run, train
from trm_lightning.errors import UserError

SETTINGS = [*TINY, *SHORT_PLAY, "data=builtin_char"]
TEXT = "the king"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return train([*SETTINGS, "model=trm", "model.chunk_size=4", f"hydra.run.dir={folder}/run"])


def test_a_text_is_scored_token_by_token(run: Run) -> None:
    """Also beyond the window, where each half of it has the half before as context."""
    ids = run.tokenizer.encode(TEXT * 5)
    scores = run.log_probs(ids)
    assert scores.shape == (len(ids), run.model.vocab_size) and len(ids) > run.model.window_size
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(len(ids)))
    with torch.no_grad():
        first = run.model.log_probs(torch.from_numpy(ids[:16].astype("int64"))[None])[0]
    torch.testing.assert_close(scores[:16], first)
    nats = -scores[range(len(ids)), torch.from_numpy(ids.astype("int64"))].double().mean()
    assert run.perplexity(TEXT * 5) == pytest.approx(math.exp(float(nats)), rel=1e-6)


def test_text_continues_the_prompt_and_a_seed_repeats_it(run: Run) -> None:
    text = run.generate(TEXT, n_tokens=30)
    assert text.startswith(TEXT) and len(text) == len(TEXT) + 30
    assert run.generate(TEXT, n_tokens=30) == text != run.generate(TEXT, n_tokens=30, seed=1)


def test_a_run_is_opened_from_its_folder(run: Run) -> None:
    again = load_run(run.folder, device="cpu")
    assert again.perplexity(TEXT) == run.perplexity(TEXT)
    assert (run.folder / "results.json").is_file()
    assert (run.folder / ".hydra" / "overrides.yaml").is_file()


def test_two_runs_of_one_process_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [*SETTINGS, "model=ar", "budget.steps=1", "audit=false", "test=false"]
    assert train(settings).folder.resolve() != train(settings).folder.resolve()


def test_mistakes_are_exceptions(run: Run) -> None:
    with pytest.raises(UserError, match="did you mean `ar`"):
        train(["model=arr"])
    with pytest.raises(UserError, match="does not exist"):
        load_run("no/such/run")
    with pytest.raises(UserError, match="top_p"):
        run.generate(top_p=2)
    with pytest.raises(UserError, match="token ids"):
        run.perplexity("")
    with pytest.raises(UserError, match="must lie in"):
        run.log_probs([run.model.vocab_size])


def test_a_model_that_sees_the_answer_has_no_perplexity(run: Run) -> None:
    run.model.leaks = True
    try:
        with pytest.raises(UserError, match="no perplexity"):
            run.perplexity(TEXT)
    finally:
        run.model.leaks = False


def test_the_command_and_the_function_share_a_name(run: Run) -> None:
    module = importlib.import_module("trm_lightning.train")
    assert callable(module) and callable(module.main)
    with pytest.raises(UserError):
        trm_lightning.train(["model=arr"])
