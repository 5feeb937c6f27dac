"""One shard: the outputs and failures of a contiguous range of the manifest, in one HDF5 file."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from blake3 import blake3

from voxshard import files
from voxshard.errors import (
    CorruptFileError,
    FeatureMismatchError,
    IncompleteError,
    NonFiniteEmbeddingError,
)
from voxshard.files import quoted
from voxshard.store import hdf5, seal
from voxshard.store.hdf5 import BULK, PER_FRAME, Arrays, Datasets
from voxshard.store.layout import FORMAT_VERSION, text_and_ends
from voxshard.store.output_spec import OutputSpec
from voxshard.store.seal import USER_BLOCK_BYTES, Seal

StoreDtype = Literal["float32", "float16"]

_WRITE_BYTES = 8 << 20
"""Outputs are joined in pieces of about this size, so that writing needs the shard once more in memory, not twice. HDF5
copies each while it holds the interpreter's lock: the thread that launches kernels waits for 6 ms at most."""


class Failure(NamedTuple):
    """An utterance whose recording could not be embedded, and why."""

    utterance_id: str
    error: str
    """Class of the error, e.g. EmptyAudioError."""
    message: str


@dataclass(frozen=True, kw_only=True)
class ShardHeader(OutputSpec):
    """Facts about a shard, stored as attributes of its HDF5 file."""

    encoder: str
    fingerprint: str
    plan_hash: str
    shard_index: int
    num_shards: int
    software: Mapping[str, str] = field(default_factory=dict)
    """Version of each software that the outputs depend on, by name."""
    image_digest: str | None = None
    """Digest of the container image in which the shard was computed; None outside an image."""
    host: str = ""
    created: str = ""
    """Time of creation, in UTC (ISO 8601)."""
    audio_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0
    self_check: float | None = None
    """Largest deviation between an utterance encoded alone and in its batch, relative to the rms; None: not
    measured."""
    telemetry: Mapping[str, Any] = field(default_factory=dict)
    """Further counters and timers."""
    format_version: int = FORMAT_VERSION

    def attributes(self) -> dict[str, Any]:
        """Return the header as HDF5 attributes; mappings are JSON text."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: json.dumps(dict(value), sort_keys=True) if isinstance(value, Mapping) else value
            for name, value in values.items()
        }

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> ShardHeader:
        """Read a header from HDF5 attributes; unknown attributes are ignored.

        Raises
        ------
        KeyError, TypeError : an attribute without a default is missing.
        """
        known = {name: value for name, value in attributes.items() if name in cls.__dataclass_fields__}
        values = {name: value.item() if isinstance(value, np.generic) else value for name, value in known.items()}
        for name in ("software", "telemetry"):
            values[name] = json.loads(values.get(name, "{}"))
        return cls(**values)


def storable(output: Arrays, store_dtype: StoreDtype = "float32") -> dict[str, npt.NDArray[Any]]:
    """Cast one utterance's output to the type it is stored in.

    Returns
    -------
    "embedding" and "frames" as `store_dtype`, "codes" as int32.

    Raises
    ------
    NonFiniteEmbeddingError : a value is NaN or infinite, or too large for float16.
    """
    cast: dict[str, npt.NDArray[Any]] = {}
    for key, values in output.items():
        if key == "codes":
            cast[key] = np.asarray(values, np.int32)
            continue
        with np.errstate(over="ignore"):
            cast[key] = np.asarray(values, store_dtype)
        if not np.isfinite(cast[key]).all():
            bad = int(np.count_nonzero(~np.isfinite(cast[key])))
            if np.isfinite(values).all():
                why = f"too large for {store_dtype} (at most {np.finfo(store_dtype).max:g}); store float32"
            else:
                why = "NaN or infinite"
            raise NonFiniteEmbeddingError(f"{key}: {bad} of {cast[key].size} values are {why}")
    return cast


def write_shard(
    path: Path,
    header: ShardHeader,
    outputs: Sequence[tuple[str, Arrays]],
    failures: Sequence[Failure],
    *,
    store_dtype: StoreDtype = "float32",
    replace: bool = False,
    warnings: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Build a shard in memory and publish it.

    Parameters
    ----------
    path : DIR/shards/shard-....h5; its folder is made if need be.
    outputs : (utterance_id, output) in manifest order, all with the same keys; see `hdf5.Arrays` for shapes.
    failures : the other utterances of this shard, in manifest order.
    replace : put it in place of a shard that exists; by default the first one published stays.
    warnings : utterance_id -> what is odd about a recording that was decoded.

    Returns
    -------
    Bytes written.

    Raises
    ------
    NonFiniteEmbeddingError : see `storable`, which callers apply first so as to turn it into a failure.
    FeatureMismatchError : an output whose keys or shape are not what the header promises.
    StorageFullError : nothing is published.
    """
    image = io.BytesIO()
    with hdf5.writing(image) as file:
        hdf5.write_attributes(file, header.attributes())
        hdf5.write_texts(file, "utterance_id", [name for name, _ in outputs])
        hdf5.write_failures(file, failures)
        hdf5.write_warnings(file, warnings)
        _write_outputs(file, header, outputs, store_dtype)
        datasets = hdf5.datasets_of(file, (*BULK.values(), "offsets"))
    facts = facts_of(header, [name for name, _ in outputs], failures, datasets, warnings)
    ranges = [hdf5.range_of(datasets[name]) for name in BULK.values() if name in datasets]
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    with image.getbuffer() as content:
        block, table = seal.seal_bytes(content, "shard", sorted(item for item in ranges if item[1]), facts)
        with files.publish(path, first_wins=not replace) as stream:
            stream.write(block)
            stream.write(content[USER_BLOCK_BYTES:])
            stream.write(table)
        return len(content) + len(table)


