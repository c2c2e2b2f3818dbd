"""The training loop through `train(cfg)`: supervision steps, budgets, resume, bad numbers."""

import copy
import json
import os
import signal
import struct
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import Configure
from hydra.utils import instantiate
from omegaconf import DictConfig

from trm_lightning.errors import TrainingError, UserError
from trm_lightning.models import TRM
from trm_lightning.runs.checkpoint_file import read_checkpoint
from trm_lightning.runs.load import load_run
from trm_lightning.training import TrainingModule
from trm_lightning.training import fit as training
from trm_lightning.training.build import build_module, total_steps
from trm_lightning.training.callbacks import Checkpoints
from trm_lightning.training.fit import train

SHARDED = "lightning.pytorch.strategies.ModelParallelStrategy"
PARALLEL = ("model=trm", "model.factorization=parallel", "model.dropout=0")


def made(cfg: DictConfig) -> tuple[Any, Any]:
    """Return data and module as `train` builds them."""
    L.seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    return data, build_module(cfg, data)


@pytest.mark.parametrize("backprop_depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_supervision_loop_equals_a_plain_torch_loop(
    configure: Configure, backprop_depth: int
) -> None:
    """Four supervision steps on each of two batches, written out without Lightning."""
    cfg = configure(
        *PARALLEL,
        "model.n_supervision=4",
        "schedule.warmup_steps=3",
        "schedule=constant",
        "optimizer=adamw",
        f"model.backprop_depth={backprop_depth}",
    )
    data, module = made(cfg)
    net = copy.deepcopy(module.model)
    parameters = [p for p in net.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.99),
    )
    step, with_gradient = 0, set()
    for tokens in data.train_batches(2):
        state = None
        for _ in range(4):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, step / 3)
            refined = net(tokens, 0, state)
            loss = torch.nn.functional.cross_entropy(
                net.logits(refined.answer).reshape(-1, data.vocab_size), tokens.reshape(-1)
            )
            optimizer.zero_grad()
            loss.backward()
            with_gradient |= {k for k, p in net.named_parameters() if p.grad is not None}
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            state = refined.state

    train(cfg)
    trained = read_checkpoint(Path(cfg.run_dir) / "checkpoints" / "last.ckpt")["state_dict"]
    for name, parameter in net.named_parameters():
        a, b = trained[f"model.{name}"], parameter.data
        if name.endswith("qkv.bias"):
            # A key's bias shifts all scores of a query alike: its gradient is rounding noise,
            # which Adam scales up to full steps.
            a, b = (torch.cat((x[:16], x[32:])) for x in (a, b))
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)
    moved = {
        name
        for name, p in module.model.named_parameters()
        if not torch.equal(p, trained[f"model.{name}"])
    }
    assert moved == with_gradient


@pytest.mark.parametrize("model", ["trm", "looped"])
def test_the_loss_is_what_the_config_says(configure: Configure, model: str) -> None:
    """The loss again, from the scores at each depth and of the other factorization."""
    cfg = configure(
        f"model={model}", "model.n_refinements=3", "model.backprop_depth=2", "model.dropout=0",
        "model.chunk_size=4", "model.intermediate_loss_weight=0.25",
        "model.lookahead_loss_weight=0.5",
    )  # fmt: skip
    data, module = made(cfg)
    tokens, net = next(iter(data.train_batches(1))), module.model

    def nats(depth: int) -> torch.Tensor:
        return -net.log_probs_at(tokens, [depth])[0].gather(2, tokens[:, :, None])[:, :, 0]

    expected = nats(3).mean() + 0.25 * nats(2).mean()
    net.factorization = "parallel"
    ahead = torch.arange(16) % 4 > 0
    expected = expected + 0.5 * nats(3)[:, ahead].mean()
    net.factorization = "left_to_right"
    step = net.train().supervision_step(tokens)
    torch.testing.assert_close(step.loss, expected)
    torch.testing.assert_close(step.nll, nats(3).mean())


def test_max_steps_counts_optimizer_steps_exactly(configure: Configure) -> None:
    cfg = configure("model=trm", "model.n_supervision=4", "budget.steps=10")
    results = train(cfg)
    checkpoint = read_checkpoint(Path(cfg.run_dir) / "checkpoints" / "last.ckpt")
    assert results["optimizer_steps"] == 10
    assert checkpoint["counters"] == {
        "optimizer_steps": 10,
        "batches_seen": 3,
        "tokens_seen": 3 * 8 * 16,
    }
    moments = checkpoint["optimizer_states"][0]["state"]
    assert max(int(state["step"]) for state in moments.values()) == 10


