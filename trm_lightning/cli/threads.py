"""How long torch's CPU threads wait in a busy loop for each other."""

import os

# A thread that waits for the others spins this often before it sleeps. By default it spins until
# its time slice ends, so that with busy neighbours every thread waits for all time slices.
SPINS = "5000"
CHOSEN_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def bound_spinning() -> None:
    """Bound the busy waiting of OpenMP threads, unless the user's environment says otherwise.

    Takes effect only before torch is loaded. Measurements are in ``docs/performance.md``.
    """
    if not any(name in os.environ for name in CHOSEN_BY_USER):
        os.environ["GOMP_SPINCOUNT"] = SPINS
