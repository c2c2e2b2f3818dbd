"""Run folders as a finished run leaves them for a report."""

import copy
import json
from pathlib import Path
from typing import Any

from trm_lightning.runs.checkpoint_file import FORMAT

ENVIRONMENT = {
    "python": "3.11.2", "platform": "Linux", "packages": {"torch": "2.13"}, "threads": 1,
    "cpu": "a processor", "gpu": None, "git_commit": "abc123",
    "command": ["train.py", "model=ar", "resume=outputs/x"],
}  # fmt: skip
SCORE = {
    "meaning": "exact perplexity", "is_likelihood": True, "perplexity": 42.125,
    "nats_per_token": 3.7406, "bits_per_character": 1.234, "word_perplexity": 50.0,
    "total_nats": 3740.6, "tokens": 1000, "words": 900, "characters": 5000, "unknown_share": 0.07,
}  # fmt: skip
RESULTS: dict[str, Any] = {
    "format": FORMAT, "status": "completed",
    "optimizer_steps": 40, "tokens_seen": 20480, "seconds": 12.5,
    "vocab_size": 321, "data": "builtin_word", "data_fingerprint": "0123456789abcdef",
    "entropy_floor_perplexity": 20.5, "parameters": 108480, "is_likelihood": True,
    "family": "ar", "width": 64, "n_layers": 2, "n_passes": 1, "flops_per_token": 1e6,
    "eval_window": 64, "eval_stride": 32, "final": {"val/ppl": SCORE},
    "best": {"val/ppl": {"perplexity": 41.5, "step": 30}}, "test": {},
    "environment": ENVIRONMENT,
    "config": {
        "model": {"_target_": "trm_lightning.models.AR"},
        "data": {"name": "builtin_word"}, "seed": 1,
    },
}  # fmt: skip


def make_run(folder: Path, **changes: Any) -> Path:
    """Write what a finished run of 40 steps leaves for a report."""
    folder.mkdir()
    results = copy.deepcopy(RESULTS) | changes
    (folder / "results.json").write_text(json.dumps(results))
    name = next(iter(results["final"]))
    lines = []
    for step in range(2, 41, 2):
        line = {"step": step, "tokens": 512 * step, "seconds": 0.3 * step}
        lines.append(line | {"train/ppl": 400 / step + 30})
        if step % 10 == 0:
            lines.append(line | {name: 300 / step + 35})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
