"""Estimate of an extraction: from earlier work of this encoder, else from a short probe, else unknown."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from voxshard import files
from voxshard.config import dump_config, load_yaml
from voxshard.encoders import registry
from voxshard.errors import VoxshardError
from voxshard.experiment.steps import Step, extract_kind, missing_shards, shards_by_split
from voxshard.extraction.heartbeat import TaskState, read_progress
from voxshard.progress import Progress, counted
from voxshard.slurm.record import Record
from voxshard.slurm.scripts import Array
from voxshard.slurm.site import Partition
from voxshard.slurm.submit import Cluster
from voxshard.store.layout import FeatureDir, Identity
from voxshard.store.shard_table import ShardTable

PROBE_UTTERANCES, PROBE_SHARDS = 500, 20
"""Size of a probe; it ends after `PROBE_S` with what is done by then."""
PROBE_S = 30.0
_END_S = 20.0
"""Seconds that a probe may take to finish its current batch."""
_START_S = 5.0
"""Python, imports and reading the manifest, before a task's own clock starts; where nothing was measured."""
_PACKED_COPIES = 2
"""Shards, and the merged file next to them."""


@dataclass(frozen=True)
class Rate:
    """Seconds of audio per second of one task that is at work."""

    value: float
    start_s: float
    """Seconds that a task needs in addition: Python, imports, loading the model."""
    source: str
    """Where the rate was measured, and over how much work: the less, the rougher."""
    is_probe: bool = False
    """Whether the numbers come from a trial on this machine, not from a task."""


@dataclass(frozen=True)
class Work:
    """Remaining work of one extraction."""

    audio_s: float | None
    """Seconds of audio; None before `prepare`, or if nothing was probed."""
    rate: Rate | None

    @property
    def task_s(self) -> float | None:
        """Return the seconds over all tasks, without their starts; None: unknown."""
        return None if self.audio_s is None or self.rate is None else self.audio_s / self.rate.value


@dataclass(frozen=True)
class Estimate:
    """Estimate of one extraction."""

    step: str
    num_tasks: int
    num_shards: int | None
    audio_h: float | None
    """Hours of audio still to be encoded."""
    rate: Rate | None
    task_hours: float | None
    gpu_hours: float | None
    units: float | None
    num_bytes: int | None
    num_files: int | None
    free_bytes: int


def work_left(cluster: Cluster, step: Step, progress: Progress | None = None) -> Work:
    """Return the remaining work of one extraction.

    Parameters
    ----------
    progress : gets a message when an encoder that never ran and needs no GPU is tried here, for half a minute; None: it
        is not.
    """
    name = step.name.removeprefix("extract-")
    audio_s = _audio_left_s(cluster, name)
    if not audio_s:
        return Work(audio_s, None)
    shares = [cluster.site.partitions[partition] for partition in cluster.options(step).partitions or ()]
    rate = _measured(cluster, name, shares)
    if rate is None and progress is not None and extract_kind(cluster.experiment, name) == "extract_cpu":
        progress.note(f"{step.name}: this encoder was never run here; trying it for up to {PROBE_S:.0f} s")
        rate = _probed(cluster, name, shares)
    return Work(audio_s, rate)


def estimate(cluster: Cluster, step: Step, arrays: Sequence[Array], work: Work) -> Estimate:
    """Estimate the time and cost of these arrays of one extraction."""
    assert step.features is not None
    folder = step.features
    identity = Identity.read(folder.identity) if folder.identity.exists() else None
    num_tasks = sum(array.num_tasks for array in arrays)
    rate, task_s = work.rate, work.task_s
    hours = None if rate is None or task_s is None else (task_s + num_tasks * rate.start_s) / 3600
    share = _weighted(arrays)
    num_bytes = _bytes(identity)
    return Estimate(
        step=step.name,
        num_tasks=num_tasks,
        num_shards=identity.num_shards if identity else None,
        audio_h=None if work.audio_s is None else work.audio_s / 3600,
        rate=rate,
        task_hours=hours,
        gpu_hours=None if hours is None else hours * share[0],
        units=None if hours is None or share[1] is None else hours * share[1],
        num_bytes=num_bytes,
        num_files=None if identity is None else identity.num_shards + num_tasks * 3 + 8,
        free_bytes=shutil.disk_usage(files.existing_part(cluster.experiment.path)).free,
    )


