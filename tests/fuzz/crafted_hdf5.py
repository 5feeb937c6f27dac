"""Merged files that are sealed correctly and hold datasets that voxshard never writes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fuzz import odd
from voxshard import files
from voxshard.store import hdf5, merged, seal
from voxshard.store.layout import FeatureDir

Craft = Callable[[Path], None]
DATASETS = ("embeddings", "id_hash", "id_row", "id_text", "id_text_offsets")


def crafted() -> Iterator[tuple[str, Craft]]:
    """Names and functions that change a features.h5 in place."""
    for name in DATASETS:
        yield (
            f"{name} chunked",
            _replaced(name, lambda file, name, data: file.create_dataset(name, data=data, chunks=True)),
        )
        yield f"{name} virtual", _replaced(name, _virtual)
        yield f"{name} external", _replaced(name, _external)
        yield f"{name} a group", _replaced(name, lambda file, name, data: file.create_group(name))
        yield (
            f"{name} of another type",
            _replaced(name, lambda file, name, data: file.create_dataset(name, data=data.astype(complex))),
        )
        yield f"{name} shorter", _replaced(name, lambda file, name, data: file.create_dataset(name, data=data[:-1]))
    big, swapped = ("compressed", {"chunks": True, "compression": "gzip"}), ("big-endian", {})
    for name in DATASETS[:2]:
        yield (
            f"{name} {big[0]}",
            _replaced(name, lambda file, name, data: file.create_dataset(name, data=data, **big[1])),
        )
        yield (
            f"{name} {swapped[0]}",
            _replaced(
                name, lambda file, name, data: file.create_dataset(name, data=data.astype(data.dtype.newbyteorder(">")))
            ),
        )
        yield f"{name} a link to another file", _replaced(name, _external_link)
    yield (
        "embeddings with NaN",
        _replaced("embeddings", lambda file, name, data: file.create_dataset(name, data=np.full_like(data, np.nan))),
    )
    yield (
        "embeddings of other width",
        _replaced("embeddings", lambda file, name, data: file.create_dataset(name, data=data[:, :3])),
    )
    yield (
        "embeddings a table of texts",
        _replaced("embeddings", lambda file, name, data: file.create_dataset(name, data=["x"] * 24)),
    )
    yield (
        "embeddings in four dimensions",
        _replaced("embeddings", lambda file, name, data: file.create_dataset(name, data=data[None, None])),
    )


def _replaced(name: str, make: Callable[[h5py.File, str, Any], Any]) -> Craft:
    def craft(path: Path) -> None:
        changed = path.with_suffix(".new")
        with h5py.File(path, "r", locking=False) as old, hdf5.writing(changed) as new:
            for key, value in old.attrs.items():
                new.attrs[key] = value
            for key in old:
                if key == name:
                    make(new, key, old[key][()])
                else:
                    old.copy(key, new)
        digest = files.sha256_of(changed, start=seal.USER_BLOCK_BYTES)
        with open(changed, "r+b") as stream:
            stream.write(f"voxshard features 1\nsha256 {digest}\n".encode().ljust(seal.USER_BLOCK_BYTES, b"\0"))
        shutil.move(changed, path)
        _record(path, digest)

    return craft


def with_changed_facts(path: Path, rng: random.Random) -> None:
    """Change what the seal says about the content of a features.h5, in place, and seal it again."""
    with_facts(path, lambda facts: odd.changed(facts, rng))


def with_facts(path: Path, change: Callable[[Any], Any]) -> None:
    """Replace what the seal says about the content of a features.h5, and seal it again."""
    found = seal.read_seal(path, "features")
    facts = change(json.loads(json.dumps(found.facts)))
    digests = [digest.tobytes() for digest in found.digests]
    block, table = seal.user_block_and_table("features", found.content_stop, found.stops.tolist(), digests, facts)
    content = path.read_bytes()[seal.USER_BLOCK_BYTES : found.content_stop]
    path.write_bytes(block + content + table)
    _record(path, seal.read_digest(path, "features"))


def _record(path: Path, digest: str) -> None:
    """Make the summary name a changed features.h5 as the one it belongs to."""
    folder = FeatureDir(path.parent)
    summary = merged.read_summary(folder)
    assert summary is not None
    summary["files"][path.name]["digest"] = digest
    merged.write_summary(folder, summary)


def _virtual(file: h5py.File, name: str, data: Any) -> None:
    layout = h5py.VirtualLayout(shape=data.shape, dtype=data.dtype)
    layout[...] = h5py.VirtualSource("nowhere.h5", "x", shape=data.shape)
    file.create_virtual_dataset(name, layout)


def _external(file: h5py.File, name: str, data: Any) -> None:
    file.create_dataset(name, shape=data.shape, dtype=data.dtype, external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def _external_link(file: h5py.File, name: str, data: Any) -> None:
    file[name] = h5py.ExternalLink("/etc/hostname", "/x")
