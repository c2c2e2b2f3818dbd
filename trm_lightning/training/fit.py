"""A training run from its composed config to ``results.json``."""

import logging
import math
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from trm_lightning.cli import launch
from trm_lightning.data import TextDataModule
from trm_lightning.errors import Stopped
from trm_lightning.evaluation.tasks import AnyScore
from trm_lightning.files import write_json
from trm_lightning.runs.history import FILE
from trm_lightning.runs.load import check_resumable
from trm_lightning.runs.lock import sole_user
from trm_lightning.training import TrainingModule
from trm_lightning.training.build import (
    build_module,
    build_trainer,
    built,
    flops_per_token,
    sketch_of,
)
from trm_lightning.training.callbacks import (
    Boards,
    Checkpoints,
    FiniteLoss,
    LeakAudit,
    Progress,
    PuzzleAudit,
    Samples,
    StopCleanly,
    TimeBudget,
    TrainingStop,
    TrainLog,
)
from trm_lightning.training.loggers import describe_to_loggers
from trm_lightning.training.memory import refuse_what_does_not_fit
from trm_lightning.training.results import describe_run, results_of
from trm_lightning.training.screens import closing_screen, opening_screen
from trm_lightning.training.tensorboard_events import drop_events_after

_log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train, validate and test; leave checkpoints, logs and ``results.json`` in the run folder.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: for anything that the user can mend.
        Stopped: after a clean stop by Ctrl-C, SIGTERM or the like, with everything saved.
    """
    set_globals(cfg)
    # The first of several processes holds the lock for all of them.
    with sole_user(Path(cfg.run_dir)) if launch.rank() == 0 else nullcontext():
        return _train(cfg, Path(cfg.run_dir))


def set_globals(cfg: DictConfig) -> None:
    """Set every process-wide switch, so that one job of a sweep leaves nothing to the next."""
    L.seed_everything(cfg.seed, verbose=False)
    torch.set_float32_matmul_precision(cfg.float32_matmul)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    # What Lightning tells at every start is of no use to a user of this package.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")


def _train(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    data: TextDataModule = built(cfg, "data")
    data.prepare_data()
    data.setup()
    refuse_what_does_not_fit(sketch_of(cfg, data), data, torch.device("cpu"))
    clock = TimeBudget(cfg.budget.seconds)
    module = build_module(cfg, data, clock.share)
    facts = describe_run(cfg, data, module.model, flops_per_token(cfg, module.model, data))
    checkpoint = _go_on_from(cfg, data, module, facts)

    log = TrainLog(cfg.log_every, folder / FILE, clock)
    finite = FiniteLoss(cfg.log_every)
    saves = Checkpoints(folder / "checkpoints", cfg.checkpoint_every, facts, finite.check)
    shows = _shows(cfg, data, folder / "samples.txt")
    audits = PuzzleAudit if data.is_puzzle else LeakAudit
    callbacks = [
        audits(facts, folder / "audit.json", cfg.audit),
        clock,
        finite,
        log,
        shows,
        *(built(cfg, "callbacks") or {}).values(),
        saves,
        StopCleanly(),
        *([Progress(log)] if cfg.progress else []),
    ]
    trainer = build_trainer(cfg, module, callbacks)
    if trainer.is_global_zero:
        data.tokenizer.save(folder / "tokenizer.json")
        describe_to_loggers(trainer, module, facts)
        _log.info("%s", opening_screen(trainer, module, facts))

    _fit(trainer, module, data, checkpoint, cfg.progress)
    course = {  # before a checkpoint is loaded for the test
        "status": "completed",
        "optimizer_steps": module.optimizer_steps,
        "tokens_seen": module.tokens_seen,
        "seconds": clock.seconds,
    }
    final, tested = final_scores(cfg, trainer, module, log, saves)
    facts["is_likelihood"] = module.model.is_likelihood and not module.model.leaks
    results = results_of(facts, final, tested, log.path, course)
    if trainer.is_global_zero:
        write_json(folder / "results.json", results)
        _log.info("%s", closing_screen(results, folder, getattr(shows, "latest", "")))
    return results


def _go_on_from(
    cfg: DictConfig, data: TextDataModule, module: TrainingModule, facts: dict[str, Any]
) -> Path | None:
    """Set the data to the first batch to train on.

    Returns:
        The checkpoint of a resumed run, whose family ``facts`` then name; None for a new one.
    """
    checkpoint, seen, shown = None, 0, (-1, -1)
    if cfg.resume:
        checkpoint, stored = check_resumable(Path(cfg.resume), facts)
        counters, facts["family"] = stored["counters"], stored["run"]["family"]
        seen, shown = (
            counters["batches_seen"],
            (counters["optimizer_steps"], counters["tokens_seen"]),
        )
    if launch.rank() == 0:
        drop_events_after(Path(cfg.run_dir), *shown)
    data.show(math.ceil(module.total_steps / module.steps_per_batch), start_batch=seen)
    return checkpoint


def _fit(
    trainer: L.Trainer,
    module: TrainingModule,
    data: TextDataModule,
    checkpoint: Path | None,
    progress: bool,
) -> None:
    """Train.

    Raises:
        Stopped: after a clean stop.
    """
    try:
        # With a bar, lines appear above it.
        with logging_redirect_tqdm() if progress else nullcontext():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except TrainingStop as stop:
        _hand_on(stop.number)
        raise Stopped(stop.number) from None


def _hand_on(number: int) -> None:
    """Tell who handled a signal before training did, such as submitit, which requeues the job."""
    handler = signal.getsignal(number)
    if callable(handler) and number != signal.SIGINT:
        handler(number, None)


def _shows(cfg: DictConfig, data: TextDataModule, path: Path) -> Boards | Samples:
    if data.is_puzzle:
        return Boards(path)
    return Samples(path, cfg.get("sample_tokens", 100))  # runs begun before there was the key


def final_scores(
    cfg: DictConfig,
    trainer: L.Trainer,
    module: TrainingModule,
    log: TrainLog,
    checkpoints: Checkpoints,
) -> tuple[dict[str, AnyScore], dict[str, AnyScore]]:
    """Return validation scores of the last weights and test scores of the best ones.

    The last validation of training serves where it is of the last step and scored everything.
    """
    data: TextDataModule = trainer.datamodule  # type: ignore[attr-defined]
    stale = log.validated_step != module.optimizer_steps
    if stale or len(module.scorers()) > 1:
        trainer.validate(module, datamodule=data, verbose=False)
    final = module.scores
    if not cfg.test or "test" not in data.splits:
        return final, {}
    best = checkpoints.best
    trainer.test(module, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    return final, module.scores
