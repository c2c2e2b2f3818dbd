"""Train one model on one data set: ``python -m trm_lightning.train model=trm data=…``."""

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
    from trm_lightning.training.fit import train

    results = train(cfg)
    return min(score["perplexity"] for score in results["best"].values())


if __name__ == "__main__":
    main()
