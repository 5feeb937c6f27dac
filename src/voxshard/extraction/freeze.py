"""The first extraction into a folder freezes what goes on in it: manifest, plan, identity. Later ones must agree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from voxshard.encoders.base import EncoderInfo, WeightFile
from voxshard.errors import IdentityError
from voxshard.extraction.plan import make_plan
from voxshard.manifest import Manifest
from voxshard.store.layout import FeatureDir, Identity, Plan


def known_hashes(folder: FeatureDir) -> Mapping[Path, tuple[WeightFile, ...]]:
    """Hashes of weights that an earlier command took for this feature set, so that tasks need not read them again."""
    if not folder.identity.exists():
        return {}
    identity = Identity.read(folder.identity)
    if identity.weights_folder is None:
        return {}
    return {Path(identity.weights_folder): tuple(WeightFile(**item) for item in identity.weight_files)}


def freeze(
    folder: FeatureDir, manifest: Manifest, info: EncoderInfo, *, num_shards: int | None, itemsize: int
) -> tuple[Identity, Plan]:
    """Publish manifest, plan and identity, or hold ours against those that are there.

    Parameters
    ----------
    num_shards : as asked for by the user; None: whatever is there, else by the amount of audio.
    itemsize : bytes per stored number.

    Raises
    ------
    ConfigError : the folder is something else, such as a run.
    IdentityError : the folder was made with other inputs; says which.
    """
    folder.check_is_feature_dir()
    if folder.identity.exists():
        plan = Plan.read(folder.plan)
        if num_shards is not None:
            wanted = make_plan(manifest, info, num_shards=num_shards, itemsize=itemsize).num_shards
            if wanted != plan.num_shards:
                raise IdentityError(
                    f"{folder.path} is cut into {plan.num_shards} shards already, --shards {num_shards} would make "
                    f"{wanted}; leave it away, or give another --out"
                )
    else:
        for path in (folder.path, folder.shards, folder.progress):
            path.mkdir(parents=True, exist_ok=True)
        if not folder.manifest.exists():
            manifest.write(folder.manifest)
        elif Manifest.read(folder.manifest).content_digest() != manifest.content_digest():
            raise IdentityError(
                f"{folder.path} was begun with another manifest, and nothing was made with it; remove that folder, or "
                "give another --out"
            )
        make_plan(manifest, info, num_shards=num_shards, itemsize=itemsize).write(folder.plan)
        plan = Plan.read(folder.plan)
    ours = _identity(manifest, info, plan)
    ours.write(folder.identity)
    identity = Identity.read(folder.identity)
    identity.check_same(ours, folder.path)
    return identity, plan


def _identity(manifest: Manifest, info: EncoderInfo, plan: Plan) -> Identity:
    return Identity(
        encoder=info.name,
        fingerprint=info.fingerprint,
        provenance=info.provenance,
        manifest_hash=manifest.content_digest(),
        plan_hash=plan.digest(),
        num_shards=plan.num_shards,
        num_utterances=len(manifest),
        granularity=info.granularity,
        dim=info.dim,
        num_layers=info.num_layers,
        sample_rate=info.sample_rate,
        frame_rate_hz=info.frame_rate_hz,
        window_s=info.window_s,
        hop_s=info.hop_s,
        weights_folder=os.fspath(info.weights_folder) if info.weights_folder else None,
        weight_files=[asdict(item) for item in info.weight_files],
    )
