"""Windows carried over batches: the paper's loop written out, who is replaced, and resuming."""

from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import Configure
from hydra.utils import instantiate

from trm_lightning.errors import UserError
from trm_lightning.models import TRM
from trm_lightning.models.base import SupervisionStep
from trm_lightning.runs.checkpoint_file import read_checkpoint
from trm_lightning.training.build import build_module
from trm_lightning.training.carry import Carry
from trm_lightning.training.fit import train

SETTINGS = (
    "data=sudoku4", "data.window_size=32", "data.corpus.train=40", "data.corpus.val=20",
    "data.corpus.test=20", "model=trm", "model.n_supervision=3", "carry=true",
    "schedule=constant", "optimizer=adamw",
)  # fmt: skip


def model(**changes: float) -> TRM:
    torch.manual_seed(0)
    return TRM(
        vocab_size=5, start_token=0, window_size=8, puzzle_size=4, width=8, n_layers=1, n_heads=2,
        n_refinements=1, n_recursions=1, **{"n_supervision": 3, **changes},
    )  # fmt: skip


def step(net: TRM, tokens: torch.Tensor, state: object) -> SupervisionStep:
    return net.supervision_step(tokens, 4, state)


def test_windows_give_way_after_their_steps_or_when_they_halt() -> None:
    carry = Carry(model())
    batches = [torch.full((3, 8), number) for number in range(1, 8)]
    shown, halts = [], {1: [0], 2: [0, 1]}  # which rows halt after which step
    for number, batch in enumerate(batches, start=1):
        tokens, state = carry.admit(batch)
        shown.append(tokens[:, 0].tolist())
        fresh = torch.tensor([at == number for at in shown[-1]])
        if number > 1:
            y, z = state
            assert (y[fresh] == 0).all() and (y[~fresh] != 0).all() and (z[fresh] == 0).all()
        ones = (torch.ones(3, 4, 8), torch.ones(3, 4, 8))
        halted = torch.tensor([row in halts.get(number, []) for row in range(3)])
        carry.keep(SupervisionStep(torch.tensor(0.0), torch.tensor(0.0), ones, halted))
    assert shown == [
        [1, 1, 1], [2, 1, 1], [3, 3, 1], [3, 3, 4], [3, 3, 4], [6, 6, 4], [6, 6, 7],
    ]  # fmt: skip


def test_some_windows_explore_beyond_what_the_head_says() -> None:
    """Those that stay where the head lets all go have a random number of steps, 2 to 5."""
    torch.manual_seed(0)
    n, chance = 4000, 0.3
    carry = Carry(model(n_supervision=5), chance)
    carry.admit(torch.zeros(n, 8))
    ones, zero = (torch.ones(n, 4, 8), torch.ones(n, 4, 8)), torch.tensor(0.0)
    for taken, fewer in ((1, 1), (2, 3 / 4), (3, 2 / 4), (4, 1 / 4), (5, 0)):
        carry.keep(SupervisionStep(zero, zero, ones, torch.ones(n, dtype=torch.bool)))
        stay = float((~carry.done).float().mean())
        assert carry.n_steps.eq(taken).all()
        assert abs(stay - chance * fewer) <= 4 * (chance * fewer / n) ** 0.5


def test_without_exploration_the_head_decides_and_nothing_is_drawn() -> None:
    carry = Carry(model())
    before = torch.get_rng_state()
    carry.admit(torch.zeros(2, 8))
    ones, zero = (torch.ones(2, 4, 8), torch.ones(2, 4, 8)), torch.tensor(0.0)
    carry.keep(SupervisionStep(zero, zero, ones, torch.tensor([True, False])))
    assert carry.done.tolist() == [True, False]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_halting_head_decides_by_the_answer_alone() -> None:
    net = model(halt_loss_weight=1.0)
    assert net.halt is not None
    tokens = torch.randint(5, (6, 8), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 5
    torch.nn.init.normal_(net.halt.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    guesses = net.halt(net(tokens, 4).answer)[..., 0].mean(dim=1)
    net.halt.bias.data -= guesses.median()
    halted = step(net, tokens, None).halted
    assert halted is not None and 0 < halted.sum() < 6
    assert torch.equal(halted, step(net, other, None).halted)
    assert step(model(), tokens, None).halted is None


def test_training_is_the_papers_loop_written_out(configure: Configure) -> None:
    cfg = configure(
        *SETTINGS, "optimizer.weight_decay=0", "model.halt_loss_weight=0.5", "halt_exploration=0"
    )
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    torch.manual_seed(cfg.seed)
    train(cfg)
    trained = read_checkpoint(Path(cfg.run_dir) / "checkpoints" / "last.ckpt")["state_dict"]

    L.seed_everything(cfg.seed, verbose=False)
    net = build_module(cfg, data).model
    decayed = [p for p in net.parameters() if p.dim() >= 2]
    kept = [p for p in net.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": kept}], lr=2e-3, betas=(0.9, 0.99), weight_decay=0
    )
    tokens, state, steps = None, None, torch.zeros(8)
    done = torch.ones(8, dtype=torch.bool)
    for batch in data.train_batches(8):
        if tokens is None:
            tokens = batch
        for row in done.nonzero()[:, 0].tolist() if state is not None else []:
            tokens[row] = batch[row]
            for part in state or ():
                part[row] = 0
            steps[row] = 0
        out = net.supervision_step(tokens, 16, state)
        optimizer.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        state, steps = tuple(part.clone() for part in out.state), steps + 1
        done = (steps == 3) | out.halted
    for name, parameter in net.named_parameters():
        if not name.endswith("qkv.bias"):  # a key's bias has no gradient but rounding noise
            torch.testing.assert_close(trained[f"model.{name}"], parameter.data, rtol=0, atol=5e-6)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_windows_in_work(configure: Configure) -> None:
    whole = train(configure(*SETTINGS, folder="whole"))
    assert whole["optimizer_steps"] == 8 and whole["tokens_seen"] == 8 * 8 * 32
    first = configure(*SETTINGS, "budget.steps=4", folder="parts")
    train(first)
    last = f"{first.run_dir}/checkpoints/last.ckpt"
    stored = read_checkpoint(Path(last))["carry"]
    assert stored["n_steps"].tolist() == [1] * 8  # 3 steps, and the first of the next windows
    resumed = train(configure(*SETTINGS, f"resume={last}", folder="parts"))
    assert resumed["final"] == whole["final"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.n_supervision=1", "model.n_supervision to 2 or more"),
        ("gradient_accumulation=2", "gradient_accumulation=1"),
        ("halt_exploration=2", "halt_exploration must lie in"),
    ],
)
def test_what_cannot_be_carried_is_refused(configure: Configure, override: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        train(configure(*SETTINGS, override))