def _weighted(arrays: Sequence[Array]) -> tuple[float, float | None]:
    """Return GPUs and price of one task, averaged over partitions."""
    total = sum(array.num_tasks for array in arrays)
    gpus = sum(array.num_tasks * array.share.gpus for array in arrays) / total
    prices = [(array.num_tasks, array.share.units_per_hour) for array in arrays]
    if any(price is None for _, price in prices):
        return gpus, None
    return gpus, sum(count * (price or 0.0) for count, price in prices) / total


def _audio_left_s(cluster: Cluster, name: str) -> float | None:
    """Return the seconds of audio that no shard contains yet; None before `prepare`, or if nothing was probed."""
    manifest = cluster.experiment.manifest
    if not manifest.exists():
        return None
    table = files.with_retries(manifest, lambda: pq.read_table(manifest, columns=["duration_s", "split"]))
    if table["duration_s"].null_count == len(table):
        return None
    seconds = np.nan_to_num(table["duration_s"].to_numpy().astype(np.float64))
    splits = cluster.experiment.config.extract[name].splits
    folder = FeatureDir(cluster.experiment.features(name))
    groups = shards_by_split(folder, splits)
    if groups is None:
        wanted = np.isin(np.array(table["split"].to_pylist(), object), splits) if splits else slice(None)
        return float(seconds[wanted].sum())
    shards = ShardTable.read(folder, Identity.read(folder.identity))
    return shards.total_audio_s(missing_shards(folder, groups))


def _measured(cluster: Cluster, name: str, shares: Sequence[Partition]) -> Rate | None:
    """Return the rate of tasks that ran here or, for the same encoder with the same settings, in experiments next to
    this one; of several, from where it worked longest."""
    own = cluster.experiment.config.extract[name].encoder
    chooses = registry.needs_gpu(own["name"], {key: value for key, value in own.items() if key != "name"})
    on_gpu = extract_kind(cluster.experiment, name) == "extract" and all(share.gpus for share in shares)
    places = [cluster.experiment.features(name)]
    places += [path.parent for path in sorted(cluster.experiment.path.parent.glob("*/features/*/identity.json"))]
    found: list[tuple[float, Path, list[TaskState]]] = []
    for place in dict.fromkeys(places):
        if not _same_encoder(place, own):
            continue
        states = [
            state
            for state in read_progress(place / "progress")
            if state.audio_s > 0 and not (chooses and state.device.startswith("cuda") != on_gpu)
        ]
        if work_s := sum(map(_work_s, states)):
            found.append((work_s, place, states))
    if not found:
        return None
    work_s, place, states = max(found, key=lambda item: item[0])
    rate = sum(state.audio_s for state in states) / work_s * _more_workers(cluster, name, states, shares)
    return Rate(rate, _start_s(place, states), f"{work_s:,.0f} s of work measured in {place}")


def _work_s(state: TaskState) -> float:
    """Return the seconds of a task's time that grow with the audio: no start of Python or of workers, no loading of the
    model."""
    waits = sum(state.timers.get(key, 0.0) for key in ("wait_decode_s", "encode_s", "wait_write_s"))
    return max(0.0, waits - state.timers.get("fill_s", 0.0))


def _more_workers(cluster: Cluster, name: str, states: Sequence[TaskState], shares: Sequence[Partition]) -> float:
    """How many times the workers of then these tasks will have, where it is the workers that do it all."""
    if extract_kind(cluster.experiment, name) != "extract_cpu":
        return 1.0
    given = cluster.experiment.config.extract[name].workers
    then = sum(state.num_workers for state in states) / len(states)
    return (given or min(share.cpus for share in shares)) / max(then, 1.0)


