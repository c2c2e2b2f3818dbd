"""The decorator that makes a function of a config a command."""

import argparse
import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import hydra

# Hydra offers its parser nowhere else; the supported range of versions is narrow for this reason.
from hydra._internal.utils import get_args_parser

from trm_lightning.cli import job, launch, resolvers, resume, screen, threads
from trm_lightning.cli.compose import Call, check_call, compose_or_explain, composer, conf_dir
from trm_lightning.cli.help import show_help
from trm_lightning.cli.overrides import name_by_choices
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
            try:
                _run(name, task)
            except UserError as mistake:
                screen.show(f"trm-{name}", mistake)
                sys.exit(2)
            except KeyboardInterrupt as stop:
                job.say_stopped(stop)
            except BrokenPipeError:
                # Who reads the output has had enough (`| head`); the rest has nowhere to go.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(job.NOT_READ)

        return main

    return decorate


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
    else:
        sys.argv[1:] = _prepared(call, args)
    run = hydra.main(version_base="1.3", config_path=str(call.conf), config_name=call.config_name)
    with resume.restored_after_mistake(call.resumed):
        run(job.wrap(name, task))()


def _prepared(call: Call, args: argparse.Namespace) -> list[str]:
    """The arguments with `resume` resolved, after a check of the config they make.

    They replace those in sys.argv, where Lightning looks when it starts its DDP processes.
    """
    overrides = list(args.overrides)
    schema = SCHEMAS.get(call.command)
    if schema and "resume" in {field.name for field in dataclasses.fields(schema)}:
        overrides = resume.resolve(call, overrides)
    check_call(call, overrides)
    if call.multirun:
        overrides.append(name_by_choices(overrides))
    if launch.shared_id() and launch.rank() > 0:
        # Ranks of torchrun share the first one's folder, and only that one writes the config.
        overrides += [
            "hydra.output_subdir=null",
            "hydra.job_logging.handlers.file.filename="
            f"${{hydra.runtime.output_dir}}/{call.command}_rank{launch.rank()}.log",
        ]
    return call.flags() + overrides
