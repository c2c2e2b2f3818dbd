"""The whole comparison, in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compare_folders import SMALL


@pytest.mark.slow
def test_two_models_two_seeds_and_again(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "trm_lightning.compare", "name=tiny", "seeds=2", *SMALL,
        "budget.steps=8",
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    table = tmp_path / "outputs" / "comparisons" / "tiny" / "table.md"
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert "At parity in tokens" in done.stdout
    results = sorted(tmp_path.glob("outputs/comparisons/tiny/runs/*/results.json"))
    assert len(results) == 4
    assert max(file.stat().st_mtime for file in results) < table.stat().st_mtime
    comparison = json.loads(table.with_name("comparison.json").read_text())
    assert [entry["figures"]["best"]["n"] for entry in comparison["entries"]] == [2, 2]
