"""Cost of a submitted experiment by step, and advice for the next run, from the records of its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from voxshard import files
from voxshard.experiment.steps import Step
from voxshard.extraction.heartbeat import TaskState, read_progress
from voxshard.slurm.record import Record, TaskRecord, Usage
from voxshard.slurm.submit import Cluster
from voxshard.store.merged import read_summary, write_summary

_PER_AUDIO_H = 1000.0
_LITTLE_MEMORY = 0.5
_LITTLE_TIME = 0.25
"""Below this share of what was asked for, asking for less gets jobs started sooner."""
_MUCH = 0.9
_SPARE = 1.3
"""Advice leaves this much room."""


def account(cluster: Cluster) -> list[dict[str, Any]]:
    """Return one entry per step that ran: hours, cost, requested and used memory and time, advice."""
    found = []
    for step in cluster.steps.values():
        records = list(cluster.record.tasks(step.name))
        if records:
            found.append(_account(cluster, step, records))
    return found


def _account(cluster: Cluster, step: Step, records: Sequence[TaskRecord]) -> dict[str, Any]:
    usage = Usage.of(records)
    entry: dict[str, Any] = {
        "step": step.name,
        "tasks": len(records),
        "attempts": len(cluster.record.attempts(step.name)),
        "task_hours": round(usage.elapsed_s / 3600, 4),
        "gpu_hours": round(usage.gpu_hours, 4),
        "cpu_hours": round(usage.cpu_hours, 4),
        "units": None if usage.units is None else round(usage.units, 4),
        "unit": cluster.site.unit,
        "mem_gb": usage.mem_gb,
        "max_rss_gb": usage.max_rss_gb,
        "minutes": max((record.minutes for record in records if record.minutes), default=None),
        "longest_minutes": round(max(record.updated - record.started for record in records) / 60, 2),
    }
    states = read_progress(step.features.progress) if step.stage == "extract" and step.features else []
    if audio_h := sum(state.audio_s for state in states) / 3600:
        entry["audio_hours"] = round(audio_h, 4)
        for key in ("gpu_hours", "cpu_hours", "units"):
            if entry[key] is not None:
                entry[f"{key}_per_1000_audio_hours"] = round(entry[key] / audio_h * _PER_AUDIO_H, 3)
    entry["energy_kwh"] = _energy_kwh(states)
    entry["advice"] = advice(entry)
    return entry


def _energy_kwh(states: Sequence[TaskState]) -> float | None:
    """Return the energy that NVML measured; None if no GPU reported it."""
    found = [float(state.gpu["energy_j"]) for state in states if state.gpu.get("energy_j")]
    return round(sum(found) / 3.6e6, 4) if found else None


def advice(entry: dict[str, Any]) -> list[str]:
    """Return advice on the next run's `jobs`, as `--set` options."""
    lines = []
    step, asked, used = entry["step"], entry["mem_gb"], entry["max_rss_gb"]
    fitting = max(1, round(used * _SPARE + 0.5))
    if asked and used > _MUCH * asked:
        lines.append(f"{step} used {used:.1f} of {asked:.0f} GB: --set jobs.{step}.mem_gb={fitting}")
    elif asked and used < _LITTLE_MEMORY * asked and fitting < asked:
        lines.append(f"{step} used {used:.1f} of {asked:.0f} GB: --set jobs.{step}.mem_gb={fitting} is enough")
    limit, longest = entry["minutes"], entry["longest_minutes"]
    enough = max(5, round(longest * _SPARE + 0.5))
    if limit and longest < _LITTLE_TIME * limit and enough < limit:
        lines.append(f"{step} took {longest:.0f} of {limit} minutes: --set jobs.{step}.minutes={enough} is enough")
    return lines


def write(cluster: Cluster) -> None:
    """Write EXP/jobs/accounting.json, which the report shows."""
    files.publish_json(Record(cluster.experiment.path).path / "accounting.json", account(cluster))


def add_to_summary(cluster: Cluster, step: Step) -> None:
    """Add the cost of an extraction to its merged set's summary.json, as `jobs`; once, so that its time stays."""
    assert step.features is not None
    summary = read_summary(step.features)
    entries = [entry for entry in account(cluster) if entry["step"] in step.depends_on]
    if summary is not None and entries and "jobs" not in summary:
        write_summary(step.features, {**summary, "jobs": entries[0]})
