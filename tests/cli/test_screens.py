"""What the commands print, and that what they print to be run runs as pasted."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from warm import WarmProcess

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import Call, check_call, conf_dir
from trm_lightning.cli.help import show_help
from trm_lightning.cli.schema import SCHEMAS
from trm_lightning.training.screens import closing_screen

SMALL = (
    "debug=fast", "trainer=cpu", "threads=1", "progress=false", "model.width=16",
    "data.corpus.train_words=3000", "+data.corpus.val_words=600",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def screen(project: Path, warm: WarmProcess) -> str:
    done = warm.call("train", "model=ar", *SMALL, "resume=auto", folder=project)
    assert done.returncode == 0, done.stderr
    return done.output


def test_a_run_opens_with_five_facts(screen: str, project: Path) -> None:
    opening = [line.split(maxsplit=1) for line in screen.splitlines()[:5]]
    assert [name for name, _ in opening] == ["model", "data", "device", "budget", "folder"]
    assert opening[0][1].startswith("AR, ") and opening[3][1].startswith("4 optimizer steps")
    assert (project / opening[4][1]).is_dir()
    assert "resume=auto: there is no unfinished run" in screen


def test_validations_are_lines_on_the_screen_and_in_the_log(screen: str, project: Path) -> None:
    (line,) = [line for line in screen.splitlines() if line.startswith("step 4 of 4: val/ppl ")]
    (log,) = project.glob("outputs/*/*/train.log")
    assert line in log.read_text()


def test_the_closing_screen_names_only_what_is_there(screen: str, project: Path) -> None:
    (files,) = re.findall(r"Everything is in (\S+)\n +(.+)\n", screen)
    folder, names = project / files[0], files[1].split(", ")
    assert {"results.json", "checkpoints"} <= set(names)
    assert all((folder / name).exists() for name in names)
    assert "tensorboard" not in screen  # debug=fast has no logger


def test_printed_commands_run_as_pasted(screen: str, project: Path, warm: WarmProcess) -> None:
    commands = screen.split("Next:\n")[1].splitlines()
    (report,) = [line for line in commands if "trm_lightning.report" in line]
    assert subprocess.run(report, shell=True, cwd=project, check=False).returncode == 0
    assert len(list(project.glob("outputs/*/*/report.html"))) == 1
    (other,) = [line for line in commands if "model=trm" in line]
    _, flag, module, *words = as_pasted(other, project)
    assert flag == "-m"
    shown = warm.run_module(module, *words, "--cfg", "job", folder=project)
    assert "trm_lightning.models.TRM" in shown.stdout, shown.stderr


def as_pasted(command: str, folder: Path) -> list[str]:
    """The words that a shell makes of a command."""
    printed = subprocess.run(
        f"printf '%s\\n' {command}", shell=True, cwd=folder, capture_output=True, text=True
    )
    return printed.stdout.splitlines()


def suggested(folder: Path, *arguments: str, called: tuple[str, ...] = ()) -> list[str]:
    """The words of the command that a run's closing screen proposes to train another model."""
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose("train", [*arguments, "run_dir=run", "experiment_name=test"])
    results: dict[str, Any] = {
        "status": "completed", "data": "text", "parameters": 1, "optimizer_steps": 1,
        "tokens_seen": 1, "seconds": 1.0, "final": {}, "test": {}, "entropy_floor_perplexity": None,
        "environment": {"command": ["train.py", *(called or arguments)]},
        "config": OmegaConf.to_container(config, resolve=True),
    }  # fmt: skip
    command = closing_screen(results, folder).split("Next:\n")[1].partition("   #")[0]
    assert "trm_lightning.train" in command
    return shlex.split(command.partition("trm_lightning.train")[2])


EXPERIMENTS = [
    str(file.relative_to(conf_dir() / "experiment").with_suffix(""))
    for file in sorted((conf_dir() / "experiment").rglob("*.yaml"))
]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_after_every_experiment_the_suggested_run_can_start(
    tmp_path: Path, experiment: str
) -> None:
    words = suggested(tmp_path, f"experiment={experiment}")
    assert words[0] == f"experiment={experiment}"
    check_call(Call("train", conf_dir(), "train", None, multirun=False), words)


