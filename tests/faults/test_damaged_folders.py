"""Run folders that are damaged, hostile or on a full disk: one clear screen, and nothing is run."""

import copy
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SHORT_PLAY, TINY
from omegaconf import OmegaConf
from report_folders import RESULTS, make_run
from warm import WarmProcess

from trm_lightning.errors import UserError
from trm_lightning.reports import plots
from trm_lightning.reports.command import report
from trm_lightning.studies.notes import notes_on
from trm_lightning.studies.paired_statistics import summarise_entries
from trm_lightning.studies.run_records import check_comparable, group_folders
from trm_lightning.studies.table import render

pytestmark = pytest.mark.faults
Tell = Callable[[str, int, int], None]
Path_ = tuple[Any, ...]  # keys that lead to a value
MISSING = object()
MUTATIONS = ("a text", None, [1], {"a": 1}, math.nan, MISSING, -1, 0, 10**400, True)
N_SAMPLED = 20  # mutations of files that take long to draw
WORDS = (
    *(word for word in TINY if not word.startswith("logger")), *SHORT_PLAY, "audit=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(warm: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its analysis and a comparison, all as the commands leave them."""
    folder = tmp_path_factory.mktemp("whole")
    recursive = ("model=trm", "model.chunk_size=2", "model.n_refinements=2")
    for command, *words in (
        ("train", *WORDS, *recursive, "hydra.run.dir=run"),
        ("train", *WORDS, "model=ar", "hydra.run.dir=other"),
        ("analyze", "run=run", "depth=3", "max_tokens=200", "exit_thresholds=[0.1]"),
        ("compare", "runs=[run,other]", "hydra.run.dir=comparison"),
    ):
        ended = warm.call(command, *words, folder=folder)
        assert ended.returncode == 0, ended.output
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no PNG files, which take most of the time."""
    drawn = plots._rendered
    monkeypatch.setattr(
        plots, "_rendered", lambda figure, kind: b"" if kind == "png" else drawn(figure, kind)
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: for files that figures are not made of."""
    monkeypatch.setattr(plots, "_rendered", lambda figure, kind: b"<svg></svg>")


def places(node: Any, before: Path_ = ()) -> Iterator[Path_]:
    """Every key of a container, at any depth; of a list, those of its first element."""
    children = node.items() if isinstance(node, dict) else enumerate(node[:1])
    for key, child in children:
        yield (*before, key)
        if isinstance(child, dict | list):
            yield from places(child, (*before, key))


def mutations(content: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a container in which one value is another, and what was done."""
    for place in places(content):
        for new in MUTATIONS:
            mutated = copy.deepcopy(content)
            *parents, last = place
            node = mutated
            for key in parents:
                node = node[key]
            if new is MISSING:
                del node[last]
            else:
                node[last] = new
            yield f"{'.'.join(map(str, place))} = {'missing' if new is MISSING else new}", mutated


def make_report(folder: Path) -> None:
    report(OmegaConf.create({"path": str(folder), "trust": [], "check": False}))
    assert (folder / "report.html").read_text().rstrip().endswith("</html>")


def held(action: Callable[[], Any], what: str, failures: list[str]) -> None:
    """Do what must succeed or end in a UserError of one screen; note anything else."""
    try:
        action()
    except UserError as error:
        vague = what.startswith("results.json: ") and "does not fit together" in error.what
        if vague or len(str(error)) > 1500 or "\x1b" in str(error):
            failures.append(f"{what}: {str(error)[:200]!r}")
    except Exception as error:
        failures.append(f"{what}: {type(error).__name__}: {error}")


def test_results_with_one_wrong_value(tmp_path: Path, undrawn: None, tell: Tell) -> None:
    folder = make_run(tmp_path / "run", audit={"passed": True, "leaks": False, "failed": {}})
    content = json.loads((folder / "results.json").read_text())
    failures: list[str] = []
    tried = list(mutations(content))
    for what, mutated in tried:
        (folder / "results.json").write_text(json.dumps(mutated))
        held(lambda: make_report(folder), f"results.json: {what}", failures)
    tell("results.json with one wrong value: report", len(tried) - len(failures), len(tried))
    assert not failures, "\n".join(failures)


def test_a_comparison_of_results_with_one_wrong_value(tmp_path: Path, tell: Tell) -> None:
    experiment = RESULTS["config"] | {"experiment_name": "x"}
    first, second, third = (
        make_run(tmp_path / f"run{k}", config=experiment | {"seed": k}) for k in range(3)
    )
    content = json.loads((second / "results.json").read_text())
    failures: list[str] = []
    tried = list(mutations(content))
    for what, mutated in tried:
        (second / "results.json").write_text(json.dumps(mutated))
        held(lambda: compare(first, second, third), what, failures)
    tell("results.json with one wrong value: compare", len(tried) - len(failures), len(tried))
    assert not failures, "\n".join(failures)


def compare(*folders: Path) -> None:
    groups = group_folders(list(folders))
    check_comparable(groups, groups[0].entry.name)
    entries = summarise_entries(groups, groups[0].entry.name)
    render({
        "name": "c", "data": "d", "baseline": groups[0].entry.name, "entries": entries,
        "notes": notes_on(groups, entries, None, None), "command": [],
    })  # fmt: skip


@pytest.mark.parametrize(
    ("file", "folder"),
    [("analysis/analysis.json", "analysis"), ("analysis/analysis.json", ""),
     ("audit.json", ""), ("metrics.jsonl", ""), ("results.json", ""),
     ("comparison.json", "../comparison")],
)  # fmt: skip
def test_files_of_a_report_with_one_wrong_value(
    whole: Path, tmp_path: Path, quick: None, tell: Tell, file: str, folder: str
) -> None:
    copied = tmp_path / "whole"
    shutil.copytree(whole, copied)
    shutil.rmtree(copied / "run" / "checkpoints")  # a picture drawn anew takes long
    target = copied / ("comparison" if file.startswith("comparison") else "run") / file
    line, *others = target.read_text().splitlines() if file.endswith("l") else [target.read_text()]
    content = json.loads(line)
    del content["checksum"]  # as who edits a file on purpose would
    tried = list(mutations(content))
    random.Random(0).shuffle(tried)
    failures: list[str] = []
    for what, mutated in tried[:N_SAMPLED]:
        target.write_text("\n".join([json.dumps(mutated), *others]))
        held(lambda: make_report((copied / "run" / folder).resolve()), what, failures)
    n = min(len(tried), N_SAMPLED)
    tell(f"{file} with one wrong value: report of {folder or 'the run'}", n - len(failures), n)
    assert not failures, "\n".join(failures)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "no UTF-8": lambda file: file.write_bytes(b"\xff\xfe" + file.read_bytes()),
    "noise": lambda file: file.write_bytes(random.Random(0).randbytes(5000)),
    "deep": lambda file: file.write_text("[" * 100_000 + "\n" + "]" * 100_000 + "\n1"),
    "large": lambda file: file.open("r+b").truncate(2**28),
    "a number": lambda file: file.write_text("7\n7\n"),
    "a link": lambda file: (file.unlink(), file.symlink_to("/etc/passwd")),
    "a dead link": lambda file: (file.unlink(), file.symlink_to("/nothing")),
    "a loop": lambda file: (file.unlink(), file.symlink_to(file.name)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize(
    "name",
    ["results.json", "metrics.jsonl", "audit.json", "samples.txt", ".hydra/overrides.yaml",
     "analysis/analysis.json", "analysis/refinement.svg", "analysis/refinement.png"],
)  # fmt: skip
def test_files_that_are_damaged_as_a_whole(
    whole: Path, tmp_path: Path, undrawn: None, tell: Tell, name: str
) -> None:
    failures: list[str] = []
    for what, damage in DAMAGE.items():
        run = tmp_path / what / "run"
        shutil.copytree(whole / "run", run, ignore=shutil.ignore_patterns("checkpoints"))
        damage(run / name)
        held(lambda run=run: make_report(run), what, failures)  # type: ignore[misc]
        if "root:" in "".join(file.read_text() for file in run.glob("report.*")):
            failures.append(f"{what}: another file is shown")
    tell(f"{name} damaged as a whole: report", len(DAMAGE) - len(failures), len(DAMAGE))
    assert not failures, "\n".join(failures)


FULL = [
    (command, size)
    for command in (
        "report path=run", "report path=comparison", "evaluate run=run",
        "analyze run=run max_tokens=100 ablations=false exit_thresholds=[]",
        "compare runs=[run] hydra.run.dir=new", "train model=ar hydra.run.dir=new",
    )
    for size in (0, 1000, 6000, 20_000)
]  # fmt: skip
CLOSED = [
    "train model=ar hydra.run.dir=run/results.json/new", "compare runs=[run] hydra.run.dir=/proc/1",
    "report path=closed", "analyze run=closed max_tokens=100 ablations=false exit_thresholds=[]",
]  # fmt: skip


def test_disks_that_are_full_or_closed(
    whole: Path, tmp_path: Path, warm: WarmProcess, tell: Tell
) -> None:
    failures = []
    for command, size in [*FULL, *((command, None) for command in CLOSED)]:
        name, *words = command.split()
        here = tmp_path / f"{name}{size}{len(words)}{words[0][-3:]}"
        shutil.copytree(whole, here)
        shutil.copytree(whole / "run", here / "closed")
        for place in ("figures", "analysis"):  # root may write anywhere, but not below a file
            shutil.rmtree(here / "closed" / place, ignore_errors=True)
            (here / "closed" / place).write_text("")
        words += WORDS if name == "train" else []
        ended = warm.call(name, *words, folder=here, most_bytes=size)
        told = any(words in ended.output for words in ("could not be", "cannot be", "is not a"))
        right = ended.returncode == 0 or (ended.returncode == 2 and told)
        if "Traceback" in ended.output or not right:
            failures.append(f"{command} ({size}): {ended.returncode}\n{ended.output[-1500:]}")
        if size == 0 and ended.returncode == 0:
            failures.append(f"{command}: nothing could be written, and it says nothing")
    n = len(FULL) + len(CLOSED)
    tell("disks that are full or closed", n - len(failures), n)
    assert not failures, "\n\n".join(failures)
