"""Run folders from a stranger: nothing in them is executed, nothing is written elsewhere."""

import copy
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHORT_PLAY, TINY
from warm import WarmProcess

pytestmark = pytest.mark.faults
EVIL = """
from pathlib import Path
from trm_lightning.data import Tokenizer
Path("/CANARY").touch()
class Evil(Tokenizer):
    vocab_size = 9
    def encode(self, text): ...
    def decode(self, ids): ...
def build(**arguments): ...
"""
Config = dict[str, Any]


class Opened:
    """Pickles to a call that leaves the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))


def node(target: str, *arguments: Any, **named: Any) -> Config:
    return {"_target_": target, "_args_": list(arguments), **named}


def attacks(canary: Path) -> dict[str, Callable[[Config, Config], Any]]:
    """What is put into a checkpoint's config and into its description of the run, by name."""
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    shell = f"touch {canary}"
    pickled, script = canary.with_suffix(".pickle"), canary.with_suffix(".setup.py")
    calls = {
        "sympy.sympify": node("sympy.sympify", code),
        "builtins.eval": node("builtins.eval", code),
        "builtins.exec": node("builtins.exec", code),
        "os.system": node("os.system", shell),
        "subprocess.run": node("subprocess.run", ["touch", str(canary)]),
        "subprocess.Popen": node("subprocess.Popen", ["touch", str(canary)]),
        "pathlib.Path.touch": node("pathlib.Path.touch", node("pathlib.Path", str(canary))),
        "torch.load": node("torch.load", str(pickled), weights_only=False),
        "numpy.load": node("numpy.load", str(pickled), allow_pickle=True),
        "pickle.load": node("pickle.load", node("builtins.open", str(pickled), "rb")),
        "torch.hub.load": node("torch.hub.load", str(canary.parent), "evil", source="local"),
        "runpy.run_path": node("runpy.run_path", str(script)),
        "distutils": node("distutils.core.run_setup", str(script)),
        "import": node("importlib.import_module", "evil"),
        "load_from_checkpoint": node(
            "lightning.pytorch.LightningModule.load_from_checkpoint", str(pickled)
        ),
        "instantiate": node("hydra.utils.instantiate", node("os.system", shell)),
        "a function of the package": node(
            "trm_lightning.files.write_text", node("pathlib.Path", str(canary)), ""
        ),
        "a module behind the package": node("trm_lightning.runs.load.torch.load", str(pickled)),
        "os behind the package": node("trm_lightning.data.datamodule.os.system", shell),
        "a class of the package's dependencies": node(
            "trm_lightning.data.token_cache.np.memmap", str(canary), mode="w+", shape=[1]
        ),
        "a callback that writes": node(
            "trm_lightning.training.callbacks.Samples", path=str(canary)
        ),
    }  # fmt: skip
    found: dict[str, Callable[[Config, Config], Any]] = {}
    for i, (name, call) in enumerate(calls.items()):
        places: list[Callable[[Config, Config], Any]] = [
            lambda config, run, call=call: config["model"].update(width=call),
            lambda config, run, call=call: config.update(model=call),
            lambda config, run, call=call: config["data"].update(corpus=[{"deep": [call]}]),
            lambda config, run, call=call: config["trainer"].update(plugins=[call]),
            lambda config, run, call=call: config["callbacks"].update(x=call),
        ]
        found[f"{name}, {i % len(places)}"] = places[i % len(places)]
    found |= {
        "evil module as a model": lambda c, run: c["model"].update(_target_="evil.build"),
        "evil module as a tokenizer": lambda c, run: run["tokenizer"].update(kind="evil.Evil"),
        "evil module as the data's tokenizer": lambda c, run: c["data"].update(
            tokenizer={"_target_": "evil.Evil"}
        ),
        "partial": lambda c, run: c.update(optimizer={"_target_": "evil.build", "_partial_": True}),
        "an interpolation": lambda c, run: c["model"].update(width="${oc.env:HOME}"),
        "recursive": lambda c, run: c["model"].update(_recursive_=False),
        "a tensor in the config": lambda c, run: c["model"].update(width=torch.ones(2)),
        "depth": lambda c, run: c["model"].update(width=deep(60)),
        "a logger elsewhere": lambda c, run: c.update(
            logger={"x": {
                "_target_": "lightning.pytorch.loggers.TensorBoardLogger",
                "save_dir": str(canary),
            }}
        ),
        "a cache elsewhere": lambda c, run: c["data"].update(cache_dir=str(canary), name="x"),
        "a name that climbs": lambda c, run: c["data"].update(name=f"../../../../../..{canary}/x"),
    }  # fmt: skip
    return found


def deep(depth: int) -> Any:
    return [deep(depth - 1)] if depth else 1


