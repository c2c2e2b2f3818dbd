"""What a run folder's config may name."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import conf_dir
from trm_lightning.runs.stored_config import foreign_modules

GROUPS = ("callbacks", "data", "logger", "model", "optimizer", "schedule", "trainer")
CHOICES = [
    f"{group}={file.stem}" for group in GROUPS for file in sorted((conf_dir() / group).glob("*"))
]


# Loggers that send to an address, which a stranger's config would choose.
SENDING = ("logger=mlflow", "logger=wandb")


def modules_of(choice: str) -> list[str]:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose("train", [choice, "run_dir=run", "experiment_name=test"])
    return foreign_modules(OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.parametrize("choice", [c for c in CHOICES if "=text" not in c and c not in SENDING])
def test_a_run_of_any_shipped_choice_is_opened_without_trust(choice: str) -> None:
    assert modules_of(choice) == []


@pytest.mark.parametrize("choice", SENDING)
def test_a_logger_that_sends_to_an_address_needs_trust(choice: str) -> None:
    assert modules_of(choice) == ["lightning.pytorch.loggers"]
