"""The FLOP counter, against sums written down from the architecture."""

import pytest
import torch
from conftest import Configure
from hydra.utils import instantiate

from trm_lightning.models import LanguageModel
from trm_lightning.training.fit import train
from trm_lightning.training.flops import training_flops

WIDTH, WINDOW, LAYERS, VOCABULARY, BATCH = 16, 16, 2, 100, 3
TOKENS = torch.zeros(BATCH, WINDOW, dtype=torch.long)
# One pass of a window through the blocks: 3 + 1 + 4 + 4 squares of the width, and attention.
BLOCKS = LAYERS * (2 * WINDOW * 12 * WIDTH**2 + 2 * 2 * WINDOW * WINDOW * WIDTH)
HEAD = 2 * WIDTH * VOCABULARY  # of one token


def model_of(configure: Configure, *overrides: str) -> LanguageModel:
    cfg = configure(*overrides)
    model: LanguageModel = instantiate(cfg.model, vocab_size=VOCABULARY, start_token=0)
    return model


@pytest.mark.parametrize("supervised", [WINDOW, 2])
def test_a_causal_model(configure: Configure, supervised: int) -> None:
    found = training_flops(model_of(configure, "model=ar"), TOKENS, WINDOW - supervised)
    # Backwards, each product becomes two: for its input and for its weights or other input.
    assert found == BATCH * 3 * (BLOCKS + supervised * HEAD)


@pytest.mark.parametrize("supervision", [1, 2])
def test_a_recursive_model(configure: Configure, supervision: int) -> None:
    model = model_of(
        configure, "model=trm", "model.n_refinements=3", "model.n_recursions=2",
        "model.backprop_depth=1", f"model.n_supervision={supervision}",
    )  # fmt: skip
    refinement = 3 * BLOCKS  # two updates of the latent and one of the answer
    step = 2 * refinement + 3 * refinement + 3 * WINDOW * HEAD
    # A detached state saves the first pass's gradient for it; the embeddings have theirs.
    assert training_flops(model, TOKENS) == pytest.approx(BATCH * supervision * step, rel=0.001)


def test_counting_changes_nothing(configure: Configure) -> None:
    model = model_of(configure, "model=trm")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    training_flops(model.eval(), TOKENS)
    assert torch.equal(torch.rand(2), expected)
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_a_run_stores_what_studies_read(configure: Configure) -> None:
    settings = ("model=trm", "model.n_refinements=2", "model.n_recursions=1", "budget.steps=2")
    results = train(configure(*settings, "model.n_supervision=2"))
    assert {key: results[key] for key in ("family", "width", "n_layers", "n_passes")} == {
        "family": "TRM", "width": WIDTH, "n_layers": LAYERS, "n_passes": 2 * 2 * 2,
    }  # fmt: skip
    head = 2 * WIDTH * results["vocab_size"]
    blocks_and_head = 3 * 2 * (4 * BLOCKS / WINDOW + head)
    assert results["flops_per_token"] == pytest.approx(blocks_and_head, rel=0.001)
