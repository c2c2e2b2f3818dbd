"""A resumed run logs where its own call says; where only its folder says it, that takes trust."""

from pathlib import Path

import pytest
from conftest import Configure

from trm_lightning.cli import resume
from trm_lightning.cli.compose import Call, composer, conf_dir
from trm_lightning.cli.overrides import of_loggers
from trm_lightning.cli.resume import Resumption
from trm_lightning.cli.resumed_config import resumed_config
from trm_lightning.errors import UserError
from trm_lightning.runs.load import load_run
from trm_lightning.training.fit import train

CALL = Call("train", conf_dir(), "train", None, multirun=False)
FOREIGN = "lightning.pytorch.loggers.csv_logs.CSVLogger"  # not by the name that conf/ has


@pytest.fixture
def checkpoint(configure: Configure) -> Path:
    """Of a run whose logger the package does not vouch for."""
    own = f"+logger.mine={{_target_:{FOREIGN},save_dir:${{run_dir}}}}"
    cfg = configure("model=ar", "budget.steps=1", "audit=false", own)
    train(cfg)
    return Path(cfg.run_dir) / "checkpoints" / "last.ckpt"


def test_loggers_of_the_call_take_the_place_of_stored_ones(checkpoint: Path) -> None:
    load_run(checkpoint)  # no logger is built
    own = of_loggers(["logger.csv.version=second", "seed=1", "logger=csv"])
    with composer(CALL) as composed:
        with pytest.raises(UserError, match=f"logger.mine is {FOREIGN}"):
            resumed_config(Resumption(checkpoint, [], []), composed)
        config = resumed_config(Resumption(checkpoint, own, []), composed)
    assert list(config.logger) == ["csv"]
    assert config.logger.csv.version == "second"


def test_what_goes_on_by_itself_logs_where_its_call_says(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint.parent.parent
    (folder / "results.json").unlink()
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("[model=ar, logger=wandb]")
    call = ["resume=auto", "logger=wandb", "model=ar", f"hydra.run.dir={folder}"]
    found = resume.find(CALL, call)
    assert found is not None and found.own == ["logger=wandb"]
    assert "continues" in capsys.readouterr().err
