"""Whether the weights an experiment needs are there and whole, found out without any framework."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxshard import files
from voxshard.encoders import hf, metis, registry, vggish
from voxshard.encoders.catalogue import known_sets
from voxshard.encoders.fetch import read_record
from voxshard.encoders.weights import locate
from voxshard.errors import MissingWeightsError, VoxshardError
from voxshard.launch.experiment import PRETRAINED, Experiment
from voxshard.learning.network_settings import NetworkConfig
from voxshard.store.layout import FeatureDir, Identity

TRILLSSON = ("saved_model.pb", "variables/variables.index")


@dataclass(frozen=True)
class Known:
    """What a file should be."""

    sha256: str
    num_bytes: int | None
    source: Literal["identity", "record", "catalogue"]
    """Frozen by this experiment, written by `voxshard weights fetch`, or published."""


@dataclass(frozen=True)
class Weights:
    """What was found for one feature set."""

    name: str
    encoder: str
    verdict: Literal["PASS", "WARN", "FAIL"]
    what: str
    mend: str = ""


def check(experiment: Experiment, *, read: bool) -> Iterator[Weights]:
    """Look at the weights of every encoder that has some.

    Parameters
    ----------
    read : hash every file of which a digest is known; otherwise only look at what is there, and its size.
    """
    for name, encoder, given, begun in _wanted(experiment):
        fetch = f"voxshard weights fetch {encoder if encoder != 'hf' else 'hf/' + (given or 'ORG/NAME')}"
        try:
            place = locate(encoder, given)
            needed = _files(encoder, place)
            known = _known(begun, encoder, place)
            verdict, what, mend = _compare(place, needed, known, read=read)
        except VoxshardError as exc:
            verdict, what, mend = "FAIL", str(exc), fetch
        yield Weights(name, encoder, verdict, what, mend or ("" if verdict == "PASS" else fetch))


def _wanted(experiment: Experiment) -> Iterator[tuple[str, str, str | None, FeatureDir | None]]:
    """Name, encoder, its `weights`, and the feature set it makes, if it makes one: of extractions, and of networks that
    start from an encoder's weights."""
    for name, section in experiment.config.extract.items():
        if registry.spec_of(section.encoder["name"]).framework in ("torch", "tensorflow"):
            features = FeatureDir(experiment.features(name))
            yield name, section.encoder["name"], section.encoder.get("weights"), features
    for training, _ in experiment.trainings():
        if isinstance(training, NetworkConfig) and training.network in PRETRAINED:
            yield training.out.name, PRETRAINED[training.network], training.settings.get("weights"), None


def _files(encoder: str, place: Path) -> list[str]:
    """Names, relative to `place`, of what loading the encoder opens, as far as that can be told without it.

    Raises
    ------
    MissingWeightsError : some are not there, or empty.
    """
    if place.is_file():
        names = [""]
    elif encoder == "hf":
        names = hf.model_files(place)
    elif encoder == "metis8d":
        names = [f"{metis.BACKBONE}/{name}" for name in hf.model_files(place / metis.BACKBONE)]
        names += [metis.CODEC, metis.STATISTICS]
    elif encoder == "vggish":
        names = [vggish.weights_file(place).name]
    elif encoder.startswith("trillsson"):
        names = list(TRILLSSON)
    elif encoder in known_sets():
        names = [source.name for source in known_sets()[encoder].sources]
    else:
        names = [path.relative_to(place).as_posix() for path in sorted(place.rglob("*")) if path.is_file()]
    bad = [name for name in names if not (place / name).is_file() or (place / name).stat().st_size == 0]
    if bad or not names:
        raise MissingWeightsError(f"{place}: missing or empty: {', '.join(bad) or 'everything'}")
    return names


def _known(begun: FeatureDir | None, encoder: str, place: Path) -> dict[str, Known]:
    """Digests by file name: of this feature set if it is begun, else of the fetch, else published ones."""
    published = known_sets()[encoder].sources if encoder in known_sets() and place.is_dir() else ()
    found = {source.name: Known(source.sha256, source.num_bytes, "catalogue") for source in published if source.sha256}
    for entry in read_record(place):
        found[entry.name] = Known(entry.sha256, entry.num_bytes, "record")
    if begun is not None and begun.identity.exists():
        identity = Identity.read(begun.identity)
        if identity.weights_folder is not None and Path(identity.weights_folder) == place:
            for item in identity.weight_files:
                found[item["name"]] = Known(item["sha256"], item["num_bytes"], "identity")
    return found


def _compare(
    place: Path, names: list[str], known: dict[str, Known], *, read: bool
) -> tuple[Literal["PASS", "WARN", "FAIL"], str, str]:
    names = sorted({*names, *(name for name in known if known[name].source != "catalogue")})
    differing = [name for name in names if name in known and _differs(place / name, known[name], read=read)]
    sources = {known[name].source for name in differing}
    text = f"{place}: {', '.join(differing)}"
    if "identity" in sources:
        mend = "bring those files back, or give another `out`"
        return "FAIL", f"{text} changed since this experiment was begun: its jobs would be refused", mend
    if "record" in sources:
        return "FAIL", f"{text} changed since the fetch", ""
    if sources:
        return "WARN", f"{text}: not the published file", "go on if this is a model of your own; else fetch it"
    checked = sum(name in known for name in names)
    how = "SHA-256" if read else "size"
    return "PASS", f"{place}: {len(names)} files there, {how} of {checked} checked", ""


def _differs(path: Path, wanted: Known, *, read: bool) -> bool:
    if not path.is_file():
        return True
    if wanted.num_bytes is not None and path.stat().st_size != wanted.num_bytes:
        return True
    return read and files.sha256_of(path) != wanted.sha256
