"""Train, compare and audit small models that think by recursion.

    from trm_lightning import load_run, train

    run = train(["model=ar", "data=builtin_word", "budget.steps=200"])
    run = load_run("latest")
    print(run.generate("ROMEO:", n_tokens=50), run.perplexity("Speak, speak."))

The command line is ``python -m trm_lightning.train --help`` and its like.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trm_lightning.api import (
        Run,
        audit,
        audit_masked,
        load_run,
        new_model,
        next_token_scorer,
        train,
    )
    from trm_lightning.training.callbacks.leak_guard import LeakGuard, audited

__all__ = [
    "LeakGuard", "Run", "audit", "audit_masked", "audited", "load_run", "new_model",
    "next_token_scorer", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load the Python interface, and torch with it, on first use."""
    if name in __all__:
        from trm_lightning.cli.threads import bound_spinning

        bound_spinning()
        if name in ("LeakGuard", "audited"):  # loads Lightning
            from trm_lightning.training.callbacks import leak_guard

            return getattr(leak_guard, name)
        from trm_lightning import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
