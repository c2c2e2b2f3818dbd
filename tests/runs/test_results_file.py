"""``results.json`` read back: whole, ours, of this version and each value of its type."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Configure
from report_folders import RESULTS

from trm_lightning.errors import UserError
from trm_lightning.runs import results_file
from trm_lightning.runs.checkpoint_file import FORMAT
from trm_lightning.runs.results_file import read_results
from trm_lightning.training.fit import train

NEEDED = sorted(key for key in results_file.RESULTS if not key.endswith("?"))


def write(folder: Path, content: Any) -> Path:
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_results_of_this_version_are_read(tmp_path: Path) -> None:
    assert read_results(write(tmp_path, RESULTS)) == RESULTS


def test_the_shape_names_every_key_that_training_writes(configure: Configure) -> None:
    cfg = configure("model=ar", "budget.steps=2")
    written = train(cfg)
    read = read_results(Path(cfg.run_dir))
    assert read == json.loads(json.dumps(written))
    assert read.keys() == {key.removesuffix("?") for key in results_file.RESULTS}


@pytest.mark.parametrize(
    ("found", "reader"),
    [(None, "0.1.0 (commit 872299a)"), (1, "0.1.0 (commit 872299a)"),
     (FORMAT - 1, "0.1.0 (commit 6b1c55c)"), (FORMAT + 1, "a newer version"),
     ([FORMAT], "a newer version")],
)  # fmt: skip
def test_other_formats_are_refused_with_the_version_that_reads_them(
    tmp_path: Path, found: Any, reader: str
) -> None:
    content = {k: v for k, v in (RESULTS | {"format": found}).items() if v is not None}
    with pytest.raises(UserError) as caught:
        read_results(write(tmp_path, content))
    assert reader in caught.value.what and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [key for key in NEEDED if key not in ("final", "config", "format")])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    content = {k: v for k, v in RESULTS.items() if k != key}
    with pytest.raises(UserError, match=rf"results\.json .* lacks {key}\.") as caught:
        read_results(write(tmp_path, content))
    assert "train" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "told"),
    [({"parameters": "108480"}, "parameters must be a whole number"),
     ({"parameters": True}, "parameters must be"), ({"seconds": float("nan")}, "seconds must be"),
     ({"seconds": 10**400}, "seconds must be"), ({"final": {}}, "final has no score"),
     ({"final": {"val/ppl": None}}, "final.val/ppl must be an object"),
     ({"best": {"val/ppl": {"perplexity": 0, "step": 1}}}, "best.val/ppl.perplexity must be"),
     ({"environment": RESULTS["environment"] | {"command": [1]}}, r"command\[0\] must be a text"),
     ({"audit": {"passed": 1, "failed": {}}}, "audit.passed must be true or false"),
     ({"config": RESULTS["config"] | {"data": []}}, "config.data must be an object")],
)  # fmt: skip
def test_a_value_of_another_type_is_named(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        read_results(write(tmp_path, RESULTS | change))


def test_an_infinite_perplexity_is_one(tmp_path: Path) -> None:
    best = {"val/ppl": {"perplexity": float("inf"), "step": 1}}
    assert read_results(write(tmp_path, RESULTS | {"best": best}))["best"] == best


@pytest.mark.parametrize("content", [[], 7, None, {"accuracy": 1}])
def test_other_programs_files_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match="not written by trm_lightning"):
        read_results(write(tmp_path, content))


def test_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"final": ')
    with pytest.raises(UserError, match="cannot be read"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_results(tmp_path)
