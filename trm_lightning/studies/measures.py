"""Measurements of trained runs that a study is about: taken once per run, then averaged."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from trm_lightning.cli.screen import nearest
from trm_lightning.errors import UserError
from trm_lightning.evaluation.rounding import number
from trm_lightning.files import write_json
from trm_lightning.runs.load import LoadedRun, load_run
from trm_lightning.runs.stored_text import read_json
from trm_lightning.studies.breaks import breaks, curve_point
from trm_lightning.studies.entries import Entry, need
from trm_lightning.studies.intervals import estimate
from trm_lightning.studies.probes import depth_probe, exits, memory, readout, solved
from trm_lightning.studies.run_records import Group

Values = dict[str, Any]
NEARLY = 0.005  # nats per token over full depth that count as equal to it
MEASURES: dict[str, Callable[[LoadedRun], Values]] = {
    "readout": readout,
    "depth_probe": depth_probe,
    "exits": exits,
    "solved": solved,
    "memory": memory,
}


def check_measure(name: str | None, entries: list[Entry]) -> None:
    """Check the name of a measurement, and that the entries have what it needs.

    Raises:
        UserError: for one that there is not, or for entries without their place on a curve.
    """
    if name is not None and name not in MEASURES:
        raise UserError(
            f"measure={name}: there is no such measurement{nearest(name, MEASURES)}",
            f"There are: {', '.join(MEASURES)}.",
        )
    if name == "memory":
        need(f"measure={name}", "series", "the name of its curve, e.g. series: ar", entries)
        need(f"measure={name}", "at", "its place on the curve, e.g. at: 4", entries)


def measure_all(
    name: str, folders: Iterable[Path], trust: Iterable[str], progress: bool = True
) -> None:
    """Measure every finished run that has not been measured; keep ``<name>.json`` beside it.

    What another process is measuring is left to it, and waited for at the end.
    """
    waiting = [folder for folder in folders if not (folder / f"{name}.json").is_file()]
    with tqdm(total=len(waiting), desc=name, unit="run", disable=not progress) as bar:
        for wait in (False, True):
            for folder in list(waiting):
                if _measure(name, folder, trust, wait):
                    waiting.remove(folder)
                    bar.update()


def _measure(name: str, folder: Path, trust: Iterable[str], wait: bool) -> bool:
    """Measure a run unless that is done; return False where another process is at it."""
    file = folder / f"{name}.json"
    try:
        with FileLock(folder / f".{name}.lock", blocking=wait):
            if not file.is_file():
                write_json(file, MEASURES[name](load_run(folder, trust=trust)))
    except Timeout:
        return False
    return True


def measured(name: str, groups: list[Group], axis: str | None = None) -> Values:
    """Return the means of a measurement over each entry's runs, with sentences of verdict.

    Args:
        name: one of ``MEASURES``.
        groups: the entries' runs.
        axis: what the entries' ``at`` counts.

    Raises:
        UserError: for a file that holds something else.
    """
    own = [group for group in groups if group.entry.same_runs_as is None]
    found = {group.entry.name: _read(name, group) for group in own}
    try:
        if name == "memory":
            return _memory(own, found, str(axis))
        entries = [{"name": n, **_averaged(list(of.values()))} for n, of in found.items() if of]
        verdict = [_SENTENCES[name](entry) for entry in entries]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"A {name}.json among the runs does not hold what it should: {error!r}.",
            "Delete it; the same command measures that run again.",
        ) from error
    return {"entries": entries, "points": entries, "notes": [], "verdict": verdict}


def _read(name: str, group: Group) -> dict[int, Values]:
    """Return the measurements of an entry's runs by seed."""
    files = {record.seed or 0: record.folder / f"{name}.json" for record in group.completed}
    return {seed: read_json(file) for seed, file in files.items() if file.is_file()}


def _memory(groups: list[Group], found: dict[str, dict[int, Values]], axis: str) -> Values:
    """Return curves over ``at`` for trained and for held-out text, and their breaks."""
    points = [
        curve_point(
            group.entry.name,
            f"{group.entry.series}, {part.replace('_', ' ')}",
            cast(float, group.entry.at),  # see check_measure
            {seed: content[part] for seed, content in found[group.entry.name].items()},
        )
        for group in groups
        for part in ("trained_text", "held_out")
        if found[group.entry.name]
    ]
    return {"points": points, **breaks(points, axis)}


