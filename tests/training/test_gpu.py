"""Training, scoring and writing on a GPU; skipped where there is none.

The CPU is the reference: in float32 without TF32 the same batches give the same scores.
"""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Configure
from hydra import compose, initialize_config_dir
from test_training import SignalAt, lines_of

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import conf_dir
from trm_lightning.errors import UserError
from trm_lightning.evaluation.command import evaluate
from trm_lightning.leakage.command import audit_command
from trm_lightning.leakage.printed import CallWatch
from trm_lightning.models import AR
from trm_lightning.sampling.command import generate
from trm_lightning.training import fit as training
from trm_lightning.training.fit import train

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.*TensorFloat32 tensor cores.*"),
]

CHUNKS = "looped model.chunk_size=4"
MODELS = ["ar", "trm", "looped", CHUNKS]
EXACT = ("float32_matmul=highest", "model.dropout=0")


def composed(command: str, *overrides: str) -> Any:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose(command, list(overrides))


def chosen(model: str) -> list[str]:
    """Return the overrides of a model and the settings behind its name."""
    return f"model={model}".split()


def nats(results: dict[str, Any], name: str = "final") -> dict[str, float]:
    """Return nats per token by score."""
    return {key: s["total_nats"] / s["tokens"] for key, s in results[name].items()}


def losses(run: Path) -> list[float]:
    """Return the train loss of every step."""
    lines = lines_of(run)
    return [line["train/nats_per_token"] for line in lines if "train/nats_per_token" in line]


@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_trains_as_the_cpu_does(configure: Configure, model: str) -> None:
    on_cpu, on_gpu = (
        train(configure(*chosen(model), f"trainer={trainer}", *EXACT, folder=trainer))
        for trainer in ("cpu", "gpu")
    )
    assert on_gpu["environment"]["gpu"]
    assert nats(on_gpu) == pytest.approx(nats(on_cpu), rel=2e-3)
    assert nats(on_gpu, "test") == pytest.approx(nats(on_cpu, "test"), rel=2e-3)
    assert on_gpu["is_likelihood"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_the_bits_train_nearly_alike(configure: Configure, model: str, precision: str) -> None:
    exact, rounded = (
        train(configure(*chosen(model), "trainer=gpu", f"precision={p}", *EXACT, folder=p))
        for p in ("32-true", precision)
    )
    assert nats(rounded) == pytest.approx(nats(exact), rel=2e-2)
    assert nats(rounded) != nats(exact)  # the setting reached the products
    assert rounded["is_likelihood"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    ("model", "n_replays"),
    [
        ("ar", 5),
        ("trm", 5),
        ("trm model.chunk_size=1 ema_decay=0.9", 5),
        ("trm model.n_recursions=1 model.backprop_depth=1", 5),
        ("trm optimizer=adamw", 5),
        (CHUNKS, 5),
        ("trm model.n_supervision=2", 0),
        ("trm model.exit_threshold=0.1", 0),
    ],
)
def test_a_step_replayed_as_a_graph_is_the_same_step(
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    n_replays: int,
    precision: str,
) -> None:
    """Eight steps, three of which warm up: dropout, schedule, averages, as without a graph."""
    replays, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph))
    )
    settings = ("trainer=gpu", f"precision={precision}", "float32_matmul=highest")
    settings += (*chosen(model), "model.dropout=0.3")
    without = configure(*settings, "cuda_graph=false", folder="plain")
    within = configure(*settings, "cuda_graph=true", folder="graphed")
    plain = train(without)
    assert not replays
    graphed = train(within)
    assert len(replays) == n_replays and graphed["optimizer_steps"] == 8
    tolerance = 1e-4 if precision == "32-true" else 1e-3
    assert nats(graphed) == pytest.approx(nats(plain), rel=tolerance)
    assert losses(Path(within.run_dir)) == pytest.approx(
        losses(Path(without.run_dir)), rel=tolerance
    )


def test_a_step_that_cannot_be_recorded_is_told_of(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = AR.forward

    def waiting(net: AR, tokens: torch.Tensor, first: int = 0) -> torch.Tensor:
        float(tokens.sum())
        return forward(net, tokens, first)

    monkeypatch.setattr(AR, "forward", waiting)
    with pytest.raises(UserError, match="cannot be recorded") as error:
        train(configure("model=ar", "trainer=gpu"))
    assert "cuda_graph=false" in str(error.value)


@pytest.mark.parametrize("model", ["ar", "trm"])
def test_a_compiled_net_trains_as_it_does_uncompiled(configure: Configure, model: str) -> None:
    plain, compiled = (
        train(configure(*chosen(model), "trainer=gpu", f"compile={on}", *EXACT, folder=on))
        for on in ("false", "true")
    )
    assert nats(compiled) == pytest.approx(nats(plain), rel=2e-3)


def test_a_stopped_run_goes_on_with_the_same_random_numbers(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums on a GPU differ in their last bits from run to run, other dropout masks by far more."""
    settings = ("model=trm", "trainer=gpu", "float32_matmul=highest", "model.dropout=0.3")
    straight, stopped = (configure(*settings, folder=name) for name in ("straight", "stopped"))
    train(straight)
    build = training.build_trainer
    with monkeypatch.context() as patch:
        patch.setattr(
            training,
            "build_trainer",
            lambda cfg, module, callbacks: build(
                cfg, module, [*callbacks, SignalAt(4, signal.SIGINT)]
            ),
        )
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    stopped.resume = str(Path(stopped.run_dir) / "checkpoints" / "last.ckpt")
    train(stopped)
    assert len(losses(Path(straight.run_dir))) == 8
    assert losses(Path(stopped.run_dir)) == pytest.approx(losses(Path(straight.run_dir)), rel=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_scores_and_text_of_a_run_do_not_depend_on_the_device(
    configure: Configure, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure(*chosen(model), "trainer=gpu", *EXACT)
    train(cfg)
    scores, written = [], []
    for device in ("cpu", "cuda"):
        run = [f"run={cfg.run_dir}", f"device={device}"]
        scores.append(evaluate(composed("evaluate", *run), CallWatch)["scores"])
        capsys.readouterr()
        generate(composed("generate", *run, "prompt=''", "n_tokens=20", "sampling.temperature=0"))
        written.append(capsys.readouterr().out)
    assert scores[0].keys() == scores[1].keys()
    for name, score in scores[0].items():
        assert score["total_nats"] == pytest.approx(scores[1][name]["total_nats"], rel=1e-5)
    assert written[0].splitlines()[0] == written[1].splitlines()[0]


@pytest.mark.parametrize(("model", "leaks"), [("ar", 0), ("trm", 0), ("leaky_chunk_mask", 1)])
def test_the_audit_says_on_a_gpu_what_it_says_on_the_cpu(model: str, leaks: int) -> None:
    data = [override for override in TINY if "data." in override]
    net = ["model.width=16", "model.n_heads=2", "train_steps=0", "device=cuda"]
    audited = audit_command(composed("audit", f"model={model}", *data, *net))
    assert bool(audited.n_failed) == bool(leaks)
