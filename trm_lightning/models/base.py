"""What every net has: embeddings, blocks, a vocabulary head, and one way to score tokens.

Shapes: B batch, T tokens (at most the window L), D width, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from trm_lightning.models.arguments import raise_problems, shape_problems
from trm_lightning.models.cross_entropy import vocabulary_cross_entropy
from trm_lightning.models.transformer import Block, KeysValues, RotaryPositions, Rotation, make_norm


class LanguageNet(nn.Module, ABC):
    """A language model over windows of at most ``window_size`` tokens.

    A window is read as if its text began there: a start token stands before it, so that the
    first token has a context too, and no model needs a special case for it.

    Args:
        vocab_size: V; known once the data are.
        start_token: id that stands before the first token.
        window_size: L, the longest window.
        width: D.
        n_layers: number of different blocks.
        n_heads: attention heads; divides ``width``.
        dropout: rate in attention, after the GELU and after the MLP.
        positions: ``learned`` embeddings or ``rotary`` angles.
        norm: ``pre`` (LayerNorm before each branch) or ``post`` (RMSNorm, states of unit size).
        tied_head: the output head is the token embedding.

    Raises:
        UserError: naming every argument that does not fit.
    """

    runtime_arguments: ClassVar[frozenset[str]] = frozenset({"vocab_size", "start_token"})
    is_likelihood = True  # False for a net that is given the tokens it is scored on
    leaks = False  # set by the leak audit
    n_supervision = 1  # N_sup: optimizer steps per batch
    n_passes = 1  # how many times the blocks run for one prediction

    def __init__(
        self,
        vocab_size: int,
        start_token: int,
        window_size: int,
        width: int,
        n_layers: int,
        n_heads: int,
        dropout: float = 0.0,
        positions: Literal["learned", "rotary"] = "learned",
        norm: Literal["pre", "post"] = "pre",
        tied_head: bool = True,
    ) -> None:
        super().__init__()
        raise_problems(shape_problems(window_size, width, n_layers, n_heads, dropout))
        self.vocab_size = vocab_size
        self.start_token = start_token
        self.window_size = window_size
        self.width = width
        self.norm = norm
        self.embedding_scale = 1.0
        self.token_embedding = nn.Embedding(vocab_size, width)
        learned = positions == "learned"
        self.position_embedding = nn.Embedding(window_size, width) if learned else None
        self.rotary = None if learned else RotaryPositions(window_size, width // n_heads)
        self.blocks = nn.ModuleList(Block(width, n_heads, dropout, norm) for _ in range(n_layers))
        self.final_norm = make_norm(width, norm)
        self.head = None if tied_head else nn.Linear(width, vocab_size, bias=False)
        self.apply(self._initialise)

    @abstractmethod
    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Return the distributions that score a window's tokens.

        Args:
            tokens: (B, T) ids, T at most L.
            first: entries before this position are not computed.

        Returns:
            (B, T - first, V) float32 natural logarithms; entry t is the distribution of token
            ``first + t``, and depends on the tokens before that one only (``is_likelihood``).
        """

    @property
    def steps_alike(self) -> bool:
        """Whether training steps differ in nothing but tokens and random numbers of the GPU's.

        Then one can be recorded and replayed. Not so where a state is carried from step to step,
        where Python draws numbers or decides by values, or where the GPU has to be waited for.
        """
        return self.n_supervision == 1

    @property
    def layers(self) -> list[Block]:
        """The blocks, with their type."""
        return cast(list[Block], list(self.blocks))

    def scorers(self) -> dict[str, Callable[[Tensor, int], Tensor]]:
        """Return the :meth:`log_probs` to score a split with, by the name of the number.

        Only ``ppl`` and ``ppl_without_answer`` are perplexities. The first one is what the net
        is trained for.
        """
        return {
            "ppl" if self.is_likelihood and not self.leaks else "not_a_perplexity": self.log_probs
        }

    def without_answer(self) -> "LanguageNet":
        """Return the same weights started without the tokens to score; the net itself here."""
        return self

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Embed ids (B, T) that stand at ``positions`` (T,), (B, T, D)."""
        x = self.token_embedding(tokens) * self.embedding_scale
        return x if self.position_embedding is None else x + self.position_embedding(positions)

    def rotation(self, positions: Tensor) -> Rotation | None:
        """Return the rotary angles of ``positions`` (T,), None with learned positions."""
        return None if self.rotary is None else self.rotary(positions)

    def encode(
        self, inputs: Tensor, past: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """Run the blocks causally over ids (B, T) that follow what ``past`` holds.

        Returns:
            States (B, T, D), and each block's keys and values of past and new positions.
        """
        n_past = 0 if past is None else past[0][0].shape[2]
        positions = torch.arange(n_past, n_past + inputs.shape[1], device=inputs.device)
        if n_past + inputs.shape[1] > self.window_size:
            raise ValueError(
                f"{n_past + inputs.shape[1]} tokens do not fit into a window of {self.window_size}"
            )
        x, rotation = self.embed(inputs, positions), self.rotation(positions)
        mask = None
        if past is not None:
            mask = positions[:, None] >= torch.arange(int(positions[-1]) + 1, device=x.device)
        kept = []
        for i, block in enumerate(self.layers):
            x, keys_values = block(x, past[i] if past else None, mask, past is None, rotation)
            kept.append(keys_values)
        return x, kept

    def shift_right(self, tokens: Tensor) -> Tensor:
        """Put the start token before ``tokens`` (B, T) and drop the last one."""
        return torch.cat((torch.full_like(tokens[:, :1], self.start_token), tokens[:, :-1]), dim=1)

    def logits(self, states: Tensor) -> Tensor:
        """Map states (…, D) to logits over the vocabulary (…, V)."""
        return nn.functional.linear(self.final_norm(states), self._head_weight)

    def cross_entropy(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return the mean nats of ``targets`` (N,) under the logits of ``states`` (N, D)."""
        return vocabulary_cross_entropy(self.final_norm(states), self._head_weight, targets)

    @property
    def _head_weight(self) -> Tensor:
        return self.token_embedding.weight if self.head is None else self.head.weight

    def n_parameters(self) -> int:
        """Count the trained numbers; a tied head counts once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def _initialise(self, module: nn.Module) -> None:
        """N(0, 0.02) as GPT-2, biases 0: a block that runs many times starts out doing little."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
