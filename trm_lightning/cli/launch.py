"""Which of several cooperating processes this is, and what they have in common."""

import hashlib
import os

# What Lightning and torchrun tell their processes through the environment. Lightning also sets
# these in its own main process, where they would mislead the next job of a sweep.
LAUNCH_VARIABLES = (
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
)


def rank() -> int:
    """Rank of this process as Lightning's `rank_zero_only` sees it; 0 when it is alone."""
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if variable in os.environ:
            return int(os.environ[variable])
    return 0


def shared_id() -> str | None:
    """An id that all processes of one torchrun or srun launch agree on; None without such a launch.

    On one node torchrun's agent is the parent of all ranks, which tells two launches in a row
    apart; over several nodes its `--rdzv-id` does.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env and env.get("WORLD_SIZE", "1") != "1":
        one_node = env.get("LOCAL_WORLD_SIZE") == env["WORLD_SIZE"]
        parts = [env["TORCHELASTIC_RUN_ID"], env.get("MASTER_ADDR", ""), env.get("MASTER_PORT", "")]
        parts.append(str(os.getppid()) if one_node else "")
    elif int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        parts = [env.get("SLURM_JOB_ID", ""), env.get("SLURM_STEP_ID", "")]
    else:
        return None
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:6]


def environment() -> dict[str, str | None]:
    """The launch variables as they are now, for `restore_environment`."""
    return {name: os.environ.get(name) for name in LAUNCH_VARIABLES}


def restore_environment(saved: dict[str, str | None]) -> None:
    """Set the launch variables back to what `environment` saw; None removes one."""
    for name, value in saved.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
