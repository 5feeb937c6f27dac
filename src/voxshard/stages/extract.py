"""Extraction of a manifest into shards. Any number of tasks, nodes and attempts complete the same set."""

from __future__ import annotations

import functools
import os
import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from voxshard import audio, files, urls
from voxshard.config import Settings, dump_config
from voxshard.cpus import decode_workers
from voxshard.encoders import registry
from voxshard.encoders.base import Encoder, EncoderSettings
from voxshard.encoders.device_request import DeviceRequest
from voxshard.errors import ConfigError, StoppedError, TooManyFailuresError, TransientFaultError
from voxshard.extraction.claims import Claims
from voxshard.extraction.decode import Decoder
from voxshard.extraction.encode import default_batch_seconds
from voxshard.extraction.freeze import freeze, known_hashes, reopen
from voxshard.extraction.gpu import GpuRecorder, open_reader
from voxshard.extraction.heartbeat import Heartbeat, TaskState, progress_file
from voxshard.extraction.pipeline import Pipeline, ShardResult, ShardWork
from voxshard.extraction.pool import DecodePool
from voxshard.extraction.precision_advice import CANDIDATE
from voxshard.extraction.reuse import ReusableRows, ReusedRows
from voxshard.extraction.telemetry import Timers, advice
from voxshard.locations import LocalPath, Location, local_copy
from voxshard.manifest import Manifest, ManifestFile, Utterance, no_such_split
from voxshard.progress import counted
from voxshard.stages.base import Task
from voxshard.store.layout import FeatureDir, Identity
from voxshard.store.merged import read_summary
from voxshard.store.shard import ShardHeader, write_shard
from voxshard.store.shard_table import ShardTable

EARLY_STOP_UTTERANCES = 200
"""A task gives up early only after it has processed this number of utterances itself; over fewer, merge judges."""
EARLY_STOP_FAILURES = 20
_LIBRARIES = ("voxshard", "numpy", "h5py", "soundfile", "soxr", "librosa", "torch", "transformers", "tensorflow")


class ExtractOptions(Settings):
    """Options of an extraction; also those of the sections `extract.NAME` of an experiment's config."""

    shards: int | None = Field(None, ge=1)
    """Approximate number of shards; null: chosen by the amount of audio."""
    device: DeviceRequest = "auto"
    """Device of the model: auto, cpu, cuda or, for example, cuda:1."""
    batch_seconds: float | None = Field(None, gt=0)
    """Padded seconds of audio per batch; null: 8 on a CPU, 320 on a GPU."""
    workers: int | None = Field(None, ge=1)
    """Number of decode workers; null: the number of CPUs (two fewer if a model runs as well, at least one)."""
    max_failure_fraction: float = Field(0.05, ge=0, le=1)
    """Maximum fraction of failed utterances, 0 to 1; checked from 20 failures on."""


class ExtractConfig(ExtractOptions):
    """Settings of one extraction."""

    manifest: Location
    """Manifest that `voxshard prepare` wrote."""
    encoder: str
    """Name of the encoder; `voxshard encoders` lists them."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the encoder; `voxshard encoders NAME` lists them."""
    out: LocalPath
    """Folder of the feature set (DIR)."""
    split: str | None = None
    """Extract only the shards of this split; null: all shards."""
    reuse: Location | None = None
    """Merged feature set of the same encoder; rows of recordings with the same path, size and span are copied."""
    limit: int | None = Field(None, ge=1)
    """Use only this number of utterances from the start of the manifest; null: all."""
    io_retry_delays_s: tuple[float, ...] = audio.RETRY_DELAYS_S
    """Delays in seconds between attempts to read a recording whose storage fails."""


@dataclass(frozen=True)
class ExtractResult:
    """Result of an extraction."""

    folder: FeatureDir
    identity: Identity
    num_selected: int
    """Number of shards that were requested."""
    missing: Sequence[int]
    """Selected shards that no task has published yet; other tasks may be working on them."""
    num_failed: int
    """Number of failed utterances in this task's shards."""
    advice: str | None = None


