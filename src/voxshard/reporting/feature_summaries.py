"""Summary of a feature set for a report: accounting, failures, costs, a map of its embeddings."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv

from voxshard import files
from voxshard.errors import CorruptFileError, IncompleteError, StaleShardError
from voxshard.files import quoted
from voxshard.no_table import NO_TABLE
from voxshard.reporting.report_data import Account, EmbeddingMap, FailureReason, FeatureSetReport, Series
from voxshard.reporting.sampling import embedding_map
from voxshard.reporting.systems import moment
from voxshard.reporting.throughput import throughput
from voxshard.store import features
from voxshard.store.layout import FeatureDir, Identity
from voxshard.store.merged import read_summary

_EXAMPLES = 3
"""Failed utterances shown per reason."""


class Advise(Protocol):
    """Type of `voxshard.extraction.telemetry.advice`, which the stage passes in."""

    def __call__(self, timers: Mapping[str, float], *, num_workers: int, device: str) -> str: ...


def load_feature_set(path: Path, name: str, *, labels: Sequence[str], advise: Advise) -> FeatureSetReport:
    """Read a feature set, merged or not, extracted or ingested.

    Parameters
    ----------
    labels : columns to colour the map of embeddings by, if the set has them.

    Raises
    ------
    DataError : identity, summary or tables are damaged.
    """
    folder = FeatureDir(path)
    identity = Identity.read(folder.identity) if folder.identity.is_file() else None
    summary = read_summary(folder)
    tasks = _tasks(folder)
    sample = _map(path, labels)
    return FeatureSetReport(
        name=name,
        encoder=str((summary or {}).get("encoder") or (identity.encoder if identity else "unknown")),
        facts=_facts(identity, summary, path),
        versions=_versions(summary),
        costs=_costs(tasks),
        config=files.read_text(folder.config, errors="replace") if folder.config.is_file() else "",
        accounts=_accounts(summary),
        not_counted="" if summary else _unmerged(folder, identity),
        failures=_failures(folder) if summary else [],
        embedding_map=None if isinstance(sample, str) else sample,
        no_map=sample if isinstance(sample, str) else "",
        timelines=[*throughput(folder), *_gpu_timelines(tasks)],
        advice=_advice(tasks, advise),
    )


def _map(path: Path, labels: Sequence[str]) -> EmbeddingMap | str:
    try:
        return embedding_map(features.FeatureSet(path), labels)
    except (IncompleteError, StaleShardError) as exc:
        return f"no map of the embeddings: {exc}."


def _facts(identity: Identity | None, summary: Mapping[str, Any] | None, path: Path) -> dict[str, str]:
    facts = {"folder": str(path)}
    if identity:
        facts |= {
            "encoder": identity.encoder,
            "fingerprint": identity.fingerprint,
            "granularity": identity.granularity,
            "dimension": f"{identity.dim:,}" + (f" x {identity.num_layers} layers" if identity.num_layers else ""),
            "sample rate": f"{identity.sample_rate:,} Hz" if identity.sample_rate else "",
            "weights": ", ".join(f"{item['name']} (SHA-256 {item['sha256'][:12]}…)" for item in identity.weight_files),
        }
    if summary is None:
        facts["merged"] = f"not yet; run `voxshard merge {quoted(path)}`"
        return facts
    self_check = summary.get("self_check")
    facts |= {
        "merged": f"{moment(summary.get('created', ''))} as {summary['mode']}" if "mode" in summary else "",
        "merge id": summary["merge_id"],
        "stale": "shards were rewritten after the merge; merge again" if summary["stale"] else "",
        "self-check": f"largest deviation between alone and in a batch {self_check:.1e} of the rms"
        if self_check
        else "",
        "hosts": ", ".join(summary.get("hosts", [])),
        "images": ", ".join(summary.get("image_digests", [])),
        "warnings": "; ".join(summary.get("warnings", [])),
    }
    return {key: value for key, value in facts.items() if value}


def _versions(summary: Mapping[str, Any] | None) -> dict[str, str]:
    software: Mapping[str, Sequence[str]] = (summary or {}).get("software", {})
    return {name: ", ".join(versions) for name, versions in software.items()}


def _costs(tasks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the tasks' costs from the heartbeats of their last attempts, including the loading of the model."""
    if not tasks:
        return {}
    wall_h = [max(float(task["updated"]) - float(task["started"]), 0.0) / 3600 for task in tasks]
    audio_h = sum(float(task["audio_s"]) for task in tasks) / 3600
    on_gpu = [str(task["device"]).startswith("cuda") for task in tasks]
    cpu_h = sum(hours * (int(task["num_workers"]) + 1) for hours, task in zip(wall_h, tasks, strict=True))
    gpu_h = sum(hours for hours, gpu in zip(wall_h, on_gpu, strict=True) if gpu)
    costs = {
        "tasks": f"{len(tasks):,}",
        "audio, h": f"{audio_h:,.2f}",
        "task time, h": f"{sum(wall_h):,.3f}",
        "GPU hours": f"{gpu_h:,.3f}",
        "CPU hours": f"{cpu_h:,.3f}",
    }
    energy_j = sum(float(task["gpu"]["energy_j"]) for task in tasks if task.get("gpu", {}).get("energy_j"))
    if energy_j:
        costs["GPU energy, kWh"] = f"{energy_j / 3.6e6:,.3f}"
    if sum(wall_h):
        costs["x real time, per task"] = f"{audio_h / sum(wall_h):,.0f}"
    return costs


