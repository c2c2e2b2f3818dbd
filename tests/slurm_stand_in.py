"""A stand-in for Slurm on one machine: ``sbatch``, ``srun``, ``scontrol``, ``sacct``, ``scancel``.

It starts a job at once, and again after ``scontrol requeue``. State lies in ``$STAND_IN``:
``<job>.state``, ``<job>.pid`` (of the step that runs), ``<job>.starts``, ``<job>.requeue``.
"""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scontrol", "sacct", "scancel")
_WITH_VALUE = ("--output", "--error")  # options of srun's


def install(folder: Path) -> dict[str, str]:
    """Put the commands into a folder; return the environment that finds them."""
    (folder / "bin").mkdir(parents=True)
    (folder / "state").mkdir()
    for name in COMMANDS:
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "STAND_IN": str(folder / "state")}


def signal_job(env: dict[str, str], job: int, number: int) -> None:
    """Send a signal to a job's step, as Slurm does before a time limit."""
    os.kill(int(_file(job, "pid", env["STAND_IN"]).read_text()), number)


def starts(env: dict[str, str], job: int) -> int:
    """Return how often a job was started."""
    return len(_file(job, "starts", env["STAND_IN"]).read_text())


def wait_for(env: dict[str, str], job: int, state: str, limit: float = 200) -> None:
    """Wait until a job has a state."""
    end = time.monotonic() + limit
    file = _file(job, "state", env["STAND_IN"])
    while not file.is_file() or file.read_text() != state:
        assert time.monotonic() < end, file.read_text() if file.is_file() else "not submitted"
        time.sleep(0.05)


def _file(job: int | str, what: str, state: str | None = None) -> Path:
    return Path(state or os.environ["STAND_IN"]) / f"{job}.{what}"


def sbatch(script: str) -> None:
    """Start a job in the background."""
    job = len(list(Path(os.environ["STAND_IN"]).glob("*.state"))) + 1
    _file(job, "state").write_text("RUNNING")
    subprocess.Popen(
        [sys.executable, __file__, "keep", str(job), script], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    print(f"Submitted batch job {job}")


def keep(job: str, script: str) -> None:
    """Run a job, again and again while it is requeued."""
    requeued = True
    while requeued:
        with _file(job, "starts").open("a") as file:
            file.write("x")
        with _file(job, "out").open("ab") as out:
            env = os.environ | {"SLURM_JOB_ID": job}
            status = subprocess.run(["bash", script], env=env, stdout=out, stderr=out).returncode
        requeued = _file(job, "requeue").exists()
        _file(job, "requeue").unlink(missing_ok=True)
    _file(job, "state").write_text("FAILED" if status else "COMPLETED")


def srun(*words: str) -> None:
    """Become the step's one task."""
    job, given = os.environ["SLURM_JOB_ID"], list(words)
    while given[0].startswith("--"):
        option = given.pop(0)
        if option in _WITH_VALUE:
            path = given.pop(0).replace("%j", job).replace("%t", "0")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            where = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(where, 1 if option == "--output" else 2)
    tasks = ("NTASKS", "STEP_NUM_TASKS", "JOB_NUM_NODES")
    env = {f"SLURM_{name}": "1" for name in tasks}
    env |= {f"SLURM_{name}": "0" for name in ("PROCID", "LOCALID", "NODEID")}
    _file(job, "pid").write_text(str(os.getpid()))
    os.execvpe(given[0], given, os.environ | env)


def scontrol(what: str, job: str) -> None:
    """Note that a job is to start again."""
    assert what == "requeue"
    _file(job, "requeue").touch()


def sacct(*words: str) -> None:
    """Print the states of all jobs."""
    print("JobID|State|NodeList")
    for file in Path(os.environ["STAND_IN"]).glob("*.state"):
        print(f"{file.stem}|{file.read_text()}|here")


def scancel(job: str, *words: str) -> None:
    """Stop a job."""
    os.kill(int(_file(job, "pid").read_text()), signal.SIGTERM)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
