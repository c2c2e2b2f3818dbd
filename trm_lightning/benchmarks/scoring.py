"""Speed of exact scoring and of generation, beside the plain references."""

from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from trm_lightning.benchmarks.references import START, FusedGpt, PlainNet
from trm_lightning.benchmarks.subjects import (
    ar,
    plain,
    plain_trm,
    random_tokens,
    shipped,
    source_trm,
)
from trm_lightning.benchmarks.timing import Variant, measure
from trm_lightning.models import LanguageModel
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.sample import sample_batch

PLAIN_TRM = "plain TRM of the notes"


def scoring_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure exact scoring of windows that advance by a stride."""
    window, notes = cfg.window, cfg.notes
    reference = plain_trm(cfg, given=False).to(device).eval()
    ours = source_trm(cfg, "query").model
    in_short = random_tokens(cfg, notes.batch, notes.window, device)
    variants = [
        _plain_scores(PLAIN_TRM, reference, in_short),
        _scores("SourceTRM in the notes' shape", ours, in_short, notes.supervised, PLAIN_TRM),
    ]
    tokens = random_tokens(cfg, cfg.batch, window, device)
    recursive = {"Looped": "looped", "TRM": "trm"}
    for stride in cfg.scoring.strides:
        name = f"plain GPT, stride {stride}"
        gpt = plain(cfg, FusedGpt, window=window, supervised=stride).to(device).eval()
        variants += [
            _plain_scores(name, gpt, tokens),
            _scores(f"AR, stride {stride}", ar(cfg, window).model, tokens, stride, name),
        ]
        for kind, model in recursive.items():
            net = shipped(cfg, model, window).model
            variants.append(_scores(f"{kind}, stride {stride}", net, tokens, stride, PLAIN_TRM))
    rows = measure(
        "scoring", variants, device, cfg.repetitions, cfg.seconds_per_measurement, cfg.clock
    )
    n_tokens = cfg.scoring.split_tokens
    for row in rows:
        row["split_seconds"] = n_tokens / row["tokens_per_second"]
        row["note"] = f"{row['split_seconds']:,.1f} s for {n_tokens:,} tokens"
    return rows


def generation_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure the first token after a prompt, and a text longer than the window."""
    prompt = random_tokens(cfg, 1, cfg.generation.prompt_tokens, device)
    gpt = plain(cfg, FusedGpt, window=cfg.window, supervised=1).to(device).eval()
    recursive = plain_trm(cfg, given=False).to(device).eval()
    ours: list[tuple[str, LanguageModel, str]] = [
        ("AR", ar(cfg, cfg.window).model, "plain GPT"),
        ("Looped", shipped(cfg, "looped", cfg.window).model, PLAIN_TRM),
        ("TRM", shipped(cfg, "trm", cfg.window).model, PLAIN_TRM),
    ]
    variants = []
    for n_tokens in dict.fromkeys((1, cfg.generation.n_tokens)):
        what = "first token" if n_tokens == 1 else f"{n_tokens} tokens"
        for plain_name, net, context in (
            ("plain GPT", gpt, cfg.window),
            (PLAIN_TRM, recursive, cfg.notes.window - cfg.notes.supervised),
        ):
            call = _plain_text(net, prompt, n_tokens, context)
            variants.append(Variant(f"{plain_name}: {what}", call, n_tokens))
        for name, ours_net, plain_name in ours:
            call = _text(ours_net.to(device).eval(), prompt, n_tokens)
            references = (f"{plain_name}: {what}",)
            variants.append(Variant(f"{name}: {what}", call, n_tokens, references=references))
    return measure(
        "generation", variants, device, cfg.repetitions, cfg.seconds_per_measurement, cfg.clock
    )


def _scores(name: str, net: LanguageModel, tokens: Tensor, stride: int, reference: str) -> Variant:
    """Return the scoring of the last ``stride`` tokens of windows (B, T)."""
    net.to(tokens.device).eval()
    first = tokens.shape[1] - stride

    @torch.no_grad()
    def call() -> Tensor:
        return net.log_probs(tokens, first)

    return Variant(name, call, len(tokens) * stride, references=(reference,))


def _plain_scores(name: str, net: PlainNet, tokens: Tensor) -> Variant:
    @torch.no_grad()
    def call() -> Tensor:
        return torch.log_softmax(net(tokens), dim=-1)

    return Variant(name, call, len(tokens) * net.supervised)


def _text(net: LanguageModel, prompt: Tensor, n_tokens: int) -> Callable[[], object]:
    sampler = Sampler(torch.Generator().manual_seed(0))
    return lambda: list(sample_batch(net, prompt, n_tokens, sampler))


def _plain_text(net: PlainNet, prompt: Tensor, n_tokens: int, context: int) -> Callable[[], object]:
    """Return generation that runs the model over the last ``context`` tokens for each token."""

    @torch.no_grad()
    def call() -> Tensor:
        text = prompt
        while text.shape[1] < prompt.shape[1] + n_tokens:
            seen = text[:, -context:]
            if isinstance(net, FusedGpt):  # it shifts its inputs behind a start token itself
                seen = torch.nn.functional.pad(seen[:, 1 - context :], (0, 1), value=START)
            else:  # it needs exactly N tokens of context, and room for the chunk
                missing = context - seen.shape[1]
                seen = torch.nn.functional.pad(seen, (missing, net.supervised), value=START)
            probs = net(seen)[0].softmax(dim=-1)
            text = torch.cat((text, torch.multinomial(probs, 1).T), dim=1)
        return text[:, : prompt.shape[1] + n_tokens]

    return call
