"""Check, without any framework, that an encoder's weights exist and are intact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxshard import files
from voxshard.encoders import registry
from voxshard.encoders.weight_files import NOT_FETCHED, locate
from voxshard.errors import MissingWeightsError, VoxshardError
from voxshard.store.layout import Identity
from voxshard.weights.catalogue import known_sets
from voxshard.weights.fetch import read_record

Verdict = Literal["PASS", "WARN", "FAIL"]


@dataclass(frozen=True)
class Known:
    """Expected digest of a file."""

    sha256: str
    num_bytes: int | None
    source: Literal["identity", "record", "catalogue"]
    """Frozen by this experiment, written by `voxshard weights fetch`, or published."""


@dataclass(frozen=True)
class WeightsCheck:
    """Result of the check of one encoder's weights."""

    verdict: Verdict
    message: str
    remedy: str = ""


def check(encoder: str, given: str | None, identity: Identity | None, *, read: bool) -> WeightsCheck:
    """Check the weights of one encoder.

    Parameters
    ----------
    given : its setting `weights`.
    identity : of the feature set that is extracted with them, if its extraction has begun.
    read : hash every file whose digest is known; otherwise check only existence and size.
    """
    name = encoder if encoder != "hf" else f"hf/{given or 'ORG/NAME'}"
    fetch = NOT_FETCHED.get(encoder, f"voxshard weights fetch {name}")
    try:
        place = locate(encoder, given)
        needed = _files(encoder, place)
        result = _compare(place, needed, _known(identity, encoder, place), read=read)
    except VoxshardError as exc:
        return WeightsCheck("FAIL", str(exc), fetch)
    if result.verdict == "PASS" or result.remedy:
        return result
    return WeightsCheck(result.verdict, result.message, fetch)


def _files(encoder: str, place: Path) -> list[str]:
    """Return the names, relative to `place`, of the files that loading the encoder opens.

    Raises
    ------
    MissingWeightsError : some do not exist, or are empty.
    """
    names = [""] if place.is_file() else registry.settings_model(encoder).weight_files(place)
    bad = [name for name in names if not (place / name).is_file() or (place / name).stat().st_size == 0]
    if bad or not names:
        raise MissingWeightsError(f"{place}: missing or empty: {', '.join(bad) or 'everything'}")
    return names


def _known(identity: Identity | None, encoder: str, place: Path) -> dict[str, Known]:
    """Return digests by file name: of the feature set if its extraction has begun, else of the fetch, else published
    ones."""
    published = known_sets()[encoder].sources if encoder in known_sets() and place.is_dir() else ()
    known = {source.name: Known(source.sha256, source.num_bytes, "catalogue") for source in published if source.sha256}
    for entry in read_record(place):
        known[entry.name] = Known(entry.sha256, entry.num_bytes, "record")
    if identity is not None and identity.weights_folder is not None and Path(identity.weights_folder) == place:
        for item in identity.weight_files:
            known[item["name"]] = Known(item["sha256"], item["num_bytes"], "identity")
    return known


def _compare(place: Path, names: list[str], known: dict[str, Known], *, read: bool) -> WeightsCheck:
    names = sorted({*names, *(name for name in known if known[name].source != "catalogue")})
    differing = [name for name in names if name in known and _differs(place / name, known[name], read=read)]
    sources = {known[name].source for name in differing}
    text = f"{place}: {', '.join(differing)}"
    if "identity" in sources:
        remedy = "restore those files, or choose another `out`"
        return WeightsCheck("FAIL", f"{text} changed since this experiment began: its jobs would be refused", remedy)
    if "record" in sources:
        return WeightsCheck("FAIL", f"{text} changed since the fetch")
    if sources:
        return WeightsCheck(
            "WARN", f"{text}: not the published file", "continue if this is a model of your own; else fetch it"
        )
    checked = sum(name in known for name in names)
    how = "SHA-256" if read else "size"
    return WeightsCheck("PASS", f"{place}: {len(names)} files exist, {how} of {checked} checked")


def _differs(path: Path, wanted: Known, *, read: bool) -> bool:
    if not path.is_file():
        return True
    if wanted.num_bytes is not None and path.stat().st_size != wanted.num_bytes:
        return True
    return read and files.sha256_of(path) != wanted.sha256
