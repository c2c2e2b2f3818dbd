"""What is measured of a trained, frozen model: linear probes of its states, and its memory.

A probe is a fresh linear layer with softmax. Shapes: N positions, D width,
V vocabulary, T tokens of a window.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trm_lightning.analysis.early_exit import score_early_exit
from trm_lightning.analysis.puzzles import best_row, by_depth, by_threshold
from trm_lightning.data import EvalWindows, PuzzleDataModule, TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.evaluation import LikelihoodSum, score_windows
from trm_lightning.models import LanguageModel, Reading
from trm_lightning.runs.load import LoadedRun, open_data

# A state is named by the paper's symbol, the refinement, and the latent updates in it.
Name = tuple[str, int, int]
# What a probe predicts at position t, as an offset: its token, the one after, the one before.
OFFSETS = {"the next token": 0, "the token after it": 1, "the last token read": -1}
HALT_PROBABILITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
EXIT_CHANGES = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.01)
HEAD, FIXED_POINT = "a learned head", "a fixed point"  # rules of early exit
EPOCHS, LEAST_STEPS, BATCH, RATE = 20, 1500, 1024, 1e-2
N_TRAIN, N_EVAL = 60_000, 30_000  # positions


@dataclass(frozen=True)
class States:
    """Frozen states and the tokens around them.

    Attributes:
        features: (N, D) by name.
        targets: (N,) ids by what they are (``OFFSETS``).
        nats: (N,) of the model's own head for the next token.
    """

    features: dict[Name, Tensor]
    targets: dict[str, Tensor]
    nats: Tensor


def readout(run: LoadedRun, seed: int = 0) -> dict[str, Any]:
    """Train a fresh head on the last states of training text, as the notes did, and score it.

    Their "validation" was a random tenth of the states of the training split: text that the frozen
    model was trained on. Here it stands beside held-out text.

    Returns:
        Nats per token: ``own_head`` and ``fresh_head``, each on ``training_tenth`` and
        ``held_out`` text.
    """
    data = open_data(run)
    train = collect(run.model, data, "train", N_TRAIN, False)
    held_out = collect(run.model, data, "val", N_EVAL, False)
    [(name, features)] = train.features.items()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    tenth, rest = order[: len(order) // 10], order[len(order) // 10 :]
    target = "the next token"
    probe = LinearProbe(features[rest], train.targets[target][rest], data.vocab_size, seed)
    return {
        "own_head": {
            "training_tenth": float(train.nats[tenth].mean()),
            "held_out": float(held_out.nats.mean()),
        },
        "fresh_head": {
            "training_tenth": probe.score(features[tenth], train.targets[target][tenth])[0],
            "held_out": probe.score(held_out.features[name], held_out.targets[target])[0],
        },
        "n_train": len(rest),
        "n_held_out": len(held_out.nats),
    }


def depth_probe(run: LoadedRun, seed: int = 0) -> dict[str, Any]:
    """Train a probe on every state after every pass, for each of ``OFFSETS``, and score it.

    Returns:
        ``readings``: symbol, refinement, recursion, pass, and nats and accuracy on held-out text
        by what is predicted; ``own_head``: the model's nats on the same positions.

    Raises:
        UserError: for a model without states to read.
    """
    data = open_data(run)
    train = collect(run.model, data, "train", N_TRAIN, True)
    held_out = collect(run.model, data, "val", N_EVAL, True)
    readings = []
    for name, features in train.features.items():
        symbol, refinement, recursion = name
        scores = {}
        for target, ids in train.targets.items():
            probe = LinearProbe(features, ids, data.vocab_size, seed)
            nats, accuracy = probe.score(held_out.features[name], held_out.targets[target])
            scores[target] = {"nats": nats, "accuracy": accuracy}
        per_refinement = run.model.n_recursions + 1
        n_passes = (refinement - 1) * per_refinement + recursion + (symbol == "y")
        readings.append(
            {
                "symbol": symbol,
                "refinement": refinement,
                "recursion": recursion,
                "pass": n_passes,
                "scores": scores,
            }
        )
    readings.sort(key=lambda reading: (reading["pass"], reading["symbol"]))
    return {"readings": readings, "own_head": float(held_out.nats.mean())}


def exits(run: LoadedRun) -> dict[str, Any]:
    """Score held-out text with early exit at many thresholds, and at each fixed depth.

    Returns:
        ``fixed`` and ``early``: lists of mean ``depth`` in refinements and ``nats`` per token.
    """
    data, model = open_data(run), run.model.with_exit_threshold(None)
    windows = list(data.eval_windows("val"))
    learned = getattr(model, "halt", None) is not None
    thresholds = HALT_PROBABILITIES if learned else EXIT_CHANGES
    early = [
        {"depth": row["mean_depth"], "nats": row["nats_per_token"]}
        for row in score_early_exit(model, thresholds, windows)
    ]
    device = next(model.parameters()).device
    depths = list(range(1, model.scoring_depth + 1))
    totals = [LikelihoodSum() for _ in depths]
    with torch.no_grad():
        for tokens, first in windows:
            tokens = tokens.to(device)
            for total, scores in zip(
                totals, model.log_probs_at(tokens, depths, first), strict=True
            ):
                total.update(scores, tokens, first)
    fixed = [
        {"depth": float(depth), "nats": total.nats / total.tokens}
        for depth, total in zip(depths, totals, strict=True)
    ]
    return {
        "rule": HEAD if learned else FIXED_POINT,
        "fixed": fixed,
        "early": early,
    }


def solved(run: LoadedRun) -> dict[str, Any]:
    """Score puzzles at every depth up to twice that of training, and where halting stops.

    Returns:
        ``curve`` on test puzzles, a list of ``depth`` in refinements and ``percent`` solved; and
        the points ``trained`` and, chosen on "val", ``chosen`` of it. A model that refines nothing
        has the one depth 0. With more refinements than one also ``halting``, the mean depth and
        the percentage of early exit at the threshold chosen on "val", and the ``rule`` of it.

    Raises:
        UserError: for text.
    """
    data = open_data(run)
    if not isinstance(data, PuzzleDataModule):
        raise UserError(f"measure=solved is of puzzles, and {data.name} is text.")
    trained = run.model.scoring_depth
    val, test = (by_depth(run.model, data, split, 2 * trained) for split in ("val", "test"))
    curve = [{"depth": float(row["refinements"]), "percent": 100 * row["solved"]} for row in test]
    chosen = curve[best_row(val, "refinements")]
    found = {"curve": curve, "trained": curve[max(trained, 1) - 1], "chosen": chosen}
    if trained < 2:
        return found
    learned = getattr(run.model, "halt", None) is not None
    thresholds = HALT_PROBABILITIES if learned else EXIT_CHANGES
    val, test = (by_threshold(run.model, data, split, thresholds) for split in ("val", "test"))
    row = test[best_row(val, "mean_depth")]
    halting = {"depth": row["mean_depth"], "percent": 100 * row["solved"]}
    return {**found, "halting": halting, "rule": HEAD if learned else FIXED_POINT}


def memory(run: LoadedRun) -> dict[str, Any]:
    """Score the text that a run was trained on beside held-out text, as it is scored itself.

    Returns:
        Nats per token of ``trained_text`` and ``held_out`` text.
    """
    data = open_data(run)
    name, log_probs = next(iter(run.model.scorers().items()))
    device = next(run.model.parameters()).device
    trained = data.train_ids[:N_EVAL]
    found = {}
    for part, tokens in (("trained_text", trained), ("held_out", data.splits["val"].tokens)):
        like = data.eval_windows("val")
        windows = EvalWindows(tokens[:N_EVAL], like.window_size, like.stride, like.batch_size)
        total = score_windows(log_probs, windows, device)
        found[part] = total.nats / total.tokens
    return {**found, "score": name, "n_trained": len(trained)}


@torch.no_grad()
def collect(
    model: LanguageModel, data: TextDataModule, split: str, n: int, every_pass: bool
) -> States:
    """Gather states of whole windows, spread over a split, of about ``n`` positions.

    Positions whose neighbours are not in the window are left out.

    Raises:
        UserError: for a model without states to read.
    """
    device = next(model.parameters()).device
    length = data.window_size
    ids = data.train_ids if split == "train" else data.splits[split].tokens
    tokens = torch.from_numpy(ids[:].astype("int64"))
    starts = torch.linspace(0, len(tokens) - length, max(1, n // (length - 2))).long()
    features: dict[Name, list[Tensor]] = {}
    targets: dict[str, list[Tensor]] = {what: [] for what in OFFSETS}
    nats = []
    depth = model.scoring_depth
    for chosen in starts.split(max(1, 4096 // length)):
        window = tokens[chosen[:, None] + torch.arange(length)].to(device)
        for what, offset in OFFSETS.items():
            targets[what].append(window.roll(-offset, 1)[:, 1:-1].flatten().cpu())
        readings = model.trace(window, 0, depth, depth if every_pass else 0)
        for reading in readings if every_pass else [list(readings)[-1]]:
            for name, states in _named(reading, model):
                features.setdefault(name, []).append(states[:, 1:-1].flatten(0, 1).cpu())
            last = reading
        picked = last.log_probs.gather(2, window[:, :, None])[:, 1:-1, 0]
        nats.append(-picked.flatten().cpu())
    if not features:
        raise UserError(
            f"{type(model).__name__} shows no states that a probe could read.",
            "Its trace() must give them; see docs/extending.md.",
        )
    found = {name: torch.cat(parts).float() for name, parts in features.items()}
    if not every_pass:
        found = {name: states for name, states in found.items() if name[0] == "y"}
    return States(found, {k: torch.cat(v) for k, v in targets.items()}, torch.cat(nats))


def _named(reading: Reading, model: LanguageModel) -> list[tuple[Name, Tensor]]:
    """Return a reading's states by name: z after each latent update, y after a whole refinement."""
    whole = reading.recursion == model.n_recursions
    if reading.refinement == 0 and model.scoring_depth:
        return []  # zeros, before anything has run
    names = [symbol for symbol in reading.states if symbol != "y" or whole]
    return [
        ((symbol, reading.refinement, reading.recursion), reading.states[symbol])
        for symbol in names
    ]


