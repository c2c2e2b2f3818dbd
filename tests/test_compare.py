"""The compare command: what it plans, trains, resumes and refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compare_folders import make_run
from conftest import TINY
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import Call, conf_dir
from trm_lightning.errors import UserError
from trm_lightning.studies import running, session
from trm_lightning.studies.entries import Entry
from trm_lightning.studies.plan import Plan, PlannedRun, make_plan
from trm_lightning.studies.record import Group, group_folders, read_record
from trm_lightning.studies.running import refuse_other_settings, train_all, training_command

CALL = Call("train", conf_dir(), "train", None, multirun=False)
SMALL = [override for override in TINY if not override.startswith(("budget", "progress"))]


def config(*overrides: str) -> DictConfig:
    """Compose conf/compare.yaml as the command does."""
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("compare", [*overrides])


def plan(folder: Path, *overrides: str, forwarded: tuple[str, ...] = ()) -> Plan:
    return make_plan(config("name=test", *overrides), folder, list(forwarded), CALL)


# Planning.


def test_models_by_seeds_with_one_budget_seed_by_seed(tmp_path: Path) -> None:
    made = plan(tmp_path, "seeds=2", "budget.tokens=1000", forwarded=("data=builtin_char",))
    names = ["ar_seed1337", "trm_seed1337", "ar_seed1338", "trm_seed1338"]
    assert [run.folder.name for run in made.runs] == names
    for run in made.runs:
        assert {"budget.tokens=1000", "budget.epochs=null", "data=builtin_char"} <= {*run.overrides}
        assert f"seed={run.seed}" in run.overrides and f"model={run.entry}" in run.overrides
    assert made.baseline == "ar"


def test_scale_reduces_budget_and_validation_alike(tmp_path: Path) -> None:
    made = plan(tmp_path, "models=[ar]", "seeds=[7]", "budget.steps=500", "scale=0.04")
    assert {"budget.steps=20", "eval_every=10", "seed=7"} <= {*made.runs[0].overrides}


def test_without_a_budget_each_keeps_its_own(tmp_path: Path) -> None:
    made = plan(tmp_path, "models=[ar]", "scale=0.5")
    assert {"budget.epochs=5.0", "budget.steps=null"} <= {*made.runs[0].overrides}


def test_deep_supervision_is_validated_as_often_per_token(tmp_path: Path) -> None:
    deep = "{name: deep, overrides: [model=trm, model.n_supervision=4]}"
    entries = OmegaConf.create(f"[{{name: ar, overrides: [model=ar]}}, {deep}]")
    cfg = config("budget.tokens=1000")
    cfg.entries = entries
    ar, deeper = make_plan(cfg, tmp_path, [], CALL).runs[:2]
    assert "eval_every=250" in ar.overrides and "eval_every=1000" in deeper.overrides
    cfg.budget = {"steps": 100, "tokens": None, "epochs": None, "seconds": None}
    with pytest.raises(UserError, match="not see equally many tokens"):
        make_plan(cfg, tmp_path, [], CALL)


def test_parity_in_seconds_leaves_tokens_open(tmp_path: Path) -> None:
    made = plan(tmp_path, "parity=seconds", "budget.seconds=60")
    assert {"budget.seconds=60.0", "budget.epochs=null"} <= {*made.runs[0].overrides}


def test_common_overrides_give_way_to_the_command_line_and_to_an_entry(tmp_path: Path) -> None:
    cfg = config()
    cfg.common = ["model.width=8", "optimizer.lr=1"]
    wide = {"name": "wide", "overrides": ["model=ar", "model.width=16"]}
    cfg.entries = [wide, {"name": "narrow", "overrides": ["model=ar"]}]
    made = make_plan(cfg, tmp_path, ["data=builtin_char", "optimizer.lr=2"], CALL)
    widths = {name: run.model.width for name, run in made.configs.items()}
    assert widths == {"wide": 16, "narrow": 8}
    assert all(run.optimizer.lr == 2 for run in made.configs.values())
    for wrong, said in {
        "optimizer.lrr=1": "lrr", "seed=5": "seeds=5", "optimizer.lr": "optimizer.lr"
    }.items():  # fmt: skip
        cfg.common = [wrong]
        with pytest.raises(UserError, match=said):
            make_plan(cfg, tmp_path, ["data=builtin_char"], CALL)


HONEST = {"word": "shakespeare_word", "char": "shakespeare_char", "wikitext2": "wikitext2_word"}


@pytest.mark.parametrize("name", HONEST)
def test_the_honest_comparisons_differ_by_recursion_alone(tmp_path: Path, name: str) -> None:
    """The same blocks, text, optimizer and budget; what only one model has is its recursion."""
    forwarded = (f"data={HONEST[name]}",)
    made = plan(tmp_path, f"compare=honest_{name}", "seeds=3", forwarded=forwarded)
    assert len(made.runs) == 6
    # WikiText-2 comes with a test split, Tiny Shakespeare is cut.
    assert name == "wikitext2" or len(made.configs["ar"].data.corpus.split) == 3
    configs = [made.configs[name] for name in ("ar", "trm")]
    ar, trm = (config.model.net for config in configs)
    assert all(trm[key] == value for key, value in ar.items() if key != "_target_")
    for part in ("data", "optimizer", "schedule", "budget", "eval_every", "trainer"):
        assert configs[0][part] == configs[1][part], part


def test_the_ablation_changes_one_thing_at_a_time(tmp_path: Path) -> None:
    made = plan(tmp_path, "compare=ablation_char", forwarded=("data=shakespeare_char",))
    assert made.baseline == "trm"
    settings = {
        name: flatten(OmegaConf.to_container(config.model)) for name, config in made.configs.items()
    }
    shipped = settings.pop("trm")
    changed = {
        name: {key for key in shipped.keys() | own.keys() if shipped.get(key) != own.get(key)}
        for name, own in settings.items()
        if name != "ar"
    }
    assert {name: keys - {"net.context_size"} for name, keys in changed.items()} == {
        "supervised_at_end": {"intermediate_loss_weight"},
        "truncated": {"net.backprop_depth"},
        "chunk_1": {"net.chunk_size"},
        "chunk_8": {"net.chunk_size"},
        "chunk_32": {"net.chunk_size"},
        "look_ahead_as_much": {"lookahead_loss_weight"},
        "norm_pre": {"net.norm"},
        "positions_learned": {"net.positions"},
    }


def flatten(values: Any) -> dict[str, Any]:
    """Return a container's values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = flatten(value).items() if isinstance(value, dict) else [("", value)]
        found |= {f"{key}.{rest}".rstrip("."): leaf for rest, leaf in inner}
    return found


