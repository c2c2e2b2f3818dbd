"""Every file of a run folder tells whether it is as it was written."""

from pathlib import Path

import pytest
from conftest import Configure

from trm_lightning.errors import UserError
from trm_lightning.runs.verify import verify
from trm_lightning.training.fit import train


def test_a_flipped_byte_is_found_in_every_file(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("model=ar", "budget.steps=4")
    train(cfg)
    run = Path(cfg.run_dir)
    whole = verify(run)
    assert {"checkpoints/last.ckpt", "metrics.jsonl", "results.json", "audit.json"} <= set(whole)
    assert not any(whole.values()), whole
    for name in ("checkpoints/best.ckpt", "metrics.jsonl", "results.json", "audit.json"):
        file = run / name
        content = file.read_bytes()
        digits = [content.rfind(b"%d" % digit) for digit in range(10)]
        place = max(digits) if file.suffix != ".ckpt" else len(content) // 2
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert [key for key, damage in verify(run).items() if damage] == [name]
        file.write_bytes(content)


def test_a_folder_of_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder of trm_lightning"):
        verify(tmp_path)
