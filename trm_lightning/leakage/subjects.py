"""What the audit command can audit: a run, a model built from a config, a function, a program."""

from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trm_lightning.data import TextDataModule
from trm_lightning.data.token_cache import TokenSplit
from trm_lightning.errors import UserError
from trm_lightning.evaluation.tasks import check_task
from trm_lightning.leakage.named_function import load_function, read_ids
from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.program import ProgramScorer
from trm_lightning.leakage.text_audit import Ids, audit_text
from trm_lightning.leakage.text_probe import Decoder, TextScorer
from trm_lightning.leakage.verdict import GIVEN_THE_ANSWER, audit_scores
from trm_lightning.models import LanguageModel
from trm_lightning.runs.load import build_model, find_device, load_run, make_data, open_data


@dataclass(frozen=True)
class Audited:
    """What was audited, and what was found.

    Attributes:
        title: what was audited, in a line.
        audits: by the name of the score.
        decode: maps ids to text.
        preambles: lines that begin a script which shows a finding again, by the name of the score;
            see :func:`script`. A score without one gets no script.
        warning: what must be known before any number; empty for nothing.
    """

    title: str
    audits: dict[str, Audit]
    decode: Decoder
    preambles: dict[str, str] = field(default_factory=dict)
    warning: str = ""

    @property
    def n_failed(self) -> int:
        """How many checks failed."""
        return sum(len(audit.failed) for audit in self.audits.values())

    @property
    def outcome(self) -> str:
        """The outcome in a sentence."""
        if self.n_failed:
            return f"{self.n_failed} checks FAILED."
        suspicious = any(audit.suspicious for audit in self.audits.values())
        return "A suspicion is left." if suspicious else "All checks passed."


def audit_subject(cfg: DictConfig) -> Audited:
    """Audit what a config names.

    Raises:
        UserError: for a missing run, split, function or program, other data, ids out of range.
    """
    if cfg.scorer is not None:
        scorer = load_function(cfg.scorer)
        module, _, function = cfg.scorer.partition(":")
        return _audit_function(cfg, scorer, cfg.scorer, f"from {module} import {function} as score")
    if cfg.program is not None:
        with ProgramScorer(cfg.program) as program:
            return _audit_function(
                cfg,
                program,
                cfg.program,
                "from trm_lightning.leakage.program import ProgramScorer\n"
                f"score = ProgramScorer({cfg.program!r})",
            )
    if cfg.transformers is not None:
        return _audit_transformers(cfg)
    return _audit_model(cfg)


def _audit_model(cfg: DictConfig) -> Audited:
    """Audit a run, or a model that is built from its config."""
    if cfg.run:
        run = load_run(cfg.run, find_device(cfg.device), trust=cfg.trust)
        model, data = run.model, open_data(run)
        title = f"{run.checkpoint}, step {run.optimizer_steps:,}"
        source: str | None = f"model = load_run({str(cfg.run)!r}, {cfg.device!r}).model"
    else:
        model, data = untrained(cfg)
        model.to(find_device(cfg.device))
        title = f"{type(model).__name__}, untrained, on {data.name}"
        source = _new_model()
    split_of(data, cfg.split)
    warning = "" if model.is_likelihood else GIVEN_THE_ANSWER
    print(f"{title}\n\n{warning}" if warning else title, flush=True)
    audits = audit_scores(
        model, data, split=cfg.split, trained=bool(cfg.run), train_steps=cfg.train_steps
    )
    preambles = {}
    if source is not None and not data.is_puzzle:
        name = "load_run" if cfg.run else "new_model"
        head = f"import torch\nfrom trm_lightning import {name}\n{source}"
        preambles = {name: f"{head}\n{_SCORE.format(name=name)}" for name in model.scorers()}
    return Audited(title, audits, data.tokenizer.decode, preambles, warning)


# Of a model; `script` fills in the batch and where scoring begins.
_SCORE = """def score(ids):
    with torch.no_grad():
        return model.scorers()["{name}"](BATCH, FIRST)[0]"""


def _new_model() -> str | None:
    """Return the line that builds an untrained model as this command does."""
    if not HydraConfig.initialized():
        return None
    keys = ("model", "data", "seed", "trust")
    given = HydraConfig.get().overrides.task
    return f"model = new_model({[o for o in given if o.lstrip('+~').startswith(keys)]})"


def untrained(cfg: DictConfig) -> tuple[LanguageModel, TextDataModule]:
    """Build the model and the data of a config, on the CPU.

    Raises:
        UserError: for a model that makes no sense on the data.
    """
    data = make_data(cfg.data)
    model = build_model(cfg.model, data.tokenizer).eval()
    check_task(model, data)
    return model, data


def _audit_function(cfg: DictConfig, scorer: TextScorer, name: str, preamble: str) -> Audited:
    """Audit a scoring function, on ids of the user's own or on those of the data."""
    if cfg.ids is not None:
        ids: Ids = read_ids(Path(cfg.ids))
        vocab_size, where, decode = cfg.vocab_size, str(cfg.ids), _as_numbers
    else:
        data = make_data(cfg.data)
        ids, vocab_size = split_of(data, cfg.split).tokens, data.vocab_size
        where, decode = data.name, data.tokenizer.decode
    return _told(cfg, scorer, name, where, ids, vocab_size, decode, preamble)


def _audit_transformers(cfg: DictConfig) -> Audited:
    """Audit a causal language model of transformers, on a text of the user's own."""
    from trm_lightning.leakage.causal_lm import load_causal_lm

    found = load_causal_lm(cfg.transformers, find_device(cfg.device))
    ids = read_ids(Path(cfg.ids)) if cfg.ids is not None else found.encode(Path(cfg.text))
    preamble = (
        "from trm_lightning.leakage.causal_lm import load_causal_lm\n"
        f"score = load_causal_lm({cfg.transformers!r}).score"
    )
    return _told(
        cfg,
        found.score,
        cfg.transformers,
        str(cfg.ids or cfg.text),
        ids,
        found.vocab_size,
        found.decode,
        preamble,
    )


def _told(
    cfg: DictConfig,
    scorer: TextScorer,
    name: str,
    where: str,
    ids: Ids,
    vocab_size: int,
    decode: Decoder,
    preamble: str,
) -> Audited:
    title = f"{name} on {where}"
    print(title, flush=True)
    audit = audit_text(scorer, vocab_size=vocab_size, text=ids, decode=decode, seconds=cfg.seconds)
    head = f"import torch\n{preamble}\nvocab_size = {vocab_size}"
    return Audited(title, {name: audit}, decode, {name: head})


def _as_numbers(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def split_of(data: TextDataModule, name: str) -> TokenSplit:
    """Return a split of the data.

    Raises:
        UserError: where there is none of that name.
    """
    if name not in data.splits:
        raise UserError(
            f"The data set {data.name} has no split {name!r}.",
            f"It has: {', '.join(data.splits)}.",
        )
    return data.splits[name]
