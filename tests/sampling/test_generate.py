"""The generate command on a run folder made here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Configure
from omegaconf import OmegaConf
from warm import WarmProcess

from trm_lightning.cli.screen import cause_of
from trm_lightning.data import (
    BPETokenizer,
    CharacterTokenizer,
    Tokenizer,
    WhitespaceTokenizer,
    WordTokenizer,
)
from trm_lightning.errors import UserError
from trm_lightning.models import AR, TRM, Looped, SourceTRM
from trm_lightning.runs.checkpoint_file import FORMAT
from trm_lightning.sampling.command import count_layers, generate, text_pieces
from trm_lightning.training.fit import train

TEXT = "To be, or not to be: that is the question.\nNot to be; to be! The naïve café — 雪 ☃.\n" * 3
NET: dict[str, Any] = {"window_size": 12, "width": 16, "n_layers": 1, "n_heads": 2}
RECURSION = {"chunk_size": 2, "n_refinements": 2, "n_recursions": 1}
SETTINGS: dict[str, Any] = {
    "exit_threshold": None,
    "trust": [],
    "n_drafts": 0,
    "prompt": "to be", "n_tokens": 30, "n_samples": 1, "seed": 1, "device": "cpu",
    "sampling": {"_target_": "trm_lightning.sampling.methods.Sampler", "temperature": 0.8},
}  # fmt: skip


def make_run(folder: Path, kind: Any = AR, **recursion: Any) -> Path:
    """Write an untrained run's last checkpoint, as training leaves it."""
    tokenizer = WordTokenizer(min_count=1).fit([TEXT], [])
    torch.manual_seed(0)
    net = kind(vocab_size=tokenizer.vocab_size, start_token=tokenizer.start_id, **NET, **recursion)
    target = f"trm_lightning.models.{kind.__name__}"
    (folder / "checkpoints").mkdir(parents=True)
    checkpoint = {
        "format": FORMAT,
        "state_dict": {f"model.{name}": value for name, value in net.state_dict().items()},
        "ema": None,
        "counters": {"optimizer_steps": 0},
        "run": {
            "config": {"model": {"_target_": target, **NET, **recursion}},
            "tokenizer": tokenizer.state(),
        },
    }
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
    return folder


def run_generate(run: Path, **changes: Any) -> None:
    generate(OmegaConf.merge(SETTINGS, {"run": str(run)} | changes))


