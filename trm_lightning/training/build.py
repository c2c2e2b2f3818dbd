"""The parts of a training run, built from its composed config."""

import logging
import math
import os
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from omegaconf import DictConfig, OmegaConf

from trm_lightning.cli import launch
from trm_lightning.data import TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.evaluation.tasks import check_task
from trm_lightning.models import LanguageModel
from trm_lightning.optim.schedules import UNLIMITED, TimeShare
from trm_lightning.runs.load import model_arguments, start_from
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks import CheckpointFiles
from trm_lightning.training.flops import training_flops
from trm_lightning.training.loggers import need_extras

_log = logging.getLogger(__name__)


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


def flops_per_token(cfg: DictConfig, model: LanguageModel, data: TextDataModule) -> float:
    """Return the operations of training per token of the training windows."""
    windows = torch.zeros(2, data.window_size, dtype=torch.long)
    first = data.window_size - data.supervised_tokens
    flops = training_flops(model, windows, first) / windows.numel()
    return flops / model.n_supervision if cfg.carry else flops  # one supervision step per batch


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
