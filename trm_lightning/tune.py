"""Search for good settings: ``python -m trm_lightning.tune data=shakespeare_char``."""

from omegaconf import DictConfig

from trm_lightning.cli import command
from trm_lightning.errors import need


@command("tune")
def main(cfg: DictConfig) -> None:
    """Search for settings with Optuna: each trial is an ordinary training run.

    The same command goes on where it was stopped. With workers=4, as jobs of a launcher, or given
    on several machines that share the folder, it runs trials in parallel. It ends in a report and
    the best command.

    Examples:
        trm-tune data=shakespeare_char model=trm trials=20 budget.epochs=2
        trm-tune 'space=[{key:optimizer.lr,low:1e-4,high:1e-2,log:true}]' model=looped
        trm-tune launcher=slurm workers=8 trials=100
        trm-tune storage=sqlite:///search.db name=widths
    """

    need("optuna", "tune")
    from trm_lightning.reports.search import write_search
    from trm_lightning.studies.search import make_search, run_search

    search = make_search(cfg)
    try:
        run_search(search, cfg.progress)
    finally:
        write_search(search)


if __name__ == "__main__":
    main()