def _averaged(found: list[Any]) -> Any:
    """Return containers of one shape with every float replaced by its estimate over them."""
    first = found[0]
    if isinstance(first, dict):
        return {key: _averaged([content[key] for content in found]) for key in first}
    if isinstance(first, list):
        return [_averaged(list(items)) for items in zip(*found, strict=True)]
    if isinstance(first, float):
        mean = estimate(found)
        assert mean is not None
        return mean.as_dict()
    return first


def _readout_sentence(entry: Values) -> str:
    fresh, own = entry["fresh_head"], entry["own_head"]
    gain = own["held_out"]["mean"] - fresh["held_out"]["mean"]
    return (
        f"{entry['name']}: a fresh head on frozen states has {_nats(fresh['training_tenth'])} nats "
        f"per token on a tenth of the training text's states and {_nats(fresh['held_out'])} on "
        f"held-out text, where the model's own head has {_nats(own['held_out'])}: there it "
        f"{'gains' if gain > 0 else 'loses'} {abs(gain):.3f} nats."
    )


def _probe_sentence(entry: Values) -> str:
    by_pass = sorted(entry["readings"], key=lambda reading: int(reading["pass"]))
    first, last = by_pass[0], by_pass[-1]
    told = [
        f"{what} {_nats(first['scores'][what]['nats'])} to {_nats(last['scores'][what]['nats'])}"
        for what in first["scores"]
    ]
    return (
        f"{entry['name']}: from pass {first['pass']} to pass {last['pass']} the nats of a linear "
        f"probe go, for {'; for '.join(told)} (the model's own head: {_nats(entry['own_head'])})."
    )


def _exit_sentence(entry: Values) -> str:
    """Compare early exit with fixed depths: where it helps most, and what full depth is worth."""
    fixed, early = entry["fixed"], entry["early"]
    at, nats = ([point[key]["mean"] for point in fixed] for key in ("depth", "nats"))
    gains = [float(np.interp(p["depth"]["mean"], at, nats)) - p["nats"]["mean"] for p in early]
    best = early[int(np.argmax(gains))]
    good = nats[-1] + NEARLY
    needed = [
        min((p["depth"]["mean"] for p in points if p["nats"]["mean"] <= good), default=at[-1])
        for points in (early, fixed)
    ]
    return (
        f"{entry['name']}: {at[-1]:g} refinements cost {_nats(fixed[-1]['nats'])} nats per token. "
        f"Within {NEARLY:g} nats of that, exit by {entry['rule']} needs {needed[0]:.2f} per token, "
        f"and a fixed depth {needed[1]:g}. Beside a fixed depth it is best at "
        f"{best['depth']['mean']:.2f} refinements, by {max(gains):+.4f} nats."
    )


def _solved_sentence(entry: Values) -> str:
    trained, chosen = entry["trained"], entry["chosen"]
    depth = trained["depth"]["mean"]
    told = f"{entry['name']} solves {_nats(trained['percent'])} % of the test puzzles"
    if depth == 0:
        return f"{told}."
    plural = "s" if depth > 1 else ""
    told += (
        f" with {depth:g} refinement{plural}, as trained, and {_nats(chosen['percent'])} % "
        f"with {chosen['depth']['mean']:.3g}, the depth chosen on validation puzzles"
    )
    halting = entry.get("halting")
    if halting is None:
        return f"{told}."
    return (
        f"{told}. Halted by {entry['rule']} it solves {_nats(halting['percent'])} % with "
        f"{halting['depth']['mean']:.3g} refinements per puzzle."
    )


_SENTENCES: dict[str, Callable[[Values], str]] = {
    "readout": _readout_sentence,
    "depth_probe": _probe_sentence,
    "exits": _exit_sentence,
    "solved": _solved_sentence,
}


def _nats(figure: Values) -> str:
    return number(figure["mean"], figure["half_width"])
