"""The first extraction into a folder freezes its inputs: manifest, plan, identity. Later ones must agree."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from voxshard import files
from voxshard.encoders.base import EncoderInfo, WeightFile
from voxshard.errors import IdentityError
from voxshard.extraction.plan import make_plan
from voxshard.manifest import Manifest
from voxshard.store.layout import FeatureDir, Identity, Plan
from voxshard.store.shard_table import ShardTable, plan_footer


def known_hashes(folder: FeatureDir) -> Mapping[Path, tuple[WeightFile, ...]]:
    """Return the hashes of weights that an earlier command computed for this feature set."""
    if not folder.identity.exists():
        return {}
    identity = Identity.read(folder.identity)
    if identity.weights_folder is None:
        return {}
    return {Path(identity.weights_folder): tuple(WeightFile(**item) for item in identity.weight_files)}


def reopen(
    folder: FeatureDir, manifest: Path, info: EncoderInfo, *, limit: int | None, num_shards: int | None
) -> tuple[Identity, ShardTable] | None:
    """Open a frozen feature set without reading the rows of manifest and plan.

    Parameters
    ----------
    limit, num_shards : as asked for by the user: only the first rows of the manifest, and the shards to cut them into.

    Returns
    -------
    None if the identity alone cannot decide it: the manifest is another file than the one it was frozen with, or the
    other arguments are others.

    Raises
    ------
    IdentityError : the encoder or its settings are others.
    """
    if not folder.identity.exists():
        return None
    identity = Identity.read(folder.identity)
    if limit != identity.manifest_limit or num_shards not in (None, identity.shards_asked):
        return None
    if not _is_source(manifest, identity.manifest_source):
        return None
    shards = ShardTable.read(folder, identity)
    ours = _identity(info, identity.manifest_hash, identity.plan_hash, len(shards), identity.num_utterances)
    identity.check_same(ours, folder.path)
    return identity, shards


def freeze(
    folder: FeatureDir,
    manifest: Manifest,
    info: EncoderInfo,
    *,
    source: Path,
    limit: int | None,
    num_shards: int | None,
    itemsize: int,
    on_gpu: bool | None = None,
) -> tuple[Identity, ShardTable]:
    """Publish manifest, plan and identity, or validate ours against those that exist.

    Parameters
    ----------
    source, limit : the file that `manifest` was read from, and the number of its first rows; None: all.
    num_shards : as asked for by the user; None: whatever the existing plan has, else by the amount of audio.
    itemsize : bytes per stored number.
    on_gpu : see `make_plan`.

    Raises
    ------
    ConfigError : the folder is something else, such as a run.
    IdentityError : the folder was made with other inputs; reports which.
    """
    folder.check_is_feature_dir()
    manifest_hash = manifest.content_digest()
    options: dict[str, Any] = {"itemsize": itemsize, "on_gpu": on_gpu}
    if folder.identity.exists():
        plan = Plan.read(folder.plan)
        wanted = None if num_shards is None else make_plan(manifest, info, num_shards=num_shards, **options)
    else:
        for path in (folder.path, folder.shards, folder.progress):
            path.mkdir(parents=True, exist_ok=True)
        _publish_manifest(folder, manifest, manifest_hash)
        wanted = make_plan(manifest, info, num_shards=num_shards, **options)
        wanted.write(folder.plan, ShardTable.of(wanted, manifest).to_json())
        plan = Plan.read(folder.plan)  # of whichever extraction was first
    if num_shards is not None and wanted is not None and wanted.num_shards != plan.num_shards:
        raise IdentityError(
            f"{folder.path} is cut into {plan.num_shards} shards already, --shards {num_shards} would make "
            f"{wanted.num_shards}; omit it, or give another --out"
        )
    ours = replace(
        _identity(info, manifest_hash, plan.digest(), plan.num_shards, len(manifest)),
        manifest_source=_facts_of(source),
        manifest_limit=limit,
        shards_asked=num_shards,
        manifest_file=files.sha256_of(folder.manifest),
        plan_file=files.sha256_of(folder.plan),
        shard_table=hashlib.sha256(plan_footer(folder.plan)).hexdigest(),
    )
    ours.write(folder.identity)
    identity = Identity.read(folder.identity)
    identity.check_same(ours, folder.path)
    return identity, ShardTable.read(folder, identity)


def _publish_manifest(folder: FeatureDir, manifest: Manifest, manifest_hash: str) -> None:
    """Publish the manifest, unless one with the same recordings already exists."""
    content = manifest.to_parquet()
    if not folder.manifest.exists():
        files.publish_bytes(folder.manifest, content, first_wins=True)
    if files.sha256_of(folder.manifest) == hashlib.sha256(content).hexdigest():
        return
    if Manifest.read(folder.manifest).content_digest() != manifest_hash:
        raise IdentityError(
            f"{folder.path} was begun with another manifest, and nothing was made with it; remove that folder, or "
            "give another --out"
        )


def _facts_of(path: Path) -> dict[str, Any]:
    about = path.stat()
    return {"num_bytes": about.st_size, "mtime_ns": about.st_mtime_ns, "sha256": files.sha256_of(path)}


def _is_source(path: Path, wanted: Mapping[str, Any] | None) -> bool:
    """Whether a set was frozen with this manifest file: same size and time, or else the same bytes."""
    if wanted is None:
        return False
    try:
        about = path.stat()
    except OSError:
        return False
    if about.st_size != wanted["num_bytes"]:
        return False
    return bool(about.st_mtime_ns == wanted["mtime_ns"] or files.sha256_of(path) == wanted["sha256"])


def _identity(info: EncoderInfo, manifest_hash: str, plan_hash: str, num_shards: int, num_utterances: int) -> Identity:
    return Identity(
        encoder=info.name,
        fingerprint=info.fingerprint,
        provenance=info.provenance,
        manifest_hash=manifest_hash,
        plan_hash=plan_hash,
        num_shards=num_shards,
        num_utterances=num_utterances,
        **info.facts(),
        weights_folder=os.fspath(info.weights_folder) if info.weights_folder else None,
        weight_files=[asdict(item) for item in info.weight_files],
    )
