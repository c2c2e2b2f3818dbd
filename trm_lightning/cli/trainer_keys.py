"""Settings of Lightning's Trainer that this package sets itself, and what to set instead."""

_BUDGET = "budget.steps, .tokens, .epochs or .seconds"
_LOADERS = "a text of your own size (data=text)"

REFUSED = {
    "accumulate_grad_batches": "gradient_accumulation",
    "barebones": "logger=none progress=false",
    "callbacks": "callbacks=…",
    "check_val_every_n_epoch": "eval_every",
    "default_root_dir": "hydra.run.dir",
    "enable_checkpointing": "checkpoint_every",
    "enable_model_summary": "the screen before training",
    "enable_progress_bar": "progress",
    "fast_dev_run": "debug=fast",
    "gradient_clip_algorithm": "grad_clip",
    "gradient_clip_val": "grad_clip",
    "inference_mode": "nothing",
    "limit_predict_batches": "nothing",
    "limit_test_batches": _LOADERS,
    "limit_train_batches": _BUDGET,
    "limit_val_batches": _LOADERS,
    "log_every_n_steps": "log_every",
    "logger": "logger=…",
    "max_epochs": _BUDGET,
    "max_steps": _BUDGET,
    "max_time": _BUDGET,
    "min_epochs": _BUDGET,
    "min_steps": _BUDGET,
    "num_sanity_val_steps": "nothing",
    "overfit_batches": _LOADERS,
    "precision": "precision",
    "reload_dataloaders_every_n_epochs": "nothing",
    "use_distributed_sampler": "nothing",
    "val_check_interval": "eval_every",
}
