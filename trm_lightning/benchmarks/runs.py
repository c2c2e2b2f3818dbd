"""Short runs of the real training command, measured from inside by a callback."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tqdm import tqdm

from trm_lightning.benchmarks.timing import Variant, row
from trm_lightning.errors import UserError

_PROBES = "trm_lightning.benchmarks.probes"
_IMPORTS = "importing torch and lightning"
_LONG = 10**9  # steps: never
# The command's overhead per step does not depend on the model; a small one makes it visible.
NETS: dict[str, list[str]] = {"AR": [], "AR, width 16": ["model.width=16"]}


def lightning_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure the overhead of the training command over a bare loop on the same model."""
    rows = []
    steps = cfg.lightning.steps
    for name, changes in NETS.items():
        found, _ = _train(
            cfg, device, f"Interleaved, path: PATH, steps: {steps}",
            ["model=ar", f"budget.steps={steps * (cfg.repetitions + 1)}", *changes],
        )  # fmt: skip
        data = cfg.data
        tokens = data.batch_size * (data.supervised_tokens or data.window_size)
        bare, real = f"{name}, bare loop", f"{name}, trm-train"
        variants = [Variant(bare, _nothing, tokens), Variant(real, _nothing, tokens, None, (bare,))]
        rounds = {bare: found["bare"], real: found["real"]}
        measured = [row("lightning", variant, rounds, variants) for variant in variants]
        extra = [a - b for a, b in zip(found["real"], found["bare"], strict=True)]
        middle = statistics.median(extra)
        measured[1]["overhead_seconds"] = extra
        share = 100 * middle / measured[0]["seconds_median"]
        measured[1]["note"] = f"{1000 * middle:+.2f} ms per step, {share:+.1f} %"
        rows += measured
    return rows


def startup_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure seconds from the start of the process to the first optimizer step, and memory.

    A run before the first round makes the token cache and warms the disk cache.
    """
    names = {model: f"trm-train model={model}: first step" for model in ("ar", "trm")}
    rounds: dict[str, list[float]] = {_IMPORTS: [], **{name: [] for name in names.values()}}
    memory: dict[str, dict[str, Any]] = {}
    total = 1 + cfg.startup.repetitions
    for repetition in tqdm(range(total), desc="startup", unit="round", leave=False, disable=None):
        imports = _seconds([sys.executable, "-c", "import torch, lightning.pytorch"])
        seconds = {_IMPORTS: imports}
        for model, name in names.items():
            limits = [f"model={model}", f"budget.steps={cfg.startup.steps}"]
            memory[name], started = _train(cfg, device, "Milestones, path: PATH", limits)
            seconds[name] = memory[name]["first_step"] - started
        if repetition > 0:
            for name, value in seconds.items():
                rounds[name].append(value)
    variants = [Variant(name, _nothing) for name in rounds]
    rows = [row("startup", variant, rounds, variants) for variant in variants]
    for found in rows:
        known = memory.get(found["name"])
        if known is not None:
            found |= {"peak_bytes": known["peak_bytes"], "vocab_size": known["vocab_size"]}
            peak = known["peak_bytes"]
            shown = "unknown" if peak is None else f"{peak / 2**20:,.0f} MiB"
            found["note"] = f"peak memory {shown}, {known['vocab_size']:,} kinds of tokens"
    return rows


def _train(
    cfg: DictConfig, device: torch.device, probe: str, overrides: list[str]
) -> tuple[dict[str, Any], float]:
    """Run the training command with a probe; return the probe's content and the start time.

    Raises:
        UserError: when the run fails, with the last lines of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.json"
        quoted = "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
        node = f"{{_target_: {_PROBES}.{probe.replace('PATH', quoted)}}}"
        command = [
            sys.executable, "-m", "trm_lightning.train", *_data_overrides(),
            f"trainer={'gpu' if device.type == 'cuda' else device.type}",
            f"threads={torch.get_num_threads()}", f"eval_every={_LONG}", "audit=false",
            "test=false", "progress=false", f"+callbacks.probe={node}", *overrides,
            f"hydra.run.dir={Path(folder) / 'run'}",
        ]  # fmt: skip
        started = time.time()
        process = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if process.returncode != 0 or not path.is_file():
            said = (process.stderr or process.stdout).strip().splitlines()[-5:]
            raise UserError("A short training run failed:\n" + "\n".join(said))
        return json.loads(path.read_text(encoding="utf-8")), started


def _data_overrides() -> list[str]:
    """Return the user's overrides of ``data``, to forward to the training runs."""
    if not HydraConfig.initialized():
        return []
    overrides = HydraConfig.get().overrides.task
    return [text for text in overrides if text.lstrip("+~").startswith("data")]


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def _nothing() -> None:
    """Stand in for a call that was measured in another process."""
