"""Progress of feature sets and runs, from their files alone: works on a login node, without SLURM."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voxshard import files
from voxshard.errors import CorruptFileError, IncompleteError
from voxshard.extraction.heartbeat import TaskState, is_silent, read_progress
from voxshard.extraction.telemetry import advice, summed
from voxshard.files import quoted
from voxshard.stages.extract import deleted_after_merge
from voxshard.store.features import is_stale
from voxshard.store.inventory import shard_names
from voxshard.store.layout import FeatureDir, Identity, sets_below, shard_name
from voxshard.store.runs import Run
from voxshard.store.shard_table import ShardTable

_METRICS_SHOWN = 3
_MOST_NAMED = 5


@dataclass(frozen=True)
class FeatureStatus:
    """State of one feature set."""

    path: str
    encoder: str
    fingerprint: str
    num_shards: int
    shards_done: int
    num_utterances: int
    utterances_done: int
    """Number of utterances in published shards, embedded or failed."""
    audio_s: float
    """Seconds of audio encoded by the tasks that left a heartbeat."""
    speed: float | None
    """Seconds of audio per second of wall time, summed over the running tasks."""
    eta_s: float | None
    tasks: dict[str, int]
    """Number of tasks by state; `lost` are those that stopped reporting."""
    failures: dict[str, int]
    """Number of failures by kind, known after merge."""
    failures_file: str | None
    """Table of the failures with their reasons; None before merge, or if nothing failed."""
    num_failed: int
    last_errors: list[str]
    is_merged: bool
    is_stale: bool
    """Whether shards were made or fixed after the merge."""
    advice: str | None
    next_step: str


@dataclass(frozen=True)
class RunStatus:
    """State of one run: what was trained, and its results."""

    path: str
    what: str
    """Summary such as `mlp of digit, on mfcc`."""
    results: dict[str, dict[str, float | None]]
    """First metrics of each split; intervals are in metrics.json."""
    next_step: str


def feature_dirs(path: Path) -> list[FeatureDir]:
    """Return the feature sets at or below a path: a feature set, a folder of some, or an experiment.

    Raises
    ------
    IncompleteError : none; names the experiments below it.
    """
    if path.is_file():
        raise IncompleteError(
            f"{path}: a file; expected the folder of a feature set, run or experiment (a config's `out`)"
        )
    if FeatureDir(path).identity.exists():
        return [FeatureDir(path)]
    if path in _run_dirs(path):
        raise IncompleteError(f"{path}: a run; expected a feature set or an experiment")
    if below := sets_below(path):
        return [FeatureDir(item) for item in below]
    experiments = [item for item in sorted(path.glob("*")) if sets_below(item) or _run_dirs(item)]
    if experiments:
        shown = ", ".join(map(quoted, experiments[:_MOST_NAMED])) + (", ..." if len(experiments) > _MOST_NAMED else "")
        raise IncompleteError(f"{path}: a folder of experiments; give one of them: {shown}")
    raise IncompleteError(
        f"{path}: neither a feature set (no identity.json), nor a run (no model/), nor an experiment (no features/)"
    )


def runs(path: Path) -> list[RunStatus]:
    """Return the runs at or below a path: a run, a folder of runs, or an experiment with any number of them."""
    return [_run_status(place) for place in _run_dirs(path)]


def _run_dirs(path: Path) -> list[Path]:
    places = [path, *sorted(path.glob("*")), *sorted((path / "runs").glob("*"))]
    return [place for place in places if (place / "model").is_dir() and (place / "metrics.json").exists()]


def _run_status(path: Path) -> RunStatus:
    run = Run.read(path)
    config = run.config
    features = "+".join(item["name"] for item in config["features"]) or config.get("manifest", "")
    results = {}
    for split, metrics in run.metrics["metrics"].items():
        shown = [(name, found["value"]) for name, found in metrics.items() if "." not in name]
        results[split] = dict(shown[:_METRICS_SHOWN])
    what = f"{config['classifier']} of {', '.join(config['label'])}, on {features}"
    return RunStatus(os.fspath(path), what, results, f"voxshard report {quoted(path)} --out report.html")


def status(path: Path) -> list[FeatureStatus]:
    """Return the state of every feature set at or below a path."""
    return [_status(folder) for folder in feature_dirs(path)]


def _status(folder: FeatureDir) -> FeatureStatus:
    identity = Identity.read(folder.identity)
    shards = ShardTable.read(folder, identity)
    deleted = deleted_after_merge(folder)
    done = list(range(identity.num_shards)) if deleted else _published(folder, identity.num_shards)
    utterances_done = shards.num_utterances(done)
    states = read_progress(folder.progress)
    kinds = [_kind(folder, state) for state in states]
    running = [state for state, kind in zip(states, kinds, strict=True) if kind == "running"]
    speed = sum(state.audio_s / max(state.updated - state.started, 1e-9) for state in running) or None
    is_merged = folder.features.exists() and folder.summary.exists()
    stale = is_merged and is_stale(folder.path)
    failures = _failures(folder) if is_merged else {}
    return FeatureStatus(
        path=os.fspath(folder.path),
        encoder=identity.encoder,
        fingerprint=identity.fingerprint,
        num_shards=identity.num_shards,
        shards_done=len(done),
        num_utterances=identity.num_utterances,
        utterances_done=utterances_done,
        audio_s=sum(state.audio_s for state in states),
        speed=speed,
        eta_s=_eta_s(shards, done, speed),
        tasks=dict(Counter(kinds)),
        failures=failures,
        failures_file=os.fspath(folder.failures) if failures else None,
        num_failed=sum(failures.values()) if is_merged and not stale else sum(state.num_failed for state in states),
        last_errors=[f"task {state.task}: {state.last_error}" for state in states if state.last_error][-3:],
        is_merged=is_merged,
        is_stale=stale,
        advice=_advice(states),
        next_step=_next_step(folder, len(done), identity.num_shards, bool(running), is_merged and not stale),
    )


def _published(folder: FeatureDir, count: int) -> list[int]:
    names = set(shard_names(folder))
    return [shard for shard in range(count) if shard_name(shard, count) in names]


def _kind(folder: FeatureDir, state: TaskState) -> str:
    if state.state not in ("starting", "running"):
        return state.state
    return "lost" if is_silent(folder.progress, state) else "running"


def _eta_s(shards: ShardTable, done: Sequence[int], speed: float | None) -> float | None:
    if not speed:
        return None
    left_s = shards.total_audio_s(sorted(set(range(len(shards))) - set(done)))
    return (left_s or 0.0) / speed


def _failures(folder: FeatureDir) -> dict[str, int]:
    try:
        with open(files.open_to_read(folder.failures), newline="", encoding="utf-8") as stream:
            return dict(Counter(row["error"] for row in csv.DictReader(stream)).most_common())
    except (KeyError, UnicodeDecodeError, csv.Error) as exc:
        raise CorruptFileError(
            f"{folder.failures}: not the table of failures of a merged set: {exc}; run `voxshard merge {folder.path}`"
        ) from exc


def _advice(states: Sequence[TaskState]) -> str | None:
    timed = [state for state in states if any(state.timers.values())]
    if not timed:
        return None
    timers = summed([state.timers for state in timed])
    return advice(timers, num_workers=timed[-1].num_workers, device=timed[-1].device)


def _next_step(folder: FeatureDir, done: int, count: int, running: bool, is_merged: bool) -> str:
    if running:
        return f"wait, or voxshard status {quoted(folder.path)} --watch"
    if done < count:
        return f"voxshard retry {quoted(folder.path)}"
    if not is_merged:
        return f"voxshard merge {quoted(folder.path)}"
    return f"voxshard train {quoted(folder.path)} --label COLUMN --classifier logistic --out RUN"


def as_json(statuses: Sequence[FeatureStatus | RunStatus]) -> list[dict[str, Any]]:
    """Return the statuses as JSON-able content, for scripts."""
    return [asdict(item) for item in statuses]