@pytest.mark.parametrize("name", ["sources_word", "sources_char"])
def test_the_sources_story_is_one_comparison(tmp_path: Path, name: str) -> None:
    made = plan(tmp_path, f"compare={name}", "seeds=1", "scale=0.01")
    own = {run.entry: run for run in made.runs}
    assert list(own) == ["warm_start_trm", "honest_trm", "baseline"]
    starts = {entry: made.configs[entry].model.get("chunk_start") for entry in own}
    assert starts == {"warm_start_trm": "target", "honest_trm": "query", "baseline": None}
    metrics = {entry.name: entry.metric for entry in made.entries}
    assert metrics["trm_without_answer"] == "val/ppl_without_answer"
    published = {e.name: e.published for e in made.entries if e.published is not None}
    if name == "sources_word":
        assert published == {"warm_start_trm": 1.33, "honest_trm": 307.9, "baseline": 159.06}
    else:
        assert published == {"warm_start_trm": 1.01, "scrambled_baseline": 55.08}
        assert metrics["scrambled_baseline"] == "val_scrambled/ppl"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["seeds=0"], "at least one seed"),
        (["seeds=[1,1]"], "at least one seed"),
        (["models=[]"], "nothing to compare"),
        (["models=[ar,ar]"], "given twice"),
        (["models=[ar,tmr]"], "trm"),
        (["baseline=arr"], "did you mean `ar`"),
        (["parity=token"], "did you mean `tokens`"),
        (["parity=seconds", "budget.tokens=9"], "needs a budget in seconds"),
        (["budget.seconds=9"], "unequal tokens"),
        (["scale=2"], "scale=2"),
        (["workers=0"], "workers=0"),
        (["parity=seconds", "budget.seconds=9", "workers=2"], "Leave workers=1"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(
    tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        plan(tmp_path, *overrides)
    assert not (tmp_path / "runs").exists()


def test_entries_on_different_text_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    cfg = config()
    cfg.entries = [
        {"name": "word", "overrides": ["model=ar"]},
        {"name": "char", "overrides": ["model=ar", "data=builtin_char"]},
    ]
    with pytest.raises(UserError, match=r"word and char.*different data.*tokenizer"):
        make_plan(cfg, tmp_path, [], CALL)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ("[{name: a, overides: []}]", "`overides`; did you mean `overrides`"),
        ("[{name: a}, {name: b, same_runs_as: c}]", "same_runs_as=c: there is no such entry"),
        ("[{name: a, same_runs_as: b}, {name: b, same_runs_as: a}]", "=b: there is no such entry"),
        ("[{name: a}, {name: b, same_runs_as: a, overrides: [seed=1]}]", "b: overrides do nothing"),
        ("[{name: a, overrides: model=ar}]", "a: overrides='model=ar' is no list"),
        ("[{overrides: [model=ar]}, ar]", r"model=ar\S+ is no entry.*[\s\S]*'ar' is no entry"),
    ],
)
def test_entries_that_do_not_fit_are_refused(tmp_path: Path, entries: str, said: str) -> None:
    cfg = config()
    cfg.entries = OmegaConf.create(entries)
    with pytest.raises(UserError, match=said):
        make_plan(cfg, tmp_path, [], CALL)


def test_parity_in_parameters_is_checked_before_anything_is_trained(tmp_path: Path) -> None:
    wide = {"name": "wide", "overrides": ["model=ar", "model.width=32"]}
    cfg = config("seeds=1")
    cfg.entries = [{"name": name, "overrides": [f"model={name}"]} for name in ("ar", "trm_cached")]
    session.check_same_parameters(make_plan(cfg, tmp_path, SMALL, CALL))  # 0.3 % apart
    cfg.entries.append(wide)
    with pytest.raises(UserError, match=r"more than 1 %: ar [\d,]+ \(\+0.0 %\).*wide"):
        session.check_same_parameters(make_plan(cfg, tmp_path, SMALL, CALL))


# Running and going on, with a stand-in for training.


def small_plan(folder: Path) -> Plan:
    runs = [
        PlannedRun("ar", seed, ["model=ar", f"seed={seed}"], folder / "runs" / f"ar_seed{seed}")
        for seed in (1, 2)
    ]
    return Plan([Entry("ar")], "ar", [1, 2], runs, {}, CALL)


def stand_in(monkeypatch: pytest.MonkeyPatch, script: str) -> list[PlannedRun]:
    """Run `script` instead of training; returns the list of runs that were started."""
    started: list[PlannedRun] = []

    def command(run: PlannedRun, flags: list[str]) -> list[str]:
        started.append(run)
        return [sys.executable, "-c", script, str(run.folder)]

    monkeypatch.setattr(running, "training_command", command)
    return started


FINISH = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True)
(folder / "results.json").write_text("{}")
"""


def test_a_finished_run_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_plan(tmp_path)
    make_run(made.runs[0].folder, 1, (10.0, 9.0), overrides=made.runs[0].overrides)
    started = stand_in(monkeypatch, FINISH)
    assert train_all(made, lambda failures: None) == {}
    assert [run.seed for run in started] == [2]
    train_all(made, lambda failures: None)
    assert len(started) == 1


def test_a_run_goes_on_from_its_checkpoint_or_starts_anew(tmp_path: Path) -> None:
    run = small_plan(tmp_path).runs[0]
    assert training_command(run, [])[3:5] == ["model=ar", "seed=1"]
    make_run(run.folder, 1, (10.0, 9.0), finished=False)
    assert "seed=1" in training_command(run, [])
    assert not run.folder.exists()  # nothing to go on from
    make_run(run.folder, 1, (10.0, 9.0), finished=False)
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last.ckpt").write_text("weights")
    assert training_command(run, [])[3:] == [f"resume='{run.folder}'"]
    assert (run.folder / "metrics.jsonl").exists()


def test_a_crash_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_plan(tmp_path)
    crash = "import sys\nif '1' in sys.argv[1][-1]: raise RuntimeError('bad luck')\n" + FINISH
    stand_in(monkeypatch, crash)
    failures = train_all(made, lambda failures: None)
    assert list(failures) == [made.runs[0].folder]
    assert failures[made.runs[0].folder].endswith("RuntimeError: bad luck")
    assert read_record(made.runs[0].folder, 1, "bad luck").status == "not started"


def test_a_mistake_before_training_ends_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = stand_in(monkeypatch, "import sys; print('no such text'); sys.exit(2)")
    with pytest.raises(UserError, match="no such text"):
        train_all(small_plan(tmp_path), lambda failures: None)
    assert len(started) == 1


MEET = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.with_suffix(".started").write_text(os.environ["OMP_NUM_THREADS"])
deadline = time.monotonic() + float(PATIENCE)
while len(list(folder.parent.glob("*.started"))) < 2:
    if time.monotonic() > deadline: sys.exit("alone")
    time.sleep(0.01)
"""


