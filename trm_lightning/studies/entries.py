"""The lines of a comparison, its seeds and its baseline, read from the config."""

from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_lightning.cli.screen import combine, nearest
from trm_lightning.errors import UserError

FIRST_SEED = 1337
FITS = ("frontier", "recurrence", "trend", "gain")


@dataclass(frozen=True)
class Entry:
    """One line of a comparison.

    Attributes:
        name: also begins the names of its run folders.
        overrides: of the training command.
        note: what distinguishes it, shown under the table.
        published: somebody else's best value of the same number.
        metric: name of the score, such as ``val/ppl``; None for what the net is trained for.
        same_runs_as: name of the entry whose runs are read, with another metric.
        series: name of the curve that the entry is a point of; needed by ``fit``.
        at: where on that curve, such as a chunk size; needed by the fits ``trend``
            and ``gain``, and by the measurement ``memory``.
        against: entry that this one is compared with, instead of the study's baseline; its own
            name for the baseline of another text, vocabulary or budget.
        starts_from: entry whose run of the same seed this one starts its weights from.
        budget_share: multiple of the comparison's budget that this entry gets.
    """

    name: str
    overrides: tuple[str, ...] = ()
    note: str = ""
    published: float | None = None
    metric: str | None = None
    same_runs_as: str | None = None
    series: str | None = None
    at: float | None = None
    against: str | None = None
    starts_from: str | None = None
    budget_share: float = 1.0

    @property
    def runs_of(self) -> str:
        """Name of the entry that the runs are trained for."""
        return self.same_runs_as or self.name


_KEYS = [field.name for field in fields(Entry)]


def read_entries(cfg: DictConfig) -> list[Entry]:
    """Return the entries of a config, or one for each of its models.

    Raises:
        UserError: naming everything that does not fit.
    """
    if cfg.entries is None:
        given: Any = [
            {"name": model.replace("/", "_"), "overrides": [f"model={model}"]}
            for model in cfg.models
        ]
    else:
        given = OmegaConf.to_container(cfg.entries, resolve=True)
    problems = _problems_of(given) or ([] if given else ["there is nothing to compare"])
    if problems:
        raise combine(problems, f"Give models=[…], or entries with the keys {', '.join(_KEYS)}.")
    return [Entry(**{**entry, "overrides": tuple(entry.get("overrides", ()))}) for entry in given]


def _problems_of(given: list[Any]) -> list[str]:
    """Return what is wrong with entries as they were written, each thing once."""
    unnamed = [entry for entry in given if not isinstance(entry, dict) or "name" not in entry]
    if unnamed:
        return [f"{entry!r} is no entry with a name" for entry in unnamed]
    names = [str(entry["name"]) for entry in given]
    problems = [f"the name {name!r} is given twice" for name in names if names.count(name) > 1]
    own = [entry["name"] for entry in given if entry.get("same_runs_as") is None]
    for entry in given:
        unknown = [key for key in entry if key not in _KEYS]
        problems += [f"an entry has no key `{key}`{nearest(key, _KEYS)}" for key in unknown]
        overrides, source = entry.get("overrides", []), entry.get("same_runs_as")
        if not isinstance(overrides, list):
            problems.append(f"{entry['name']}: overrides={overrides!r} is no list")
        if source is not None and overrides:
            problems.append(f"{entry['name']}: overrides do nothing beside same_runs_as={source}")
        if source is not None and source not in own:
            problems.append(
                f"same_runs_as={source}: there is no such entry with runs of its own"
                f"{nearest(source, own)}"
            )
        problems += _problems_of_references(entry, names, own)
    return list(dict.fromkeys(problems))


def _problems_of_references(entry: dict[str, Any], names: list[str], own: list[str]) -> list[str]:
    """Return what is wrong with the other entries that an entry refers to."""
    against, source = entry.get("against"), entry.get("starts_from")
    problems = []
    if against is not None and against not in names:
        problems.append(f"against={against}: there is no such entry{nearest(against, names)}")
    if source is not None and source not in names[: names.index(str(entry["name"]))]:
        problems.append(f"{entry['name']}: starts_from={source}: there is no such entry before it")
    elif source is not None and source not in own:
        problems.append(f"{entry['name']}: starts_from={source} has no runs of its own")
    return problems


def read_seeds(seeds: Any) -> list[int]:
    """Return the seeds: a list as it is, or as many as a number says.

    Raises:
        UserError: where there are none, or one is given twice.
    """
    listed = [FIRST_SEED + k for k in range(seeds)] if isinstance(seeds, int) else list(seeds)
    if not listed or len(set(listed)) < len(listed):
        raise UserError(
            f"seeds={seeds}: a comparison needs at least one seed, and each only once.",
            "seeds=5 gives an interval worth its name; seeds=[1,2,3] chooses them.",
        )
    return listed


def choose_baseline(name: str | None, entries: list[Entry]) -> str:
    """Return the baseline's name, by default the first entry's.

    Raises:
        UserError: when there is no entry of that name.
    """
    names = [entry.name for entry in entries]
    if name is not None and name not in names:
        raise UserError(
            f"baseline={name}: there is no such entry{nearest(name, names)}",
            f"There are: {', '.join(names)}.",
        )
    return name or names[0]


def compared_together(entries: list[Entry], baseline: str) -> list[list[str]]:
    """Return the names of entries in groups, each of a baseline and what is compared with it."""
    groups: dict[str, list[str]] = {}
    for entry in entries:
        name = entry.against or baseline
        groups.setdefault(name, [name])
        if entry.name != name:
            groups[name].append(entry.name)
    return list(groups.values())


def check_fit(fit: str | None, entries: list[Entry]) -> None:
    """Check that the entries are points of the curves that ``fit`` asks for.

    Raises:
        UserError: for an unknown fit, entries without a series, or a single series.
    """
    if fit is None:
        return
    if fit not in FITS:
        raise UserError(
            f"fit={fit}: there is no such fit{nearest(str(fit), FITS)}",
            f"There are: {', '.join(FITS)}. Studies of conf/study are chosen with study=…",
        )
    need(f"fit={fit}", "series", "the name of its curve, e.g. series: ar", entries)
    if fit in ("trend", "gain"):
        need(f"fit={fit}", "at", "its place on the curve, e.g. at: 4", entries)
    elif len({entry.series for entry in entries}) < 2:
        raise UserError(
            f"fit={fit}: every entry is of the series {entries[0].series}.",
            "It compares other series with the baseline's.",
        )


def need(asked: str, key: str, meaning: str, entries: list[Entry]) -> None:
    """Check that every entry has a key that a study asks for.

    Raises:
        UserError: naming the entries without it.
    """
    without = [entry.name for entry in entries if getattr(entry, key) is None]
    if without:
        raise UserError(
            f"{asked} follows entries along curves, and these have no `{key}`: "
            f"{', '.join(without)}.",
            f"Give each entry {meaning}. Folders of runs have none.",
        )
