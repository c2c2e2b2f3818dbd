"""What a comparison plans, and what it refuses before anything is trained."""

from pathlib import Path

import pytest
from compare_folders import CALL, SMALL, config, plan
from omegaconf import OmegaConf

from trm_lightning.errors import UserError
from trm_lightning.studies.parity import check_same_parameters
from trm_lightning.studies.plan import make_plan


def test_models_by_seeds_with_one_budget_seed_by_seed(tmp_path: Path) -> None:
    made = plan(tmp_path, "seeds=2", "budget.tokens=1000", forwarded=("data=builtin_char",))
    names = ["ar_seed1337", "trm_seed1337", "ar_seed1338", "trm_seed1338"]
    assert [run.folder.name for run in made.runs] == names
    for run in made.runs:
        assert {"budget.tokens=1000", "budget.epochs=null", "data=builtin_char"} <= {*run.overrides}
        assert f"seed={run.seed}" in run.overrides and f"model={run.entry}" in run.overrides
    assert made.baseline == "ar"


def test_a_share_reduces_budget_and_validation_alike(tmp_path: Path) -> None:
    cfg = config("budget.steps=500", "seeds=[7]")
    small = {"name": "small", "overrides": ["model=ar"], "budget_share": 0.04}
    cfg.entries = [{"name": "ar", "overrides": ["model=ar"]}, small]
    made = make_plan(cfg, tmp_path, [], CALL)
    assert {"budget.steps=500", "eval_every=250", "seed=7"} <= {*made.runs[0].overrides}
    assert {"budget.steps=20", "eval_every=10", "seed=7"} <= {*made.runs[1].overrides}


def test_without_a_budget_each_keeps_its_own(tmp_path: Path) -> None:
    made = plan(tmp_path, "models=[ar]")
    assert {"budget.epochs=10.0", "budget.steps=null"} <= {*made.runs[0].overrides}


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
        (["budget=smoke"], "no such budget"),
        (["study=layers", "budget=smok"], "did you mean `smoke`"),
        (["study=layers", "budget={toknes: 3}"], "did you mean `tokens`"),
        (["study=layers", "budget={tokens: many}"], "takes numbers"),
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
    cfg.entries = [{"name": name, "overrides": [f"model={name}"]} for name in ("ar", "looped")]
    check_same_parameters(make_plan(cfg, tmp_path, SMALL, CALL).configs, "ar")  # exactly equal
    cfg.entries.append(wide)
    with pytest.raises(UserError, match=r"more than 1 %: ar [\d,]+ \(\+0.0 %\).*wide"):
        check_same_parameters(make_plan(cfg, tmp_path, SMALL, CALL).configs, "ar")


@pytest.mark.parametrize(
    ("fit", "entries", "said"),
    [
        ("fronteir", "[{name: a, series: ar}]", "did you mean `frontier`"),
        ("frontier", "[{name: a, series: ar}, {name: b}, {name: c}]", "no `series`: b, c"),
        ("recurrence", "null", "no `series`: ar, trm"),
        ("frontier", "[{name: a, series: ar}, {name: b, series: ar}]", "every entry is of .* ar"),
        ("frontier", "[{name: a, serie: ar}]", "`serie`; did you mean `series`"),
    ],
)
def test_fits_need_series(tmp_path: Path, fit: str, entries: str, said: str) -> None:
    cfg = config(f"fit={fit}")
    cfg.entries = OmegaConf.create(entries) if entries != "null" else None
    with pytest.raises(UserError, match=said):
        make_plan(cfg, tmp_path, [], CALL)
