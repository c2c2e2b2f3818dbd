"""lm-evaluation-harness runs tasks of its own on a run, and finds what the run itself says."""

import importlib.util
import json
import math
from typing import Any

import pytest
from conftest import SHORT_PLAY, TINY

from trm_lightning import Run, train
from trm_lightning.errors import UserError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm_eval"),
]
QUESTIONS = [
    {"question": "the king", "choices": ["speaks", "sleeps", "sings"], "answer": 0},
    {"question": "the queen and the king", "choices": ["walk", "sing"], "answer": 1},
    {"question": "a cat", "choices": ["sleeps", "kings", "dog"], "answer": 2},
]
COMMON = "dataset_path: json\ntest_split: test\ndataset_kwargs: {data_files: {test: FILE}}\n"
TASKS = {
    "choose": 'output_type: multiple_choice\ndoc_to_text: "{{question}}"\n'
    'doc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
    "metric_list: [{metric: acc}]\n",
    "read": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{question}}"\n'
    "metric_list: [{metric: byte_perplexity}]\n",
    "write": 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: ""\n'
    'generation_kwargs: {until: ["e"], max_gen_toks: 12}\n'
    "metric_list: [{metric: exact_match}]\n",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["data=builtin_char", "model=looped", f"hydra.run.dir={folder}/run"]
        return train([*TINY, *SHORT_PLAY, *words])


@pytest.fixture(scope="module")
def found(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the harness says of the three tasks."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from trm_lightning.exporting.harness import HarnessModel

    folder = tmp_path_factory.mktemp("tasks")
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    for name, text in TASKS.items():
        content = f"task: {name}\n{COMMON.replace('FILE', str(file))}{text}"
        (folder / f"{name}.yaml").write_text(content)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        result = lm_eval.simple_evaluate(
            model=HarnessModel(run), tasks=list(TASKS), task_manager=manager, log_samples=True,
            bootstrap_iters=0,
        )  # fmt: skip
    assert result is not None
    return dict(result)


def nats(run: Run, text: str, context: str = "") -> float:
    """Of a text after its context: the exact perplexities of the two, taken apart."""

    def total(part: str) -> float:
        return math.log(run.perplexity(part)) * len(part) if part else 0.0

    return total(context + text) - total(context)


def test_the_likeliest_answer_is_chosen(run: Run, found: dict[str, Any]) -> None:
    chosen = [
        min(
            range(len(q["choices"])),
            key=lambda i, q=q: nats(run, f" {q['choices'][i]}", q["question"]),
        )
        for q in QUESTIONS
    ]
    right = [c == q["answer"] for c, q in zip(chosen, QUESTIONS, strict=True)]
    assert found["results"]["choose"]["acc,none"] == pytest.approx(sum(right) / len(right))
    for sample, question in zip(found["samples"]["choose"], QUESTIONS, strict=True):
        for choice, answer in zip(question["choices"], sample["filtered_resps"], strict=True):
            expected = -nats(run, f" {choice}", question["question"])
            assert float(answer[0]) == pytest.approx(expected, rel=1e-4)


def test_whole_texts_are_scored_exactly(run: Run, found: dict[str, Any]) -> None:
    texts = [str(question["question"]) for question in QUESTIONS]
    expected = math.exp(sum(nats(run, text) for text in texts) / sum(map(len, texts)))
    assert found["results"]["read"]["byte_perplexity,none"] == pytest.approx(expected, rel=1e-4)


def test_text_is_written_up_to_its_ending(run: Run, found: dict[str, Any]) -> None:
    for sample, question in zip(found["samples"]["write"], QUESTIONS, strict=True):
        prompt = str(question["question"])
        whole = run.generate(prompt, 12, temperature=0)[len(prompt) :]
        assert sample["resps"][0][0] == whole.split("e")[0]


def test_a_model_that_sees_the_answer_is_refused(run: Run) -> None:
    from trm_lightning.exporting.harness import HarnessModel

    run.model.leaks = True
    try:
        with pytest.raises(UserError, match="no likelihoods"):
            HarnessModel(run)
    finally:
        run.model.leaks = False
