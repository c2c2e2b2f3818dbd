"""The analysis against other ways to the same numbers."""

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import Configure
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.distributions import Categorical, kl_divergence

from trm_lightning.analysis import analyze
from trm_lightning.analysis.groups import FREQUENCIES, PARTS, by_frequency, by_part_of_line
from trm_lightning.analysis.measure import Measurement, check_same_as_scored
from trm_lightning.analysis.sums import Guess, facts
from trm_lightning.data import (
    BPETokenizer,
    CharacterTokenizer,
    EvalWindows,
    Tokenizer,
    WhitespaceTokenizer,
    WordTokenizer,
)
from trm_lightning.errors import UserError
from trm_lightning.evaluation import score_windows
from trm_lightning.models import AR, TRM, Looped, SourceTRM
from trm_lightning.reports.analysis_figures import is_supervised
from trm_lightning.training.fit import train

V = 7
CPU = torch.device("cpu")
SETTINGS = {
    "split": "val",
    "depth": None,
    "max_tokens": None,
    "ablations": True,
    "exit_thresholds": [0.1],
    "device": "cpu",
    "trust": [],
}


def make_net(kind: Any = TRM, **changes: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": V, "start_token": 0, "window_size": 12, "width": 16, "n_layers": 2,
        "n_heads": 2, "chunk_size": 3, "n_refinements": 2, "norm": "post",
    }  # fmt: skip
    own = {} if kind is Looped else {"n_recursions": 3}
    return kind(**(settings | own | changes)).eval()


def windows_of(n: int = 47, stride: int = 5) -> EvalWindows:
    tokens = np.random.default_rng(0).integers(V, size=n)
    return EvalWindows(tokens, window_size=12, stride=stride, batch_size=3)


KINDS: list[tuple[Any, dict[str, Any]]] = [
    (TRM, {"factorization": "left_to_right"}),
    (TRM, {"factorization": "parallel", "n_supervision": 2}),
    (TRM, {"chunk_size": 1, "n_recursions": 1, "positions": "rotary"}),
    (TRM, {"answer_sees_input": False}),
    (Looped, {"factorization": "parallel"}),
    (Looped, {"chunk_size": 1, "positions": "rotary"}),
    (SourceTRM, {"start": "query"}),
    (SourceTRM, {"start": "target", "n_supervision": 2}),
]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_by_depth_are_those_of_log_probs_at(kind: tuple[Any, dict[str, Any]]) -> None:
    net = make_net(kind[0], **kind[1])
    depth = net.scoring_depth + 2
    measured = Measurement(net, depth, {})
    measured.run(windows_of())
    check_same_as_scored(net, windows_of())
    rows = {
        row["refinement"]: row
        for row in measured.sums.rows()
        if row["recursion"] == net.n_recursions
    }
    assert list(rows) == list(range(depth + 1))
    for t, row in rows.items():
        score = score_windows(
            lambda tokens, first, t=t: net.log_probs_at(tokens, [t], first)[0], windows_of(), CPU
        )
        assert row["tokens"] == score.tokens == 47
        assert row["nats_per_token"] == pytest.approx(score.nats / score.tokens, abs=1e-6)


def test_a_reading_is_the_answer_of_a_model_with_fewer_recursions() -> None:
    net = make_net(factorization="parallel")
    tokens = torch.randint(V, (2, 8))
    with torch.no_grad():
        read = {
            step.recursion: step.log_probs
            for step in net.trace(tokens, 0, depth=1, by_recursion=1)
            if step.refinement == 1
        }
        assert sorted(read) == [1, 2, 3]
        for recursion, log_probs in read.items():
            other = copy.copy(net)
            other.n_recursions = recursion
            torch.testing.assert_close(log_probs, other.log_probs_at(tokens, [1])[0])


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1], KINDS[4]])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_isolated_states_do_not_see_each_other(
    kind: tuple[Any, dict[str, Any]], positions: str
) -> None:
    """The query of a chunk's last token moves what other states predict, unless isolated."""
    net = make_net(kind[0], **kind[1], positions=positions)
    other = copy.deepcopy(net)
    other.query.data[1] += 3  # a look ahead by two tokens, which only the last state of three has
    tokens = torch.randint(V, (2, 12))
    first_two = torch.arange(12) % 3 < 2
    isolated, isolated_other = (m.ablations()["no mutual visibility"][1] for m in (net, other))
    with torch.no_grad():
        moved = (net.log_probs(tokens) - other.log_probs(tokens)).abs().amax(dim=(0, 2))
        alone = isolated(tokens, 0) - isolated_other(tokens, 0)
    assert (moved[first_two] > 1e-5).any()
    assert (alone.abs().amax(dim=(0, 2))[first_two] == 0).all()


