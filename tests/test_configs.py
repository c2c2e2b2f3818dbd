"""Every YAML of conf/ is composed, checked and instantiated; the sources' settings are exact."""

import importlib.util
from pathlib import Path

import pytest
from conftest import Configure
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import conf_dir
from trm_lightning.cli.config_check import check_config
from trm_lightning.cli.schema import SCHEMAS
from trm_lightning.training.fit import train


def choices(group: str) -> list[str]:
    folder = conf_dir() / group
    return sorted(str(path.relative_to(folder))[:-5] for path in folder.rglob("*.yaml"))


def composed(run: Path, *overrides: str) -> DictConfig:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose("train", [f"run_dir={run}", *overrides])
    cfg.experiment_name = "test"
    check_config(cfg, SCHEMAS["train"])
    return cfg


CHARS = pytest.param("builtin_char", marks=pytest.mark.slow)


# Trained by test_reproductions_run as well.
SLOW_MODELS = {"source_trm"}
MODELS = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW_MODELS else name
    for name in choices("model")
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("data", [CHARS, "builtin_word"])
def test_every_model_trains_and_is_scored(configure: Configure, model: str, data: str) -> None:
    # A word is several letters: fewer words make as many tokens.
    shorter = [f"data.corpus.{split}_words=150" for split in ("val", "test")]
    words = [f"model={model}", f"data={data}", *(shorter if data == "builtin_char" else [])]
    results = train(configure(*words, "budget.steps=2", "eval_every=2"))
    scores = results["final"] | results["test"]
    assert {name.partition("/")[0] for name in scores} == {"val", "test"}
    for score in scores.values():
        assert score["tokens"] > 500 and 1 < score["perplexity"] < 1000
        assert score["is_likelihood"] == ("NOT" not in score["meaning"])


@pytest.mark.parametrize("group", ["optimizer", "schedule", "callbacks", "logger", "debug"])
def test_every_other_choice_trains(configure: Configure, group: str) -> None:
    for choice in choices(group):
        if choice in ("mlflow", "wandb") and importlib.util.find_spec(choice) is None:
            continue  # an extra
        cfg = configure(f"{group}={choice}", "model=ar", "log_every=1", folder=choice)
        cfg.budget.steps = 2
        assert train(cfg)["optimizer_steps"] == 2, choice


@pytest.mark.parametrize("trainer", choices("trainer"))
def test_every_trainer_composes(tmp_path: Path, trainer: str) -> None:
    cfg = composed(tmp_path, f"trainer={trainer}")
    assert cfg.trainer._target_ == "lightning.pytorch.Trainer"


PARAMETERS = {
    "reproduce/word_trm": (5000, 1_041_152),
    "reproduce/word_trm_query": (5000, 1_041_152 + 2 * 128),
    "reproduce/word_baseline": (5000, 1_041_152),
    "reproduce/char_trm": (65, 108_480),
    "reproduce/char_baseline": (65, 108_480),
    "reproduce/wikitext2_trm": (50_258, 6_838_528),
    "reproduce/wikitext103_trm": (50_258, 6_838_528),
    "quickstart": (287, 250_944),
    "deep_supervision": (287, 432_896),
    "carry": (287, 432_896 + 128 + 1),  # a halting head
}


def test_every_experiment_has_an_expected_size() -> None:
    assert PARAMETERS.keys() == set(choices("experiment"))


@pytest.mark.parametrize("experiment", PARAMETERS)
def test_experiments_have_exactly_the_notes_parameters(tmp_path: Path, experiment: str) -> None:
    cfg = composed(tmp_path, f"experiment={experiment}")
    vocab_size, n_parameters = PARAMETERS[experiment]
    net = instantiate(cfg.model, vocab_size=vocab_size, start_token=0)
    assert net.n_parameters() == n_parameters
    if experiment.startswith("reproduce"):
        assert cfg.data.window_size == net.window_size
        assert (cfg.optimizer.decay_matrices_only, net.norm) == (False, "pre")
        assert cfg.model.attention_init == "xavier"
        assert cfg.seed == (42 if "wikitext" in experiment else 1337)


SLOW_TRM = pytest.param("char_trm", marks=pytest.mark.slow)


@pytest.mark.parametrize("experiment", ["word_trm", "word_baseline", SLOW_TRM, "char_baseline"])
def test_reproductions_run(tmp_path: Path, experiment: str) -> None:
    """The real experiment with less text: names say what each number is."""
    text = tmp_path / "tinyshakespeare" / "input.txt"
    text.parent.mkdir()
    words = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
    text.write_text(words * 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRM_DATA_DIR", str(tmp_path))
        patch.setenv("TRM_CACHE_DIR", str(tmp_path / "cache"))
        cfg = composed(
            tmp_path / "run",
            f"experiment=reproduce/{experiment}",
            "trainer=cpu",
            "logger=none",
            "progress=false",
            "budget.steps=4",
            "eval_every=4",
            "model.width=16",
            *(["model.n_recursions=1"] if "trm" in experiment else []),
            "data.window_size=18",
            "data.batch_size=4",
            "checkpoint_every=4",
        )
        Path(cfg.run_dir).mkdir()
        with pytest.warns(UserWarning, match="sha256|checksum"):
            results = train(cfg)
    warm, scrambled = "val/warm_start_ppl", "val_scrambled/ppl"
    expected = {
        "word_trm": {warm, "val/ppl_without_answer"},
        "char_trm": {warm, "val/ppl_without_answer"},
        "word_baseline": {"val/ppl"},
        "char_baseline": {"val/ppl", scrambled},
    }
    assert results["final"].keys() == expected[experiment]
    assert results["is_likelihood"] == experiment.endswith("baseline")
    if "trm" in experiment:
        assert not results["final"][warm]["is_likelihood"]
        assert "NOT A LIKELIHOOD" in results["final"][warm]["meaning"]
        assert results["final"]["val/ppl_without_answer"]["is_likelihood"]