def facts_of(
    header: ShardHeader,
    ids: Sequence[str],
    failures: Sequence[Failure],
    datasets: Datasets,
    warnings: Mapping[str, str],
) -> dict[str, Any]:
    """Return the facts that the seal of a shard records, so that merge need not open it as HDF5."""
    return {
        "header": {name: value for name, value in header.attributes().items() if value is not None},
        "num_rows": len(ids),
        "ids": ids_digest(pa.array(ids, pa.string())),
        "failures": [[name, error, hdf5.readable(message)] for name, error, message in failures],
        "datasets": {name: [list(shape), dtype.str, at] for name, (shape, dtype, at) in datasets.items()},
        **({"warnings": {name: hdf5.readable(text) for name, text in warnings.items()}} if warnings else {}),
    }


def ids_digest(ids: pa.Array) -> str:
    """Return the BLAKE3 digest (hex) of utterance_ids (N,) in their order: of their lengths in bytes and their text."""
    text, ends = text_and_ends(ids)
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    state = blake3(lengths.tobytes())
    state.update(text.data)
    return state.hexdigest()


def _write_outputs(
    file: h5py.File, header: ShardHeader, outputs: Sequence[tuple[str, Arrays]], store_dtype: StoreDtype
) -> None:
    keys = set(outputs[0][1]) if outputs else {"embedding"} if header.granularity == "utterance" else {"frames"}
    lengths = np.zeros(len(outputs), np.int64)
    shapes = {key: outputs[0][1][key].shape[1:] if key == "codes" else header.row_shape for key in keys}
    for row, (name, output) in enumerate(outputs):
        _check_output(name, output, shapes, header)
        lengths[row] = next((len(output[key]) for key in PER_FRAME if key in keys), 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if keys & set(PER_FRAME):
        file.create_dataset("offsets", data=offsets)
    for key, dataset_name in BULK.items():
        if key in keys:
            rows = int(offsets[-1]) if key in PER_FRAME else len(outputs)
            dtype = "int32" if key == "codes" else store_dtype
            dataset = hdf5.reserve(file, dataset_name, (rows, *shapes[key]), dtype)
            _fill(dataset, (storable({key: output[key]}, store_dtype)[key] for _, output in outputs), key)


def _check_output(name: str, output: Arrays, shapes: Mapping[str, tuple[int, ...]], header: ShardHeader) -> None:
    if set(output) != set(shapes) or not set(shapes) <= set(BULK):
        raise FeatureMismatchError(
            f"{name}: gave {sorted(output)}, its shard holds {sorted(shapes)}; known are {list(BULK)}"
        )
    for key, values in output.items():
        row = values.shape[1:] if key in PER_FRAME else values.shape
        is_wrong = row != shapes[key] or (key in PER_FRAME and values.ndim == 0) or (key == "codes" and len(row) > 1)
        if is_wrong:
            wanted = ("T", *shapes[key]) if key in PER_FRAME else shapes[key]
            raise FeatureMismatchError(f"{name}: {key} of shape {values.shape}, {header.encoder} promises {wanted}")
    lengths = {len(output[key]) for key in PER_FRAME if key in output}
    if len(lengths) > 1:
        raise FeatureMismatchError(f"{name}: {len(output['frames'])} frames but {len(output['codes'])} codes")


def _fill(dataset: h5py.Dataset, arrays: Iterator[npt.NDArray[Any]], key: str) -> None:
    pending: list[npt.NDArray[Any]] = []
    at = size = 0

    def flush() -> None:
        nonlocal at, size
        if pending:
            block = np.concatenate(pending)
            dataset[at : at + len(block)] = block
            at += len(block)
            pending.clear()
            size = 0

    for array in arrays:
        pending.append(array if key in PER_FRAME else array[np.newaxis])
        size += array.nbytes
        if size >= _WRITE_BYTES:
            flush()
    flush()


@dataclass(frozen=True)
class Shard:
    """Content of one shard; its arrays are read on demand."""

    path: Path
    header: ShardHeader
    ids: list[str]
    """The utterance_id of each row, in manifest order."""
    failures: list[Failure]
    datasets: Datasets
    """Position of each array; includes `offsets` if there are frames."""
    warnings: Mapping[str, str]
    """Warnings about decoded recordings, by utterance_id."""

    def read(self, dataset: str) -> npt.NDArray[Any]:
        """Read one complete dataset: `embeddings`, `frames`, `codes` or `offsets`."""
        with hdf5.reading(self.path) as file:
            values: npt.NDArray[Any] = file[dataset][...]
        return values

    def outputs(self) -> list[tuple[str, dict[str, npt.NDArray[Any]]]]:
        """Read all outputs into memory, as (utterance_id, output) pairs that `write_shard` accepts."""
        bulk = {key: self.read(name) for key, name in BULK.items() if name in self.datasets}
        offsets = self.read("offsets") if "offsets" in self.datasets else None
        result = []
        for row, name in enumerate(self.ids):
            output = {}
            for key, values in bulk.items():
                if offsets is None or key not in PER_FRAME:
                    output[key] = values[row]
                else:
                    output[key] = values[offsets[row] : offsets[row + 1]]
            result.append((name, output))
        return result


@dataclass(frozen=True)
class ShardSummary:
    """The facts about one shard that merge needs; only its failures take memory per utterance."""

    path: Path
    seal: Seal
    header: ShardHeader
    num_rows: int
    ids: str
    """Result of `ids_digest` for its rows."""
    failures: Sequence[Failure]
    datasets: Datasets
    warnings: Mapping[str, str]

    @property
    def num_frames(self) -> int:
        return next((self.datasets[name][0][0] for name in PER_FRAME if name in self.datasets), 0)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Read the number of frames or windows of each row, (N,), and check the bytes against the seal.

        Raises
        ------
        CorruptFileError : damaged, or they do not add up to the rows of the arrays.
        """
        shape, dtype, at = self.datasets["offsets"]
        with open(files.open_to_read(self.path), "rb", buffering=0) as stream:
            self.seal.check(stream.fileno(), self.seal.blocks_of(at, at + shape[0] * dtype.itemsize))
            offsets = np.frombuffer(os.pread(stream.fileno(), shape[0] * dtype.itemsize, at), dtype)
        lengths = np.diff(offsets)
        if len(lengths) != self.num_rows or offsets[0] != 0 or offsets[-1] != self.num_frames or (lengths < 0).any():
            raise CorruptFileError(f"{self.path}: /offsets does not start at 0 and rise to the number of frames")
        return lengths.astype(np.int64)


def summarize_shard(path: Path) -> ShardSummary:
    """Read the facts in a shard's seal; a shard of format 1 is opened as HDF5 instead.

    Raises
    ------
    IncompleteError, CorruptFileError, FormatVersionError : see `read_shard`.
    """
    try:
        found = seal.read_seal(path, "shard")
    except FileNotFoundError as exc:
        raise _no_such_shard(path) from exc
    if found.version == 1:
        shard = read_shard(path)
        ids = ids_digest(pa.array(shard.ids, pa.string()))
        return ShardSummary(path, found, shard.header, len(shard.ids), ids, shard.failures, shard.datasets, {})
    facts = found.facts
    try:
        return ShardSummary(
            path,
            found,
            ShardHeader.of(facts["header"]),
            int(facts["num_rows"]),
            str(facts["ids"]),
            [Failure(*item) for item in facts["failures"]],
            {name: (tuple(shape), np.dtype(dtype), at) for name, (shape, dtype, at) in facts["datasets"].items()},
            dict(facts.get("warnings", {})),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise CorruptFileError(f"{path}: not what the table of a shard holds: {exc!r}") from exc


def _no_such_shard(path: Path) -> IncompleteError:
    return IncompleteError(f"{path}: no such shard; run `voxshard retry {quoted(path.parent.parent)}`")


def read_shard(path: Path) -> Shard:
    """Open a shard without checking its seal.

    Raises
    ------
    IncompleteError : there is no such shard.
    CorruptFileError : truncated, or not a shard.
    FormatVersionError : written by a newer voxshard.
    """
    try:
        seal.read_digest(path, "shard")
    except FileNotFoundError as exc:
        raise _no_such_shard(path) from exc
    with hdf5.reading(path) as file:
        version = int(file.attrs["format_version"])
        if version > FORMAT_VERSION:
            raise seal.newer_format(path, version)
        try:
            header = ShardHeader.of(dict(file.attrs))
            ids = hdf5.read_texts(file, "utterance_id")
            failures = [Failure(*(text.decode() for text in row)) for row in file["failures"][:]]
            warnings = hdf5.read_warnings(file)
        except (TypeError, ValueError) as exc:
            raise CorruptFileError(f"{path}: not what a shard holds: {exc}") from exc
        datasets = hdf5.datasets_of(file, (*BULK.values(), "offsets"))
        shard = Shard(path, header, ids, failures, datasets, warnings)
        _check_rows(shard, file["offsets"][:] if "offsets" in file else None)
    return shard


def _check_rows(shard: Shard, offsets: npt.NDArray[np.int64] | None) -> None:
    rows = len(shard.ids)
    sizes = {name: shape[0] for name, (shape, _, _) in shard.datasets.items()}
    for name, size in sizes.items():
        wanted = (
            rows + 1 if name == "offsets" else rows if name == "embeddings" or offsets is None else int(offsets[-1])
        )
        if size != wanted:
            raise CorruptFileError(f"{shard.path}: /{name} has {size} rows, /utterance_id calls for {wanted}")
    if offsets is not None and (offsets[0] != 0 or (np.diff(offsets) < 0).any()):
        raise CorruptFileError(f"{shard.path}: /offsets does not start at 0 and rise")
