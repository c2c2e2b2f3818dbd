"""What the top level of each command's config may hold.

A field without a default must be in the config. Groups of `_target_` nodes are `Any` here: their
keys are checked against the signatures of the classes that they name. `example` is shown when a
mandatory value (`???`) was not given.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from trm_lightning.cli.trainer_keys import REFUSED

RUN = "outputs/2025-01-31/12-00-00_builtin_word_trm_1a2b3c"


BUILT = {"built": True}  # a node with a `_target_`, from which an object is built
COUNT = {"limits": (1, None)}  # least and most
SEED = {"limits": (0, 2**32 - 1)}


@dataclass
class Budget:
    """How long to train: whichever of the limits comes first; null is no limit."""

    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    seconds: float | None = None


@dataclass
class TrainConfig:
    """conf/train.yaml."""

    data: Any = field(metadata=BUILT)
    model: Any = field(metadata=BUILT)
    optimizer: Any = field(metadata=BUILT)
    schedule: Any = field(metadata=BUILT)
    trainer: Any = field(metadata={**BUILT, "refused": REFUSED})
    callbacks: Any
    logger: Any
    budget: Budget
    experiment_name: str
    seed: int = field(metadata=SEED)
    grad_clip: float | None = field(metadata={"limits": (1e-12, None)})
    ema_decay: float | None = field(metadata={"limits": (0, 1)})
    gradient_accumulation: int = field(metadata=COUNT)
    accumulate_supervision: bool
    carry: bool
    halt_exploration: float
    init_from: str | None = field(metadata={"example": RUN})
    eval_every: int = field(metadata=COUNT)
    log_every: int = field(metadata=COUNT)
    sample_tokens: int = field(metadata=COUNT)
    checkpoint_every: int = field(metadata=COUNT)
    precision: str
    resume: str | None = field(metadata={"example": RUN})
    trust: list[str] | str
    float32_matmul: Literal["highest", "high", "medium"]
    threads: int | None = field(metadata={"limits": (1, 1024)})
    cuda_graph: bool
    compile: bool
    audit: bool
    test: bool
    progress: bool
    run_dir: str


@dataclass
class GenerateConfig:
    """conf/generate.yaml."""

    run: str = field(metadata={"example": RUN})
    prompt: str
    n_tokens: int
    n_samples: int
    n_drafts: int
    sampling: Any = field(metadata=BUILT)
    exit_threshold: float | None
    seed: int = field(metadata=SEED)
    trust: list[str] | str
    device: str


@dataclass
class EvaluateConfig:
    """conf/evaluate.yaml."""

    run: str = field(metadata={"example": RUN})
    split: str
    stride: int | None
    exit_threshold: float | None
    trust: list[str] | str
    device: str


@dataclass
class AnalyzeConfig:
    """conf/analyze.yaml."""

    run: str = field(metadata={"example": RUN})
    split: str
    depth: int | None
    max_tokens: int | None
    ablations: bool
    exit_thresholds: list[float]
    trust: list[str] | str
    device: str


@dataclass
class ReportConfig:
    """conf/report.yaml."""

    path: str = field(metadata={"example": RUN})
    trust: list[str] | str
    check: bool


@dataclass
class ExportConfig:
    """conf/export.yaml."""

    run: str = field(metadata={"example": RUN})
    to: str | None
    format: list[str] | str
    license: str | None
    push_to_hub: str | None = field(metadata={"example": "user/name"})
    private: bool
    trust: list[str] | str


@dataclass
class PrepareConfig:
    """conf/prepare.yaml."""

    data: Any = field(metadata=BUILT)
    shards: str | None = field(metadata={"example": "my_shards"})


@dataclass
class BenchmarkConfig:
    """conf/benchmark.yaml."""

    data: Any
    models: Any
    optimizer: Any
    schedule: Any
    sections: list[str]
    repetitions: int
    seconds_per_measurement: float
    clock: Literal["wall", "cpu"]
    peer: str | None
    net: Any
    window: int
    batch: int
    notes: Any
    settings: Any
    scoring: Any
    generation: Any
    lightning: Any
    startup: Any
    scaling: Any
    vocabulary: list[int]
    seed: int = field(metadata=SEED)
    device: str
    threads: int | None
    run_dir: str


@dataclass
class AuditConfig:
    """conf/audit.yaml."""

    data: Any
    run: str | None
    split: str
    train_steps: int
    scorer: str | None
    program: str | None
    transformers: str | None
    ids: str | None
    vocab_size: int | None = field(metadata=COUNT)
    text: str | None
    seconds: float
    json: str | None
    report: str | None
    seed: int = field(metadata=SEED)
    trust: list[str] | str
    device: str
    model: Any = None


@dataclass
class CompareConfig(TrainConfig):
    """conf/compare.yaml: a comparison's own keys beside those of its training runs."""

    budget: Any  # limits or a name; see studies/budgets.py
    name: str
    models: list[str]
    entries: list[Any] | None
    common: list[str]
    runs: list[str]
    seeds: int | list[int]
    baseline: str | None
    parity: str
    budgets: Any
    workers: int
    fit: str | None
    axis: str | None
    measure: str | None


@dataclass
class TuneConfig(TrainConfig):
    """conf/tune.yaml: a search's own keys beside those of its training runs."""

    name: str
    space: Any
    trials: int = field(metadata=COUNT)
    workers: int = field(metadata=COUNT)
    storage: str | None = field(metadata={"example": "sqlite:///search.db"})
    prune: bool


# A command that is not named here has its `_target_` nodes checked, but not its top level.
SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "analyze": AnalyzeConfig,
    "audit": AuditConfig,
    "benchmark": BenchmarkConfig,
    "compare": CompareConfig,
    "tune": TuneConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "prepare": PrepareConfig,
}
