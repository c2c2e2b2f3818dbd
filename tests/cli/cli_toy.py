"""A small command with configs of its own, for the tests of the command line."""

import contextlib
import importlib.util
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from warm import Ended, WarmProcess

from trm_lightning.cli.schema import SCHEMAS

REPOSITORY = Path(__file__).resolve().parents[2]
Run = Callable[..., Ended]

TOY = '''
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trm_lightning.cli import command
from trm_lightning.cli.schema import SCHEMAS, Budget
from trm_lightning.errors import UserError


class Model:
    runtime_arguments = frozenset({"vocabulary"})

    def __init__(
        self, vocabulary: int, width: int, dropout: float = 0.0,
        norm: Literal["pre", "post"] = "pre", sizes: "list[int] | None" = None,
    ) -> None:
        if width == 666:
            raise UserError("width=666 is cursed", "Choose another.")


@dataclass
class Toy:
    model: object
    trainer: object
    experiment_name: str
    seed: int
    context: int
    resume: str | None
    budget: Budget
    act: str
    trust: list[str] | str
    run_dir: str


SCHEMAS["toy"] = Toy


@command("toy")
def main(cfg):
    """Do what `act` says,
    in two lines.

    Examples:
      trm-toy model=large
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from trm_lightning.runs.checkpoint_file import FORMAT, write_checkpoint

    folder = Path(HydraConfig.get().runtime.output_dir)
    print(f"seed={cfg.seed} context={cfg.context} width={cfg.model.width} resume={cfg.resume}")
    print(f"PL_GLOBAL_SEED={os.environ.get('PL_GLOBAL_SEED')}")
    os.environ["PL_GLOBAL_SEED"] = "17"
    instantiate(cfg.model, vocabulary=9)
    if cfg.act in ("checkpoint", "checkpoint_and_mistake"):
        (folder / "checkpoints").mkdir(exist_ok=True)
        config = OmegaConf.to_container(cfg, resolve=True)
        run = {"config": {**config, "run_dir": str(folder)}, "tokenizer": {"kind": "words"}}
        content = {"format": FORMAT, "run": run, "counters": {}, "ema": None}
        write_checkpoint(content, folder / "checkpoints" / "last.ckpt")
    if cfg.act == "finish":
        (folder / "results.json").write_text("{}")
    if cfg.act == "crash":
        raise RuntimeError("bad luck")
    if cfg.act == "checkpoint_and_mistake":
        raise UserError("too late", "")
    if cfg.act == "interrupt":
        raise KeyboardInterrupt
    if cfg.act == "interrupt_in_lightning":
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)
    return float(cfg.seed)


if __name__ == "__main__":
    main()
'''

CONFIGS = {
    "toy.yaml": """
defaults: [_self_, {model: small}, {hydra: default}, {experiment: null}]
experiment_name: ${hydra:runtime.choices.model}_toy
seed: 0
context: ${sub:${model.width},1}
resume: null
budget: {steps: 10, epochs: 0.5}
act: nothing
trust: []
run_dir: ${hydra:runtime.output_dir}
trainer: {devices: 1}
""",
    "model/small.yaml": "{_target_: toy.Model, width: 4}",
    "model/large.yaml": "{_target_: toy.Model, width: 64, norm: post}",
    "model/open.yaml": "_target_: toy.Model\nwidth: ???",
    "experiment/typo.yaml": "# @package _global_\nmodel: {widht: 3}\nsede: 1",
    "experiment/broken.yaml": "# @package _global_\nseed: [1, 2",
    "experiment/lost.yaml": "# @package _global_\nseed: ${sead}",
    "experiment/target.yaml": "# @package _global_\nmodel: {_target_: toy.Modle}",
}


def write_project(folder: Path) -> Path:
    """Write the command and its configs; the folder is then a working directory for `run`."""
    for name, text in CONFIGS.items():
        path = folder / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copytree(REPOSITORY / "conf" / "hydra", folder / "conf" / "hydra")
    (folder / "toy.py").write_text(TOY)
    return folder


def run_toy(warm: WarmProcess, folder: Path, *args: str, **env: str) -> Ended:
    """Run the command in a process of its own, as a user would; tests have this as `run`."""
    return warm.run_module("toy", "--config-path", "conf", *args, folder=folder, env=env)


def call(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """As `run`, but in this process, which saves Python's start: for calls that run nothing."""
    command = [str(folder / "toy.py"), "--config-path", "conf", *args]
    out, err, status = io.StringIO(), io.StringIO(), 0
    spec = importlib.util.spec_from_file_location("toy", folder / "toy.py")
    assert spec and spec.loader
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        patch.chdir(folder)
        toy = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "toy", toy)
        patch.setitem(SCHEMAS, "toy", None)  # the module puts its own; taken away afterwards
        spec.loader.exec_module(toy)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                toy.main()
            except SystemExit as stop:
                status = int(stop.code or 0)
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def runs(folder: Path) -> list[Path]:
    """The run folders that there are."""
    return sorted(path.parent for path in (folder / "outputs").glob("**/.hydra"))
