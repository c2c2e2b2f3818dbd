"""Models on puzzles: the answer is one chunk, read from the cells of the question."""

import itertools

import pytest
import torch

from trm_lightning.errors import UserError
from trm_lightning.models import TRM, Looped
from trm_lightning.models.base import LanguageModel
from trm_lightning.sampling.boards import answers, side_by_side

SHAPE = {
    "vocab_size": 5, "start_token": 0, "window_size": 12, "width": 16, "n_layers": 2, "n_heads": 2,
    "positions": "rotary", "norm": "post", "puzzle_size": 6,
}  # fmt: skip


def puzzles(n: int = 3) -> torch.Tensor:
    return torch.randint(5, (n, 12), generator=torch.Generator().manual_seed(1))


def test_the_blocks_run_over_the_question_with_every_cell_in_sight() -> None:
    """Written out: y and z start at zero, z = net(x + y + z) n times, then y = net(x + y + z)."""
    torch.manual_seed(0)
    model = TRM(**SHAPE, n_refinements=2, n_recursions=2).eval()
    tokens = puzzles()
    x = model.token_embedding(tokens[:, :6]) * 16**0.5
    rotation = model.rotary(torch.arange(6))

    def net(h: torch.Tensor) -> torch.Tensor:
        for block in model.layers:
            h = block(h, rotation=rotation)[0]  # no mask
        return h

    y = z = torch.zeros_like(x)
    for _ in range(2):
        for _ in range(2):
            z = net(x + y + z)
        y = net(x + y + z)
    expected = model.distribution(y)
    assert torch.allclose(model.log_probs(tokens, 6), expected, atol=1e-6)
    assert torch.allclose(model.log_probs(tokens, 9), expected[:, 3:], atol=1e-6)
    nll = -expected.gather(2, tokens[:, 6:, None]).mean()
    assert torch.allclose(model.supervision_step(tokens, 6).nll, nll, atol=1e-6)


def test_an_mlp_over_the_cells_takes_the_place_of_attention() -> None:
    """Written out: channels of all cells, through one network."""
    torch.manual_seed(0)
    model = Looped(**SHAPE, n_refinements=2, mixing="mlp").eval()
    tokens = puzzles()
    x = model.token_embedding(tokens[:, :6]) * 16**0.5
    h = torch.zeros_like(x)
    for _ in range(2):
        h = h + x
        for block in model.layers:
            first, second = block.mixing.mlp[0], block.mixing.mlp[3]
            hidden = torch.einsum("bcd,kc->bkd", h, first.weight) + first.bias[:, None]
            mixed = torch.einsum("bkd,ck->bcd", torch.nn.functional.gelu(hidden), second.weight)
            h = block.norm_attention(h + mixed + second.bias[:, None])
            h = block.norm_mlp(h + block.mlp(h))
    assert torch.allclose(model.log_probs(tokens, 6), model.distribution(h), atol=1e-5)
    assert not any("attention.qkv" in name for name in model.state_dict())
    same = TRM(**SHAPE, n_refinements=2, n_recursions=1, mixing="mlp")
    assert same.n_parameters() == model.n_parameters()


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (1, 6)])
def test_a_convolution_over_neighbours_takes_the_place_of_attention(
    rows: int, columns: int
) -> None:
    """Written out: each channel of a cell, and of its neighbours on the board, weighted."""
    torch.manual_seed(0)
    shape = {**SHAPE, "puzzle_columns": columns, "positions": "none"}
    model = Looped(**shape, n_refinements=1, mixing="convolution").eval()
    tokens = puzzles()
    h = model.token_embedding(tokens[:, :6]) * 16**0.5
    for block in model.layers:
        weight, mixed = block.mixing.conv.weight, torch.zeros_like(h) + block.mixing.conv.bias
        for cell, other in itertools.product(range(6), repeat=2):
            down = other // columns - cell // columns
            right = other % columns - cell % columns
            if max(abs(down), abs(right)) < 2:
                taps = weight[:, 0, down + weight.shape[2] // 2, right + 1]
                mixed[:, cell] += taps * h[:, other]
        h = block.norm_attention(h + mixed)
        h = block.norm_mlp(h + block.mlp(h))
    assert torch.allclose(model.log_probs(tokens, 6), model.distribution(h), atol=1e-5)
    more = TRM(**shape, n_refinements=3, n_recursions=1, mixing="convolution")
    assert more.n_parameters() == model.n_parameters()


@pytest.mark.parametrize("refinements", [1, 2])
def test_a_convolution_reaches_as_many_cells_as_blocks_have_run(refinements: int) -> None:
    torch.manual_seed(0)
    shape = {**SHAPE, "window_size": 24, "puzzle_size": 12, "positions": "none", "n_layers": 2}
    model = Looped(**shape, n_refinements=refinements, mixing="convolution").eval()
    tokens = torch.randint(5, (1, 24), generator=torch.Generator().manual_seed(1))
    other = tokens.clone()
    other[:, 0] = (tokens[:, 0] + 1) % 5
    moved = (model.log_probs(tokens, 12) != model.log_probs(other, 12)).any(dim=-1)[0]
    assert moved.tolist() == [cell <= 2 * refinements for cell in range(12)]


def test_without_positions_attention_sees_a_set() -> None:
    torch.manual_seed(0)
    model = Looped(**{**SHAPE, "positions": "none"}, n_refinements=2).eval()
    tokens, order = puzzles(), torch.tensor([2, 0, 5, 4, 1, 3])
    moved = torch.cat((tokens[:, :6][:, order], tokens[:, 6:]), dim=1)
    assert torch.allclose(
        model.log_probs(tokens, 6)[:, order], model.log_probs(moved, 6), atol=1e-6
    )


def test_the_parameters_are_those_of_the_text_model() -> None:
    text = {**SHAPE, "puzzle_size": None}
    for cls, more in ((Looped, {}), (TRM, {"n_recursions": 1})):
        board, plain = (cls(**shape, n_refinements=2, **more) for shape in (SHAPE, text))
        assert board.state_dict().keys() == plain.state_dict().keys()
        assert board.n_parameters() == plain.n_parameters()


def test_halting_learns_whether_all_cells_are_right() -> None:
    torch.manual_seed(0)
    model = Looped(**SHAPE, n_refinements=1, halt_loss_weight=1.0)
    assert model.halt is not None
    tokens = puzzles()
    # Answers that are right in the first puzzle, and but for one cell in the second.
    tokens[:, 6:] = answers(model.eval(), tokens[:, :6])[0]
    tokens[1, 8] = (tokens[1, 8] + 1) % 5
    tokens[2, 6:] = (tokens[2, 6:] + 1) % 5
    torch.nn.init.normal_(model.halt.weight)
    guess = model.halt(model(tokens, 6).answer)[..., 0].mean(dim=1).sigmoid()
    expected = -torch.stack((guess[0], 1 - guess[1], 1 - guess[2])).log().mean()
    step = model.supervision_step(tokens, 6)
    assert torch.allclose(step.loss - step.nll, expected, atol=1e-6)
    # The blocks learn to show it.
    weight = model.layers[0].mlp[0].weight
    (ours,) = torch.autograd.grad(step.loss - step.nll, weight, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, weight)
    assert theirs.abs().max() > 0 and torch.allclose(ours, theirs, atol=1e-7)


def test_a_board_stops_as_one() -> None:
    torch.manual_seed(0)
    model = Looped(**SHAPE, n_refinements=6).eval()
    tokens = puzzles(8)
    full = model.depths(tokens, 6)
    assert (full == 6).all()
    depths = model.with_exit_threshold(0.5).depths(tokens, 6)
    assert (depths == depths[:, :1]).all() and depths.min() < 6


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"chunk_size": 2}, "chunk_size=2 is of text"),
        ({"factorization": "parallel"}, "factorization=parallel is of text"),
        ({"chunk_visibility": False}, "chunk_visibility=false is of text"),
        ({"window_size": 16}, "twice puzzle_size=6"),
        ({"mixing": "mpl"}, "attention, mlp or convolution"),
        ({"mixing": "convolution", "puzzle_size": None}, "mixing=convolution is of puzzles"),
        ({"puzzle_columns": 4}, "puzzle_columns=4 must divide puzzle_size=6"),
        ({"mixing": "mlp", "puzzle_size": None}, "mixing=mlp is of puzzles"),
    ],
)
def test_settings_of_text_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Looped(**{**SHAPE, **changes}, n_refinements=2)


