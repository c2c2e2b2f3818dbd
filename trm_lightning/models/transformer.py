"""What all Transformers of the package share: embeddings, blocks, an output head.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from trm_lightning.models.arguments import frozen_problems, raise_problems, shape_problems
from trm_lightning.models.base import LanguageModel
from trm_lightning.models.blocks import Block, RotaryPositions, Rotation, make_norm
from trm_lightning.models.cell_mixing import make_cell_mixing
from trm_lightning.models.cross_entropy import vocabulary_cross_entropy


class Transformer(LanguageModel):
    """A language model made of Transformer blocks.

    Args:
        vocab_size: V; known once the data are.
        start_token: id that stands before the first token.
        window_size: L, the longest window.
        width: D.
        n_layers: number of different blocks.
        n_heads: attention heads; divides ``width``.
        dropout: rate in attention, after the GELU and after the MLP.
        positions: ``learned`` embeddings, ``rotary`` angles, or ``none``.
        norm: ``pre`` (LayerNorm before each branch) or ``post`` (RMSNorm, states of unit size).
        tied_head: the output head is the token embedding.
        attention_init: of the query, key and value projections: ``normal`` (0, 0.02), or
            ``xavier`` (uniform), which ``nn.MultiheadAttention`` draws and the notes keep.
        frozen_layers: blocks from the first on that are not trained, and with them the embeddings.
        mixing: how positions see each other: ``attention``, or what :func:`make_cell_mixing` has
            for the cells of a board.
        board_shape: rows and columns of a board; None for text.

    Raises:
        UserError: naming every argument that does not fit.
    """

    def __init__(
        self,
        vocab_size: int,
        start_token: int,
        window_size: int,
        width: int,
        n_layers: int,
        n_heads: int,
        dropout: float = 0.0,
        positions: Literal["learned", "rotary", "none"] = "learned",
        norm: Literal["pre", "post"] = "pre",
        tied_head: bool = True,
        attention_init: Literal["normal", "xavier"] = "normal",
        frozen_layers: int = 0,
        mixing: str = "attention",
        board_shape: tuple[int, int] | None = None,
    ) -> None:
        raise_problems(
            shape_problems(window_size, width, n_layers, n_heads, dropout)
            + frozen_problems(frozen_layers, n_layers, tied_head)
        )
        super().__init__(vocab_size, start_token, window_size)
        self.width = width
        self.norm = norm
        self.mixing = mixing
        self.embedding_scale = 1.0
        self.token_embedding = nn.Embedding(vocab_size, width)
        learned, rotary = positions == "learned", positions == "rotary"
        self.position_embedding = nn.Embedding(window_size, width) if learned else None
        self.rotary = RotaryPositions(window_size, width // n_heads) if rotary else None
        self.blocks = nn.ModuleList(
            Block(
                width, n_heads, dropout, norm, make_cell_mixing(mixing, width, board_shape, dropout)
            )
            for _ in range(n_layers)
        )
        self.final_norm = make_norm(width, norm)
        self.head = None if tied_head else nn.Linear(width, vocab_size, bias=False)
        self.apply(_initialise)
        if attention_init == "xavier" and mixing == "attention":
            for block in self.layers:
                nn.init.xavier_uniform_(block.attention.qkv.weight)
        if frozen_layers:
            embeddings = [self.token_embedding, self.position_embedding]
            for part in [*embeddings, *self.layers[:frozen_layers]]:
                if part is not None:
                    part.requires_grad_(False)

    @property
    def layers(self) -> list[Block]:  # type: ignore[override]
        """The blocks, with their type."""
        return cast(list[Block], list(self.blocks))

    def shift_right(self, tokens: Tensor) -> Tensor:
        """Put the start token before ``tokens`` (B, T) and drop the last one."""
        return torch.cat((torch.full_like(tokens[:, :1], self.start_token), tokens[:, :-1]), dim=1)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Embed ids (B, T) that stand at ``positions`` (T,), (B, T, D)."""
        x = self.token_embedding(tokens) * self.embedding_scale
        return x if self.position_embedding is None else x + self.position_embedding(positions)

    def rotation(self, positions: Tensor) -> Rotation | None:
        """Return the rotary angles of ``positions`` (T,), None where positions are not rotary."""
        return None if self.rotary is None else self.rotary(positions)

    def encode(self, inputs: Tensor) -> Tensor:
        """Run the blocks causally over ids (B, T) from position 0 on; return states (B, T, D)."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x, rotation = self.embed(inputs, positions), self.rotation(positions)
        for block in self.layers:
            x, _ = block(x, causal=True, rotation=rotation)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """Map states (…, D) to logits over the vocabulary (…, V)."""
        return nn.functional.linear(self.final_norm(states), self._head_weight)

    def distribution(self, states: Tensor) -> Tensor:
        """Map states (…, D) to float32 log-probabilities (…, V)."""
        return torch.log_softmax(self.logits(states).float(), dim=-1)

    def nll(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return the mean nats of ``targets`` (B, T) under the predictions of states (B, T, D)."""
        normed = self.final_norm(states.flatten(0, 1))
        return vocabulary_cross_entropy(normed, self._head_weight, targets.flatten())

    @property
    def _head_weight(self) -> Tensor:
        return self.token_embedding.weight if self.head is None else self.head.weight


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) as GPT-2, biases 0: a block that runs many times starts out doing little."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
