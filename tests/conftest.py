"""Fixtures: the real configs, composed and shrunk to run in a second."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from warm import WarmProcess, warm_process

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import conf_dir

Configure = Callable[..., DictConfig]

# What makes a run small enough for a test; the config is the real one otherwise.
TINY = (
    "trainer=cpu",
    "logger=none",
    "progress=false",
    "threads=1",
    "data.window_size=16",
    "data.batch_size=8",
    "model.width=16",
    "model.n_heads=2",
    "budget={steps:8,tokens:null,epochs:null,seconds:null}",
    "eval_every=4",
    "log_every=1",
    "checkpoint_every=2",
    "sample_tokens=5",  # at their real length samples would take longer than all the training
)


SHORT_PLAY = (
    "data.corpus.train_words=3000",
    "+data.corpus.val_words=600",
    "+data.corpus.test_words=600",
)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep token caches of tests away from the user's."""
    before = os.environ.get("TRM_CACHE_DIR")
    os.environ["TRM_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TRM_CACHE_DIR"]
    else:
        os.environ["TRM_CACHE_DIR"] = before


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    """Run commands without waiting for their imports; started when a test first asks for it."""
    with warm_process(tmp_path_factory.mktemp("warm")) as started:
        yield started


@pytest.fixture(autouse=True)
def no_seed_left_behind() -> Iterator[None]:
    """Lightning leaves a run's seed in the environment, where commands started later find it."""
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Compose conf/train.yaml with TINY and the given overrides; the run goes to tmp_path."""

    def composed(*overrides: str, folder: str = "run") -> DictConfig:
        resolvers.register()
        run = tmp_path / folder
        run.mkdir(exist_ok=True)
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            names = [f"run_dir={run}", "experiment_name=test"]
            own = any(
                word.startswith(("data=text", "data=shards", "data=sudoku")) for word in overrides
            )
            play = () if own else SHORT_PLAY
            return compose("train", [*TINY, *play, *overrides, *names])

    return composed