def _start_s(place: Path, states: Sequence[TaskState]) -> float:
    """Seconds that a task takes in addition to that: by the records of its jobs, if it had any, of tasks that ran once
    and undisturbed; else by the tasks' own clocks, which start after Python has."""
    work_s: dict[int, float] = {}
    inside_s: dict[int, float] = {}
    for state in states:
        work_s[state.task] = work_s.get(state.task, 0.0) + _work_s(state)
        inside_s[state.task] = inside_s.get(state.task, 0.0) + state.updated - state.started
    starts = [
        record.elapsed_s - work_s[record.task]
        for record in Record(place.parent.parent).tasks(f"extract-{place.name}")
        if record.task in work_s and record.state == "done" and not record.restarts and not record.before_s
    ]
    if not starts:
        starts = [_START_S + inside_s[task] - work_s[task] for task in work_s]
    return max(0.0, sum(starts) / len(starts))


def _same_encoder(place: Path, encoder: dict[str, object]) -> bool:
    path = FeatureDir(place).config
    try:
        content = load_yaml(path)
    except VoxshardError:  # not a feature set, or not readable by this user: no reason to refuse this submission
        return False
    settings = {key: value for key, value in encoder.items() if key != "name"}
    return bool(content.get("encoder") == encoder["name"] and content.get("settings", {}) == settings)


def _probed(cluster: Cluster, name: str, shares: Sequence[Partition]) -> Rate | None:
    """Measure the rate by embedding some recordings here, with one worker."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "probe"
        since = time.monotonic()
        try:
            extractions = cluster.experiment.extractions(name)
            few = {"limit": PROBE_UTTERANCES, "shards": PROBE_SHARDS, "workers": 1, "out": out, "split": None}
            file = Path(folder) / "probe.yaml"
            file.write_text(dump_config(extractions[0].model_copy(update=few)))
            job = cluster.experiment.probe_job(name, file)
            _run_for_a_while(job.command, {**os.environ, **(job.environment or {})})
        except (VoxshardError, OSError):
            return None
        took_s = time.monotonic() - since
        states = read_progress(out / "progress")
        audio_s = sum(state.audio_s for state in states)
        work_s = sum(map(_work_s, states))
    if not (audio_s and work_s):
        return None
    rate = audio_s / work_s * (cluster.experiment.config.extract[name].workers or min(share.cpus for share in shares))
    start_s = max(0.0, took_s - work_s) * len(extractions)  # a task starts once for every split
    return Rate(rate, start_s, f"{work_s:.1f} s of work, tried here", is_probe=True)


def _run_for_a_while(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command, ask it to stop after `PROBE_S`, and kill it if it does not."""
    none = subprocess.DEVNULL
    with subprocess.Popen(words, env=environment, stdin=none, stdout=none, stderr=none) as child:
        try:
            child.wait(PROBE_S)
        except subprocess.TimeoutExpired:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_END_S)
        finally:
            child.kill()


def _bytes(identity: Identity | None) -> int | None:
    """Return the bytes of one vector per utterance; the size of frames is known only afterwards."""
    if identity is None or identity.granularity != "utterance":
        return None
    return identity.num_utterances * math.prod(identity.row_shape) * 4 * _PACKED_COPIES


def lines_of(item: Estimate, unit: str, quota: Sequence[str] = ()) -> list[str]:
    """Format an estimate for the user."""
    shards = "shards not planned yet" if item.num_shards is None else counted(item.num_shards, "shard")
    head = f"{item.step}: {counted(item.num_tasks, 'task')}, {shards}"
    if item.audio_h is None:
        lines = [f"{head}; cost unknown until `voxshard prepare` has measured the audio"]
    elif item.rate is None or item.task_hours is None:
        lines = [f"{head}, {item.audio_h:.2f} h of audio; this encoder was never run here, so the cost is not known"]
    else:
        cost = "" if item.units is None else f", {item.units:,.2f} {unit}"
        lines = [
            f"{head}, {item.audio_h:.2f} h of audio at {item.rate.value:,.0f} x real time per task "
            f"({item.rate.source}): {item.task_hours:.3f} task hours, {item.gpu_hours:.3f} GPU hours{cost}"
        ]
    known = [f"about {item.num_bytes / 1e9:.3f} GB"] if item.num_bytes is not None else []
    known += [f"{item.num_files:,} files"] if item.num_files is not None else []
    lines.append(f"  to write: {' in '.join(known) or 'unknown'}; free here: {item.free_bytes / 1e9:,.0f} GB")
    if quota:
        lines.append(f"  quota: see `{' '.join(quota)}`")
    return lines