class LinearProbe:
    """A linear layer with softmax, trained on frozen features.

    Args:
        features: (N, D).
        targets: (N,) ids.
        vocab_size: V.
        seed: of the order of the batches.
    """

    def __init__(self, features: Tensor, targets: Tensor, vocab_size: int, seed: int) -> None:
        self.mean, self.spread = features.mean(0), features.std(0) + 1e-6
        layer = torch.nn.Linear(features.shape[1], vocab_size)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=1e-3)
        n_epochs = max(EPOCHS, -(-LEAST_STEPS * BATCH // len(features)))
        n_steps = n_epochs * -(-len(features) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
        random, inputs = torch.Generator().manual_seed(seed), self._normed(features)
        for _ in range(n_epochs):
            for rows in torch.randperm(len(inputs), generator=random).split(BATCH):
                loss = torch.nn.functional.cross_entropy(layer(inputs[rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.layer = layer

    @torch.no_grad()
    def score(self, features: Tensor, targets: Tensor) -> tuple[float, float]:
        """Return nats per token and the share of tokens that are guessed right."""
        logits = self.layer(self._normed(features))
        nats = torch.nn.functional.cross_entropy(logits.double(), targets)
        return float(nats), float((logits.argmax(1) == targets).double().mean())

    def _normed(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread
