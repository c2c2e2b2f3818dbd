"""Finished runs are recognised by their overrides; what else differs is told."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare_folders import SMALL, make_run, plan
from omegaconf import OmegaConf
from training_stand_in import small_plan

from trm_lightning.errors import UserError
from trm_lightning.studies.notes import notes_on
from trm_lightning.studies.plan import Plan, PlannedRun
from trm_lightning.studies.run_identity import (
    other_defaults,
    recorded_overrides,
    refuse_other_settings,
)
from trm_lightning.studies.run_records import group_folders

Config = dict[str, Any]
Change = Callable[[Config], Any]


def as_today(config: Config) -> None:
    """Leave a config as it is."""


def lacking(config: Config) -> None:
    del config["grad_clip"], config["model"]["norm"]


def having(config: Config) -> None:
    config["model"]["shape"] = "round"


def other_rate(config: Config) -> None:
    config["optimizer"]["lr"] = 0.5


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """One model, two seeds."""
    folder = tmp_path_factory.mktemp("study")
    return plan(folder, "models=[ar]", "seeds=[1,2]", "budget.steps=8", forwarded=tuple(SMALL))


def finish(run: Any, made: Plan, change: Change, overrides: list[str] | None = None) -> Path:
    """Write a run of the plan as an earlier version of conf/ would have left it."""
    config: Any = OmegaConf.to_container(made.configs[run.entry])
    config |= {"seed": run.seed, "run_dir": str(run.folder)}
    config["data"]["seed"] = run.seed
    config["callbacks"] = {"best": {"dirpath": f"{run.folder}/best"}}
    change(config)
    given = run.overrides if overrides is None else overrides
    return make_run(run.folder, run.seed, (10.0, 9.0), overrides=given, config=config)


@pytest.fixture
def study(planned: Plan, tmp_path: Path) -> Plan:
    """The plan, in a folder of its own."""
    runs = [
        type(run)(run.entry, run.seed, run.overrides, tmp_path / run.folder.name)
        for run in planned.runs
    ]
    configs = {name: config.copy() for name, config in planned.configs.items()}
    for config in configs.values():
        folder = str(config.run_dir)
        config.callbacks = {"best": {"dirpath": f"{folder}/best"}}
    return Plan(planned.entries, planned.baseline, planned.seeds, runs, configs, planned.call)


def test_runs_of_the_same_overrides_are_taken(study: Plan) -> None:
    for run in study.runs:
        finish(run, study, as_today)
    refuse_other_settings(study)
    assert other_defaults(study) == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lacking, "new: grad_clip, model.norm."),
        (having, "no longer there: model.shape."),
        (other_rate, "changed since: optimizer.lr (0.5 then, {lr} now)."),
    ],
)
def test_other_defaults_are_taken_and_told_in_a_line(
    study: Plan, change: Change, told: str
) -> None:
    finish(study.runs[0], study, change)
    finish(study.runs[1], study, as_today)
    refuse_other_settings(study)
    told = told.format(lr=study.configs["ar"].optimizer.lr)
    assert other_defaults(study) == (
        f"1 finished run was trained with other defaults than conf/ has today; {told}"
    )


def test_a_new_kind_of_limit_is_no_other_budget(study: Plan) -> None:
    """The plan names every limit of the budget; runs from before do not have the new one."""
    run = study.runs[0]
    assert "budget.seconds=null" in run.overrides
    before = [line for line in run.overrides if line != "budget.seconds=null"]
    finish(run, study, as_today, before)
    refuse_other_settings(study)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("budget.steps=8", "budget.steps=9"),
        ("budget.seconds=null", "budget.seconds=5"),
        ("seed=1", "seed=7"),
        ("model.width=16", "model.width=32"),
    ],
)
def test_other_overrides_are_refused_by_name(study: Plan, line: str, instead: str) -> None:
    first, second = study.runs
    assert line in first.overrides
    finish(first, study, as_today, [instead if o == line else o for o in first.overrides])
    finish(second, study, as_today)
    with pytest.raises(UserError) as refused:
        refuse_other_settings(study)
    here = "nothing" if line.endswith("null") else line
    assert f"- ar_seed1: {instead} there, {here} here\n" in str(refused.value)
    assert "name=" in str(refused.value) and "ar_seed2" not in str(refused.value)


def test_all_runs_that_differ_are_on_one_screen(study: Plan) -> None:
    for run in study.runs:
        finish(run, study, as_today, [*run.overrides, "grad_clip=3"])
    with pytest.raises(UserError, match=r"- ar_seed1, ar_seed2: grad_clip=3 there, nothing here"):
        refuse_other_settings(study)


def test_a_finished_run_without_a_record_is_refused(study: Plan) -> None:
    folder = finish(study.runs[0], study, as_today)
    (folder / ".hydra" / "overrides.yaml").unlink()
    with pytest.raises(UserError, match="ar_seed1: no record of its overrides"):
        refuse_other_settings(study)
    (folder / "results.json").unlink()
    refuse_other_settings(study)  # it will be trained anew


def test_what_changes_no_weight_may_differ(tmp_path: Path) -> None:
    made = small_plan(tmp_path)
    given = ["model=ar", "seed=1", "resume=x", "threads=3", "logger=csv", "trust=mine"]
    folder = make_run(made.runs[0].folder, 1, (10.0, 9.0), overrides=given)
    refuse_other_settings(made)
    assert recorded_overrides(folder) == {"model=ar", "seed=1"}


@pytest.mark.parametrize(
    ("after", "start", "refused"),
    [
        ("first_seed1", "/elsewhere/runs/first_seed1", False),
        ("first_seed1", "/here/runs/other_seed1", True),
        (None, "/elsewhere/runs/first_seed1", True),
    ],
)
def test_a_comparison_may_have_been_moved(
    tmp_path: Path, after: str | None, start: str, refused: bool
) -> None:
    """The run that another starts from is of the same folder; one that the user names is not."""
    given = ["model=ar", "seed=1", "init_from='/here/runs/first_seed1'"]
    run = PlannedRun("ar", 1, given, tmp_path / "ar_seed1", Path(after) if after else None)
    make_run(run.folder, 1, (10.0, 9.0), overrides=[*given[:2], f"init_from='{start}'"])
    made = replace(small_plan(tmp_path), runs=[run])
    with pytest.raises(UserError, match="init_from=") if refused else nullcontext():
        refuse_other_settings(made)


def given_runs(folder: Path, change: Change, overrides: list[str]) -> list[Path]:
    """Two seeds of one model, the second of another version or other settings."""
    runs = [make_run(folder / f"run{seed}", seed, (10.0, 9.0)) for seed in (1, 2)]
    for seed, run in enumerate(runs, start=1):
        given = ["model=ar", *(overrides if seed == 2 else []), f"seed={seed}"]
        (run / ".hydra" / "overrides.yaml").write_text(json.dumps(given))
    file = runs[1] / "results.json"
    content = json.loads(file.read_text())
    change(content["config"])
    file.write_text(json.dumps(content))
    return runs


def test_given_runs_of_two_versions_are_one_entry_which_is_told(tmp_path: Path) -> None:
    (group,) = groups = group_folders(given_runs(tmp_path, lacking, []))
    assert [record.seed for record in group.records] == [1, 2]
    told = "toy: a part of its runs is of another version of conf/, without grad_clip, model.norm."
    assert told in notes_on(groups, [], None, None)


@pytest.mark.parametrize(
    ("change", "overrides"), [(other_rate, []), (lacking, ["~grad_clip"]), (having, ["+x=1"])]
)
def test_given_runs_of_other_settings_are_two_entries(
    tmp_path: Path, change: Change, overrides: list[str]
) -> None:
    assert len(group_folders(given_runs(tmp_path, change, overrides))) == 2
