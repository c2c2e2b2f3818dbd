"""Run folders read back: results and history, and whether two runs may be compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_lightning.cli.screen import nearest
from trm_lightning.errors import UserError
from trm_lightning.runs.history import read_lines
from trm_lightning.runs.results_file import FILE, read_results
from trm_lightning.studies.entries import Entry, compared_together
from trm_lightning.studies.run_identity import same_but_for_seed

# Facts that must agree for two perplexities to be comparable.
_IDENTITY = {"data_fingerprint": "text, split or vocabulary", "vocab_size": "vocabulary size"}


@dataclass(frozen=True)
class Record:
    """A run folder's content.

    Attributes:
        folder: the run's.
        seed: None for an unfinished run of unknown seed.
        results: content of ``results.json``; None for a run that has not ended.
        history: lines of ``metrics.jsonl``.
        failure: why the run ended without results, where that is known.
    """

    folder: Path
    seed: int | None
    results: dict[str, Any] | None
    history: list[dict[str, float]]
    failure: str | None = None

    @property
    def status(self) -> str:
        """``completed``, or how far the run got."""
        if self.results is not None:
            return "completed"
        step = self.history[-1]["step"] if self.history else 0
        how = "failed" if self.failure else "unfinished"
        return f"{how} at step {step:,}" if self.folder.exists() else "not started"


@dataclass(frozen=True)
class Group:
    """An entry with its runs, one per seed."""

    entry: Entry
    records: list[Record]

    @property
    def completed(self) -> list[Record]:
        """The runs that have ended."""
        return [record for record in self.records if record.results is not None]

    @property
    def metric(self) -> str:
        """Name of the score that the entry compares; by default the run's first score.

        Raises:
            UserError: when the runs have no such score.
        """
        assert self.completed
        scores = self.completed[0].results["final"]  # type: ignore[index]
        wanted = self.entry.metric or next(iter(scores))
        if wanted not in scores:
            raise UserError(
                f"{self.entry.name}: its runs have no score {wanted!r}{nearest(wanted, scores)}",
                f"They have: {', '.join(scores)}.",
            )
        return wanted


def read_record(folder: Path, seed: int | None = None, failure: str | None = None) -> Record:
    """Read a run folder, finished or not.

    Raises:
        UserError: when its ``results.json`` is damaged or of another version.
    """
    history = folder / "metrics.jsonl"
    lines = read_lines(history) if history.is_file() else []
    results = None
    if (folder / FILE).is_file():
        results = read_results(folder)
        seed = results["config"]["seed"]
    return Record(folder, seed, results, lines, failure)


def group_folders(folders: list[Path]) -> list[Group]:
    """Group run folders into entries: runs whose settings differ in the seed alone are one.

    Raises:
        UserError: for a folder that holds no run, or a seed that an entry would count twice.
    """
    groups: list[Group] = []
    for folder in folders:
        if not (folder / ".hydra").is_dir() and not (folder / FILE).is_file():
            what = "has no results" if folder.is_dir() else "does not exist"
            raise UserError(
                f"runs: {folder} {what}.", "Give run folders, such as outputs/<day>/<run>."
            )
        record = read_record(folder)
        group = next((g for g in groups if _belong_together(g.records[0], record)), None)
        if group is None:
            group = Group(Entry(_free_name(record, groups)), [])
            groups.append(group)
        same = [r.folder for r in group.records if r.seed == record.seed]
        if same:
            raise UserError(
                f"runs: {same[0]} and {folder} have the same settings and seed: they are one run, "
                "and would count as two.",
                "Give each only once.",
            )
        group.records.append(record)
    return groups


def check_comparable(groups: list[Group], baseline: str) -> None:
    """Refuse runs on different text, split or vocabulary among those compared with each other.

    Raises:
        UserError: naming both runs and what differs.
    """
    by_name = {group.entry.name: group for group in groups}
    for names in compared_together([group.entry for group in groups], baseline):
        _check_one_text([record for name in names for record in by_name[name].completed])


def _check_one_text(records: list[Record]) -> None:
    for record in records[1:]:
        first, other = records[0].results, record.results
        assert first is not None and other is not None
        differing = [
            f"another {meaning} ({key} {first[key]} and {other[key]})"
            for key, meaning in _IDENTITY.items()
            if first[key] != other[key]
        ]
        if differing:
            raise UserError(
                f"{records[0].folder} and {record.folder} cannot be compared: "
                + "; ".join(differing)
                + ".",
                "Perplexities compare on one text, split and vocabulary only.",
            )


def _belong_together(first: Record, other: Record) -> bool:
    """Return whether two runs are of one entry; an unfinished one stands alone."""
    if first.results is None or other.results is None:
        return first.folder == other.folder
    configs = first.results["config"], other.results["config"]
    return same_but_for_seed(*configs, (first.folder, other.folder))


def _free_name(record: Record, groups: Any) -> str:
    name = record.folder.name
    if record.results is not None:
        name = record.results["config"].get("experiment_name", name)
    taken = {group.entry.name for group in groups}
    return next(n for n in [name, *(f"{name}_{k}" for k in range(2, 1000))] if n not in taken)
