"""A benchmark's config in miniature, and the nets that are compared."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from trm_lightning.benchmarks import references, subjects
from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import conf_dir
from trm_lightning.training import TrainingModule

TINY = (
    "net={vocab_size:13,width:16,n_layers:2,n_heads:2,dropout:0.0,norm:pre}",
    "window=8",
    "batch=3",
    "notes={window:8,batch:3,supervised:2,n_refinements:3,n_recursions:2}",
    "repetitions=1",
    "seconds_per_measurement=0.001",
    "scoring.strides=[4]",
    "generation={prompt_tokens:5,n_tokens:9}",
    "lightning.steps=2",
    "settings.compile=false",
    "startup={repetitions:1,steps:1}",
    "scaling={repetitions:1,seconds_per_measurement:0.001,window:[8,16],window_batch:1,"
    "chunk_size:[1,2],n_refinements:[1,2],batch:[1,2]}",
    "vocabulary=[17,300]",
    "data.corpus.train_words=3000",
    "+data.corpus.val_words=600",
    "+data.corpus.test_words=600",
    "device=cpu",
    f"peer={Path(__file__).parent / 'tiny_nanogpt'}",
    "threads=1",
)


def configured(folder: Path, *overrides: str) -> DictConfig:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("benchmark", [*TINY, *overrides, f"run_dir={folder}"])


def pairs(cfg: DictConfig) -> dict[str, tuple[TrainingModule, references.PlainNet]]:
    """Our modules, and the references that compute the same."""
    size, last = cfg.notes.window, cfg.notes.supervised
    gpt = subjects.plain(cfg, references.FusedGpt, window=cfg.window)
    baseline = subjects.plain(cfg, references.PlainBaseline, window=size, supervised=last)
    return {
        "gpt": (subjects.ar(cfg, cfg.window), gpt),
        "baseline": (subjects.ar(cfg, size, last), baseline),
        "target": (
            subjects.source_trm(cfg, "target"),
            subjects.plain_trm(cfg, given=True),
        ),
        "query": (
            subjects.source_trm(cfg, "query"),
            subjects.plain_trm(cfg, given=False),
        ),
    }
