"""What a run folder's config may name."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import conf_dir
from trm_lightning.errors import UserError
from trm_lightning.runs.stored_config import foreign_modules, stored_config

GROUPS = ("callbacks", "data", "logger", "model", "optimizer", "schedule", "trainer")
CHOICES = [
    f"{group}={file.stem}" for group in GROUPS for file in sorted((conf_dir() / group).glob("*"))
]


# Loggers that send to an address, which a stranger's config would choose.
SENDING = ("logger=mlflow", "logger=wandb")


def config_of(choice: str) -> dict[str, Any]:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose("train", [choice, "run_dir=run", "experiment_name=test"])
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return plain


@pytest.mark.parametrize("choice", [c for c in CHOICES if "=text" not in c])
def test_a_run_of_any_shipped_choice_is_opened_without_trust(choice: str) -> None:
    assert foreign_modules(config_of(choice)) == []


@pytest.mark.parametrize("choice", SENDING)
def test_only_to_go_on_logging_to_an_address_needs_trust(choice: str) -> None:
    run = {"config": config_of(choice), "tokenizer": {"kind": "characters"}}
    assert "logger" not in stored_config(run, Path("x.ckpt"), loggers=False)
    with pytest.raises(UserError, match=r"logger\.\w+ is lightning"):
        stored_config(run, Path("x.ckpt"))
    assert "logger" in stored_config(run, Path("x.ckpt"), "lightning.pytorch.loggers")
