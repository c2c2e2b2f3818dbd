"""A Slurm job that is about to end goes back into the queue, where its script can go on."""

import os
import signal
import subprocess

from trm_lightning.errors import Stopped

# Sent before a time limit or a preemption: sbatch --signal=USR1@120.
WARNINGS = tuple(getattr(signal, n) for n in ("SIGUSR1", "SIGUSR2") if hasattr(signal, n))
_SECONDS = 60


def requeue_after(stop: BaseException) -> str:
    """Requeue the Slurm job that this process runs in, where a warning has stopped it.

    Returns:
        What to tell the user; empty where there is no such job, or something else stopped it.
    """
    job = _job_id()
    if job is None or not isinstance(stop, Stopped) or stop.number not in WARNINGS:
        return ""
    try:
        subprocess.run(
            ["scontrol", "requeue", job], check=True, timeout=_SECONDS, capture_output=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"Slurm job {job} could not be requeued: {error}"
    return f"Slurm job {job} is back in the queue, and goes on from here."


def _job_id() -> str | None:
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
