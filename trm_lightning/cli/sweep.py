"""The end of a sweep: a table of its jobs."""

import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepTable(Callback):
    """Hydra callback: prints how each job ended, and makes the exit status 1 if one failed.

    It reads the jobs' `status.json`, so it works for launchers that run jobs in other processes.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of all jobs in the sweep's folder."""
        folder = Path(config.hydra.sweep.dir)
        jobs = read_jobs(folder)
        print(f"\n{table(jobs)}\n\n{_summary(jobs)}; see {folder}")
        if not jobs:
            print("No job has left a status there: the launcher has not run any.", file=sys.stderr)
        if not jobs or any(job["status"] != "completed" for job in jobs):
            sys.exit(1)


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """The status of each job under a sweep's folder, in the order of their numbers."""
    files = sorted(folder.glob("*/status.json"), key=lambda f: int(f.parent.name.split("_")[0]))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def table(jobs: list[dict[str, Any]]) -> str:
    """The jobs as aligned text; overrides that all of them share are left out."""
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    rows = [["job", "status", "value", "overrides"]]
    for number, job in enumerate(jobs):
        value = "-" if job["value"] is None else f"{job['value']:.6g}"
        own = " ".join(o for o in job["overrides"] if o not in common)
        error = job.get("error", "").splitlines()
        rows.append([str(number), job["status"], value, " | ".join([own, *error[:1]])])
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )


def _summary(jobs: list[dict[str, Any]]) -> str:
    completed = sum(job["status"] == "completed" for job in jobs)
    return f"{completed} of {len(jobs)} jobs completed"
