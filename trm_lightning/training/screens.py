"""What a run prints before and after training."""

from pathlib import Path
from typing import Any

import lightning as L

from trm_lightning.cli.other_model import words_for
from trm_lightning.cli.printed import shell_command
from trm_lightning.errors import UserError
from trm_lightning.evaluation.metrics import is_puzzle_score, score_lines
from trm_lightning.runs.stored_config import foreign_modules
from trm_lightning.training import TrainingModule

PROGRAMS = ("train.py", "trm-train")
EVENTS = "events.out.tfevents.*"  # of TensorBoard
MLFLOW = "mlflow.db"
FILES = (
    "results.json", "metrics.jsonl", "checkpoints", "samples.txt", "tokenizer.json", EVENTS,
    "metrics.csv", MLFLOW,
)  # fmt: skip


def opening_screen(trainer: L.Trainer, module: TrainingModule, facts: dict[str, Any]) -> str:
    """Return what is about to be trained, in five lines."""
    model, config = module.model, facts["config"]
    data = config["data"]
    passes = model.n_passes * model.n_supervision
    device = f"{trainer.strategy.root_device} ({config['precision']})"
    if trainer.world_size > 1:
        device = f"{trainer.world_size} x {device}"
    steps = f"{module.total_steps:,} optimizer steps"
    if config["budget"]["seconds"] is not None:
        steps = f"{config['budget']['seconds']:g} s of training"
    rows = {
        "model": f"{type(model).__name__}, {facts['parameters']:,} parameters, "
        f"{passes} {'pass' if passes == 1 else 'passes'} through the blocks",
        "data": f"{facts['data']}, {facts['train_tokens']:,} training tokens, vocabulary "
        f"{facts['vocab_size']:,}",
        "device": device,
        "budget": f"{steps}, {module.steps_per_batch} per batch of {data['batch_size']} x "
        f"{data['window_size']} tokens",
        "folder": str(shown(Path(config["run_dir"]))),
    }
    return "\n".join(f"{name:7s} {text}" for name, text in rows.items())


def closing_screen(results: dict[str, Any], folder: Path, boards: str = "") -> str:
    """Return the closing screen: numbers, what they are, where things lie, what to try next.

    Args:
        results: of the run.
        folder: of the run.
        boards: puzzles with the model's answers, to be shown; empty for text.
    """
    lines = ["", f"{results['status']}: {_course(results)}", ""]
    for part in ("final", "test"):
        for name, score in results[part].items():
            lines += score_lines(name, score)
    floor = results["entropy_floor_perplexity"]
    if floor is not None:
        lines.append(f"  {'entropy floor':27s} {floor:10.3f}   no honest model scores below it")
    if boards:
        lines += ["", *(f"  {line}".rstrip() for line in boards.split("\n"))]
    folder = shown(folder)
    there = [name for name in FILES if any(folder.glob(name))]
    lines += ["", f"  Everything is in {folder}", f"    {', '.join(there)}", "", "Next:"]
    return "\n".join([*lines, *(f"  {line}" for line in _next_commands(results, folder))])


def shown(folder: Path) -> Path:
    """Return a folder as a user would name it: relative where it lies in the working directory."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _course(results: dict[str, Any]) -> str:
    return (
        f"{results['data']}, {results['parameters']:,} parameters, "
        f"{results['optimizer_steps']:,} optimizer steps, {results['tokens_seen']:,} tokens, "
        f"{results['seconds']:.0f} s of training"
    )


def _next_commands(results: dict[str, Any], folder: Path) -> list[str]:
    own = foreign_modules(results["config"])
    trust = [f"trust=[{','.join(own)}]"] if own else []
    commands = [
        *_other_model(results, folder),
        _use(results, folder, trust),
        (shell_command("report", f"path={folder}", *trust), "a page with scores and pictures"),
    ]
    if any(folder.glob(EVENTS)):
        logs = shell_command("tensorboard.main", "--logdir", str(folder.parent))
        commands.append((logs, "curves"))
    if (folder / MLFLOW).is_file():
        store = f"sqlite:///{(folder / MLFLOW).absolute()}"
        ui = shell_command("mlflow.__main__", "ui", "--backend-store-uri", store)
        commands.append((ui, "curves, text and pictures"))
    return [f"{command}   # {meaning}" for command, meaning in commands]


def _use(results: dict[str, Any], folder: Path, trust: list[str]) -> tuple[str, str]:
    """Return the command that does with a model what it was trained for."""
    if any(map(is_puzzle_score, results["final"].values())):
        meaning = "puzzles solved after each number of refinements"
        return shell_command("analyze", f"run={folder}", *trust), meaning
    return shell_command("generate", f"run={folder}", "prompt=", *trust), "write text"


def _other_model(results: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Return the command that trains what to compare a run with; none where none composes."""
    other = "trm" if results["config"]["model"]["_target_"].endswith(".AR") else "ar"
    purpose = "the baseline" if other == "ar" else "the recursive model"
    program, *arguments = results["environment"]["command"]
    try:
        words = words_for(other, arguments if program in PROGRAMS else [], folder)
    except UserError:
        return []
    return [(shell_command("train", *words), purpose)]
