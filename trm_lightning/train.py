"""Train one model on one data set: ``python -m trm_lightning.train model=trm data=…``."""

import sys
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from trm_lightning.cli import command


@command("train")
def main(cfg: DictConfig) -> float:
    """Train a model, score it exactly, and leave everything about the run in its folder.

    A sweep compares the lowest validation score, which is what this returns.

    Examples:
    trm-train
    trm-train model=ar data=shakespeare_word
    trm-train data=text data.path=my_book.txt data.level=char
    trm-train --multirun model=ar,trm seed=1,2,3
    trm-train experiment=reproduce/word_baseline
    trm-train resume=auto
    """
    # Help, completion and error screens come without the seconds that torch takes to load.
    from trm_lightning.evaluation.metrics import cost_of
    from trm_lightning.training.fit import train

    results = train(cfg)
    return min(cost_of(score) for score in results["best"].values())


class _CallableModule(ModuleType):
    """Lets ``trm_lightning.train`` be both this command and the function of the same name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        from trm_lightning import api

        return api.train(*arguments, **named)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    main()
