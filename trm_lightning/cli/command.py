"""The decorator that makes a function of a config a command."""

import dataclasses
import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import hydra

# Hydra offers its parser nowhere else; the supported range of versions is narrow for this reason.
from hydra._internal.utils import get_args_parser
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from trm_lightning.cli import job, launch, resolvers, resume, screen, threads
from trm_lightning.cli.compose import (
    Call,
    check_call,
    check_task,
    compose_or_explain,
    composer,
    conf_dir,
)
from trm_lightning.cli.help import show_help
from trm_lightning.cli.overrides import merge, name_by_choices
from trm_lightning.cli.resumed_config import resumed_config
from trm_lightning.cli.schema import SCHEMAS
from trm_lightning.errors import STOP_SIGNALS, UserError, raise_stopped


def command(name: str) -> Callable[[job.Task], Callable[..., Any]]:
    """Make a function the command `name`, configured by `conf/<name>.yaml`.

    The decorated function reads the command line when it is called without arguments; called with
    a config it runs the function itself. Exit status: 0, 1 after an exception or a failed job of a
    sweep, 2 after a UserError, 128 + n after signal n (130 after Ctrl-C).

    The first paragraph of the function's docstring heads `--help`; the lines of a paragraph that
    begins with `Examples:` are shown as its examples.
    """

    def decorate(task: job.Task) -> Callable[..., Any]:
        @functools.wraps(task)
        def main(*config: Any) -> Any:
            if config:
                return task(*config)
            for number in STOP_SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                    signal.signal(number, raise_stopped)
            logging.raiseExceptions = False  # a log on a full disk is no reason for a trace
            threading.excepthook = _quiet_about_disks  # nor is TensorBoard's writer
            try:
                _run(name, task)
            except KeyboardInterrupt as stop:
                job.say_stopped(stop)
            except BrokenPipeError:
                # Who reads the output has had enough (`| head`); the rest has nowhere to go.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(job.NOT_READ)
            except CompactHydraException as error:
                sys.exit(str(error))
            except (UserError, OSError) as error:
                mistake = screen.cause_of(error)
                if mistake is None:
                    raise
                screen.show(f"trm-{name}", mistake)
                sys.exit(2)

        return main

    return decorate


def _quiet_about_disks(found: threading.ExceptHookArgs) -> None:
    """Leave a thread's failure to write to the main thread, which meets it and tells it."""
    if not isinstance(found.exc_value, OSError):
        threading.__excepthook__(found)


def _run(name: str, task: job.Task) -> None:
    threads.bound_spinning()
    resolvers.register()
    args = get_args_parser().parse_args()
    call = Call.parse(name, args)
    if args.help:
        show_help(call, task.__doc__ or "", args.overrides)
        return
    if args.cfg or args.info or args.hydra_help or args.shell_completion:
        if call.conf != conf_dir():  # Hydra would look for a relative one beside the package
            sys.argv += ["--config-path", str(call.conf)]
        if args.cfg:
            with composer(call) as composed:
                compose_or_explain(composed, args.overrides)
        _hydra(call)(job.wrap(call, task))()
        return
    resumption = resume.find(call, args.overrides) if _can_resume(name) else None
    comes_back = _can_resume(name) and resume.is_automatic(args.overrides)
    if resumption is None:
        sys.argv[1:] = call.flags() + _checked(call, args.overrides)
        _hydra(call)(job.wrap(call, task, comes_back=comes_back))()
        return
    config = _resumed(call, resumption)
    again = [*call.flags(), *resumption.call_again()]
    sys.argv[1:] = call.flags() + _told_by_rank(call, resumption.hydra_overrides())
    _hydra(call)(job.wrap(call, task, config, again, comes_back))()


def _hydra(call: Call) -> Callable[[job.Task], Callable[[], Any]]:
    """Hydra's own decorator for this call; errors come through it instead of a printed trace."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    decorate: Callable[[job.Task], Callable[[], Any]] = hydra.main(
        version_base="1.3", config_path=str(call.conf), config_name=call.config_name
    )
    return decorate


def _can_resume(command: str) -> bool:
    schema = SCHEMAS.get(command)
    return schema is not None and "resume" in {f.name for f in dataclasses.fields(schema)}


def _resumed(call: Call, resumption: resume.Resumption) -> DictConfig:
    """The config of a resumed run, checked."""
    with composer(call) as composed:
        cfg = compose_or_explain(composed, resumption.hydra_overrides())
        config = resumed_config(resumption, composed)
        check_task(cfg, call, config)
    return config


def _checked(call: Call, given: list[str]) -> list[str]:
    """The overrides of a new run, after a check of the config they make."""
    overrides = merge(given, without="resume") if _can_resume(call.command) else list(given)
    check_call(call, overrides)
    if call.multirun:
        overrides.append(name_by_choices(overrides))
    return _told_by_rank(call, overrides)


def _told_by_rank(call: Call, overrides: list[str]) -> list[str]:
    """The overrides, and that ranks of torchrun but the first write no config and a log apart."""
    if not launch.shared_id() or launch.rank() == 0:
        return overrides
    return [
        *overrides,
        "hydra.output_subdir=null",
        "hydra.job_logging.handlers.file.filename="
        f"${{hydra.runtime.output_dir}}/{call.command}_rank{launch.rank()}.log",
    ]
