"""Loading of a report's data from the paths that a user names: runs, experiments, feature sets."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from voxshard import __version__, files
from voxshard.errors import DataError, IncompleteError, StorageFaultError, VoxshardError
from voxshard.files import quoted
from voxshard.progress import Progress
from voxshard.reporting.comparability import topics
from voxshard.reporting.comparing import compare
from voxshard.reporting.feature_summaries import Advise, load_feature_set
from voxshard.reporting.report_data import Comparison, ReportData, System
from voxshard.reporting.report_inputs import inputs_digest
from voxshard.reporting.systems import load_system
from voxshard.store.layout import FeatureDir
from voxshard.store.merged import read_summary
from voxshard.store.runs import RUNS_TABLE, Run


@dataclass
class _Found:
    """Runs, feature sets and other files that exist at or below the paths."""

    runs: list[Path] = field(default_factory=list)
    feature_dirs: list[Path] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    jobs: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    """Recorded creation time (ISO 8601) of each run and merged set."""


def load_report(paths: Sequence[Path], *, title: str | None, advise: Advise, progress: Progress) -> ReportData:
    """Read runs, experiments and feature sets.

    A run or feature set that was named itself must be complete; of those inside an experiment, what cannot be read is
    left out, with a note that gives the reason.

    Raises
    ------
    IncompleteError : a path is none of them, or there is nothing below it.
    DataError : something that was named itself is damaged.
    """
    paths = [path for path in paths if path.name != RUNS_TABLE] or paths  # `runs/*` has it among the runs
    inputs = inputs_digest(paths)
    found = _Found()
    for path in paths:
        _look(path, found)
    named = {path.resolve() for path in paths}
    systems: dict[str, tuple[System, Run]] = {}
    labels: dict[str, None] = {}
    progress.begin("read runs", items=len(found.runs))
    for path, name in _names(found.runs).items():
        run = Run(path)
        with _noting(f"Run {name}", path, named, found):
            systems[name] = (load_system(run, name), run)
            labels |= dict.fromkeys(run.config["label"])
            found.made.append(str(run.config.get("created", "")))
            _add_features_of(run, found)
        progress.advance()
    feature_sets = []
    progress.begin("read feature sets", items=len(found.feature_dirs))
    for path, name in _names(found.feature_dirs).items():
        with _noting(f"Feature set {name}", path, named, found):
            feature_sets.append(load_feature_set(path, name, labels=list(labels), advise=advise))
            found.made.append(str((read_summary(FeatureDir(path)) or {}).get("created", "")))
        progress.advance()
    data = ReportData(
        title=title or _title(paths, found),
        date=_date(found),
        made_by=f"voxshard {__version__}",
        sources=[str(path) for path in paths],
        systems=[system for system, _ in systems.values()],
        feature_sets=feature_sets,
        config="\n".join(found.configs),
        jobs=found.jobs,
        inputs=inputs,
    )
    comparisons = _comparisons(data, {name: run for name, (_, run) in systems.items()}, found, progress)
    return replace(data, comparisons=comparisons, notes=found.notes)


@contextmanager
def _noting(what: str, path: Path, named: Container[Path], found: _Found) -> Iterator[None]:
    """Convert an error in the block to a note, unless the user named the path or the storage fails."""
    try:
        yield
    except StorageFaultError:
        raise
    except VoxshardError as exc:
        if path.resolve() in named:
            raise
        found.notes.append(f"{what} is left out: {exc}")


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each path: as many of its last parts as make it distinct, if possible without the folders that
    voxshard makes."""
    full = {path: path.resolve().parts[1:] for path in paths}
    short = {path: tuple(part for part in parts if part not in ("runs", "features")) for path, parts in full.items()}
    parts = {path: own if list(short.values()).count(own) == 1 else full[path] for path, own in short.items()}
    names = {}
    for path, own in parts.items():
        others = [other for key, other in parts.items() if key != path]
        length = next((n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others)), len(own))
        names[path] = "/".join(own[-length:])
    return names


def _look(path: Path, found: _Found) -> None:
    """Add the runs and feature sets at or below a path to `found`."""
    if (path / "config.yaml").is_file() and (path / "model").is_dir():
        Run.read(path)
        _add(path, found.runs)
    elif _is_feature_set(path):
        _add(path, found.feature_dirs)
    elif (path / "runs").is_dir() or (path / "features").is_dir():
        runs = [config.parent for config in sorted((path / "runs").glob("*/config.yaml"))]
        feature_dirs = [folder for folder in sorted((path / "features").glob("*/")) if _is_feature_set(folder)]
        if not runs and not feature_dirs:
            raise IncompleteError(f"{path}: an experiment without runs or features yet; continue with `voxshard run`")
        for folder in runs:
            _add(folder, found.runs)
        for folder in feature_dirs:
            _add(folder, found.feature_dirs)
        if (path / "config.yaml").is_file():
            found.configs.append(files.read_text(path / "config.yaml", errors="replace"))
        if (path / "jobs" / "accounting.json").is_file():
            found.jobs += json.loads(files.read_bytes(path / "jobs" / "accounting.json"))
    else:
        below = [
            item for item in sorted(path.glob("*")) if (item / "model").is_dir() or FeatureDir(item).identity.exists()
        ]
        if below:
            raise IncompleteError(
                f"{path}: a folder of several; give them: voxshard report {quoted(path)}/* --out FILE"
            )
        raise IncompleteError(
            f"{path}: neither a run (config.yaml and model/), nor a feature set (identity.json), nor an experiment "
            "(runs/ or features/); make a run with `voxshard train ... --out RUN`"
        )


def _add(path: Path, paths: list[Path]) -> None:
    if all(known.resolve() != path.resolve() for known in paths):
        paths.append(path)


def _is_feature_set(path: Path) -> bool:
    folder = FeatureDir(path)
    return folder.identity.is_file() or folder.summary.is_file()


def _add_features_of(run: Run, found: _Found) -> None:
    for item in run.config["features"]:
        path = Path(item["path"])
        if _is_feature_set(path):
            _add(path, found.feature_dirs)
        else:
            note = f"Features {item['name']}: nothing is at {path} any more, so how they were made is not shown."
            if note not in found.notes:
                found.notes.append(note)


def _comparisons(data: ReportData, runs: Mapping[str, Run], found: _Found, progress: Progress) -> list[Comparison]:
    comparisons: list[Comparison] = []
    for topic in topics(data):
        try:
            for view in topic.views:
                comparisons += compare(view.order, runs, view.split, progress=progress)
        except DataError as exc:
            found.notes.append(f"Systems for {topic.label} were not compared: {exc}")
    return comparisons


def _title(paths: Sequence[Path], found: _Found) -> str:
    if len(paths) == 1:
        return paths[0].resolve().name
    counts = ((len(found.runs), "runs"), (len(found.feature_dirs), "feature sets"))
    return " and ".join(f"{count} {what if count > 1 else what[:-1]}" for count, what in counts if count)


def _date(found: _Found) -> str:
    """Return the creation time of the newest result, so that a report on the same results is always the same."""
    times = [time for text in found.made if (time := _time(text)) is not None]
    return f"Results of {max(times):%Y-%m-%d %H:%M} UTC" if times else ""


def _time(text: str) -> datetime | None:
    """Parse a recorded time; None if none was recorded."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
