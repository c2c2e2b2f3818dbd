"""The Python interface: train a model, open a run, and use what it learned."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from trm_lightning.cli import resolvers, resume
from trm_lightning.cli.compose import Call, compose_or_explain, composer, conf_dir, hydra_values
from trm_lightning.cli.config_check import check_config
from trm_lightning.cli.overrides import merge
from trm_lightning.cli.resumed_config import resumed_config
from trm_lightning.cli.schema import SCHEMAS
from trm_lightning.data import EvalWindows
from trm_lightning.errors import UserError
from trm_lightning.evaluation import score_windows
from trm_lightning.evaluation.metrics import safe_exp
from trm_lightning.files import write_text
from trm_lightning.leakage.causal_lm import next_token_scorer
from trm_lightning.leakage.masked import audit_masked
from trm_lightning.leakage.printed import CallWatch
from trm_lightning.leakage.subjects import untrained
from trm_lightning.leakage.text_audit import audit_text as audit
from trm_lightning.models import LanguageModel
from trm_lightning.runs import load
from trm_lightning.runs.stored_config import foreign_modules
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.sample import sample

__all__ = ["Run", "audit", "audit_masked", "load_run", "new_model", "next_token_scorer", "train"]

Ids = Sequence[int] | np.ndarray | Tensor


@dataclass(frozen=True)
class Run(load.LoadedRun):
    """A trained model with its tokenizer; see :class:`LoadedRun` for its attributes."""

    @torch.no_grad()
    def log_probs(self, ids: Ids) -> Tensor:
        """Return the distribution that each token of a text is predicted from.

        A text longer than the model's window is read in windows that overlap by half.

        Args:
            ids: (T,) token ids, see ``run.tokenizer.encode``.

        Returns:
            (T, V) natural logarithms, float32 on the CPU. Row t depends only on the tokens
            before t (where ``run.model.is_likelihood``).

        Raises:
            UserError: when there is no token, or one is not in the vocabulary.
        """
        windows, device = self._windows(ids), next(self.model.parameters()).device
        parts = [
            self.model.log_probs(tokens.to(device), first).flatten(0, 1).cpu()
            for tokens, first in windows
        ]
        return torch.cat(parts)

    def perplexity(self, text: str) -> float:
        """Return the exact perplexity of a text: exp(total nats / tokens).

        A model that is started at the answer is scored without it.

        Raises:
            UserError: for an empty text, a model whose number would not be a perplexity, or one
                that was trained on puzzles.
        """
        self._need_text("perplexity")
        scorers = self.model.scorers()
        name = next((name for name in scorers if name.startswith("ppl")), None)
        if name is None:
            raise UserError("This model sees what it is scored on: it has no perplexity.")
        windows, device = self._windows(self.tokenizer.encode(text)), next(self.model.parameters())
        watch = CallWatch(self.model)
        watch.begin({0, len(windows) // 2, len(windows) - 1}, turn=0)
        total = score_windows(watch.scorers()[name], windows, device.device)
        for check, finding in watch.findings.get(name, {}).items():
            raise UserError(f"This is no perplexity ({check}): {finding.detail}.")
        return safe_exp(total.nats / total.tokens)

    def generate(
        self,
        prompt: str = "",
        n_tokens: int = 200,
        *,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 1337,
    ) -> str:
        """Return the prompt and its continuation by ``n_tokens`` tokens.

        Args:
            prompt: text to continue; may be empty.
            n_tokens: at least 1.
            temperature: see :class:`Sampler`, as for the next two.
            top_k: see there.
            top_p: see there.
            seed: the same seed gives the same text.

        Raises:
            UserError: naming every setting out of range, or for a model trained on puzzles.
        """
        self._need_text("generate")
        sampler = Sampler(torch.Generator().manual_seed(seed), temperature, top_k, top_p)
        ids: list[int] = self.tokenizer.encode(prompt).tolist()
        new = list(sample(self.model, ids, n_tokens, sampler))
        return self.tokenizer.decode(ids + new)

    def _need_text(self, what: str) -> None:
        if self.is_puzzle:
            raise UserError(
                f"{self.folder} was trained on puzzles, and {what} is about text.",
                "trm-evaluate and trm-analyze say what it solves.",
            )

    def _windows(self, ids: Ids) -> EvalWindows:
        tokens = np.asarray(ids, dtype=np.int64)
        if tokens.ndim != 1 or len(tokens) == 0:
            raise UserError(f"There must be a row of token ids, at least one (is {tokens.shape}).")
        if tokens.min() < 0 or tokens.max() >= self.model.vocab_size:
            raise UserError(f"Token ids must lie in [0, {self.model.vocab_size}).")
        size = self.model.window_size
        return EvalWindows(tokens, size, max(1, size // 2), batch_size=32)


def load_run(
    run: str | Path = "latest", device: str = "auto", trust: str | Sequence[str] = ()
) -> Run:
    """Open a trained run. Nothing in its files is executed.

    Args:
        run: a run folder (its best checkpoint), a checkpoint file, a pattern such as
            ``outputs/*/*_quickstart_*``, ``latest``, a folder that ``trm-export`` wrote, or
            ``hf://user/name``, such a folder on Hugging Face's hub.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        trust: modules of your own whose classes the run may need, such as ``my_models``.

    Raises:
        UserError: where there is no such run, device or checkpoint of this version.
    """
    loaded = load.load_run(run, load.find_device(device), trust=trust)
    return Run(**{field.name: getattr(loaded, field.name) for field in fields(loaded)})


def new_model(overrides: Sequence[str] = ()) -> LanguageModel:
    """Build an untrained model, as ``trm-audit`` does.

    Args:
        overrides: those of the command line, such as ``["model=trm", "data=shakespeare_word"]``.

    Raises:
        UserError: for anything that the user can mend.
    """
    resolvers.register()
    call = Call("audit", conf_dir(), "audit", None, multirun=False)
    with composer(call) as composed:
        cfg = compose_or_explain(composed, list(overrides))
        with open_dict(cfg):
            cfg.pop("hydra", None)
        check_config(cfg, SCHEMAS["audit"], call.help_hint)
    torch.manual_seed(cfg.seed)
    return untrained(cfg)[0]


def train(overrides: Sequence[str] = ()) -> Run:
    """Train a model as ``python -m trm_lightning.train`` does, and open the run.

    Args:
        overrides: those of the command line, such as ``["model=ar", "budget.steps=200"]``.

    Returns:
        The run, with its best weights; ``run.folder / "results.json"`` has its scores.

    Raises:
        UserError: for anything that the user can mend.
    """
    from trm_lightning.training import fit

    if not logging.getLogger().handlers:  # a notebook or a script that has not set logging up
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    resolvers.register()
    resolvers.begin_run()
    call = Call("train", conf_dir(), "train", None, multirun=False)
    given = list(overrides)
    run = resume.find(call, given)
    given = merge(given, without="resume") if run is None else run.hydra_overrides()
    with composer(call) as composed:
        cfg = compose_or_explain(composed, given)
        task = cfg.copy() if run is None else resumed_config(run, composed)
        with open_dict(task):
            task.pop("hydra", None)
        with hydra_values(cfg) as folder:
            check_config(task, SCHEMAS["train"], call.help_hint)
            OmegaConf.resolve(task)
            if run is None:
                _store(folder, {"config": task, "hydra": {"hydra": cfg.hydra}, "overrides": given})
            fit.train(task)
    config: Any = OmegaConf.to_container(task)
    return load_run(folder, trust=foreign_modules(config))


def _store(folder: Path, files: dict[str, Any]) -> None:
    """Write what Hydra writes for a run of the command line, so that it can be resumed."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_text(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(content)))
