"""Does a model see the answer? ``python -m trm_lightning.audit run=outputs/…`` or ``model=trm``."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from trm_lightning.cli import command


@command("audit")
def main(cfg: DictConfig) -> float:
    """Check that no score depends on the token it scores. Exit status 1 if one does.

    A sweep shows the number of checks that failed, which is what this returns.

    Examples:
        trm-audit run=outputs/2025-01-31/12-00-00_builtin_word_trm_1a2b3c
        trm-audit model=trm data=shakespeare_word model.factorization=parallel
        trm-audit model=leaky_chunk_mask report=audit_report
        trm-audit run=outputs/… json=audit.json
        trm-audit scorer=my_module:function data=shakespeare_word
        trm-audit program='./my_scorer --fast' ids=ids.json vocab_size=50257
        trm-audit transformers=path/to/model text=some_text.txt
        trm-audit --multirun model=ar,trm
    """
    from trm_lightning.leakage.command import audit_command

    audited = audit_command(cfg)
    hydra = HydraConfig.get()
    if cfg.report is not None:
        from trm_lightning.cli.printed import shell_command
        from trm_lightning.reports.audit import write_audit

        pages = write_audit(
            audited, Path(cfg.report), shell_command("audit", *hydra.overrides.task)
        )
        print("\n".join(f"Written to {page}" for page in pages))
    if audited.n_failed and hydra.mode == RunMode.RUN:
        sys.exit(1)
    return float(audited.n_failed)


if __name__ == "__main__":
    main()