class SignalAt(L.Callback):
    """Sends the process a signal when training reaches an optimizer step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Send it once."""
        if pl_module.optimizer_steps == self.step:
            os.kill(os.getpid(), self.number)


def lines_of(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "train/tokens_per_second", "checksum")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Compare nested containers bit for bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{i}")
    else:
        assert a == b, path


RESUMABLE = {
    "ar": ("model=ar", "ema_decay=0.9"),
    "trm": ("model=trm", "ema_decay=0.9", "model.n_supervision=2"),
}


@pytest.mark.parametrize("model", RESUMABLE)
@pytest.mark.parametrize("how", [pytest.param("signal", marks=pytest.mark.slow), "kill"])
def test_resume_continues_bit_for_bit(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, model: str, how: str
) -> None:
    """Dropout, revealed prefixes, schedule, averages, data order: as if never stopped.

    Twelve steps are less than an epoch, so the run is resumed from its middle. The signal comes
    as step 7 or 8 ends, and the validation due after step 8 is still made; the kill loses the
    steps since step 4.
    """
    settings = (*RESUMABLE[model], "budget.steps=12", "model.dropout=0.3")
    straight = configure(*settings, folder="straight")
    train(straight)

    # The stop is looked for before this test's callback runs: one batch later.
    signal_at = 6 if how == "kill" or model == "trm" else 7
    stopped = configure(*settings, folder="stopped")
    run = Path(stopped.run_dir)
    number = signal.SIGINT if how == "signal" else signal.SIGVTALRM
    if how == "kill":
        # Dies without a chance to save, as a killed process does.
        def die(*_: Any) -> None:
            raise SystemExit

        previous = signal.signal(signal.SIGVTALRM, die)
        monkeypatch.setattr(Checkpoints, "on_exception", lambda *_: None, raising=False)
        stopped.checkpoint_every = 4
    build = training.build_trainer
    monkeypatch.setattr(
        training,
        "build_trainer",
        lambda cfg, module, callbacks: build(
            cfg, module, [*callbacks, SignalAt(signal_at, number)]
        ),
    )
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(stopped)
    monkeypatch.setattr(training, "build_trainer", build)
    if how == "kill":
        signal.signal(signal.SIGVTALRM, previous)
    last = run / "checkpoints" / "last.ckpt"
    steps = read_checkpoint(last)["counters"]["optimizer_steps"]
    assert steps == (8 if how == "signal" else 4)
    assert not (run / "results.json").exists()

    stopped.resume = str(last)
    results = train(stopped)
    assert results["optimizer_steps"] == 12
    a, b = (
        read_checkpoint(Path(cfg.run_dir) / "checkpoints" / "last.ckpt")
        for cfg in (straight, stopped)
    )
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "ema", "counters", "rng"):
        assert_same(a[part], b[part], part)
    assert lines_of(Path(straight.run_dir)) == lines_of(run)


def test_resume_refuses_another_vocabulary(configure: Configure) -> None:
    cfg = configure("model=ar", "budget.steps=2")
    train(cfg)
    other = configure("model=ar", "data=builtin_char", folder="b")
    other.resume = str(Path(cfg.run_dir) / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="vocabulary"):
        train(other)


def test_a_loss_that_is_not_finite_stops_the_run(configure: Configure) -> None:
    """The step is named, and the checkpoint from before can still be used."""
    cfg = configure(
        "model=ar",
        "model.norm=pre",
        "grad_clip=null",
        "optimizer.lr=1e18",
        "schedule=constant",
        "schedule.warmup_steps=0",
        "budget.steps=30",
        "checkpoint_every=1",
    )
    with pytest.raises(UserError, match=r"optimizer step \d+") as caught:
        train(cfg)
    step = int(str(caught.value).split("optimizer step ")[1].split(".")[0])
    kept = read_checkpoint(Path(cfg.run_dir) / "checkpoints" / "last.ckpt")
    assert 1 <= kept["counters"]["optimizer_steps"] == step - 1
    assert not (Path(cfg.run_dir) / "results.json").exists()


