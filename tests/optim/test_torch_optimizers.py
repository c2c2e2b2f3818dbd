"""Optimizers and schedules of torch's own, named by ``_target_``."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Configure
from omegaconf import DictConfig

from trm_lightning.cli.config_check import check_config
from trm_lightning.cli.schema import SCHEMAS
from trm_lightning.errors import UserError
from trm_lightning.runs.checkpoint_file import read_checkpoint
from trm_lightning.runs.history import read_lines
from trm_lightning.runs.stored_config import stored_config
from trm_lightning.training.fit import train

Named = tuple[str, dict[str, Any]]
SGD: Named = ("SGD", {"lr": 0.1, "momentum": 0.9})
OTHERS: list[Named] = [
    SGD, ("Adam", {"lr": 1e-3}), ("RMSprop", {"lr": 1e-3}), ("Adagrad", {"lr": 1e-2}),
]  # fmt: skip


def with_torch(
    cfg: DictConfig, optimizer: Named | None = None, schedule: Named | None = None
) -> DictConfig:
    """Replace optimizer and schedule by classes of torch's, with settings."""
    for key, given in (("optimizer", optimizer), ("schedule", schedule)):
        if given is not None:
            room = "torch.optim." + ("lr_scheduler." if key == "schedule" else "")
            cfg[key] = {"_target_": room + given[0], "_partial_": True, **given[1]}
    return cfg


@pytest.mark.parametrize("optimizer", OTHERS, ids=lambda given: given[0])
def test_an_optimizer_of_torch_trains_and_its_run_resumes(
    configure: Configure, tmp_path: Path, optimizer: Named
) -> None:
    cfg = with_torch(configure("model=ar"), optimizer)
    check_config(cfg, SCHEMAS["train"])
    train(cfg)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = read_checkpoint(last)
    assert stored_config(content["run"], last).optimizer._target_ == f"torch.optim.{optimizer[0]}"
    assert content["optimizer_states"][0]["state"]  # it has stepped, and remembers it
    again = with_torch(configure("model=ar", f"resume={last}", "budget.steps=10"), optimizer)
    assert train(again)["optimizer_steps"] == 10


SCHEDULES: list[tuple[Named, Callable[[int], float]]] = [
    (("CosineAnnealingLR", {}), lambda step: 0.05 * (1 + math.cos(math.pi * step / 8))),
    (("CosineAnnealingLR", {"T_max": 16}), lambda step: 0.05 * (1 + math.cos(math.pi * step / 16))),
    (("StepLR", {"step_size": 4, "gamma": 0.1}), lambda step: 0.1 * 0.1 ** (step // 4)),
    (("ExponentialLR", {"gamma": 0.5}), lambda step: 0.1 * 0.5**step),
]


@pytest.mark.parametrize(("schedule", "rate"), SCHEDULES)
def test_a_schedule_of_torch_is_as_long_as_the_run_unless_it_says_otherwise(
    configure: Configure, tmp_path: Path, schedule: Named, rate: Callable[[int], float]
) -> None:
    train(with_torch(configure("model=ar"), SGD, schedule))
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    found = {line["step"]: line["train/lr"] for line in lines if "train/lr" in line}
    assert found == {step: pytest.approx(rate(step), abs=1e-6) for step in range(1, 9)}


@pytest.mark.parametrize(
    ("optimizer", "schedule", "said"),
    [
        (("LBFGS", {}), None, "evaluates the loss several times"),
        (SGD, ("ReduceLROnPlateau", {}), "follows a validation score"),
    ],
)
def test_what_the_loop_cannot_do_is_refused(
    configure: Configure, optimizer: Named, schedule: Named | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(with_torch(configure("model=ar"), optimizer, schedule))


def test_a_schedule_in_steps_is_refused_where_the_clock_ends_the_run(configure: Configure) -> None:
    cfg = with_torch(configure("model=ar"), SGD, ("CosineAnnealingLR", {}))
    cfg.budget = {"steps": None, "tokens": None, "epochs": None, "seconds": 5}
    with pytest.raises(UserError, match=r"Give schedule\.T_max"):
        train(cfg)


@pytest.mark.parametrize(
    "name", ["torch.optim.swa_utils.AveragedModel", "torch.optim.os", "os.system"]
)
def test_a_stored_config_names_torchs_optimizers_and_nothing_else_of_it(name: str) -> None:
    run = {"config": {"optimizer": {"_target_": name}}, "tokenizer": {"kind": "words"}}
    with pytest.raises(UserError, match="not of trm_lightning"):
        stored_config(run, Path("x.ckpt"))