def test_workers_train_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_plan(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    stand_in(monkeypatch, MEET.replace("PATIENCE", "60") + FINISH)
    told: list[dict[Path, str]] = []
    assert train_all(made, told.append, workers=2) == {}
    assert told == [{}, {}]
    marks = list((tmp_path / "runs").glob("*.started"))
    assert [mark.read_text() for mark in marks] == ["3", "3"]


def test_one_worker_trains_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_plan(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    stand_in(monkeypatch, MEET.replace("PATIENCE", "0.5") + FINISH)
    assert train_all(made, lambda failures: None) == {made.runs[0].folder: "alone"}
    assert (tmp_path / "runs" / "ar_seed1.started").read_text() == "5"  # as the user has it


SAVE = """
import signal
def save(*_): folder.with_suffix(".saved").touch(); sys.exit(3)
signal.signal(signal.SIGTERM, save)
folder.with_suffix(".ready").touch()
"""
WAIT = "time.sleep(60); sys.exit('never stopped')"


def test_a_mistake_lets_the_other_worker_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistaken = """
if "1" in folder.name:
    while not list(folder.parent.glob("*.ready")): time.sleep(0.01)
    print("no such text"); sys.exit(2)
"""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stand_in(monkeypatch, MEET.replace("PATIENCE", "60") + mistaken + SAVE + WAIT)
    with pytest.raises(UserError, match="no such text"):
        train_all(small_plan(tmp_path), lambda failures: None, workers=2)
    assert (tmp_path / "runs" / "ar_seed2.saved").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_when_stopped_all_workers_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = """
while len(list(folder.parent.glob("*.ready"))) < 2: time.sleep(0.01)
if "1" in folder.name: os.kill(os.getppid(), signal.SIGTERM)
"""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stand_in(monkeypatch, MEET.replace("PATIENCE", "60") + SAVE + stop + WAIT)
    with pytest.raises(KeyboardInterrupt):
        train_all(small_plan(tmp_path), lambda failures: None, workers=2)
    assert len(list((tmp_path / "runs").glob("*.saved"))) == 2
    assert "goes on from here" in capsys.readouterr().err


def test_training_that_fails_is_no_mistake_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_plan(tmp_path)
    killed = "import os, sys; print('audit passed', flush=True); os.kill(os.getpid(), 9)"
    stand_in(monkeypatch, killed)
    failures = train_all(made, lambda failures: None)
    assert list(failures.values()) == ["audit passed\nkilled by SIGKILL"] * 2
    diverging = [*SMALL, "model=ar", "optimizer.lr=1e30", "optimizer.matrix_lr=1e30"]
    cfg = config("seeds=1", "models=[ar]", "budget.steps=30")
    diverged = make_plan(cfg, tmp_path / "nan", diverging, CALL)
    monkeypatch.undo()
    (said,) = train_all(diverged, lambda failures: None).values()
    assert "The loss became nan at optimizer step" in said


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_training_that_goes_on_alone_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    made = small_plan(tmp_path)
    started = stand_in(monkeypatch, FINISH)
    first = made.runs[0].folder
    first.parent.mkdir()
    orphans = first.with_name(f"{first.name}.log").open("ab")
    fcntl.flock(orphans, fcntl.LOCK_EX)

    def end_the_orphan(failures: dict[Path, str]) -> None:
        if not first.exists():  # the other run has ended; the worker was not held up
            make_run(first, 1, (10.0, 9.0), overrides=made.runs[0].overrides)
            orphans.close()

    assert train_all(made, end_the_orphan, workers=2) == {}
    assert [run.seed for run in started] == [2]
    assert "ar_seed1 is trained by another process" in capsys.readouterr().err


def test_runs_with_other_settings_are_not_taken_for_these(tmp_path: Path) -> None:
    made = small_plan(tmp_path)
    make_run(made.runs[0].folder, 1, (10.0, 9.0), overrides=["model=ar", "seed=1", "resume=x"])
    refuse_other_settings(made)
    make_run(made.runs[1].folder, 2, (10.0, 9.0), overrides=["model=trm", "seed=2"])
    with pytest.raises(UserError, match=r"model=trm there, model=ar here[\s\S]*name="):
        refuse_other_settings(made)


# Folders of runs that are there already.


def compared(monkeypatch: pytest.MonkeyPatch, folder: Path, *runs: Path) -> bool:
    cfg = config("name=test")
    cfg.runs = [str(run) for run in runs]
    stored = OmegaConf.create(
        {"runtime": {"output_dir": str(folder)}, "overrides": {"task": ["runs=…"]}}
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: stored)
    return session.compare(cfg)


def test_given_runs_become_entries_with_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (make_run(tmp_path / f"a{seed}", seed, (100.0, 110.0)) for seed in (1, 2))
    other = make_run(tmp_path / "other", 1, (80.0, 90.0))
    change_config(other, experiment_name="better")
    half = make_run(tmp_path / "half", 2, (80.0, 90.0), finished=False)
    assert compared(monkeypatch, tmp_path, a, b, other, half) is False
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    found = {entry["name"]: len(entry["runs"]) for entry in comparison["entries"]}
    assert found == {"toy": 2, "better": 1, "half": 1}
    assert comparison["status"] == "unfinished" and comparison["parity"] is None
    assert comparison["entries"][1]["figures"]["best_difference"]["mean"] == -20
    shown = capsys.readouterr().out
    assert "unfinished at step 20" in shown and "100.00 ± 0.00" in shown
    with pytest.raises(UserError, match="same settings and seed"):
        compared(monkeypatch, tmp_path, a, other, a)
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="name="):
        compared(monkeypatch, tmp_path, a)


@pytest.mark.parametrize(
    ("facts", "said"),
    [({"data_fingerprint": "xyz"}, "text, split or vocabulary"), ({"vocab_size": 51}, "50 and 51")],
)
def test_runs_on_other_data_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], said: str
) -> None:
    a = make_run(tmp_path / "a", 1, (100.0, 110.0))
    b = make_run(tmp_path / "b", 2, (100.0, 110.0), **facts)
    with pytest.raises(UserError, match=f"cannot be compared.*{said}"):
        compared(monkeypatch, tmp_path, a, b)
    assert not (tmp_path / "comparison.json").exists()


