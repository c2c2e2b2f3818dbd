"""A signal after the last batch: the run stops with everything saved, and can go on."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Configure

from trm_lightning.errors import Stopped
from trm_lightning.training.callbacks import LeakAudit
from trm_lightning.training.fit import train


@pytest.mark.parametrize("eval_every", [3, 4])
def test_a_signal_during_the_last_audit_stops_the_run(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, eval_every: int
) -> None:
    """With a validation still due (3 does not divide 8) and without."""
    audit = LeakAudit.on_train_end

    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        audit(*arguments)

    cfg = configure("model=ar", f"eval_every={eval_every}")
    with monkeypatch.context() as patched:
        patched.setattr(LeakAudit, "on_train_end", interrupted)
        with pytest.raises(Stopped):
            train(cfg)
    folder = Path(cfg.run_dir)
    assert not (folder / "results.json").exists()
    cfg.resume = str(folder / "checkpoints" / "last.ckpt")
    results = train(cfg)
    assert (results["optimizer_steps"], results["status"]) == (8, "completed")
    assert results["final"]["val/ppl"]["is_likelihood"]
