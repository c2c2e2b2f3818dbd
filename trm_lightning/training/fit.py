"""A training run from its composed config to ``results.json``."""

import logging
import math
import os
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from trm_lightning.cli import launch
from trm_lightning.data import TextDataModule
from trm_lightning.errors import Stopped, UserError
from trm_lightning.evaluation.tasks import AnyScore, check_task
from trm_lightning.files import write_json
from trm_lightning.models import LanguageModel
from trm_lightning.optim.schedules import UNLIMITED, TimeShare
from trm_lightning.runs.history import FILE
from trm_lightning.runs.load import check_resumable, model_arguments, start_from
from trm_lightning.runs.lock import sole_user
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks import (
    Boards,
    CheckpointFiles,
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
from trm_lightning.training.flops import training_flops
from trm_lightning.training.loggers import describe_to_loggers, need_extras
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


def _train(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    data: TextDataModule = built(cfg, "data")
    data.prepare_data()
    data.setup()
    refuse_what_does_not_fit(sketch_of(cfg, data), data, torch.device("cpu"))
    clock = TimeBudget(cfg.budget.seconds)
    module = build_module(cfg, data, clock.share)
    flops = flops_per_token(module.model, data)
    if cfg.carry:  # one supervision step per batch
        flops /= module.model.n_supervision
    facts = describe_run(cfg, data, module.model, flops)
    checkpoint, seen, shown = None, 0, (-1, -1)
    if cfg.resume:
        checkpoint, stored = check_resumable(Path(cfg.resume), facts)
        counters, facts["family"] = stored["counters"], stored["run"]["family"]
        seen, shown = (
            counters["batches_seen"],
            (counters["optimizer_steps"], counters["tokens_seen"]),
        )
    if launch.rank() == 0:
        drop_events_after(folder, *shown)
    data.show(math.ceil(module.total_steps / module.steps_per_batch), start_batch=seen)

    log = TrainLog(cfg.log_every, folder / FILE, clock)
    finite = FiniteLoss(cfg.log_every)
    saves = Checkpoints(folder / "checkpoints", cfg.checkpoint_every, facts, finite.check)
    audits = PuzzleAudit if data.is_puzzle else LeakAudit
    shows = _shows(cfg, data, folder / "samples.txt")
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

    try:
        # With a bar, lines appear above it.
        with logging_redirect_tqdm() if cfg.progress else nullcontext():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except TrainingStop as stop:
        _hand_on(stop.number)
        raise Stopped(stop.number) from None
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


def built(cfg: DictConfig, key: str, **arguments: Any) -> Any:
    """Build what a node of the config describes.

    Raises:
        UserError: naming the node, when what it names does not take its settings.
    """
    try:
        return instantiate(cfg[key], **arguments)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        hint = "Choose a device that is there: trainer=cpu, trainer=gpu, trainer=mps."
        raise UserError(
            f"The {key} could not be set up: {str(cause).splitlines()[0]}",
            hint if key == "trainer" else f"Look at the settings under {key}.",
        ) from error


def sketch_of(cfg: DictConfig, data: TextDataModule) -> LanguageModel:
    """Build the model without memory for its weights."""
    with torch.device("meta"):
        model: LanguageModel = built(cfg, "model", **model_arguments(data.tokenizer))
    check_task(model, data)
    return model


def check_processes(trainer: DictConfig) -> None:
    """Refuse more processes than cores, and to wait for machines on which nothing was started.

    Raises:
        UserError: naming the setting.
    """
    devices, cores = trainer.get("devices", 1), os.cpu_count() or 1
    if trainer.get("accelerator") == "cpu" and isinstance(devices, int) and devices > cores:
        raise UserError(
            f"trainer.devices={devices} is more processes than this machine has cores ({cores})."
        )
    if trainer.get("num_nodes", 1) > 1 and launch.shared_id() is None:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} waits for processes on other machines, and "
            "this one was not started by torchrun or srun.",
            "Start it there: torchrun --nnodes=… -m trm_lightning.train …",
        )


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