def run(config: ExtractConfig, task: Task | None = None, *, plan_only: bool = False) -> ExtractResult:
    """Extract the missing shards of one feature set.

    Parameters
    ----------
    task : which part of the work; tasks share it through the disk alone.
    plan_only : freeze identity and plan, encode nothing.

    Raises
    ------
    IdentityError : the folder holds features made with other inputs.
    TooManyFailuresError : over `max_failure_fraction` of this task's utterances failed.
    StoppedError : the task was asked to stop.
    """
    task = task or Task()
    extraction = Extraction.open(config, task, plan_only=plan_only)
    chosen = extraction.shards_of(None if config.split is None else {config.split})
    if deleted_after_merge(extraction.folder):
        task.progress.note(f"{extraction.folder.path}: merged, its shards deleted; nothing is missing")
        return ExtractResult(extraction.folder, extraction.identity, len(chosen), [], 0)
    claims = Claims(
        extraction.folder,
        chosen,
        len(extraction.shards),
        index=task.index,
        count=task.count,
        audio_s=extraction.shards.audio_s,
    )
    todo = claims.missing()
    if todo and not plan_only:
        works, publish = extraction.whole_shards(claims), extraction.publish
        if config.reuse is not None:
            reused = _Reused(
                extraction, ReusableRows.open(local_copy(config.reuse), extraction.encoder.info), claims.release
            )
            works, publish = reused.remaining(works), reused.publish
        try:
            extraction.encode(
                works,
                publish,
                num_shards=len(chosen),
                num_utterances=extraction.shards.num_utterances(todo),
                audio_s=extraction.shards.total_audio_s(todo),
                on_beat=claims.touch,
                on_published=claims.release,
            )
        finally:
            claims.release_all()
    return ExtractResult(
        extraction.folder,
        extraction.identity,
        len(chosen),
        claims.missing(),
        extraction.failures.total(),
        extraction.advice(),
    )


class _Reused:
    """Combines rows that are copied from another set with rows that are computed, shard by shard."""

    def __init__(self, extraction: Extraction, rows: ReusableRows, on_published: Callable[[int], None]) -> None:
        self._extraction, self._rows, self._on_published = extraction, rows, on_published
        self._open: dict[int, tuple[list[Utterance], ReusedRows]] = {}

    def remaining(self, works: Iterator[ShardWork]) -> Iterator[ShardWork]:
        """Yield the utterances of each shard that must be computed; completely copied shards are published here."""
        copied = 0
        for work in works:
            reused = self._rows.read(work.utterances)
            copied += len(reused.outputs)
            self._open[work.index] = (work.utterances, reused)
            left = [utterance for utterance in work.utterances if utterance.utterance_id not in reused.outputs]
            self._extraction.task.progress.advance(len(reused.outputs))
            if left:
                yield ShardWork(work.index, left)
            else:
                self.publish(ShardResult(work.index, [], [], 0.0, Timers(), None, {}))
                self._on_published(work.index)
        self._extraction.task.progress.note(
            f"{self._extraction.config.reuse}: {counted(copied, 'utterance')} copied from it"
        )

    def publish(self, result: ShardResult) -> None:
        """Publish a shard with the copied and the computed rows, in manifest order."""
        utterances, reused = self._open.pop(result.index)
        outputs = {**reused.outputs, **dict(result.outputs)}
        audio_s = sum(item.duration_s or 0.0 for item in utterances if item.utterance_id in reused.outputs)
        ids = [utterance.utterance_id for utterance in utterances]
        complete = [(name, outputs[name]) for name in ids if name in outputs]
        warnings = {**reused.warnings, **result.warnings}
        self._extraction.publish(replace(result, outputs=complete, warnings=warnings, audio_s=result.audio_s + audio_s))


def deleted_after_merge(folder: FeatureDir) -> bool:
    """Whether the shards were deleted because the merged file contains all of them."""
    summary = read_summary(folder)
    return bool(summary and summary["shards"]["deleted"])