def _unmerged(folder: FeatureDir, identity: Identity | None) -> str:
    published = len(list(folder.shards.glob("shard-*.h5")))
    total = f" of {identity.num_shards:,}" if identity else ""
    return f"{published:,}{total} shards are done, nothing is merged yet: run `voxshard merge {quoted(folder.path)}`."


def _accounts(summary: Mapping[str, Any] | None) -> list[Account]:
    """Return the numbers of manifest rows by split, as merge counted them."""
    splits: Mapping[str, Mapping[str, int]] = (summary or {}).get("splits", {})
    return [
        Account(
            split=split,
            num_total=counts["total"],
            num_ok=counts["ok"],
            num_failed=counts["failed"],
            num_pending=counts.get("pending", 0) + counts.get("missing", 0),
        )
        for split, counts in splits.items()
    ]


def _read_failures(folder: FeatureDir) -> pa.Table:
    names = ("utterance_id", "path", "split", "error", "message")
    types = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=names)
    try:
        content = pa.BufferReader(files.read_bytes(folder.failures))
        return pa.csv.read_csv(
            content, parse_options=pa.csv.ParseOptions(newlines_in_values=True), convert_options=types
        )
    except (OSError, *NO_TABLE) as exc:
        raise CorruptFileError(
            f"{folder.failures}: cannot be read: {exc}; run `voxshard merge {quoted(folder.path)}` again"
        ) from exc


def _failures(folder: FeatureDir) -> list[FailureReason]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in _read_failures(folder).to_pylist():
        counts[row["error"]] += 1
        if len(examples[row["error"]]) < _EXAMPLES:
            examples[row["error"]].append((row["utterance_id"], row["message"]))
    return [FailureReason(kind=kind, count=count, examples=examples[kind]) for kind, count in counts.most_common()]


def _tasks(folder: FeatureDir) -> list[dict[str, Any]]:
    """Return the last heartbeat of every task; one that is just being written is skipped."""
    states = []
    for path in sorted(folder.progress.glob("task-*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            states.append(content)
    return states


def _advice(tasks: Sequence[Mapping[str, Any]], advise: Advise) -> str:
    """Return advice from the timers of the tasks that ran on the most frequent kind of device."""
    ran = [task for task in tasks if task.get("timers")]
    if not ran:
        return ""
    device = Counter(str(task["device"]) for task in ran).most_common(1)[0][0]
    alike = [task for task in ran if str(task["device"]) == device]
    timers: Counter[str] = Counter()
    for task in alike:
        timers.update(task["timers"])
    return advise(timers, num_workers=max(int(task["num_workers"]) for task in alike), device=device)


_GPU = {
    "utilisation": ("GPU utilisation", "%", 100.0),
    "memory_used_gb": ("GPU memory", "GB", 1.0),
    "power_w": ("GPU power", "W", 1.0),
    "temperature_c": ("GPU temperature", "°C", 1.0),
}


def _gpu_timelines(tasks: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Return the measurements of the tasks' GPUs over the time since the first task started."""
    having = [task for task in tasks if task.get("gpu", {}).get("time")]
    if not having:
        return []
    start = min(task["gpu"]["time"][0] for task in having)
    found = []
    for key, (what, unit, scale) in _GPU.items():
        for task in having:
            gpu = task["gpu"]
            if key in gpu:
                time_s = np.array(gpu["time"], np.float64) - start
                values = scale * np.array(gpu[key], np.float64)
                name = f"task {task['task']} on {task['host']}"
                found.append(Series(quantity=what, unit=unit, name=name, time_s=time_s, values=values))
    return found