def test_a_full_disk_keeps_the_checkpoint_from_before(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save
    calls = 0

    def failing(content: Any, file: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", failing)
    cfg = configure("model=ar")
    with pytest.raises(UserError, match="No space left"):
        train(cfg)
    folder = Path(cfg.run_dir) / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert read_checkpoint(folder / "last.ckpt")["counters"]["optimizer_steps"] == 2


def test_budget_takes_the_shortest_limit(configure: Configure) -> None:
    cfg = configure("model=ar")
    data, _ = made(cfg)
    budget = cfg.budget

    def steps(n_supervision: int = 1, **limits: float | None) -> int:
        budget.update(dict.fromkeys(budget, None) | limits)
        return total_steps(budget, data, n_supervision)

    assert steps(tokens=8 * 16 * 5) == 5
    assert steps(tokens=8 * 16 * 5 + 1) == 6
    assert steps(tokens=8 * 16 * 5, n_supervision=3) == 15
    assert steps(steps=7, tokens=8 * 16 * 5) == 5
    n_windows = (data.splits["train"].n_tokens - 15) // 16
    assert steps(epochs=2) == -(-2 * n_windows // 8)
    for limits in ({}, {"steps": 0}, {"epochs": -1.0}):
        with pytest.raises(UserError, match="budget"):
            steps(**limits)


@pytest.mark.parametrize(
    "precision", ["bf16-mixed", pytest.param("bf16-true", marks=pytest.mark.slow)]
)
def test_bf16_sees_each_steps_new_weights(configure: Configure, precision: str) -> None:
    """All supervision steps run in one autocast context, whose cache must not serve old weights.

    Every trained parameter gets a gradient, although refinements without gradient ran before.
    """
    seen: list[float] = []

    class Watching(TRM):
        def supervision_step(self, tokens: torch.Tensor, first: int = 0, state: Any = None) -> Any:
            weight = self.token_embedding.weight
            with torch.no_grad():
                probe = torch.ones(1, self.width, dtype=weight.dtype)
                seen.append(float(self.logits(probe).float().abs().sum()))
            return super().supervision_step(tokens, first, state)

    cfg = configure(
        *PARALLEL,
        f"precision={precision}",
        "model.n_supervision=4",
        "optimizer.lr=0.1",
        "model.backprop_depth=1",
        "schedule=constant",
        "schedule.warmup_steps=0",
    )
    before = dict(made(cfg)[1].model.named_parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trm_lightning.models.TRM", Watching)
        train(cfg)
    steps = seen[-8:]  # before them, the operations of one batch were counted
    assert len(set(steps)) == len(steps) == 8
    after = read_checkpoint(Path(cfg.run_dir) / "checkpoints" / "last.ckpt")["state_dict"]
    for name, parameter in before.items():
        if parameter.requires_grad:
            assert not torch.equal(after[f"model.{name}"].float(), parameter.data), name


def test_averaged_weights_are_what_is_validated_and_loaded(configure: Configure) -> None:
    cfg = configure("model=ar", "ema_decay=0.5", "budget.steps=3", "eval_every=3")
    results = train(cfg)
    run = load_run(cfg.run_dir)
    checkpoint = read_checkpoint(run.checkpoint)
    raw, average = checkpoint["state_dict"], checkpoint["ema"]["average"]
    assert checkpoint["ema"]["n_updates"] == 3
    for name, parameter in run.model.named_parameters():
        assert torch.equal(parameter, average[name])
        assert not torch.equal(parameter, raw[f"model.{name}"])
    data, _ = made(cfg)
    tokens = torch.as_tensor(data.splits["val"].tokens.astype("int64"))
    nats = 0.0
    with torch.no_grad():
        for t in range(0, len(tokens), 8):  # half a window at a time
            start = max(0, t - 8)
            piece = tokens[start : t + 8]
            scores = run.model.log_probs(piece[None])[0].double()
            for position in range(t - start, len(piece)):
                nats -= float(scores[position, piece[position]])
    assert results["final"]["val/ppl"]["total_nats"] == pytest.approx(nats, rel=1e-6)


def test_results_tell_of_the_last_step_where_an_earlier_one_was_best(configure: Configure) -> None:
    """The test split is scored with the best weights; the run's course is not theirs."""
    cfg = configure(
        # A rate that rises until the weights explode: the first ones are far better than the last.
        "model=ar", "optimizer.lr=30", "schedule=constant", "schedule.warmup_steps=12",
        "budget.steps=12", "eval_every=1",
    )  # fmt: skip
    results = train(cfg)
    best = results["best"]["val/ppl"]
    assert best["step"] < 12 == results["optimizer_steps"]
    assert best["perplexity"] < results["final"]["val/ppl"]["perplexity"]
    run = load_run(cfg.run_dir)
    assert run.optimizer_steps == best["step"]


def test_seconds_end_a_run_and_its_schedule(configure: Configure) -> None:
    cfg = configure(
        "model=ar", "schedule.warmup_steps=1",
        "budget={steps:null,tokens:null,epochs:null,seconds:0.5}",
    )  # fmt: skip
    results = train(cfg)
    lines = lines_of(Path(cfg.run_dir))
    assert 0.5 <= results["seconds"] < 20
    rates = [line["train/lr"] for line in lines if "train/lr" in line]
    assert len(rates) > 1 and rates[-1] < max(rates)
    assert lines[-1]["step"] == results["optimizer_steps"] and "val/ppl" in lines[-1]


def test_optimizer_settings_of_a_resumed_run_take_effect(configure: Configure) -> None:
    cfg = configure("model=ar", "schedule=constant", "optimizer=adamw", "optimizer.lr=0.008")
    train(cfg)
    cfg.resume = str(Path(cfg.run_dir) / "checkpoints" / "last.ckpt")
    cfg.budget.steps = 16
    cfg.optimizer.lr, cfg.optimizer.weight_decay = 0.001, 0.5
    (Path(cfg.run_dir) / "results.json").unlink()
    results = train(cfg)
    assert results["config"]["optimizer"]["lr"] == 0.001
    rates = {
        line["step"]: line["train/lr"] for line in lines_of(Path(cfg.run_dir)) if "train/lr" in line
    }
    assert (rates[8], rates[9], rates[16]) == pytest.approx((0.008, 0.001, 0.001))
    state = read_checkpoint(Path(cfg.resume))["optimizer_states"][0]["param_groups"]
    assert {group["lr"] for group in state} == {0.001} and state[0]["weight_decay"] == 0.5


def test_another_optimizer_cannot_go_on(configure: Configure) -> None:
    cfg = configure("model=ar", "optimizer=adamw")
    train(cfg)
    other = configure("model=ar", "optimizer=muon")
    other.resume = str(Path(cfg.run_dir) / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"optimizer .*adamw there, .*muon here"):
        train(other)


def test_weights_that_are_not_finite_are_not_saved(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is computed before the update that spoils the weights."""
    step = TrainingModule._optimizer_step

    def spoiling(self: TrainingModule) -> None:
        step(self)
        if self.optimizer_steps == 6:  # a save is due
            with torch.no_grad():
                next(self.model.parameters()).view(-1)[0] = float("nan")

    monkeypatch.setattr(TrainingModule, "_optimizer_step", spoiling)
    cfg = configure("model=ar", "log_every=50")
    with pytest.raises(TrainingError, match="weights became NaN or infinite by step 6"):
        train(cfg)
    last = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["counters"]["optimizer_steps"] == 4
    monkeypatch.undo()
    cfg.resume, cfg.optimizer.lr = str(last), 1e-4
    assert train(cfg)["optimizer_steps"] == 8


@pytest.mark.parametrize(
    ("removed", "said"),
    [("optimizer.lr", "The optimizer could"), ("schedule.final_ratio", "The schedule could")],
)
def test_a_setting_that_is_missing_is_named(configure: Configure, removed: str, said: str) -> None:
    with pytest.raises(UserError, match=f"{said} not be set up: .*'{removed.split('.')[1]}'"):
        train(configure("model=ar", f"~{removed}"))


def flip_byte_of_a_record(file: Path, place: float) -> None:
    """Flip the first byte of a record; between records lies padding, which nobody reads."""
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        records = [record for record in archive.infolist() if record.file_size]
    start = records[int(place * len(records))].header_offset
    name_and_extra = struct.unpack("<HH", content[start + 26 : start + 30])
    content[start + 30 + sum(name_and_extra)] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    configure: Configure, place: float, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = configure("model=ar")
    train(cfg)
    last = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
    flip_byte_of_a_record(last, place)
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(last)
    (Path(cfg.run_dir) / "results.json").unlink()
    cfg.resume = str(last)
    assert train(cfg)["optimizer_steps"] == 8
    assert "Another checkpoint of the run is used" in caplog.text
    assert read_checkpoint(last)["counters"]["optimizer_steps"] == 8


def test_split_weights_are_refused(configure: Configure) -> None:
    with pytest.raises(UserError, match="splits the weights over devices"):
        train(configure("model=ar", f"+trainer.strategy._target_={SHARDED}"))
