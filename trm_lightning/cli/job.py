"""What surrounds a command's function while it runs: errors, status and the run folder."""

import contextlib
import functools
import json
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from trm_lightning.cli import launch, process, screen
from trm_lightning.cli.compose import Call, composer
from trm_lightning.cli.config_check import check_config
from trm_lightning.cli.overrides import of_loggers
from trm_lightning.cli.printed import shell_command
from trm_lightning.cli.requeue import requeue_after
from trm_lightning.cli.resume import Resumption
from trm_lightning.cli.resumed_config import resumed_config
from trm_lightning.cli.schema import SCHEMAS
from trm_lightning.errors import Stopped, UserError
from trm_lightning.files import write_text
from trm_lightning.runs.find import last_checkpoint

Task = Callable[[DictConfig], float | None]
NOT_READ = 141  # what shells report for a process whose output nobody reads any more


def wrap(
    call: Call,
    task: Task,
    resumed: DictConfig | None = None,
    again: list[str] | None = None,
    comes_back: bool = False,
) -> Task:
    """The function that Hydra calls, once for a run and once per job of a sweep.

    Args:
        call: of the command.
        task: the command's function.
        resumed: the config of a run that is resumed, instead of the one that Hydra composes.
        again: the arguments of a call that resumes the same; Lightning's processes read sys.argv.
        comes_back: the same command line goes on where this one stops: Slurm may requeue it.
    """
    environment = launch.environment()

    @functools.wraps(task)
    def job(cfg: DictConfig) -> float | None:
        process.reset(environment)
        if launch.rank() > 0:
            process.silence_console()
        folder = Path(HydraConfig.get().runtime.output_dir)
        if call.config_dir and "trust" in cfg:
            cfg.trust = [*([cfg.trust] if isinstance(cfg.trust, str) else cfg.trust)]
            cfg.trust += call.own_targets()
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return _run_in_sweep(call, task, cfg, folder)
        if again is not None:
            sys.argv[1:] = again
        # Without a subdirectory for its config it is the caller's own folder.
        owned = resumed is not None or HydraConfig.get().output_subdir is not None
        config = cfg if resumed is None else resumed
        return _run_alone(call.command, task, config, folder, owned, comes_back)

    return job


def _run_alone(
    command: str, task: Task, cfg: DictConfig, folder: Path, owned: bool, comes_back: bool
) -> float | None:
    made_now = owned and _is_new(folder)
    try:
        return task(cfg)
    except (KeyboardInterrupt, SystemExit) as stop:
        _stop(stop, folder, comes_back)
    except Exception as error:
        if (behind := signal_behind(error)) is not None:
            _stop(behind, folder, comes_back)
        mistake = screen.cause_of(error)
        if mistake is None:
            if not owned:
                raise
            _keep_traceback(folder)
            sys.exit(1)
        screen.show(f"trm-{command}", mistake)
        if made_now and launch.rank() == 0 and not _has_results(folder):
            _remove(folder)
        sys.exit(mistake.exit_status)


def _run_in_sweep(call: Call, task: Task, cfg: DictConfig, folder: Path) -> float | None:
    """Run one job of a sweep; its failure is written down and the sweep goes on."""
    start, hydra = time.monotonic(), HydraConfig.get()
    requeued = _was_stopped(folder, list(hydra.overrides.task))
    status: dict[str, Any] = {
        "status": "running",
        "overrides": list(hydra.overrides.task),
        "value": None,
    }
    _write_status(folder, status)
    # Begun now and ended below: one line per job, the rest is in the job's own log.
    print(f"job {hydra.job.num}: {hydra.job.override_dirname} …", end=" ", flush=True)
    try:
        process.silence_console()
        if requeued:
            cfg = _resumed(call, folder, list(hydra.overrides.task))
        if "progress" in cfg:
            cfg.progress = False
        refuse_several_devices(cfg)
        check_config(cfg, SCHEMAS.get(call.command))
        value = task(cfg)
        status |= {"status": "completed", "value": None if value is None else float(value)}
        return value
    except (KeyboardInterrupt, SystemExit) as stop:
        status |= {"status": "interrupted"}
        _stop(stop, folder)
    except Exception as error:
        if (behind := signal_behind(error)) is not None:
            status |= {"status": "interrupted"}
            _stop(behind, folder)
        mistake = screen.cause_of(error)
        status |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        if mistake is None:
            _keep_traceback(folder)
        else:
            status["error"] = str(mistake)
            write_text(folder / "error.txt", f"{mistake}\n")
            screen.show(f"trm-{call.command}", mistake)
        return None
    finally:
        status["seconds"] = round(time.monotonic() - start, 1)
        _write_status(folder, status)
        print(job_end(status), flush=True)
        process.release()