def build_module(
    cfg: DictConfig, data: TextDataModule, time_share: TimeShare = lambda: 0.0
) -> TrainingModule:
    """Build the model for the data's vocabulary, and what trains it."""
    model: LanguageModel = built(cfg, "model", **model_arguments(data.tokenizer))
    if cfg.init_from is not None and not cfg.resume:
        _log.info("%s", start_from(model, cfg.init_from))
    if cfg.compile:
        model.compile()
    per_batch = 1 if cfg.accumulate_supervision or cfg.carry else model.n_supervision
    return TrainingModule(
        model,
        optimizer=built(cfg, "optimizer"),
        schedule=built(cfg, "schedule"),
        supervised_tokens=data.supervised_tokens,
        grad_clip=cfg.grad_clip,
        ema_decay=cfg.ema_decay,
        total_steps=total_steps(cfg.budget, data, per_batch),
        time_share=time_share,
        cuda_graph=cfg.cuda_graph,
        accumulate_supervision=cfg.accumulate_supervision,
        gradient_accumulation=cfg.gradient_accumulation,
        is_puzzle=data.is_puzzle,
        carry=cfg.carry,
        halt_exploration=cfg.get("halt_exploration", 0.0),  # runs begun before there was one
    )


def flops_per_token(model: LanguageModel, data: TextDataModule) -> float:
    """Return the operations of training per token of the training windows."""
    windows = torch.zeros(2, data.window_size, dtype=torch.long)
    first = data.window_size - data.supervised_tokens
    return training_flops(model, windows, first) / windows.numel()


def total_steps(budget: DictConfig, data: TextDataModule, steps_per_batch: int) -> int:
    """Turn a budget into optimizer steps: the shortest of steps, tokens and epochs.

    A budget of seconds alone sets no limit here; :class:`TimeBudget` ends such a run.

    Raises:
        UserError: when no budget is set, or one is not positive.
    """
    per_batch = data.batch_size * data.window_size
    limits = {
        "steps": budget.steps,
        "tokens": budget.tokens and steps_per_batch * budget.tokens / per_batch,
        "epochs": budget.epochs and steps_per_batch * budget.epochs * data.batches_per_epoch,
    }
    given = {name: limit for name, limit in limits.items() if budget[name] is not None}
    if budget.seconds is not None:
        given["seconds"] = UNLIMITED if budget.seconds > 0 else 0
    if not given or min(given.values()) <= 0:
        raise UserError(
            "The budget is empty: " + OmegaConf.to_yaml(budget).replace("\n", " ").strip(),
            "Set at least one of budget.steps, .tokens, .epochs, .seconds to more than 0.",
        )
    return math.ceil(min(given.values()))


def build_trainer(
    cfg: DictConfig, module: TrainingModule, callbacks: list[L.Callback]
) -> L.Trainer:
    """Build Lightning's Trainer, with everything switched off that counts batches as steps.

    Raises:
        UserError: when the device or the precision is not to be had here.
    """
    need_extras(cfg.logger or {})
    loggers = list((built(cfg, "logger") or {}).values())
    check_processes(cfg.trainer)
    trainer: L.Trainer = built(
        cfg,
        "trainer",
        precision=cfg.precision,
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=cfg.run_dir,
        max_steps=module.total_steps,
        max_epochs=-1,
        min_epochs=0,
        val_check_interval=math.ceil(cfg.eval_every / module.steps_per_batch),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),  # the user's own
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        plugins=[*(cfg.trainer.get("plugins") or []), CheckpointFiles()],
        use_distributed_sampler=False,
    )
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        raise UserError(
            f"{type(trainer.strategy).__name__} splits the weights over devices, and checkpoints, "
            "samples and the leak audit here need them whole.",
            "Use trainer=ddp; models of this size fit on one device (docs/clusters.md).",
        )
    return trainer
