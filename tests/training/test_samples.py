"""Samples and refinement pictures: what they show, and that training does not notice them."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trm_lightning.data import CharacterTokenizer, TextCorpus, TextDataModule
from trm_lightning.models import AR, TRM, LanguageModel
from trm_lightning.models.source_trm import SourceTRM
from trm_lightning.optim.optimizers import adamw
from trm_lightning.optim.schedules import constant
from trm_lightning.reports.refinement_figure import DPI, refinement_figure, visible
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.sample import sample
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks import Samples

TEXT = "a rose is a rose\nis a rose $x$ \\alpha_ " * 8
TOKENIZER = CharacterTokenizer().fit([TEXT], [])
IDS = TOKENIZER.encode(TEXT)
NET: dict[str, Any] = {
    "vocab_size": TOKENIZER.vocab_size, "start_token": TOKENIZER.start_id, "window_size": 16,
    "width": 16, "n_layers": 1, "n_heads": 2, "dropout": 0.2,
}  # fmt: skip
STEPS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TextDataModule:
    folder = tmp_path_factory.mktemp("data")
    (folder / "rose.txt").write_text(TEXT, encoding="utf-8")
    corpus = TextCorpus(str(folder / "rose.txt"))
    data = TextDataModule("rose", corpus, CharacterTokenizer(), 16, 4, cache_dir=str(folder))
    data.prepare_data()
    data.setup()
    data.show(STEPS)
    assert data.tokenizer.state() == TOKENIZER.state()
    return data


def make_module(recursive: bool) -> TrainingModule:
    torch.manual_seed(1)
    decay = {"weight_decay": 0.1, "betas": (0.9, 0.99), "decay_matrices_only": True}
    settings: dict[str, Any] = {
        "optimizer": partial(adamw, lr=1e-2, **decay),
        "schedule": partial(constant, warmup_steps=0),
        "supervised_tokens": 16,
        "ema_decay": 0.9,
        "total_steps": STEPS,
    }
    if recursive:
        net = TRM(**NET, chunk_size=4, n_refinements=2, n_recursions=1)
        module: TrainingModule = TrainingModule(net, **settings)
    else:
        module = TrainingModule(AR(**NET), **settings)
    return module


def fit(
    data: TextDataModule, recursive: bool, callbacks: list[L.Callback], logger: Any = False
) -> TrainingModule:
    module = make_module(recursive)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=STEPS, val_check_interval=2, check_val_every_n_epoch=None,
        callbacks=callbacks, logger=logger, num_sanity_val_steps=0, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
    )  # fmt: skip
    torch.manual_seed(2)
    trainer.fit(module, datamodule=data)
    return module


@pytest.mark.parametrize("recursive", [True, False])
def test_training_is_the_same_bit_for_bit_with_and_without(
    tmp_path: Path, data: TextDataModule, recursive: bool
) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    without = fit(data, recursive, [])
    state_without = torch.get_rng_state()
    with_samples = fit(data, recursive, [Samples(tmp_path / "samples.txt", n_tokens=10)], logger)
    assert torch.equal(state_without, torch.get_rng_state())
    assert with_samples.optimizer_steps == STEPS
    for (name, a), b in zip(
        without.state_dict().items(), with_samples.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert without.ema is not None and with_samples.ema is not None
    for name, average in without.ema.average.items():
        assert torch.equal(average, with_samples.ema.average[name]), name


def test_the_comparison_above_notices_a_single_draw(data: TextDataModule) -> None:
    class Draws(L.Callback):
        def on_validation_end(self, *args: Any) -> None:
            torch.rand(1)

    a, b = fit(data, True, []).state_dict(), fit(data, True, [Draws()]).state_dict()
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_text_and_pictures_arrive_with_their_steps(tmp_path: Path, data: TextDataModule) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(data, True, [Samples(tmp_path / "samples.txt", n_tokens=20)], logger)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path)).Reload()
    images = events.Images("refinement")
    texts = events.Tensors("samples/text_summary")
    assert [event.step for event in images] == [event.step for event in texts] == [2, 4, 6]
    assert images[0].width > images[0].height > 100
    assert images[0].width < 5 * DPI  # letters of ten points can be read in a small card

    written = (tmp_path / "samples.txt").read_text(encoding="utf-8")
    validation = data.tokenizer.decode(data.splits["val"].tokens)
    parts = [part.split(" ---\n") for part in written.split("--- step ")[1:]]
    assert [step for step, _ in parts] == ["2", "4", "6"]
    for _, text in parts:
        prompt, continuation = text.removesuffix("\n\n").split(" ▸")
        assert prompt == "…" + validation[:16]
        assert len(continuation) == 20


def test_the_averaged_weights_are_sampled(tmp_path: Path, data: TextDataModule) -> None:
    module = fit(data, False, [])
    trainer: Any = SimpleNamespace(loggers=[], is_global_zero=True, datamodule=data)

    def text(name: str) -> str:
        Samples(tmp_path / name, 20).on_validation_end(trainer, module)
        return (tmp_path / name).read_text(encoding="utf-8")

    averaged = text("averaged")
    for parameter in module.model.parameters():
        parameter.data.neg_()
    assert text("same") == averaged
    assert module.ema is not None
    for average in module.ema.average.values():
        average.neg_()
    assert text("other") != averaged


def test_nothing_is_done_where_nothing_is_kept(tmp_path: Path) -> None:
    class NoData:
        loggers: list[Any] = []  # noqa: RUF012
        is_global_zero = True  # and no datamodule to sample from

    no_data: Any = NoData()
    Samples(None, 20).on_validation_end(no_data, make_module(True))
    no_data.is_global_zero = False
    Samples(tmp_path / "samples.txt", 20).on_validation_end(no_data, make_module(True))
    assert list(tmp_path.iterdir()) == []


def make_net(**changes: Any) -> TRM:
    torch.manual_seed(3)
    arguments = NET | {"chunk_size": 4, "n_refinements": 3, "n_recursions": 1} | changes
    return TRM(**arguments).eval()


@pytest.mark.parametrize("n_supervision", [1, 2, 8])
def test_cells_hold_the_top_guesses_of_the_scores(n_supervision: int) -> None:
    net = make_net(n_supervision=n_supervision)
    # A text of the net's own best guesses, save one in three, so that some of them are right.
    text = list(sample(net, IDS[:8].tolist(), 8, Sampler(torch.Generator(), temperature=0)))
    tokens = torch.tensor([*IDS[:8], *(i if k % 3 else 0 for k, i in enumerate(text))])
    axes = refinement_figure(net, TOKENIZER, tokens).axes[0]
    n_rows = min(3 * n_supervision + 1, 12)
    cells = [text.get_text() for text in axes.texts]
    assert len(cells) == n_rows * 8  # two chunks of four
    with torch.no_grad():
        probs, guesses = net.log_probs(tokens[None])[0, 8:].exp().max(dim=-1)
    expected = [visible(TOKENIZER.token(int(guess))) for guess in guesses]
    assert cells[-8:] == expected
    shades = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shades[-1], probs.numpy(), atol=1e-6)

    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [visible(TOKENIZER.token(int(token))) for token in tokens[8:]]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows[0] == "0" and rows[-1] == str(3 * n_supervision)
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    right = [cell == labels[i % 8] for i, cell in enumerate(cells)]
    assert 0 < sum(right) < len(cells)
    assert len(frames) == sum(right)
    framed = {(round(f.get_y() + 0.42), round(f.get_x() + 0.46)) for f in frames}
    assert framed == {divmod(i, 8) for i, hit in enumerate(right) if hit}


@pytest.mark.parametrize(
    ("chunk_size", "n_tokens", "n_columns"), [(1, 16, 10), (16, 16, 16), (4, 15, 7), (4, 3, 3)]
)
def test_as_many_last_chunks_are_drawn_as_fit(
    chunk_size: int, n_tokens: int, n_columns: int
) -> None:
    net = make_net(chunk_size=chunk_size, window_size=32)
    figure = refinement_figure(net, TOKENIZER, torch.from_numpy(IDS[:n_tokens]))
    assert len(figure.axes[0].get_xticks()) == n_columns


def test_signs_that_mathematics_would_swallow_are_drawn() -> None:
    at = TEXT.index("$x$ \\alpha_")
    figure = refinement_figure(make_net(), TOKENIZER, torch.from_numpy(IDS[at - 4 : at + 8]))
    FigureCanvasAgg(figure).draw()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "".join(labels) == "$x$␣\\alp"


def test_a_start_from_the_answer_is_told() -> None:
    sizes = {"chunk_size": 4, "n_refinements": 3, "n_recursions": 1}
    warm = SourceTRM(**NET, **sizes, start="target").eval()
    tokens = torch.from_numpy(IDS[:16])

    def title(model: LanguageModel) -> str:
        return refinement_figure(model, TOKENIZER, tokens).axes[0].get_title(loc="left")

    assert "from the answer" in title(warm) and "answer" not in title(make_net())


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" ", "␣"),
        ("\n", "↵"),
        ("a\tb", "a⇥b"),
        ("word", "word"),
        ("incomprehensible", "incompreh…"),
    ],
)
def test_blanks_are_visible_and_long_words_are_cut(token: str, shown: str) -> None:
    assert visible(token) == shown
