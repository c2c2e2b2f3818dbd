"""Every study, whole, at its smoke budget: it trains, measures, judges and draws."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trm_lightning.cli.compose import conf_dir

STUDIES = sorted(path.stem for path in (conf_dir() / "study").glob("*.yaml"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("TRM_DATA_DIR" not in os.environ, reason="needs the real texts"),
]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_to_its_verdict(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trm_lightning.compare", f"study={name}", "budget=smoke",
         "threads=1", "progress=false"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = (tmp_path / "outputs" / "comparisons").iterdir()  # some names hold that of the data
    assert folder.name.startswith(name) and folder.name.endswith("_smoke")
    content = json.loads((folder / "comparison.json").read_text())
    assert content["status"] == "completed" and content["budget"] == "smoke"
    assert "SMOKE BUDGET" in done.stdout
    page = (folder / "report.html").read_text()
    assert "<svg" in page and "SMOKE BUDGET" in page
    asked = content["study"]
    if asked is not None and "verdict" in asked:
        assert asked["verdict"] and all(sentence.strip() for sentence in asked["verdict"])
