"""A forked call ends as one in a process that starts from nothing."""

from pathlib import Path

import pytest
from cli_toy import write_project
from warm import WarmProcess, run_cold


def test_a_fork_is_like_a_process_of_its_own(
    tmp_path: Path, warm: WarmProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")  # as a run in the tests' process leaves it
    words = ("toy", "--config-path", "conf", "act=crash", "hydra.run.dir=run")
    cold = run_cold(*words, folder=tmp_path)
    assert cold.returncode == 1 and "bad luck" in cold.stderr and "SEED=None" in cold.stdout
    for _ in range(2):
        ended = warm.run_module(*words, folder=tmp_path)
        assert (ended.returncode, ended.stdout) == (cold.returncode, cold.stdout)
        assert ended.stderr == cold.stderr


def test_forks_share_nothing(tmp_path: Path, warm: WarmProcess) -> None:
    (tmp_path / "counts.py").write_text(
        "import os, random, sys\n"
        "print(hasattr(os, 'mark'), random.random(), os.environ.get('MARK'), sys.argv[1:])\n"
        "os.mark = True\n"
    )
    (tmp_path / "other").mkdir()
    first = warm.run_module("counts", "a b", folder=tmp_path, env={"MARK": "x"})
    second = warm.run_module("counts", folder=tmp_path)
    assert first.stdout.startswith("False ") and first.stdout.endswith(" x ['a b']\n")
    assert second.stdout.startswith("False ") and second.stdout.endswith(" None []\n")
    assert first.stdout.split()[1] != second.stdout.split()[1]
    lost = warm.run_module("counts", folder=tmp_path / "other")
    assert lost.returncode == 1 and "No module named" in lost.stderr
