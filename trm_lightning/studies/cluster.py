"""Where a comparison's runs are trained: by ``launcher=``, as for a sweep.

``local`` and ``joblib`` mean processes of this machine, so many at a time; ``slurm`` and
``slurm_local`` mean jobs, by submitit; ``ray`` means tasks of a Ray cluster.
"""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from trm_lightning.errors import UserError
from trm_lightning.files import append_text
from trm_lightning.studies.warm_start import Started

TAKEN = 75  # exit status of a job whose run another process trains
_FAILED = 1
_POLL_SECONDS = 0.2
_MOST_TASKS = 256  # of Ray's, which starts as many of them as its CPUs allow
_HERE = ("BasicLauncher", "JoblibLauncher")
_CLUSTERS = {"LocalLauncher": "local", "SlurmLauncher": "slurm"}
# Settings of Hydra's launcher that submitit takes for any cluster; others are Slurm's own.
_COMMON = (
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes",
    "stderr_to_stdout",
)  # fmt: skip


class Job(Protocol):
    """What is submitted: see ``training_process.TrainingJob``."""

    @property
    def name(self) -> str:
        """What the queue calls it."""

    @property
    def log_file(self) -> Path:
        """Its output."""

    def __call__(self) -> int:
        """Do it, and return the exit status."""


@dataclass(frozen=True)
class Cluster:
    """Where runs are trained as jobs.

    Attributes:
        executor: submitit's, or :class:`_Ray`.
        at_once: how many jobs may be sent and not have ended.
        per_machine: how many of them share a machine's cores.
    """

    executor: Any
    at_once: int
    per_machine: int

    def submit(self, job: Job) -> Started:
        """Send a job."""
        self.executor.update_parameters(name=job.name)
        return _Submitted(self.executor.submit(job), job.log_file)


def workers_of(launcher: DictConfig, workers: int) -> int:
    """Return how many runs are trained at a time on this machine.

    Args:
        launcher: Hydra's config of it.
        workers: the comparison's own setting.
    """
    kind = _kind(launcher)
    if kind == "JoblibLauncher":
        n_jobs = int(launcher.n_jobs)
        return n_jobs if n_jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)
    return workers


def cluster_of(launcher: DictConfig, workers: int, folder: Path) -> Cluster | None:
    """Return where runs are trained as jobs; None where they are processes of this machine.

    Args:
        launcher: Hydra's config of it.
        workers: jobs at a time, where they are processes of this machine after all.
        folder: for what submitit writes.

    Raises:
        UserError: for a launcher that trains no comparisons, jobs of several tasks, or no Slurm.
    """
    kind = _kind(launcher)
    if kind in _HERE:
        return None
    if kind == "RayLauncher":
        return Cluster(_Ray(launcher), _MOST_TASKS, 1)
    if kind not in _CLUSTERS:
        raise UserError(
            f"A comparison's runs cannot be trained by {kind}.",
            "Choose launcher=local, joblib, slurm_local, slurm or ray.",
        )
    if launcher.get("nodes", 1) * launcher.get("tasks_per_node", 1) != 1:
        raise UserError(
            "Each run of a comparison is one task of one node.",
            "Leave hydra.launcher.nodes and hydra.launcher.tasks_per_node at 1; for several GPUs "
            "give trainer=ddp and hydra.launcher.gpus_per_node.",
        )
    executor = _executor(_CLUSTERS[kind], launcher, folder)
    if kind == "SlurmLauncher":
        return Cluster(executor, int(launcher.array_parallelism), 1)
    return Cluster(executor, workers, workers)


def _executor(cluster: str, launcher: DictConfig, folder: Path) -> Any:
    import submitit

    given: Any = OmegaConf.to_container(launcher, resolve=True)
    own = {key: value for key, value in given.items() if key not in ("_target_", "submitit_folder")}
    own.pop("name", None)
    most = {"slurm_max_num_timeout": own.pop("max_num_timeout")} if cluster == "slurm" else {}
    try:
        executor = submitit.AutoExecutor(folder / "%j", cluster=cluster, **most)
    except RuntimeError as error:
        raise UserError(
            f"{error}.", "launcher=slurm needs sbatch and srun; launcher=slurm_local does not."
        ) from error
    executor.update_parameters(
        **{key if key in _COMMON else f"{cluster}_{key}": value for key, value in own.items()}
    )
    return executor


class _Ray:
    """Sends jobs to a Ray cluster as submitit's executor does, or to a Ray of this machine."""

    def __init__(self, launcher: DictConfig) -> None:
        import ray

        given: Any = OmegaConf.to_container(launcher.ray, resolve=True)
        if not ray.is_initialized():
            ray.init(**given["init"])
        self._options = dict(given["remote"])

    def update_parameters(self, name: str) -> None:
        """Name the jobs that follow."""
        self._options["name"] = name

    def submit(self, job: Job) -> "_RayTask":
        """Send a job."""
        import ray

        return _RayTask(ray.remote(_call).options(**self._options).remote(job))


class _RayTask:
    """A task of Ray's, as a job of submitit's."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def done(self) -> bool:
        """Return whether it has ended."""
        import ray

        return bool(ray.wait([self._reference], timeout=0)[0])

    def result(self) -> int:
        """Return its exit status."""
        import ray

        return int(ray.get(self._reference))

    def cancel(self) -> None:
        """Interrupt it."""
        import ray

        ray.cancel(self._reference)


def _call(job: Job) -> int:
    return job()


class _Submitted:
    """A job of submitit's or Ray's, as a process."""

    def __init__(self, job: Any, log_file: Path) -> None:
        self._job, self._log_file = job, log_file
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status of the run; None while the job waits or runs."""
        if self._status is None and self._job.done():
            try:
                self._status = int(self._job.result())
            except Exception as error:  # of several kinds: failed, cancelled, lost
                append_text(self._log_file, f"{error}\n")
                self._status = _FAILED
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status."""
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("job", timeout or 0)
            time.sleep(_POLL_SECONDS)
        return status

    def terminate(self) -> None:
        """Cancel the job; what it trains saves its state."""
        self._job.cancel()


def _kind(launcher: DictConfig) -> str:
    return str(launcher._target_).rpartition(".")[2]
