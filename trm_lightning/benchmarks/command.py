"""A benchmark from its composed config to ``benchmark.json``, a table and a figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from trm_lightning.benchmarks.data import data_rows
from trm_lightning.benchmarks.peer import peer_rows
from trm_lightning.benchmarks.report import table
from trm_lightning.benchmarks.runs import lightning_rows, startup_rows
from trm_lightning.benchmarks.scaling import scaling_figure, scaling_rows
from trm_lightning.benchmarks.scoring import generation_rows, scoring_rows
from trm_lightning.benchmarks.settings import settings_rows
from trm_lightning.benchmarks.training import training_rows
from trm_lightning.benchmarks.vocabulary import vocabulary_rows
from trm_lightning.cli.screen import combine, nearest
from trm_lightning.files import write_json, write_text
from trm_lightning.reports.plots import save_figure
from trm_lightning.runs.environment import environment
from trm_lightning.runs.load import find_device

Rows = list[dict[str, Any]]
SECTIONS: dict[str, Callable[[DictConfig, torch.device], Rows]] = {
    "training": training_rows,
    "peer": peer_rows,
    "settings": settings_rows,
    "lightning": lightning_rows,
    "scoring": scoring_rows,
    "generation": generation_rows,
    "data": data_rows,
    "startup": startup_rows,
    "scaling": scaling_rows,
    "vocabulary": vocabulary_rows,
}

_COUNTS = (
    "repetitions", "window", "batch", "net.vocab_size", "notes.window", "notes.batch",
    "notes.supervised", "notes.n_refinements", "notes.n_recursions", "scoring.strides",
    "scoring.split_tokens", "generation.prompt_tokens", "generation.n_tokens", "lightning.steps",
    "startup.repetitions", "startup.steps", "scaling.repetitions", "scaling.window",
    "scaling.window_batch", "scaling.chunk_size", "scaling.n_refinements", "scaling.batch",
    "vocabulary",
)  # fmt: skip


def benchmark(cfg: DictConfig) -> dict[str, Any]:
    """Measure ``cfg.sections`` and write the results to ``cfg.run_dir``.

    Returns:
        The content of ``benchmark.json``.

    Raises:
        UserError: for settings that do not fit, or a device that is not there.
    """
    check_settings(cfg)
    device = find_device(cfg.device)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    torch.manual_seed(cfg.seed)
    folder = Path(cfg.run_dir)
    content: dict[str, Any] = {
        "kind": "benchmark",
        "device": str(device),
        "rows": [],
        "config": OmegaConf.to_container(cfg, resolve=True),
        "environment": environment(),
    }
    for section in dict.fromkeys(cfg.sections):
        rows = SECTIONS[section](cfg, device)
        content["rows"] += rows
        print(table(rows))
        _write(content, folder)  # keep these rows if a later section is interrupted
    print(f"Written to {folder}")
    return content


def _write(content: dict[str, Any], folder: Path) -> None:
    write_json(folder / "benchmark.json", content)
    write_text(folder / "table.md", table(content["rows"]))
    scaling = [row for row in content["rows"] if row["section"] == "scaling"]
    if scaling:
        save_figure(scaling_figure(scaling), folder / "scaling")


def check_settings(cfg: DictConfig) -> None:
    """Refuse what cannot be measured.

    Raises:
        UserError: naming every such setting.
    """
    problems = [
        f"there is no section `{section}`{nearest(section, SECTIONS)}"
        for section in cfg.sections
        if section not in SECTIONS
    ]
    if not cfg.sections:
        problems.append("sections is empty: nothing to measure")
    for key in _COUNTS:
        value = OmegaConf.select(cfg, key)
        values = value if isinstance(value, ListConfig) else [value]
        if not all(isinstance(number, int) and number >= 1 for number in values):
            problems.append(f"{key} must be at least 1 (is {value})")
    for key in ("seconds_per_measurement", "scaling.seconds_per_measurement"):
        if not OmegaConf.select(cfg, key) > 0:
            problems.append(f"{key} must be more than 0 (is {OmegaConf.select(cfg, key)})")
    if cfg.clock == "cpu" and find_device(cfg.device).type != "cpu":
        problems.append("clock=cpu cannot time work on a device; use clock=wall")
    if cfg.threads is not None and cfg.threads < 1:
        problems.append(f"threads must be at least 1, or null (is {cfg.threads})")
    if not problems and max(cfg.scoring.strides) > cfg.window:
        problems.append(f"scoring.strides must not exceed window={cfg.window}")
    if not problems and cfg.notes.supervised >= cfg.notes.window:
        problems.append("notes.supervised must be less than notes.window")
    if problems:
        raise combine(problems, f"Sections are: {', '.join(SECTIONS)}.")
