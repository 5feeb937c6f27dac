"""Conversion of other programs' features into a merged feature set, with the same files and the same accounting."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from voxshard import files
from voxshard.config import Settings
from voxshard.errors import ConfigError, DuplicateIdError, FeatureMismatchError, ManifestError, NonFiniteEmbeddingError
from voxshard.locations import AnyLocation, LocalPath, Url, local_copy, parse
from voxshard.manifest import COLUMNS, Manifest
from voxshard.progress import Progress, counted
from voxshard.store import merged
from voxshard.store.foreign import open_foreign
from voxshard.store.foreign_base import ForeignFile
from voxshard.store.hdf5 import BULK, PER_FRAME, Arrays
from voxshard.store.inventory import NO_SPLIT
from voxshard.store.layout import FORMAT_VERSION, FeatureDir, Identity
from voxshard.store.merge_ledger import summary_of, totals_of
from voxshard.store.merged import Content
from voxshard.store.shard import Failure, StoreDtype, storable

ENCODER = "ingest"
"""Stands where the name of the encoder would."""

_BLOCK_BYTES = 8 << 20
_NOT_KEPT = {"utterance_id", "embedding_idx", "merge_id", *merged.FRAME_COLUMNS}


class IngestConfig(Settings):
    """Settings of one ingestion."""

    inputs: tuple[str, ...]
    """Files to read, each given as FILE or SPLIT=FILE."""
    out: LocalPath
    """Folder of the feature set (DIR)."""


@dataclass(frozen=True)
class _Survey:
    """Results of reading all files once."""

    ids: list[str]
    of_file: npt.NDArray[np.int32]
    """(rows,) index of the file that each utterance comes from."""
    lengths: npt.NDArray[np.int64]
    """(rows,) number of frames or windows of each utterance."""
    failures: list[Failure]
    failed: npt.NDArray[np.bool_]
    keys: Sequence[str]
    row_shape: tuple[int, ...]
    codes_shape: tuple[int, ...]
    """Shape of one frame's codes: () for one codebook, (K,) for several."""
    store_dtype: StoreDtype
    num_zero: int


def ingest(config: IngestConfig, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
    """Read every file twice, first to inspect and then to copy it, and publish a merged feature set.

    Utterances with NaN or infinite values become failures. Nothing is ever unpickled.

    Parameters
    ----------
    check : called now and then; raises if a stop was requested.

    Returns
    -------
    What is in summary.json.

    Raises
    ------
    ConfigError : no file, or `out` is something else than a feature set, such as a run.
    DuplicateIdError : an id is in two places; names both files.
    FeatureMismatchError : files that do not hold the same kind of features.
    IdentityError : the folder holds other features already.
    ManifestError, CorruptFileError : see `store.foreign.open_foreign`.
    """
    named = [_split_and_path(text) for text in config.inputs]
    if not named:
        raise ConfigError("ingest: no file given")
    folder = FeatureDir(config.out)
    folder.check_is_feature_dir(folder.manifest)
    sources = [open_foreign(path) for _, path in named]
    kinds = {source.granularity for source in sources}
    if len(kinds) > 1:
        raise FeatureMismatchError(f"files with {' and '.join(sorted(kinds))} cannot be in one set; ingest them apart")
    survey = _survey(sources, progress, check)
    manifest = _manifest(sources, [split for split, _ in named], survey)
    identity = _identity(sources, named, survey, manifest)
    folder.path.mkdir(parents=True, exist_ok=True)
    if folder.identity.exists():
        Identity.read(folder.identity).check_same(identity, folder.path)
    identity.write(folder.identity)  # first: one that is killed after it can be run again
    manifest.write(folder.manifest)
    ok = pa.array(~survey.failed)
    lengths = survey.lengths[~survey.failed]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64) if _is_framewise(survey) else None
    utterances = manifest.table.filter(ok)
    ids = utterances["utterance_id"].combine_chunks()
    bulk = _bulk(survey, offsets)
    if offsets is not None:
        for name, values in zip(merged.FRAME_COLUMNS, (offsets[:-1], lengths), strict=True):
            utterances = utterances.append_column(name, pa.array(values))
    progress.begin("ingest", items=len(lengths))

    def fill(descriptor: int, places: Mapping[str, int]) -> dict[str, merged.Blocks]:
        filled = {}
        for number, key in enumerate(key for key in BULK if key in survey.keys):
            shape, dtype = bulk[BULK[key]]
            num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            copy = _Copy(sources, survey, key, progress if number == 0 else None, check)
            filled[BULK[key]] = merged.write_stream(descriptor, places[BULK[key]], num_bytes, copy())
        return filled

    content = Content(
        attributes=_attributes(identity, survey),
        num_rows=len(ids),
        num_id_bytes=pc.sum(pc.binary_length(ids)).as_py() or 0,
        ids=lambda: iter([ids]),
        failures=survey.failures,
        warnings={},
        offsets=offsets,
        shards={},
        bulk=bulk,
        fill=fill,
    )
    summary = _summary(identity, survey, manifest)
    result = merged.publish_set(folder, content, [utterances], _failure_rows(manifest, survey), summary)
    if survey.num_zero:
        progress.note(
            f"{survey.num_zero} of {len(survey.ids)} utterances are nothing but zeros: "
            "some programs write these for recordings that failed"
        )
    return result