class Copies(LanguageModel):
    """Says that token t is the one 3 before it, plus one: what greedy writing must follow."""

    def log_probs(self, tokens: torch.Tensor, first: int = 0) -> torch.Tensor:
        before = torch.nn.functional.pad(tokens, (3, 0))[:, first : tokens.shape[1]]
        return torch.nn.functional.one_hot((before + 1) % 5, 5).float().log()


def test_answers_are_written_cell_by_cell_without_the_right_ones() -> None:
    model = Copies(5, 0, 12)
    question = torch.tensor([[0, 1, 2, 0, 1, 2]])
    assert answers(model, question).tolist() == [[[1, 2, 3, 2, 3, 4]]]


def test_boards_stand_side_by_side() -> None:
    assert side_by_side({"a": "1 2\n3 4", "long": "x\ny"}) == "a     long\n1 2   x\n3 4   y"


@pytest.mark.parametrize("halt_loss_weight", [0.0, 1.0])
@torch.no_grad()
def test_one_run_tells_where_boards_stop_at_every_threshold(halt_loss_weight: float) -> None:
    torch.manual_seed(0)
    model = TRM(**SHAPE, n_refinements=6, n_recursions=1, halt_loss_weight=halt_loss_weight).eval()
    for layer in model.layers:
        for parameter in layer.parameters():
            parameter.mul_(6)  # so that boards differ in when they settle
    if model.halt is not None:
        torch.nn.init.normal_(model.halt.weight, std=3)
        torch.nn.init.zeros_(model.halt.bias)
    tokens = puzzles(16)
    thresholds = [1e-9, *(k / 40 for k in range(1, 40)), 2.0]
    each = model.log_probs_at(tokens, range(1, 7), 6)
    for threshold, stops in zip(thresholds, model.exit_depths(tokens, thresholds, 6), strict=True):
        exiting = model.with_exit_threshold(threshold)
        assert torch.equal(stops, exiting.depths(tokens, 6).max(dim=1).values)
        picked = torch.stack([each[int(depth) - 1][i] for i, depth in enumerate(stops)])
        assert torch.allclose(picked, exiting.log_probs(tokens, 6), atol=1e-6)
    mixed = [len(set(stops.tolist())) > 1 for stops in model.exit_depths(tokens, thresholds, 6)]
    assert any(mixed)
