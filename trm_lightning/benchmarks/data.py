"""Speed of the data pipeline."""

from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from trm_lightning.benchmarks.timing import Variant, measure
from trm_lightning.runs.load import make_data

_ENDLESS = 10**9
PLAIN = "windows sliced one by one"


def data_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure training batches of ``cfg.data``, making a missing token cache first."""
    data = make_data(cfg.data)
    data.show(_ENDLESS)
    batches = iter(data.train_dataloader())
    tokens, size, batch = data.splits["train"].tokens, data.window_size, data.batch_size

    def sliced() -> Tensor:
        starts = torch.randint(len(tokens) - size, (batch,)).tolist()
        rows = [torch.from_numpy(tokens[i : i + size].astype(np.int64)) for i in starts]
        return torch.stack(rows)

    variants = [
        Variant(PLAIN, sliced, batch * size),
        Variant(
            f"training batches of {data.name}", lambda: next(batches), batch * size,
            references=(PLAIN,),
        ),
        Variant(f"opening {data.name}, cached", lambda: make_data(cfg.data)),
    ]  # fmt: skip
    return measure(
        "data", variants, device, cfg.repetitions, cfg.seconds_per_measurement, cfg.clock
    )