@pytest.fixture(scope="module")
def good(warm: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as it should be."""
    folder = tmp_path_factory.mktemp("good")
    ended = warm.call("train", *TINY, *SHORT_PLAY, "model=ar", "hydra.run.dir=run", folder=folder)
    assert ended.returncode == 0, ended.output
    return folder / "run"


def copied(good: Path, folder: Path) -> Path:
    run = folder / "run"
    shutil.copytree(good, run)
    (run / "results.json").unlink()  # so that it can be resumed
    return run


def spoil(run: Path, change: Callable[[Config, Config], Any]) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        file = run / "checkpoints" / name
        content = copy.deepcopy(torch.load(file, weights_only=True))
        change(content["run"]["config"], content["run"])
        torch.save(content, file)
    (run / "checkpoints" / "previous.ckpt").unlink(missing_ok=True)


COMMANDS = {
    "evaluate": ["run=run"], "generate": ["run=run", "n_tokens=3"], "audit": ["run=run"],
    "analyze": ["run=run"], "train": ["resume=run", "budget.steps=10"],
}  # fmt: skip


def test_hostile_checkpoints(warm: WarmProcess, good: Path, tmp_path: Path, tell: Any) -> None:
    canary = tmp_path / "canary"
    canary.with_suffix(".pickle").write_bytes(pickle.dumps(Opened(canary)))
    canary.with_suffix(".setup.py").write_text(f"open({str(canary)!r}, 'w')")
    tried, wrong = 0, []
    for i, (name, change) in enumerate(attacks(canary).items()):
        folder = tmp_path / f"attack{i}"
        folder.mkdir()
        (folder / "evil.py").write_text(EVIL.replace("/CANARY", str(canary)))
        spoil(copied(good, folder), change)
        harmless = ("a logger elsewhere", "a cache elsewhere", "a name that climbs")
        for command in ("train", list(COMMANDS)[i % 4]):
            ended = warm.call(command, *COMMANDS[command], folder=folder)
            tried += 1
            expected = (0, 2) if name in harmless else (2,)
            if ended.returncode not in expected or "Traceback" in ended.output:
                wrong.append(f"{name}, {command}: {ended}")
            if canary.exists():
                wrong.append(f"{name}, {command}: EXECUTED OR WRITTEN\n{ended.output}")
                shutil.rmtree(canary) if canary.is_dir() else canary.unlink()
    tell("hostile checkpoints: refused, nothing run or written outside", tried - len(wrong), tried)
    assert not wrong, "\n".join(wrong)


def test_pickles_and_archives(warm: WarmProcess, good: Path, tmp_path: Path, tell: Any) -> None:
    canary = tmp_path / "canary"
    evil = pickle.dumps(Opened(canary))
    tried, wrong = 0, []
    for kind in ("pickle", "zip", "zip bomb", "text", "empty"):
        folder = tmp_path / kind.replace(" ", "_")
        folder.mkdir()
        run = copied(good, folder)
        (run / "checkpoints" / "previous.ckpt").unlink(missing_ok=True)
        for name in ("last.ckpt", "best.ckpt"):
            file = run / "checkpoints" / name
            file.write_bytes({"pickle": evil, "text": b"weights", "empty": b""}.get(kind, b""))
            if kind.startswith("zip"):
                with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr("archive/data.pkl", evil)
                    archive.writestr("archive/version", "3")
                    if kind == "zip bomb":
                        archive.writestr("archive/data/0", bytes(300_000_000))
        for command, words in COMMANDS.items():
            ended = warm.call(command, *words, folder=folder, limit=30)
            tried += 1
            if ended.returncode != 2 or "Traceback" in ended.output or canary.exists():
                wrong.append(f"{kind}, {command}: {ended}")
                canary.unlink(missing_ok=True)
    tell("hostile pickles and archives: refused", tried - len(wrong), tried)
    assert not wrong, "\n".join(wrong)


def test_hydras_own_settings_are_not_taken_from_a_folder(
    warm: WarmProcess, good: Path, tmp_path: Path, tell: Any
) -> None:
    canary = tmp_path / "canary"
    callback = f"+hydra.callbacks.x={{_target_:subprocess.Popen,_args_:[[touch,'{canary}']]}}"
    lines = {
        "a callback": callback,
        "a launcher": "hydra/launcher=evil",
        "a search path": f"hydra.searchpath=[file://{tmp_path}]",
        "a job that changes its folder": f"hydra.run.dir={canary}",
        "an interpolation": "seed=${oc.env:HOME}",
        "no override": "{{{",
    }
    tried, wrong = 0, []
    for i, (name, line) in enumerate(lines.items()):
        for file in ("overrides", "hydra", "config"):
            folder = tmp_path / f"attack{i}{file}"
            folder.mkdir()
            run = copied(good, folder)
            text = (
                f"- '{line}'\n" if file == "overrides" else f"hydra:\n  callbacks:\n    x: {line}\n"
            )
            (run / ".hydra" / f"{file}.yaml").write_text(text)
            ended = warm.call("train", "resume=run", "budget.steps=10", folder=folder)
            tried += 1
            if ended.returncode != 0 or "Traceback" in ended.output or canary.exists():
                wrong.append(f"{name} in {file}: {ended}")
    tell("hostile .hydra folders: not read, the run goes on", tried - len(wrong), tried)
    assert not wrong, "\n".join(wrong)
