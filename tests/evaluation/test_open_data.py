"""The data of a stored run: opened in this machine's cache, and the same as in training."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Configure

from trm_lightning.errors import UserError
from trm_lightning.runs.load import LoadedRun, load_run, open_data
from trm_lightning.training.fit import train


@pytest.fixture
def run(configure: Configure, tmp_path: Path) -> LoadedRun:
    cfg = configure("model=ar", "budget.steps=1", "audit=false", "test=false")
    train(cfg)
    return load_run(tmp_path / "run")


def test_a_stored_cache_folder_is_not_used(configure: Configure, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    train(configure("model=ar", "budget.steps=1", f"+data.cache_dir={elsewhere}"))
    shutil.rmtree(elsewhere)
    run = load_run(tmp_path / "run")
    assert open_data(run).ids_digest == run.facts["ids_digest"]
    assert not elsewhere.exists()


def test_a_stored_name_cannot_leave_the_cache_folder(run: LoadedRun) -> None:
    run.config.data.name = "../../x"
    with pytest.raises(Exception, match="it must be a short name"):
        open_data(run)


@pytest.mark.parametrize("fact", ["data_fingerprint", "ids_digest"])
def test_other_ids_than_those_of_the_training_are_refused(run: LoadedRun, fact: str) -> None:
    with pytest.raises(UserError, match="scores would not be comparable"):
        open_data(replace(run, facts=run.facts | {fact: "0" * 16}))