def _was_stopped(folder: Path, overrides: list[str]) -> bool:
    """Return whether a job of these overrides was stopped in this folder, and saved something.

    So it is where a queue starts a job again: after a preemption, a time limit or a lost machine.
    """
    file = folder / "status.json"
    if not file.is_file() or not last_checkpoint(folder).is_file():
        return False
    before = json.loads(file.read_text(encoding="utf-8"))
    return before["overrides"] == overrides and before["status"] in ("running", "interrupted")


def _resumed(call: Call, folder: Path, overrides: list[str]) -> DictConfig:
    """Return the config of a stopped job, to go on with; its overrides are this call's."""
    run = Resumption(last_checkpoint(folder).resolve(), of_loggers(overrides), [])
    with composer(call) as composed:
        return resumed_config(run, composed)


def job_end(status: dict[str, Any]) -> str:
    """How a job of a sweep ended, for the end of its line."""
    value = "" if status["value"] is None else f" {status['value']:.6g},"
    return f"{status['status']},{value} {status['seconds']:g} s"


def refuse_several_devices(cfg: DictConfig) -> None:
    """Lightning's DDP processes repeat the whole command line, and so the whole sweep."""
    trainer = cfg.get("trainer") or {}
    devices = trainer.get("devices", 1)
    if isinstance(devices, str) and "," in devices:
        devices = devices.strip(",").split(",")
    if devices in ("auto", -1, "-1"):
        import torch

        devices = 1 if trainer.get("accelerator") == "cpu" else torch.cuda.device_count()
    count = int(devices) if isinstance(devices, (int, str)) else len(devices)
    if count > 1 and not launch.shared_id():
        raise UserError(
            f"trainer.devices={devices}: a sweep in one process cannot train on several devices",
            "Set trainer.devices=1, or start one command per job, e.g. in a shell loop.",
        )


def signal_behind(error: BaseException) -> Stopped | None:
    """Return the signal during whose handling ``error`` was raised; None where there was none.

    A library that is stopped half-way may fail while it cleans up, and so hide why.
    """
    current: BaseException | None = error
    while current is not None and not isinstance(current, Stopped):
        current = current.__context__
    return current


def _stop(stop: BaseException, folder: Path, comes_back: bool = False) -> NoReturn:
    """Pass an exit on; say how to continue what a signal ended.

    Lightning turns Ctrl-C into `sys.exit(1)`: the interrupt is then the exit's context.
    """
    interrupt = stop if isinstance(stop, KeyboardInterrupt) else stop.__context__
    if not isinstance(interrupt, KeyboardInterrupt):
        raise stop
    hint = ""
    if last_checkpoint(folder).is_file():
        own = of_loggers(list(HydraConfig.get().overrides.task))
        hint = f"Continue with: {shell_command('train', f'resume={folder}', *own)}"
    if comes_back and launch.rank() == 0:
        hint = requeue_after(interrupt) or hint
    say_stopped(interrupt, hint)


def say_stopped(interrupt: KeyboardInterrupt, hint: str = "") -> NoReturn:
    """Say in a line what ended the process, and end it with the status that shells report."""
    stop = interrupt if isinstance(interrupt, Stopped) else Stopped()
    if launch.rank() == 0:
        by = "" if stop.number == signal.SIGINT else f" by {signal.Signals(stop.number).name}"
        print(f"\nInterrupted{by}", file=sys.stderr)
        if hint:
            print(hint, file=sys.stderr)
    sys.exit(stop.exit_status)


def _keep_traceback(folder: Path) -> None:
    text = traceback.format_exc()
    name = "error.txt" if launch.rank() == 0 else f"error_rank{launch.rank()}.txt"
    write_text(folder / name, text)
    print(f"{text}\nThis is kept in {folder / name}", file=sys.stderr)


def _write_status(folder: Path, status: dict[str, Any]) -> None:
    if launch.rank() == 0:
        write_text(folder / "status.json", json.dumps(status, indent=1))


def _is_new(folder: Path) -> bool:
    """True if the folder holds nothing but what Hydra puts there before the job starts."""
    return all(entry.name == ".hydra" or entry.suffix == ".log" for entry in folder.iterdir())


def _has_results(folder: Path) -> bool:
    patterns = ("**/*.ckpt", "**/metrics.*", "results.json")
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def _remove(folder: Path) -> None:
    """Remove a run folder, and the date's folder above it if that is now empty."""
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # not empty: other runs of the day
        folder.parent.rmdir()