TOKENIZERS: list[Tokenizer] = [
    CharacterTokenizer().fit([TEXT], []),
    CharacterTokenizer(min_count=4).fit([TEXT], []),  # has an unknown character
    WordTokenizer(min_count=1).fit([TEXT], []),
    WhitespaceTokenizer().fit([TEXT], []),
    BPETokenizer(vocab_size=270).fit([TEXT], []),  # most of é, 雪 and ☃ in bytes
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("n_prompt", [0, 1, 25])
def test_pieces_put_together_are_the_decoded_text(tokenizer: Tokenizer, n_prompt: int) -> None:
    ids = tokenizer.encode(TEXT).tolist()
    prompt, rest = ids[:n_prompt], ids[n_prompt:]
    pieces = list(text_pieces(tokenizer, prompt, rest))
    assert tokenizer.decode(prompt) + "".join(pieces) == tokenizer.decode(ids)
    assert len(pieces) > len(rest) / 2  # streamed, not held back to the end


def test_no_part_of_a_character_is_shown() -> None:
    tokenizer = TOKENIZERS[-1]
    ids = tokenizer.encode(TEXT).tolist()
    assert "\ufffd" in "".join(tokenizer.token(i) for i in ids)  # what this test is about
    assert "\ufffd" not in "".join(text_pieces(tokenizer, [], ids))


def test_text_that_ends_within_a_character_is_shown_all_the_same() -> None:
    tokenizer = TOKENIZERS[-1]
    ids = tokenizer.encode("be 雪").tolist()[:-1]
    assert "".join(text_pieces(tokenizer, [], ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("recursive", [False, True])
def test_the_same_seed_writes_the_same_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recursive: bool
) -> None:
    run = make_run(
        tmp_path / "run", *([TRM] if recursive else []), **(RECURSION if recursive else {})
    )
    texts = []
    for seed in (1, 1, 2):
        run_generate(run, seed=seed)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("to be")
    assert len(texts[0].split()) > 15


def test_samples_differ_and_the_last_line_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_generate(make_run(tmp_path / "run"), n_samples=2, n_tokens=15)
    shown = capsys.readouterr()
    _, first, second = shown.out.split("---\n")
    assert first.splitlines()[0] != second.splitlines()[0]
    assert "30 tokens in" in shown.err and "1.00 passes" in shown.err


def test_the_last_line_says_what_looking_ahead_brings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ahead = RECURSION | {"factorization": "parallel"}
    run_generate(make_run(tmp_path / "ahead", TRM, **ahead), n_tokens=12)
    # Two tokens at once, of 2 refinements of 1 + 1 passes.
    said = capsys.readouterr().err
    assert "2.00 passes" in said and "2.00 tokens per prediction" in said
    # Without a latent a refinement is one pass; with early exit the second of two does not run.
    del ahead["n_recursions"]
    single = make_run(tmp_path / "single", Looped, **ahead)
    for threshold, passes in ((1e-9, "1.00"), (1e6, "0.50")):
        run_generate(single, n_tokens=12, exit_threshold=threshold)
        assert f", {passes} passes" in capsys.readouterr().err


@pytest.mark.parametrize("n_layers", [1, 2])
def test_passes_are_those_of_the_encoder_and_of_the_refinements(n_layers: int) -> None:
    shape = NET | {"n_layers": n_layers, "vocab_size": 5, "start_token": 0}
    model = SourceTRM(**shape, **RECURSION, start="query").eval()
    with torch.no_grad(), count_layers(model) as calls:
        model.log_probs(torch.zeros(1, 2, dtype=torch.long))
    # Encode once; then 2 refinements of 1 + 1 passes.
    assert len(calls) == n_layers * (1 + 2 * 2)
    model.log_probs(torch.zeros(1, 2, dtype=torch.long))
    assert len(calls) == n_layers * 5  # nothing counts on afterwards


def test_words_outside_the_vocabulary_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    run_generate(run, prompt="to zyx be qwv", n_tokens=1)
    assert "2 of the prompt's 4 tokens are not in the vocabulary" in capsys.readouterr().err
    run_generate(run, prompt="to be", n_tokens=1)
    assert "vocabulary" not in capsys.readouterr().err


def test_a_model_given_the_answer_writes_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_generate(make_run(tmp_path / "warm", SourceTRM, **RECURSION, start="target"))
    assert "with the answer in view" in capsys.readouterr().err
    run_generate(make_run(tmp_path / "blind", SourceTRM, **RECURSION, start="query"))
    assert "answer" not in capsys.readouterr().err


def test_an_empty_prompt_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_generate(make_run(tmp_path / "run", TRM, **RECURSION), prompt="")
    assert len(capsys.readouterr().out.split()) > 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"sampling": {"top_k": -3}}, "top_k"),
        ({"device": "gpu9"}, "gpu9"),
        ({"device": "cuda:63"}, "cuda:63"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(Exception) as error:
        run_generate(make_run(tmp_path / "run"), **changes)
    mistake = cause_of(error.value)  # Hydra wraps what a constructor raises
    assert mistake is not None and named in mistake.what


def test_a_missing_run_is_named() -> None:
    with pytest.raises(UserError, match="no/such/run does not exist"):
        run_generate(Path("no/such/run"))


def test_the_command_writes_to_the_screen_only(tmp_path: Path, warm: WarmProcess) -> None:
    make_run(tmp_path / "run", TRM, **RECURSION)
    before = sorted(tmp_path.rglob("*"))
    overrides = ["run=run", 'prompt="To be, or"', "n_tokens=20", "device=cpu"]
    done = warm.call("generate", *overrides, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("to be, or")
    assert "20 tokens in" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_drafts_come_from_the_training_text_and_change_no_greedy_text(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure("model=ar")
    train(cfg)
    told = []
    for n_drafts in (0, 3):
        capsys.readouterr()
        run_generate(Path(cfg.run_dir), n_drafts=n_drafts, sampling={"temperature": 0}, prompt="")
        told.append(capsys.readouterr())
    assert told[0].out == told[1].out and "30 tokens in" in told[1].err
    assert "tokens per prediction" in told[1].err and "per prediction" not in told[0].err
    with pytest.raises(UserError, match="n_drafts must be at least 1"):
        run_generate(Path(cfg.run_dir), n_drafts=-1)
