"""A plan of two runs, and a stand-in for training them."""

import sys
from pathlib import Path

import pytest
from compare_folders import CALL

from trm_lightning.studies import training_process
from trm_lightning.studies.entries import Entry
from trm_lightning.studies.plan import Plan, PlannedRun


def small_plan(folder: Path) -> Plan:
    runs = [
        PlannedRun("ar", seed, ["model=ar", f"seed={seed}"], folder / "runs" / f"ar_seed{seed}")
        for seed in (1, 2)
    ]
    return Plan([Entry("ar")], "ar", [1, 2], runs, {}, CALL)


def stand_in(monkeypatch: pytest.MonkeyPatch, script: str) -> list[PlannedRun]:
    """Run `script` instead of training; returns the list of runs that were started."""
    started: list[PlannedRun] = []

    def command(run: PlannedRun, flags: list[str]) -> list[str]:
        started.append(run)
        return [sys.executable, "-c", script, str(run.folder)]

    monkeypatch.setattr(training_process, "training_command", command)
    return started


FINISH = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True)
(folder / "results.json").write_text("{}")
"""
