"""Whatever stands on the command line: a valid run, or one screen and exit status 2, soon."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SHORT_PLAY, TINY
from omegaconf import OmegaConf
from warm import HUNG, Ended, WarmProcess

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import Call, composer, conf_dir

pytestmark = pytest.mark.faults
N_CASES = 300
LIMIT = 10.0
SMALL = ("budget={steps:2,tokens:null,epochs:null,seconds:null}", "audit=false")
COMMANDS: dict[str, list[str]] = {
    "train": [*TINY, *SHORT_PLAY, *SMALL, "model=trm"],
    "evaluate": ["run=run"],
    "generate": ["run=run", "n_tokens=3"],
    "analyze": ["run=run", "max_tokens=40"],
    "audit": ["run=run", "train_steps=1"],
    "report": ["path=run"],
}
WEIGHTS = {"train": 10, "evaluate": 2, "generate": 3, "analyze": 2, "audit": 2, "report": 1}
VALUES = (
    "null", "", "[]", "{}", "[1,2]", "{a:1}", "-1", "0", "1000000000000", "1e30", "nan", "inf",
    "true", "nonsense", "'ä\u202e'", "../../x", "/dev/null/x", "glob(*)", "${nothing}",
    "${oc.env:NOT_SET}", "1,2", "0.5", "\"a'b\"", "???", "{_target_:os.system}",
)  # fmt: skip
ADDED = (
    "+model.foo=1", "~model.width", "+data.cache_dir=/proc/x", "+trainer.fast_dev_run=true",
    "+trainer.limit_val_batches=0", "+trainer.accumulate_grad_batches=2",
    "+trainer.gradient_clip_val=1", "+trainer.barebones=true", "+trainer.num_nodes=2",
    "model.n_refinements=1000000000000", "data.batch_size=10000000", "model.width=1000000",
    "trainer.devices=-3", "trainer.devices=1000", "hydra.run.dir=/dev/null/x", "model=nothing",
    "experiment=nothing", "optimizer.betas=[2,3]", "+trainer.strategy=fsdp", "budget.seconds=-1",
)  # fmt: skip


def mutations(command: str, draw: random.Random) -> Iterator[str]:
    """Overrides of a command's own keys, without end, by a seeded draw."""
    resolvers.register()
    with composer(Call(command, conf_dir(), command, None, multirun=False)) as composed:
        cfg = composed([word for word in COMMANDS[command] if "=" in word])
    keys = list(flat(OmegaConf.to_container(cfg)))
    while True:
        key, value = draw.choice(keys), draw.choice(VALUES)
        yield draw.choice(
            (f"{key}={value}",) * 6 + (f"~{key}", f"+{key}.foo=1", f"++{key}={value}")
        )


def flat(node: Any, before: str = "") -> Iterator[str]:
    """Every key of a config, groups' too; of Hydra's own, the folder of the run."""
    for key, value in node.items():
        place = f"{before}{key}"
        if not place.startswith("hydra") and key != "_target_":
            yield place
            if isinstance(value, dict):
                yield from flat(value, f"{place}.")
    if not before:
        yield "hydra.run.dir"


def fault_of(ended: Ended) -> str:
    """What is wrong with how a call ended; empty if nothing."""
    if ended.returncode == HUNG or ended.seconds > LIMIT:
        return f"{ended.seconds:.0f} s"
    # What only training finds out, and what the audit does.
    screens = ("this cannot run", "checks FAILED")
    told = ended.returncode == 1 and any(screen in ended.output for screen in screens)
    if ended.returncode not in (0, 2) and not told:
        return f"status {ended.returncode}"
    return "a stack trace" if "Traceback" in ended.output else ""


def test_mutated_overrides(warm: WarmProcess, tmp_path: Path, tell: Any) -> None:
    made = warm.call("train", *COMMANDS["train"], "hydra.run.dir=run", folder=tmp_path)
    assert made.returncode == 0, made.output
    draw = random.Random(7)
    streams = {command: mutations(command, draw) for command in COMMANDS}
    cases = [("train", override) for override in ADDED]
    while len(cases) < N_CASES:
        command = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        cases.append((command, next(streams[command])))
    wrong = []
    for i, (command, override) in enumerate(cases):
        folder = tmp_path / str(i)
        folder.mkdir()
        shutil.copytree(tmp_path / "run", folder / "run")
        ended = warm.call(command, *COMMANDS[command], override, folder=folder, limit=LIMIT + 1)
        fault = fault_of(ended)
        if fault:
            wrong.append(f"{command} {override}: {fault}\n{ended.output[-600:]}")
        shutil.rmtree(folder)
    tell(
        "mutated overrides: a valid run or one screen, no trace, no hang",
        len(cases) - len(wrong),
        len(cases),
    )
    assert not wrong, "\n\n".join(wrong)
