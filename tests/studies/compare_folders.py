"""Run folders as training leaves them, with chosen numbers; the compare command's config."""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import TINY
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from report_folders import ENVIRONMENT

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import Call, conf_dir
from trm_lightning.runs.checkpoint_file import FORMAT
from trm_lightning.studies.budgets import at_budget
from trm_lightning.studies.entries import Entry
from trm_lightning.studies.paired_statistics import summarise_entries
from trm_lightning.studies.plan import Plan, make_plan
from trm_lightning.studies.run_records import Group, read_record

TOKENS, CHARACTERS = 1000, 4000
CALL = Call("train", conf_dir(), "train", None, multirun=False)
SMALL = [override for override in TINY if not override.startswith(("budget", "progress"))]


def config(*overrides: str) -> DictConfig:
    """Compose conf/compare.yaml as the command does."""
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("compare", [*overrides])


def plan(folder: Path, *overrides: str, forwarded: tuple[str, ...] = ()) -> Plan:
    cfg = at_budget(config("name=test", *overrides), {word.split("=")[0] for word in overrides})
    return make_plan(cfg, folder, list(forwarded), CALL)


def asking(fit: str | None, axis: str = "size") -> DictConfig:
    """Return what of a comparison's config says which curves to fit."""
    return OmegaConf.create({"fit": fit, "measure": None, "axis": axis})


@functools.cache
def tiny_config() -> str:
    """The real config, shrunk, as JSON."""
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose("train", [*TINY, "model=ar", "run_dir=run", "experiment_name=toy"])
    return json.dumps(OmegaConf.to_container(cfg, resolve=True))


def score(perplexity: float, name: str) -> dict[str, Any]:
    likelihood = name.partition("/")[2].startswith("ppl")
    return {
        "meaning": "exact perplexity" if likelihood else "NOT A LIKELIHOOD",
        "is_likelihood": likelihood,
        "perplexity": perplexity,
        "nats_per_token": math.log(perplexity),
        "bits_per_character": math.log2(perplexity) * TOKENS / CHARACTERS,
        "tokens": TOKENS,
        "words": 900,
        "characters": CHARACTERS,
        "unknown_share": 0.0,
    }


def make_run(
    folder: Path,
    seed: int,
    perplexities: tuple[float, float],
    *,
    seconds: float = 10,
    metric: str = "ppl",
    ending: float | None = None,
    scrambled: float | None = None,
    finished: bool = True,
    overrides: Sequence[str] = (),
    **facts: Any,
) -> Path:
    """Write a run that was validated at steps 10 and 20, after 500 and 1,000 tokens.

    Args:
        perplexities: of the two validations.
        ending: ``ppl_without_answer``, scored after training alone.
        scrambled: ``val_scrambled/ppl`` at both validations.
        finished: whether ``results.json`` is there.
        overrides: stored as those that the run was started with.
        facts: values of ``results.json`` to be changed.
    """
    name = f"val/{metric}"
    lines: list[dict[str, Any]] = [
        {"step": 10 * k, "tokens": 500 * k, "seconds": seconds * k / 2, name: perplexities[k - 1]}
        for k in (1, 2)
    ]
    final = {name: score(perplexities[-1], name)}
    if scrambled is not None:
        final["val_scrambled/ppl"] = score(scrambled, "val_scrambled/ppl")
        lines = [line | {"val_scrambled/ppl": scrambled} for line in lines]
    if ending is not None:
        final["val/ppl_without_answer"] = score(ending, "val/ppl_without_answer")
        lines.append(lines[-1] | {"val/ppl_without_answer": ending})
    best = {
        key: {"perplexity": min(line[key] for line in lines if key in line), "step": 10}
        for key in final
    }
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {
        "format": FORMAT, "status": "completed",
        "optimizer_steps": 20, "tokens_seen": 1000, "seconds": seconds,
        "vocab_size": 50, "data": "toy", "data_fingerprint": "abc", "parameters": 1000,
        "family": "ar", "width": 16, "n_layers": 2, "n_passes": 1, "flops_per_token": 1e6,
        "entropy_floor_perplexity": None, "eval_window": 16, "eval_stride": 8,
        "final": final, "best": best, "test": {}, "environment": ENVIRONMENT,
        "config": json.loads(tiny_config()) | {"seed": seed},
    } | facts  # fmt: skip
    if finished:
        (folder / "results.json").write_text(json.dumps(results))
    return folder


def make_summary(
    root: Path, entries: Sequence[str | Entry], seeds: list[int], baseline: str | None = None
) -> list[dict[str, Any]]:
    """Summarise the folders ``<entry>_<seed>`` of ``root``."""
    listed = [Entry(entry) if isinstance(entry, str) else entry for entry in entries]
    groups = [
        Group(entry, [read_record(root / f"{entry.runs_of}_{seed}", seed) for seed in seeds])
        for entry in listed
    ]
    return summarise_entries(groups, baseline or listed[0].name)