def _split_and_path(text: str) -> tuple[str | None, Path]:
    split, equals, path = text.partition("=")
    if not equals or isinstance(parse(text), Url) or Path(text).exists():
        return None, _local(parse(text))
    if not split or not path:
        raise ConfigError(f"{text}: expected FILE or SPLIT=FILE")
    return split, _local(parse(path))


def _local(place: AnyLocation) -> Path:
    """Return a local path; from a bucket, the complete folder is copied, because ids and checksums are in it."""
    if isinstance(place, Path):
        return place
    folder, _, name = place.rpartition("/")
    return local_copy(Url(folder)) / name


def _survey(sources: Sequence[ForeignFile], progress: Progress, check: Callable[[], None]) -> _Survey:
    ids: list[str] = []
    of_file, lengths, failed = [], [], []
    failures: list[Failure] = []
    keys: list[str] = []
    row_shape: tuple[int, ...] | None = None
    codes_shape: tuple[int, ...] = ()
    dtypes: set[np.dtype[Any]] = set()
    num_zero = 0
    progress.begin("look through the files")
    for number, source in enumerate(sources):
        for name, output in source.items():
            main = next(iter(output.values()))
            shape = main.shape if "embedding" in output else main.shape[1:]
            if row_shape is None:
                keys, row_shape = list(output), shape
                codes_shape = output["codes"].shape[1:] if "codes" in output else ()
            if list(output) != keys or shape != row_shape or len(shape) not in (1, 2) or 0 in shape:
                raise FeatureMismatchError(
                    f"{source.path}: {name!r} has {' and '.join(output)} of {shape}, the first utterance "
                    f"{' and '.join(keys)} of {row_shape}; (D,) or (L, D) is wanted, everywhere the same"
                )
            ids.append(name)
            of_file.append(number)
            lengths.append(len(main) if "frames" in output else 1)
            dtypes.add(main.dtype)
            num_zero += not main.any()
            failure = _failure(name, output)
            failed.append(failure is not None)
            failures += [failure] if failure else []
            if len(ids) % 1024 == 0:
                check()
                progress.advance(1024)
    progress.advance(len(ids) % 1024)
    _check_unique(ids, of_file, sources)
    if row_shape is None:
        raise ManifestError(f"{', '.join(str(source.path) for source in sources)}: no utterances in it")
    return _Survey(
        ids,
        np.array(of_file, np.int32),
        np.array(lengths, np.int64),
        failures,
        np.array(failed, np.bool_),
        keys,
        row_shape,
        codes_shape,
        "float16" if dtypes == {np.dtype(np.float16)} else "float32",
        num_zero,
    )


def _failure(name: str, output: Arrays) -> Failure | None:
    try:
        storable(output)
    except NonFiniteEmbeddingError as exc:
        return Failure(name, type(exc).__name__, str(exc))
    return None


def _check_unique(ids: Sequence[str], of_file: Sequence[int], sources: Sequence[ForeignFile]) -> None:
    seen: dict[str, int] = {}
    for name, number in zip(ids, of_file, strict=True):
        if "\0" in name:
            raise ManifestError(f"{sources[number].path}: utterance {name!r}: an id cannot hold NUL")
        if name in seen:
            raise DuplicateIdError(
                f"utterance {name!r} is in {sources[seen[name]].path} and again in {sources[number].path}; "
                "ids must be unique"
            )
        seen[name] = number


def _manifest(sources: Sequence[ForeignFile], splits: Sequence[str | None], survey: _Survey) -> Manifest:
    tables, start = [], 0
    for number, (source, split) in enumerate(zip(sources, splits, strict=True)):
        count = int((survey.of_file == number).sum())
        columns = {name: column for name, column in source.columns.items() if name not in _NOT_KEPT}
        if split is not None:
            columns["split"] = pa.array([split] * count)
        ids = pa.array(survey.ids[start : start + count], pa.string())
        columns = {"utterance_id": ids, "path": columns.pop("path", ids), **columns}
        tables.append(pa.table({name: _as_in_manifest(source, name, column) for name, column in columns.items()}))
        start += count
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as exc:
        raise FeatureMismatchError(f"the files' columns do not fit together: {exc}") from exc
    for name, kind in COLUMNS.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), kind))
    rest = [name for name in table.column_names if name not in COLUMNS]
    return Manifest(table.select([*COLUMNS, *rest]), os.fspath(sources[0].path.resolve().parent), ENCODER)


