"""The check of a composed config against signatures and annotations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
from omegaconf import OmegaConf

from trm_lightning.cli import annotations, resolvers
from trm_lightning.cli.compose import Call, check_call, conf_dir
from trm_lightning.cli.config_check import check_config
from trm_lightning.cli.overrides import merge
from trm_lightning.cli.screen import nearest
from trm_lightning.errors import UserError


class Base:
    def __init__(self, width: int, rate: float = 0.1, inner: "Base | None" = None) -> None: ...


class Inherits(Base):
    """Takes its parent's arguments."""


class Filled:
    runtime_arguments = frozenset({"params"})

    def __init__(self, params: list[Any], rate: float) -> None: ...


class Open:
    def __init__(self, **anything: int) -> None: ...


@dataclass
class Data:
    name: str
    sizes: list[int] | None = None


def build(kind: Literal["a", "b"], callback: Callable[[int], int] | None = None) -> None: ...


def problems(config: dict[str, Any], schema: type | None = None) -> str:
    """What the check says of a config; empty when it finds nothing."""
    try:
        check_config(OmegaConf.create(config), schema)
    except UserError as error:
        return error.what
    return ""


def node(target: str, **values: Any) -> dict[str, Any]:
    return {"node": {"_target_": f"{__name__}.{target}", **values}}  # values may set _target_


@pytest.mark.parametrize(
    "config",
    [
        node("Base", width=3),
        node("Base", width=3, rate=1),
        node("Base", width=3, inner=node("Inherits", width=4)["node"]),
        node("Base", _partial_=True),
        node("Base", _args_=[3]),
        node("Filled", rate=0.1),
        node("Filled", rate=0.1, params="???"),
        node("Open", whatever=3),
        node("Data", name="x", sizes=[1, 2]),
        node("build", kind="a", callback={"_target_": f"{__name__}.build", "_partial_": True}),
        {"width": 3, "node": {"_target_": f"{__name__}.Base", "width": "${width}"}},
        node("", _target_="torch.optim.AdamW", _partial_=True, lr=0.1, betas=[0.9, 0.95]),
        node("", _target_="lightning.pytorch.Trainer", precision="bf16-mixed", devices=[0]),
    ],
)
def test_good_configs_pass(config: dict[str, Any]) -> None:
    assert problems(config) == ""


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (node("Base", width=3, raet=0.1), "node.raet is not known to"),
        (node("Base", width=3, raet=0.1), "did you mean `rate`?"),
        (node("Base", width=3, xyz=0.1), "it has width, rate, inner"),
        (node("Inherits"), "node.width is missing"),
        (node("Base", width=True), "node.width should be int, not True"),
        (node("Base", width=3, rate="1e-3"), "node.rate should be float, not '1e-3'"),
        (node("Base", width="???"), "node.width must be given, e.g. node.width=100"),
        (node("Base", width={"a": 1}), "node.width should be int, not a mapping"),
        (node("Base", width=3, inner=node("Base", with_=4)["node"]), "node.inner.with_ is not"),
        (node("Filled", params=[], rate="???"), "node.rate must be given"),
        (node("Data", name="x", sizes=[1, "2"]), "node.sizes should be list[int] or null"),
        (node("build", kind="c"), "node.kind should be one of 'a', 'b', not 'c'"),
        (node("bulid", kind="a"), "did you mean `build`?"),
        ({"node": {"_target_": "no_such_package.Thing"}}, "No module named 'no_such_package'"),
        ({"nodes": [node("Base", widht=3)["node"]]}, "nodes[0].widht is not known"),
        ({"nodes": [1, "${lost}"]}, "nodes[1]: Interpolation key 'lost' not found"),
        (node("", _target_="torch.optim.AdamW", lr=0.1), "node.params is missing"),
        (node("", _target_="torch.optim.AdamW", _partial_=True, beta=0.9), "did you mean `betas`?"),
        (node("", _target_="lightning.pytorch.Trainer", precision="fp8"), "node.precision should"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], expected: str) -> None:
    assert expected in problems(config)


@dataclass
class Limits:
    steps: int | None = None


@dataclass
class Top:
    limits: Limits
    model: Any
    seed: int
    name: str = "x"


def test_top_level_is_held_against_its_dataclass() -> None:
    good = {"limits": {"steps": None}, "model": {"anything": 1}, "seed": 0}
    assert problems(good, Top) == ""
    found = problems({"limits": {"step": 3}, "model": None, "sede": 0}, Top)
    for expected in (
        "limits.step is not known to `limits`; did you mean `steps`?",
        "sede is not known to the config's top level; did you mean `seed`?",
        "seed is missing",
        "3 problems",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        (True, float, False),
        (1, bool, False),
        (None, Optional[int], True),  # noqa: UP045
        (None, int, False),
        ("x", Union[int, str], True),  # noqa: UP007
        (1, Literal[True], False),
        ("data", Path, True),
        (3, Path | None, False),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ([1, 2, 3], tuple[int, ...], True),
        ([1, None], Sequence[int], False),
        ("ab", Sequence[str], False),
        ({"a": 1}, dict[str, int], True),
        ("relu", Callable[[int], int], True),  # no simple type: not for this check to say
    ],
)
def test_values_against_annotations(value: Any, annotation: Any, fits: bool) -> None:
    assert annotations.fits(value, annotation) is fits


def test_an_object_needs_a_node_of_its_own() -> None:
    assert not annotations.fits("x", partial) and not annotations.fits(None, partial)
    assert annotations.fits(None, partial | None) and annotations.fits("x", Any)


def test_nearest_prefers_the_same_last_part() -> None:
    known = ["optimizer.lr", "logger", "model.width"]
    assert nearest("lr", known) == "; did you mean `optimizer.lr`?"
    assert nearest("net.widht", known) == "; did you mean `model.width`?"
    assert nearest("qqqqq", known) == ""


def test_merge_keeps_the_last_of_each_key() -> None:
    assert merge(["a=1", "model=trm", "a=2", "+b=3"], without="b") == ["a=2", "model=trm", "+b=3"]
    assert merge(["resume=x", "a=1"], without="resume") == ["a=1"]


def test_slug_is_safe_and_short() -> None:
    assert resolvers.slug("data=a/b c,lr=1e-3") == "data=a-b-c,lr=1e-3"
    assert len(resolvers.slug("x" * 500)) == 60
    assert resolvers.slug("../..") == ""


@pytest.mark.parametrize("choice", ["[1,2]", "[trm,{a:1}]"])
def test_choices_that_are_no_names_are_refused(choice: str) -> None:
    resolvers.register()
    with pytest.raises(UserError, match=r"are no names of configs\n") as caught:
        check_call(Call("train", conf_dir(), "train", None, multirun=False), [f"model={choice}"])
    assert "model may be: ar, " in str(caught.value)
