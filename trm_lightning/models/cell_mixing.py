"""How the cells of a board see each other, other than by attention.

Shapes: B boards, C cells, D width.
"""

import math

from torch import Tensor, nn

from trm_lightning.models.blocks import gelu_network
from trm_lightning.models.dropout import Dropout


class CellMlp(nn.Module):
    """An MLP over the cells of a board, the same for all channels.

    Each cell has weights of its own, so that the rows, columns and boxes of a board need not be
    found by comparing positions. From MLP-Mixer (arXiv 2105.01601); the TRM paper takes it for
    Sudoku.

    Args:
        n_cells: C, cells of a board.
        dropout: after the GELU and after the MLP.
    """

    def __init__(self, n_cells: int, dropout: float) -> None:
        super().__init__()
        self.mlp = gelu_network(n_cells, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the cells of boards (B, C, D)."""
        mixed: Tensor = self.mlp(x.transpose(1, 2)).transpose(1, 2)
        return mixed


class CellConvolution(nn.Module):
    """A convolution over each cell and its neighbours: 3 by 3 cells, or 3 on a line.

    One block reaches one cell further. All cells share the weights, so that a board of any size can
    be read, and what lies far apart meets by recursion alone, as in the recurrent networks of
    arXiv 2106.04537. Beyond the board there is nothing (zeros).

    Args:
        width: D.
        board_shape: rows and columns; one row for a line.
        dropout: after the convolution.
    """

    def __init__(self, width: int, board_shape: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self.board_shape = board_shape
        down = min(1, board_shape[0] - 1)
        self.conv = nn.Conv2d(width, width, (2 * down + 1, 3), padding=(down, 1), groups=width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the cells of boards (B, C, D)."""
        boards = x.unflatten(1, self.board_shape).permute(0, 3, 1, 2)
        mixed: Tensor = self.conv(boards).permute(0, 2, 3, 1)
        return self.dropout(mixed).flatten(1, 2)


def make_cell_mixing(
    mixing: str, width: int, board_shape: tuple[int, int] | None, dropout: float
) -> nn.Module | None:
    """Return what mixes the cells of boards in a block, None where that is attention."""
    if mixing == "attention" or board_shape is None:
        return None
    if mixing == "mlp":
        return CellMlp(math.prod(board_shape), dropout)
    return CellConvolution(width, board_shape, dropout)