def _as_in_manifest(source: ForeignFile, name: str, column: pa.Array) -> pa.Array:
    wanted = COLUMNS.get(name)
    if pa.types.is_null(column.type):
        wanted = wanted or pa.string()
    if wanted is None or (name == "path" and pa.types.is_binary(column.type)):
        return column
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise ManifestError(f"{source.path}: column {name}: {exc}; {wanted} is wanted") from exc


def _identity(
    sources: Sequence[ForeignFile], named: Sequence[tuple[str | None, Path]], survey: _Survey, manifest: Manifest
) -> Identity:
    content = [{"name": path.name, "split": split, "sha256": files.sha256_of(path)} for split, path in named]
    provenance = {"encoder": ENCODER, "files": content, "granularity": sources[0].granularity}
    fingerprint = files.digest_of(provenance)
    return Identity(
        encoder=ENCODER,
        fingerprint=fingerprint,
        provenance=provenance,
        manifest_hash=manifest.content_digest(),
        plan_hash=files.digest_of([]),
        num_shards=0,
        num_utterances=len(manifest),
        granularity=sources[0].granularity,
        dim=survey.row_shape[-1],
        num_layers=survey.row_shape[0] if len(survey.row_shape) == 2 else None,
        sample_rate=0,
        weights_folder=None,
        weight_files=(),
    )


def _is_framewise(survey: _Survey) -> bool:
    return bool(set(survey.keys) & set(PER_FRAME))


def _attributes(identity: Identity, survey: _Survey) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "merge_id": files.digest_of([FORMAT_VERSION, identity.fingerprint, identity.manifest_hash]),
        "mode": "packed",
        "encoder": ENCODER,
        "fingerprint": identity.fingerprint,
        "plan_hash": identity.plan_hash,
        **identity.facts(),
        "software": f'{{"voxshard": ["{version("voxshard")}"]}}',
    }


def _bulk(survey: _Survey, offsets: npt.NDArray[np.int64] | None) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    num_rows = int((~survey.failed).sum()) if offsets is None else int(offsets[-1])
    return {
        BULK[key]: (
            (num_rows, *(survey.codes_shape if key == "codes" else survey.row_shape)),
            np.dtype(np.int32 if key == "codes" else survey.store_dtype),
        )
        for key in BULK
        if key in survey.keys
    }


@dataclass(frozen=True)
class _Copy:
    """Iterator over the bytes of one dataset, utterance by utterance."""

    sources: Sequence[ForeignFile]
    survey: _Survey
    key: str
    progress: Progress | None
    check: Callable[[], None]

    def __call__(self) -> Iterator[bytes]:
        pending: list[bytes] = []
        size = 0
        row = 0
        for source in self.sources:
            for _, output in source.items():
                if not self.survey.failed[row]:
                    pending.append(storable(output, self.survey.store_dtype)[self.key].tobytes())
                    size += len(pending[-1])
                row += 1
                if size >= _BLOCK_BYTES:
                    self.check()
                    yield b"".join(pending)
                    self._advance(len(pending))
                    pending, size = [], 0
        yield b"".join(pending)
        self._advance(len(pending))

    def _advance(self, count: int) -> None:
        if self.progress:
            self.progress.advance(count)


def _failure_rows(manifest: Manifest, survey: _Survey) -> Iterator[dict[str, Any]]:
    table = manifest.table.filter(pa.array(survey.failed)).select(["path", "split"])
    for failure, about in zip(survey.failures, table.to_pylist(), strict=True):
        yield {**failure._asdict(), "path": about["path"], "split": about["split"]}


def _summary(identity: Identity, survey: _Survey, manifest: Manifest) -> dict[str, Any]:
    column = pc.fill_null(manifest.table["split"], NO_SPLIT)
    total, failed = (Counter(values.to_pylist()) for values in (column, column.filter(pa.array(survey.failed))))
    return summary_of(
        identity,
        mode="packed",
        labels=None,
        splits={name: {"ok": total[name] - failed[name], "failed": failed[name]} for name in total},
        failures=survey.failures,
        num_warnings=0,
        shards={"total": 0, "merged": 0, "pending": 0, "missing": []},
        totals={**totals_of([]), "software": {"voxshard": [version("voxshard")]}},
        warnings=[f"nothing but zeros: {counted(survey.num_zero, 'utterance')}"] if survey.num_zero else [],
    )
