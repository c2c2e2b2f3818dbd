"""The leak audit as a guard of any LightningModule, whatever it is made of.

Shapes: B rows of a batch, T tokens, V vocabulary.
"""

import copy
from collections.abc import Callable, Container
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

from trm_lightning.errors import TrainingError
from trm_lightning.leakage.example import Example
from trm_lightning.leakage.printed import changed, cuts, sums_to_one
from trm_lightning.leakage.scores import rewinder
from trm_lightning.leakage.shorten import shortest_move
from trm_lightning.leakage.text_probe import shown
from trm_lightning.leakage.window import first_position, moved

GPU_TOLERANCE = 1e-4
Module = TypeVar("Module", bound=type[L.LightningModule])


class LeakError(TrainingError):
    """A score moves with the token that it scores, or with a later one."""


class LeakGuard(L.Callback):
    """Tries the calls that a validation or test is made of, and stops where they leak.

    Some calls of the guarded method are made once more by a copy of the module, with other tokens
    from some position of each row on. The scores before that position must be the same, bit for bit
    on the CPU. Random generators, weights and what the method returns are left as they are.

    Args:
        method: of the module, which maps ids (B, T), its first argument, to scores (B, T) or to
            log-probabilities (B, T, V), of which row t scores token t.
        next_token: row t of (B, T, V) predicts token t + 1, as in GPT.
        logits: (B, T, V) are not normalised yet, so their sum is not checked.
        raises: stop with :class:`LeakError`; False prints what was found and logs the metric
            ``leaks``, 1 or 0.
    """

    def __init__(
        self,
        method: str = "log_probs",
        *,
        next_token: bool = False,
        logits: bool = False,
        raises: bool = True,
    ) -> None:
        self.method = method
        self.next_token = next_token
        self.logits = logits
        self.raises = raises
        self.found = ""
        self._tried: Container[int] = ()
        self._n_calls = 0
        self._n_tried = 0  # in all validations; chooses which positions are changed
        self._n_texts = 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Watch the method while a validation runs."""
        self._begin(pl_module, sum(trainer.num_val_batches))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As in a validation."""
        self._begin(pl_module, sum(trainer.num_test_batches))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what was found."""
        self._end(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As in a validation."""
        self._end(trainer, pl_module)

    def _begin(self, module: L.LightningModule, n_batches: float) -> None:
        if not callable(getattr(module, self.method, None)):
            raise TrainingError(
                f"{type(module).__name__} has no method {self.method!r} to guard.",
                "Name the one that returns scores: audited('my_method').",
            )
        n = int(n_batches) if n_batches != float("inf") else 1
        self._tried = {0, 1 + self._n_texts % max(1, n - 2), n - 1}
        self._n_calls, self._n_texts = 0, self._n_texts + 1
        guarded = getattr(module, self.method)
        vars(module)[self.method] = lambda *args, **kwargs: self._call(
            module, guarded, *args, **kwargs
        )

    def _end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        vars(module).pop(self.method, None)
        if not self._n_calls:
            self.found = f"{self.method} was not called: there was nothing to check"
        if self.found and self.raises:
            raise LeakError(f"{type(module).__name__}.{self.method}: {self.found}.")
        if self.found and trainer.is_global_zero:
            print(f"{type(module).__name__}.{self.method}: {self.found}.")
        for logger in trainer.loggers:
            logger.log_metrics({"leaks": float(bool(self.found))}, trainer.global_step)

    def _call(
        self, module: L.LightningModule, guarded: Callable[..., Any], ids: Tensor, *args: Any,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        number = self._n_calls
        self._n_calls += 1
        if number not in self._tried or self.found:
            return guarded(ids, *args, **kwargs)
        watched = vars(module).pop(self.method)
        twin = copy.deepcopy(module)
        vars(module)[self.method] = watched
        rewound = rewinder(ids.device)
        scores: Tensor = guarded(ids, *args, **kwargs)
        if scores.shape[:2] != ids.shape:
            shape = tuple(scores.shape)
            self.found = f"{tuple(ids.shape)} tokens have scores of shape {shape}, not one each"
            return scores
        with rewound(), torch.no_grad():

            def again(tokens: Tensor) -> Tensor:
                found: Tensor = getattr(copy.deepcopy(twin), self.method)(tokens, *args, **kwargs)
                return found

            self.found = self._try(again, ids, scores.detach())
        return scores

    def _try(self, again: Callable[[Tensor], Tensor], ids: Tensor, scores: Tensor) -> str:
        """Return what is wrong with scores of ids (B, T); empty for nothing."""
        distributions = scores.ndim == 3
        if distributions and not self.logits:
            finding = sums_to_one(scores, 0)
            if finding is not None:
                return f"token {finding.position}: {finding.detail}"
        size = scores.shape[-1] if distributions else int(ids.max()) + 1
        rows = cuts(len(ids), 0, ids.shape[1], self._n_tried).to(ids.device)
        others = changed(ids, rows, max(2, size), 0, self._n_tried)
        self._n_tried += 1
        after = again(others)
        # A token's own score moves with it, its distribution may not.
        n_blind = rows + int(distributions and not self.next_token)
        before = scores if distributions else scores[..., None]
        after = after if distributions else after[..., None]
        positions = torch.arange(ids.shape[1], device=ids.device)
        tolerance = 0.0 if ids.device.type == "cpu" else GPU_TOLERANCE
        wrong = moved(before, after, tolerance) & (positions < n_blind[:, None])
        if not wrong.any():
            return ""
        place = first_position(wrong)
        row = int(wrong[:, place].nonzero()[0, 0])
        difference = (after - before)[row, place].abs().nan_to_num(torch.inf).max()
        moves = f"token {place}: its score moves by {float(difference):.2g} nats with"
        own = ids.clone()
        own[row] = others[row]
        alone = again(own)[row, place]
        if torch.equal(alone, scores[row, place]):
            return f"{moves} the other rows of its batch"
        text = shown(ids[row].cpu(), place, lambda part: " ".join(map(str, part)))
        example = self._example(again, ids[row], others[row])
        short = "" if example is None else f". In short: {_told(example)}"
        return f"{moves} the tokens from {int(rows[row])} on: {text}{short}"

    def _example(
        self, again: Callable[[Tensor], Tensor], ids: Tensor, other: Tensor
    ) -> Example | None:
        """Shorten what moves a score of a row (T,), where it shows alone."""

        def score(tokens: Tensor) -> Tensor:
            found = again(tokens[None])[0]
            if self.next_token and found.ndim == 2:  # row t scores token t, as it was said
                return torch.cat((torch.zeros_like(found[:1]), found[:-1]))
            return found

        try:
            return shortest_move(score, ids, other, 0.0)
        except Exception:  # a method that takes no shorter text tells its finding all the same
            return None


def _told(example: Example) -> str:
    """Return the two texts of an example."""
    return f"{list(example.ids)} and {list(example.other)} differ at token {example.position}"


def audited(
    method: str = "log_probs",
    *,
    next_token: bool = False,
    logits: bool = False,
    raises: bool = True,
) -> Callable[[Module], Module]:
    """Guard a LightningModule class of your own: see :class:`LeakGuard` for the arguments.

    Example::

        @audited("score")
        class MyModel(L.LightningModule):
            def score(self, ids):  # (B, T) -> (B, T, V)
                ...
    """

    def decorate(module: Module) -> Module:
        own = module.configure_callbacks

        def configure_callbacks(self: L.LightningModule) -> list[L.Callback]:
            more = own(self)
            guard = LeakGuard(method, next_token=next_token, logits=logits, raises=raises)
            return [*([more] if isinstance(more, L.Callback) else more), guard]

        module.configure_callbacks = configure_callbacks  # type: ignore[method-assign]
        return module

    return decorate