class Extraction:
    """One task that works on one feature set."""

    def __init__(
        self,
        config: ExtractConfig,
        task: Task,
        folder: FeatureDir,
        manifest: Path,
        encoder: Encoder,
        settings: EncoderSettings,
        identity: Identity,
        shards: ShardTable,
    ) -> None:
        self.config, self.task, self.folder = config, task, folder
        self.encoder, self.settings, self.identity, self.shards = encoder, settings, identity, shards
        self._rows = ManifestFile(manifest)
        self.root = self._rows.root
        self.timers = Timers()
        self.failures: Counter[str] = Counter()
        self.num_ok = 0
        self.device, self.num_workers = "cpu", 0
        self.gpu = GpuRecorder(None)
        self._written_s = 0.0

    @classmethod
    def open(cls, config: ExtractConfig, task: Task, *, plan_only: bool = False) -> Extraction:
        """Check everything that needs no model, and freeze the identity of the folder or compare with it."""
        folder = FeatureDir(config.out)
        manifest = local_copy(config.manifest)
        settings = registry.settings_of(config.encoder, config.settings)
        encoder = registry.create(config.encoder, config.settings, known_hashes(folder))
        with files.storage_errors(folder.path):
            frozen = reopen(folder, manifest, encoder.info, limit=config.limit, num_shards=config.shards)
            identity, shards = frozen or _freeze(config, manifest, folder, encoder, settings, plan_only=plan_only)
            if config.split is not None and config.split not in shards.split_names:
                raise no_such_split(config.split, shards.split_names)
            files.publish_bytes(folder.config, dump_config(config).encode())
        for path in (folder.path, folder.shards, folder.progress):
            files.sweep_temporaries(path)
        return cls(config, task, folder, manifest, encoder, settings, identity, shards)

    def shards_of(self, splits: Collection[str | None] | None) -> list[int]:
        """Return the shards of some splits; None selects all shards."""
        return [shard for shard, name in enumerate(self.shards.splits) if splits is None or name in splits]

    def utterances_of(self, shard: int) -> list[Utterance]:
        """Read the utterances of one shard from the manifest, in its order.

        Raises
        ------
        TransientFaultError : the storage fails.
        """
        try:
            return list(self._rows.utterances(*self.shards.rows(shard)))
        except OSError as exc:
            raise TransientFaultError(
                f"{self.config.manifest}: {exc}; what is finished is kept, run the same command again when the storage "
                "is back"
            ) from exc

    def whole_shards(self, shards: Iterator[int] | Claims) -> Iterator[ShardWork]:
        """Yield the given shards with all their utterances."""
        return (ShardWork(shard, self.utterances_of(shard)) for shard in shards)

    def encode(
        self,
        works: Iterator[ShardWork],
        publish: Callable[[ShardResult], None],
        *,
        num_shards: int,
        num_utterances: int,
        audio_s: float | None,
        on_beat: Callable[[], None] = lambda: None,
        on_published: Callable[[int], None] = lambda shard: None,
    ) -> None:
        """Process shards in the pipeline.

        Parameters
        ----------
        publish : puts one shard on disk; runs in the writer's thread.
        num_shards : how many there should be in the end, over all tasks.
        num_utterances, audio_s : of what is to be done, for the progress bar; seconds are None where they are unknown.
        """
        info, task = self.encoder.info, self.task
        self.device, why = self.encoder.choose_device(self.config.device)
        task.progress.note(f"{info.name} on {self.device}: {why}")
        self.num_workers = self.config.workers or decode_workers(encodes_in_prepare=info.encodes_in_prepare)
        state = TaskState(
            task.index, task.count, self.config.split, self.device, self.num_workers, num_shards=num_shards
        )

        def beat() -> None:
            on_beat()
            state.timers, state.gpu = self.timers.as_dict(), self.gpu.as_dict()
            state.num_ok, state.num_failed = self.num_ok, self.failures.total()

        def note_death(message: str) -> None:
            task.progress.note(message)
            state.notes = [*state.notes, message][-20:]

        def write(result: ShardResult) -> None:
            publish(result)
            on_published(result.index)
            state.shards_published += 1
            state.audio_s += result.audio_s
            self.num_ok += len(result.outputs)
            self.failures.update(failure.error for failure in result.failures)

        def with_progress() -> Iterator[ShardWork]:
            for work in works:
                self._give_up_if_hopeless()
                state.current_shard = work.index
                yield work

        decoder = Decoder.of(self.root, info, self.settings, self.encoder.preparer, self.config.io_retry_delays_s)
        path = progress_file(self.folder.progress, task.index, task.count, self.config.split)
        gpu = self.gpu = GpuRecorder(open_reader(self.device), task.progress.note)
        with Heartbeat(path, state, on_beat=beat) as heartbeat, gpu:
            try:
                hint = "; an image sees only what BINDS or container.binds name" if image_version() else ""
                with DecodePool(
                    decoder, self.num_workers, on_death=note_death, check=task.check, missing_hint=hint
                ) as pool:
                    with self.timers.measure("load_s"):
                        self.encoder.load(self.device)
                    gpu.log("after loading")
                    state.state = "running"
                    heartbeat.write()
                    task.progress.begin(f"extract {info.name}", items=num_utterances, audio_s=audio_s)
                    Pipeline(
                        self.encoder,
                        pool,
                        decoder,
                        precision=self.settings.precision,
                        store_dtype=self.settings.store_dtype,
                        batch_seconds=self.config.batch_seconds or default_batch_seconds(self.device),
                        write=write,
                        timers=self.timers,
                        progress=task.progress,
                        check=task.check,
                        advises=self._advises(),
                    ).run(with_progress())
                state.state = "done"
            except BaseException as exc:
                state.state = "stopped" if isinstance(exc, StoppedError) else "failed"
                state.last_error = f"{type(exc).__name__}: {exc}"
                raise

    def _advises(self) -> bool:
        """Whether this task measures the gain of a faster precision: only the first task on a GPU in float32 does."""
        is_exact = self.settings.precision == "float32" and CANDIDATE in self.encoder.precisions
        return is_exact and self.device.startswith("cuda") and self.task.index == 0

    def publish(self, result: ShardResult) -> None:
        """Publish one complete shard; the first one published is kept."""
        path = self.folder.shard(result.index, len(self.shards))
        header = self.header(result)
        write_shard(
            path,
            header,
            result.outputs,
            result.failures,
            store_dtype=self.settings.store_dtype,
            warnings=result.warnings,
        )

    def header(self, result: ShardResult) -> ShardHeader:
        """Return the header of a shard. Its own write time is known only afterwards, so `write_s` is the time spent on
        writing since the previous shard."""
        info = self.encoder.info
        write_s, self._written_s = self.timers.write_s - self._written_s, self.timers.write_s
        return ShardHeader(
            encoder=info.name,
            fingerprint=info.fingerprint,
            **info.facts(),
            plan_hash=self.identity.plan_hash,
            shard_index=result.index,
            num_shards=len(self.shards),
            software=software(),
            image_digest=os.environ.get("VOXSHARD_IMAGE_DIGEST"),
            host=files.host_name(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            audio_s=result.audio_s,
            decode_s=result.timers.wait_decode_s,
            encode_s=result.timers.encode_s,
            write_s=write_s,
            self_check=result.self_check,
            telemetry={
                "timers": result.timers.as_dict(),
                "device": self.device,
                "num_workers": self.num_workers,
                "model": dict(self.encoder.loaded),
            },
        )

    def advice(self) -> str | None:
        """Return advice for a faster extraction; None if nothing was encoded."""
        if not self.num_ok and not self.failures:
            return None
        return advice(self.timers.as_dict(), num_workers=self.num_workers, device=self.device)

    def _give_up_if_hopeless(self) -> None:
        failed = self.failures.total()
        seen = failed + self.num_ok
        too_many = failed >= EARLY_STOP_FAILURES and failed > self.config.max_failure_fraction * seen
        if seen >= EARLY_STOP_UTTERANCES and too_many:
            raise TooManyFailuresError(
                f"{failed} of this task's first {seen} utterances failed (allowed: "
                f"{self.config.max_failure_fraction:.0%}): {most_frequent(self.failures)}; what is good is kept. "
                "Look at the corpus, or allow more with --max-failure-fraction"
            )


def _require_packages(manifest: Manifest) -> None:
    """Raise an error before anything starts if recordings in buckets cannot be read here.

    Raises
    ------
    BackendUnavailableError : a package is not installed.
    """
    if audio.is_url(manifest.root):
        urls.require(manifest.root)
    paths = manifest.table["path"]
    if pa.types.is_string(paths.type):
        outside = paths.filter(pc.match_substring(paths, "://"))
        for scheme in {urls.scheme_of(url) for url in outside.to_pylist() if audio.is_url(url)}:
            urls.require(f"{scheme}://")


def _freeze(
    config: ExtractConfig,
    path: Path,
    folder: FeatureDir,
    encoder: Encoder,
    settings: EncoderSettings,
    *,
    plan_only: bool,
) -> tuple[Identity, ShardTable]:
    """Freeze a new set, or compare the rows of an existing one; the memory for the manifest is released afterwards."""
    manifest = Manifest.read(path)
    if not folder.identity.exists() and os.path.realpath(manifest.root) == os.path.realpath(folder.path):
        raise ConfigError(f"--out {folder.path}: the corpus itself; give a new folder for its features")
    if config.limit is not None:
        manifest = manifest.head(config.limit)
    if config.split is not None:
        manifest.select_split(config.split)  # names the splits that exist, before anything else happens
    _require_packages(manifest)
    device = config.device
    if device == "auto" and not plan_only and not folder.identity.exists():
        device = encoder.choose_device(device)[0]
    frozen = freeze(
        folder,
        manifest,
        encoder.info,
        source=path,
        limit=config.limit,
        num_shards=config.shards,
        itemsize=2 if settings.store_dtype == "float16" else 4,
        on_gpu=None if device == "auto" else device.startswith("cuda"),
    )
    del manifest
    pa.default_memory_pool().release_unused()
    return frozen


def most_frequent(errors: Mapping[str, int], count: int = 3) -> str:
    """Return the most frequent kinds of failure with their counts, as text."""
    return ", ".join(f"{name} x {times}" for name, times in Counter(errors).most_common(count))


@functools.cache
def software() -> Mapping[str, str]:
    """Return the versions of installed libraries on which numbers may depend; looked up once per process."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    image = image_version()
    return {**found, "image": image} if image else found


def image_version() -> str | None:
    """Return title and version of the image that this process runs in; None outside an image."""
    labels = files.image_labels()
    if labels is None:
        return None
    named = (labels.get(f"org.opencontainers.image.{key}") for key in ("title", "version"))
    return " ".join(filter(None, named)) or "unnamed"