def test_the_notes_chunk_alone_is_that_of_a_model_with_a_smaller_chunk() -> None:
    net = make_net(SourceTRM, start="query")
    one = make_net(SourceTRM, start="query", chunk_size=1, window_size=10)
    weights = {
        k: v[:1] if k == "query" else v[:10] if k == "position_embedding.weight" else v
        for k, v in net.state_dict().items()
    }
    one.load_state_dict(weights)
    tokens = torch.randint(V, (2, 12))
    isolated = net.ablations()["no mutual visibility"][1]
    with torch.no_grad():
        got, expected = isolated(tokens, 9), one.log_probs(tokens[:, :10], 9)
    torch.testing.assert_close(got[:, 0], expected[:, 0])


def test_facts_of_known_distributions() -> None:
    torch.manual_seed(1)
    targets = torch.tensor([0, 1, 2, 3])
    old_logits, new_logits = torch.randn(4, V), torch.randn(4, V)
    for row, (before, after) in enumerate([(0, 0), (4, 1), (2, 5), (4, 6)]):
        old_logits[row, before] = new_logits[row, after] = 9

    def guessed(refinement: int, logits: torch.Tensor) -> Guess:
        top = logits.argmax(-1)
        states = {"y": logits, "z": logits * 2}
        return Guess(refinement, logits.log_softmax(-1), states, top, top == targets)

    old, new = guessed(1, old_logits), guessed(2, new_logits)
    found = facts(new, old, targets)
    p, q = Categorical(logits=new_logits), Categorical(logits=old_logits)
    torch.testing.assert_close(found["entropy"], p.entropy())
    torch.testing.assert_close(found["kl"], kl_divergence(p, q))
    torch.testing.assert_close(found["nats"], -p.log_prob(targets))
    assert found["changed"].tolist() == [False, True, True, True]
    assert found["better"].tolist() == [False, True, False, False]
    assert found["worse"].tolist() == [False, False, True, False]
    cosine = (new_logits * old_logits).sum(-1) / (new_logits.norm(dim=-1) * old_logits.norm(dim=-1))
    torch.testing.assert_close(found["y_cosine"], cosine)
    torch.testing.assert_close(found["z_norm"], 2 * new_logits.norm(dim=-1))
    assert {"kl", "z_cosine"}.isdisjoint(facts(old, None, targets))
    assert "z_cosine" not in facts(new, guessed(0, old_logits), targets)  # z was 0


@pytest.mark.parametrize("kind", KINDS[:2])
def test_groups_get_the_nats_of_their_own_tokens(kind: tuple[Any, dict[str, Any]]) -> None:
    net, windows = make_net(kind[0], **kind[1]), windows_of()
    labels = np.random.default_rng(1).integers(3, size=len(windows.tokens))
    measured = Measurement(net, net.scoring_depth, {"random": (["a", "b", "c"], labels)})
    measured.run(windows)
    nats = []
    offsets = []
    with torch.no_grad():
        for tokens, first in windows:
            targets = tokens[:, first:, None]
            nats += (-net.log_probs(tokens, first).gather(2, targets)).flatten().tolist()
            offsets += (torch.arange(first, tokens.shape[1]) % 3).tolist() * len(tokens)
    for name, by in (("random", labels), ("position in the chunk", np.array(offsets))):
        for i, row in enumerate(measured.groups[name].rows("ppl")):
            expected = np.exp(np.mean(np.array(nats)[by == i]))
            assert row["tokens"] == (by == i).sum()
            assert row["ppl"][net.scoring_depth] == pytest.approx(expected, rel=1e-5)


PLAY = (
    "First Citizen:\nSpeak, my lord!\n\nSecond Citizen:\nHe said:\nno more of it.\n\nAll:\nAye.\n"
)
LABELLED = "Scene in the garden .\nEnter Anna .\nANNA: the dog sees .\nBORIS: it runs , and .\n"