def test_folders_without_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no results"):
        group_folders([tmp_path / "empty"])
    with pytest.raises(UserError, match="lost does not exist"):
        group_folders([tmp_path / "lost"])


def test_damaged_results_and_unknown_metrics_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1, (100.0, 110.0))
    group = Group(Entry("a", metric="val/pppl"), [read_record(run)])
    with pytest.raises(UserError, match="no score 'val/pppl'; did you mean `val/ppl`"):
        _ = group.metric
    (run / "results.json").write_text('{"final": ')
    with pytest.raises(UserError, match="damaged"):
        read_record(run)


def change_config(run: Path, **changes: Any) -> None:
    results = json.loads((run / "results.json").read_text())
    results["config"] |= changes
    (run / "results.json").write_text(json.dumps(results))


# The whole, in processes of its own.


@pytest.mark.slow
def test_two_models_two_seeds_and_again(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "trm_lightning.compare", "name=tiny", "seeds=2", *SMALL,
        "budget.steps=8",
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    table = tmp_path / "outputs" / "comparisons" / "tiny" / "table.md"
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert "At parity in tokens" in done.stdout
    results = sorted(tmp_path.glob("outputs/comparisons/tiny/runs/*/results.json"))
    assert len(results) == 4
    assert max(file.stat().st_mtime for file in results) < table.stat().st_mtime
    comparison = json.loads(table.with_name("comparison.json").read_text())
    assert [entry["figures"]["best"]["n"] for entry in comparison["entries"]] == [2, 2]