def test_the_suggested_run_shares_what_the_other_model_has(tmp_path: Path) -> None:
    own = ("model=trm", "model.width=64", "model.n_recursions=2", "seed=3", "budget.steps=9")
    assert suggested(tmp_path, *own) == ["seed=3", "budget.steps=9", "model=ar", "model.width=64"]
    flags = ("--config-dir", str(tmp_path))
    assert suggested(tmp_path, "seed=3", called=(*flags, "seed=3"))[:3] == [*flags, "seed=3"]


def test_after_a_resumed_run_the_suggestion_has_its_first_settings(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[data=builtin_char, budget.steps=9]")
    words = suggested(tmp_path, "data=builtin_char", called=("resume=run", "budget.steps=12"))
    assert words == ["data=builtin_char", "budget.steps=12", "model=ar"]


def test_a_sweep_tells_each_job_in_a_line_and_latest_is_its_last(
    screen: str, project: Path, warm: WarmProcess
) -> None:
    done = warm.call("train", "-m", "model=ar", *SMALL, "seed=1,2", folder=project)
    jobs = [line for line in done.stdout.splitlines() if line.startswith("job ")][:2]
    for number, line in enumerate(jobs):
        assert re.fullmatch(
            rf"job {number}: seed={number + 1} … completed, [\d.]+, [\d.]+ s", line
        ), line
    assert done.stdout.count("completed:") == 0  # no screen of a single run between them

    few = ("prompt=", "n_tokens=3", "device=cpu")
    written = warm.call("generate", "run=latest", *few, folder=project)
    assert re.search(r"run=latest is outputs/sweeps/.*/1_seed=2", written.output)
    glob = warm.call("generate", "run=outputs/sweeps/*/*/0*", *few, folder=project)
    assert "0_seed=1" in glob.output and glob.returncode == 0
    missing = warm.call("generate", "run=nothing*", "prompt=", folder=project)
    assert missing.returncode == 2 and "there is no such run" in missing.stderr
    assert "1_seed=2" in missing.stderr  # the newest are named


def test_a_run_of_an_older_version_is_refused_by_name(
    screen: str, project: Path, warm: WarmProcess
) -> None:
    (checkpoint,) = project.glob("outputs/*/*/checkpoints/best.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    content["format"] -= 1
    older = project / "older.ckpt"
    torch.save(content, older)
    done = warm.call("evaluate", f"run={older}", folder=project)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "trm_lightning 0.1.0" in done.stderr


def keys_and_bare(shown: str) -> tuple[list[str], list[str]]:
    """The lines of a help text's settings, and those of them without a description."""
    lines = shown[shown.index("Settings:") : shown.index("More:")].splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r"  [\w.]+=", line)]
    bare = [
        lines[i]
        for i in keys
        if not re.match(r"  [\w.]+=(\[.*?\]|\S+) +\S", lines[i])
        and not lines[i + 1].startswith(" " * 30)
    ]
    return [lines[i] for i in keys], bare


@pytest.mark.parametrize("choices", [[], ["model=looped", "data=wikitext2_word"]])
def test_help_describes_every_key(project: Path, choices: list[str], warm: WarmProcess) -> None:
    shown = warm.call("train", "--help", *choices, folder=project).stdout
    assert re.search(r"model=ar \|.*\n +controls of the leak audit.*leaky_chunk_mask", shown)
    keys, bare = keys_and_bare(shown)
    assert len(keys) > 40 and not bare
    models = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
    assert all(model in shown for model in models if not model.startswith("_"))


@pytest.mark.parametrize("command", SCHEMAS)
def test_help_of_every_command_describes_every_key(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    resolvers.register()
    show_help(Call(command, conf_dir(), command, None, multirun=False), "What it does.", [])
    keys, bare = keys_and_bare(capsys.readouterr().out)
    assert keys and not bare
    if command == "benchmark":
        known = {line.split("=")[0].strip() for line in keys}
        assert {"models.ar.width", "models.trm.n_recursions", "net.width", "data.windows"} <= known