def parts_of(text: str, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    fitted = tokenizer.fit([text], [])
    ids = fitted.encode(text)
    labels = by_part_of_line([text], fitted, ids)
    assert labels is not None
    return [(fitted.token(i), PARTS[p]) for i, p in zip(ids.tolist(), labels, strict=True)]


def test_parts_of_a_play_in_words() -> None:
    found = parts_of(PLAY, WordTokenizer(min_count=1))
    expected = {
        "speaker": "first citizen : second citizen : all :",
        "first word": "speak he no aye",
        "punctuation": ", ! : . .",
        "other": "my lord said more of it",
    }
    for part, words in expected.items():
        assert " ".join(word for word, p in found if p == part) == words
    assert {part for _, part in found} == set(expected)  # these words have no line ends


def test_parts_of_labelled_lines() -> None:
    found = parts_of(LABELLED, WhitespaceTokenizer())
    assert [w for w, p in found if p == "speaker"] == ["ANNA:", "BORIS:"]
    assert [w for w, p in found if p == "first word"] == ["Scene", "Enter", "the", "it"]
    assert [w for w, p in found if p == "punctuation"] == [".", ".", ".", ",", "."]
    assert [w for w, p in found if p == "line end"] == ["<eos>"] * 4


@pytest.mark.parametrize("tokenizer", [CharacterTokenizer(), BPETokenizer(vocab_size=280)])
def test_parts_of_a_play_in_smaller_tokens(tokenizer: Tokenizer) -> None:
    found = parts_of(PLAY, tokenizer)
    joined = "".join(token for token, part in found if part == "speaker")
    assert joined == "First Citizen:Second Citizen:All:"
    first = "".join(token for token, part in found if part == "first word")
    assert first == "SpeakHenoAye"
    assert [part for token, part in found if token == "\n"] == ["line end"] * PLAY.count("\n")


def test_tokens_of_another_text_have_no_parts() -> None:
    fitted = WordTokenizer(min_count=1).fit([PLAY], [])
    ids = fitted.encode(PLAY)
    assert by_part_of_line([PLAY], fitted, ids[:9]) is not None
    assert by_part_of_line([PLAY], fitted, ids[1:]) is None
    assert by_part_of_line([PLAY[:20]], fitted, ids) is None


def test_frequency_is_counted_in_training() -> None:
    train_ids = np.repeat([0, 1, 2, 3], [9, 10, 1500, 50])
    labels = by_frequency(np.array([0, 1, 2, 3, 4]), train_ids, vocab_size=5, unknown_id=3)
    names = [FREQUENCIES[label] for label in labels]
    assert names == ["1–9", "10–99", "1,000–9,999", "unknown", "never"]


def test_a_net_with_scores_of_its_own_is_refused() -> None:
    class Shifted(TRM):
        def log_probs(self, tokens: torch.Tensor, first: int = 0) -> torch.Tensor:
            return super().log_probs(tokens, first).roll(1, -1)

    net = make_net()
    check_same_as_scored(net, windows_of())
    net.__class__ = Shifted
    with pytest.raises(UserError, match="Shifted"):
        check_same_as_scored(net, windows_of())


def test_ablations_take_out_what_they_say() -> None:
    tokens = torch.randint(V, (2, 12))
    net = make_net(factorization="left_to_right")
    found = net.ablations()
    assert list(found) == [
        "no refinement", "no mutual visibility", "independent tokens", "1 recursion",
        "6 recursions",
    ]  # fmt: skip
    with torch.no_grad():
        scores = {name: log_probs(tokens, 0) for name, (_, log_probs) in found.items()}
        whole = net.log_probs(tokens)
        assert all(not torch.allclose(score, whole) for score in scores.values())
        net.n_recursions = 1
        assert torch.equal(scores["1 recursion"], net.log_probs(tokens))
        net.n_recursions = 3
        net.factorization = "parallel"
        assert torch.equal(scores["independent tokens"], net.log_probs(tokens))
    assert "independent tokens" not in net.ablations()
    warm = make_net(SourceTRM, start="target")
    blind = warm.ablations()["without the answer"][1]
    with torch.no_grad():
        torch.testing.assert_close(blind(tokens, 0), warm.without_answer().log_probs(tokens))
        assert not torch.allclose(blind(tokens, 0), warm.log_probs(tokens))
    ar = AR(V, 0, window_size=12, width=16, n_layers=1, n_heads=2)
    assert ar.ablations() == {}


def run_of(configure: Configure, *overrides: str) -> tuple[Path, dict[str, Any]]:
    cfg = configure(*overrides, "budget.steps=4")
    return Path(cfg.run_dir), train(cfg)


def analyzed(run: Path, **changes: Any) -> dict[str, Any]:
    analyze(OmegaConf.create(SETTINGS | {"run": str(run), **changes}))
    content: dict[str, Any] = json.loads((run / "analysis" / "analysis.json").read_text())
    return content


def test_a_recursive_run_is_analyzed(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    run, results = run_of(
        configure,
        "model=trm",
        "model.n_supervision=2",
        "model.n_recursions=2",
        "model.chunk_size=2",
    )
    content = analyzed(run, exit_thresholds=[0.1, 1e6])
    assert content["whole_split"] and content["tokens"] == results["final"]["val/ppl"]["tokens"]
    scored = [r for r in content["steps"] if (r["refinement"], r["recursion"]) == (4, 2)]
    assert scored[0]["ppl"] == pytest.approx(results["best"]["val/ppl"]["perplexity"], rel=1e-6)
    assert [r["supervision_step"] for r in content["steps"] if r["recursion"] == 2] == [
        0, 1, 1, 2, 2, 3, 3, 4, 4
    ]  # fmt: skip
    assert [r["refinement"] for r in content["steps"] if r["beyond_training"]] == [5, 6, 7, 8]
    at_once, later = content["early_exit"]  # the larger bound first: it stops everything
    whole = [row for row in content["steps"] if row["recursion"] == 2]
    assert at_once["mean_depth"] == 1 and 1 <= later["mean_depth"] <= 4
    assert at_once["ppl"] == pytest.approx(whole[1]["ppl"], rel=1e-6)
    names = {"position in the chunk", "frequency in training", "part of the line"}
    assert set(content["groups"]) == names
    for groups in content["groups"].values():
        assert sum(group["tokens"] for group in groups) == content["tokens"]
    written = {path.name for path in (run / "analysis").iterdir()}
    figures = ("depth", "surprise", "changes", "drift", "norms", "early_exit", "refinement")
    assert written >= {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}
    assert not [name for name in written if name.startswith(".") or name.endswith(".tmp")]
    for path in (run / "analysis").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert "more than trained with" in capsys.readouterr().out


def test_a_run_that_halts_is_analyzed_at_full_depth_and_with_its_own_bound(
    configure: Configure,
) -> None:
    run, results = run_of(
        configure, "model=looped", "model.exit_threshold=0.3", "model.intermediate_loss_weight=0.1"
    )
    content = analyzed(run, exit_thresholds=[1e6], ablations=False)
    own = next(row for row in content["early_exit"] if row["exit_threshold"] == 0.3)
    assert own["ppl"] == pytest.approx(results["best"]["val/ppl"]["perplexity"], rel=1e-6)
    assert content["recursion"]["exit_threshold"] == 0.3
    whole = [row for row in content["steps"] if row["recursion"] == 0]
    assert [is_supervised(content, row) for row in whole] == [False, *[True] * 3, *[False] * 3]
    content["recursion"]["supervised_depths"] = 1
    assert [row["refinement"] for row in whole if is_supervised(content, row)] == [3]


def test_part_of_a_split_is_said_to_be_one(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = run_of(configure, "model=trm")
    content = analyzed(run, max_tokens=100, ablations=False, depth=4)
    assert content["tokens"] == 100 and not content["whole_split"] and not content["ablations"]
    assert content["steps"][-1]["tokens"] == 100
    assert "100 tokens (of " in capsys.readouterr().out
    for changes, named in [
        ({"depth": 1}, "depth"), ({"max_tokens": 0}, "max_tokens"), ({"split": "tset"}, "tset"),
        ({"exit_thresholds": [0.0]}, "exit_thresholds"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=named):
            analyzed(run, **changes)
    with pytest.raises(UserError, match="no/run does not exist"):
        analyzed(Path("no/run"))


def test_an_autoregressive_run_gives_what_applies(configure: Configure) -> None:
    run, results = run_of(configure, "model=ar")
    content = analyzed(run)
    (row,) = content["steps"]
    assert row["ppl"] == pytest.approx(results["best"]["val/ppl"]["perplexity"], rel=1e-6)
    assert row["entropy"] > 0 and row["kl"] is None
    assert set(content["groups"]) == {"frequency in training", "part of the line"}
    assert content["ablations"] == [] and "recursion" not in content


@pytest.mark.slow
def test_a_net_given_the_answer_has_no_perplexity(configure: Configure) -> None:
    run, _ = run_of(configure, "model=source_trm")
    content = analyzed(run)
    assert not content["is_likelihood"] and content["measure"] == "warm_start_ppl"
    assert "ppl" not in content["steps"][0] and "NOT A LIKELIHOOD" in content["meaning"]
    blind = [row for row in content["ablations"] if row["measure"] == "ppl_without_answer"]
    assert [row["name"] for row in blind] == ["without the answer"]
    drawn = (run / "analysis" / "depth.svg").read_text()
    assert "not a likelihood" in drawn and "perplexity" not in drawn


def test_data_are_opened_as_trained(configure: Configure) -> None:
    """Labels by part of the line come from the very text that was scored."""
    cfg = configure("model=ar")
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    tokens = data.splits["val"].tokens
    labels = by_part_of_line(data.corpus.blocks("val"), data.tokenizer, tokens)
    assert labels is not None
    for token, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        text = data.tokenizer.token(token)
        assert (PARTS[label] == "speaker") == text.endswith(":")
        assert (PARTS[label] == "line end") == (text == "<eos>")
