"""Weights from another run, blocks that are not trained, gradients of supervision steps summed."""

from pathlib import Path

import pytest
import torch
from conftest import Configure

from trm_lightning.errors import UserError
from trm_lightning.runs.checkpoint_file import read_checkpoint
from trm_lightning.training.fit import train
from trm_lightning.training.module import TrainingModule

Weights = dict[str, torch.Tensor]
UNTIED = ("model=ar", "model.tied_head=false", "model.dropout=0")


def weights(folder: Path) -> Weights:
    state: Weights = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items()}


def test_a_deeper_model_starts_from_a_run_and_keeps_its_frozen_blocks(
    configure: Configure, tmp_path: Path
) -> None:
    train(configure(*UNTIED, "model.n_layers=1", folder="first"))
    first = tmp_path / "first"
    cfg = configure(
        *UNTIED, "model.n_layers=3", "model.frozen_layers=1", f"init_from={first}", folder="second"
    )
    results = train(cfg)
    before, after = weights(first), weights(tmp_path / "second")
    best = read_checkpoint(first / "checkpoints" / "best.ckpt")["state_dict"]
    for name in before:
        frozen = name.startswith(("token_embedding", "blocks.0."))
        assert torch.equal(after[name], best[f"model.{name}"]) == frozen, name
    everything = sum(p.numel() for p in after.values())
    kept = sum(p.numel() for n, p in after.items() if n.startswith(("token_emb", "blocks.0.")))
    assert results["parameters"] == everything - kept


def test_nothing_that_fits_is_refused(configure: Configure, tmp_path: Path) -> None:
    train(configure(*UNTIED, folder="first"))
    other = configure("model=source_trm", "model.width=8", f"init_from={tmp_path / 'first'}")
    with pytest.raises(UserError, match="no weight of"):
        train(other)
    with pytest.raises(UserError, match="nowhere"):
        train(configure("init_from=nowhere"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.frozen_layers=3", "model.tied_head=false"], "must be 0 to n_layers=2"),
        (["model.frozen_layers=1"], "needs tied_head=false"),
    ],
)
def test_what_cannot_be_frozen_is_refused(
    configure: Configure, words: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(configure("model=ar", *words))


def mean_gradient(module: TrainingModule, named: Weights) -> Weights:
    """Return the mean over three supervision steps on the first batch, without the loop."""
    tokens, state = next(iter(module.trainer.datamodule.train_batches(1))), None  # type: ignore[attr-defined]
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    for _ in range(3):
        out = module.model.supervision_step(tokens, 0, state)
        for name, gradient in zip(
            named, torch.autograd.grad(out.loss, list(named.values())), strict=True
        ):
            total[name] += gradient / 3
        state = out.state
    return total


def test_summed_supervision_is_one_step_of_the_mean_gradient(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the gradients of the supervision steps, each taken by itself at the same weights."""
    seen: list[Weights] = []
    step = TrainingModule._optimizer_step

    def watched(self: TrainingModule) -> None:
        if not seen:
            named = {n: p for n, p in self.model.named_parameters() if p.grad is not None}
            seen.append({n: p.grad.clone() for n, p in named.items() if p.grad is not None})
            seen.append(mean_gradient(self, named))
        step(self)

    monkeypatch.setattr(TrainingModule, "_optimizer_step", watched)
    cfg = configure(
        "model=trm", "model.n_supervision=3", "model.dropout=0", "accumulate_supervision=true",
        "grad_clip=null",
    )  # fmt: skip
    results = train(cfg)
    assert results["optimizer_steps"] == 8 and results["tokens_seen"] == 8 * 8 * 16
    summed, expected = seen
    for name, gradient in summed.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


TWICE = ["model.n_supervision=2"]
SUMMED = [*TWICE, "accumulate_supervision=true"]


@pytest.mark.parametrize(
    "words",
    [pytest.param([], marks=pytest.mark.slow), TWICE, pytest.param(SUMMED, marks=pytest.mark.slow)],
)
def test_a_batch_in_parts_trains_as_the_whole_batch(
    configure: Configure, tmp_path: Path, words: list[str]
) -> None:
    """Also in parts of unequal size, 8 windows in 3. Dropout would draw other masks."""
    same = ("model=trm", "model.dropout=0", "optimizer=adamw", *words)
    whole = train(configure(*same, folder="whole"))
    parts = train(configure(*same, "gradient_accumulation=3", folder="parts"))
    for key in ("optimizer_steps", "tokens_seen"):
        assert whole[key] == parts[key]
    nats = [run["final"]["val/ppl"]["nats_per_token"] for run in (whole, parts)]
    assert nats[0] == pytest.approx(nats[1], abs=1e-5)


def test_the_users_own_model_checkpoint_saves(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("model=ar")
    cfg.callbacks = {
        "own": {
            "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
            "dirpath": str(tmp_path / "own"), "monitor": "val/ppl", "filename": "mine",
        }
    }  # fmt: skip
    train(cfg)
    assert read_checkpoint(tmp_path / "own" / "mine.ckpt")["run"]["config"]["seed"] == cfg.seed
    ours = {path.name for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt")}
    assert ours >= {"best.ckpt", "last.ckpt"}
