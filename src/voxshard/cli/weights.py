"""`voxshard weights`: list, fetch, verify and convert pretrained weights."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from types import ModuleType

import click

from voxshard.cli.options import EXISTING, PATH, echo, echo_info
from voxshard.encoders.trillsson import GRAPH
from voxshard.encoders.weight_files import WEIGHTS_VARIABLE
from voxshard.errors import BackendUnavailableError, ConfigError, CorruptFileError
from voxshard.files import quoted
from voxshard.progress import counted
from voxshard.progress_display import progress_display
from voxshard.weights import catalogue, fetch

_ROOT = click.option("--root", type=PATH, help="Folder of all weights.  [default: $VOXSHARD_WEIGHTS]")
_CONVERT = "voxshard.encoders._tensorflow.convert"
_CONVERT_MODEL = "voxshard.learning._torch.conversion"
_HUB = "voxshard.encoders._tensorflow.hub"
_IS_A_PROGRAM = (
    "A SavedModel is a program: TensorFlow runs the graph in it, which can read and write files; use it only if you "
    "trust its publisher"
)
_HANDLE = re.compile(r"https://\S+|(?!hf/)[\w.-]+(/[\w.-]+){3,4}")


@click.group()
def command() -> None:
    """List, fetch, verify and convert pretrained weights.

    Fetch on a machine with internet, into a folder that compute nodes see; jobs only ever read that folder.
    """


@command.command("list")
@_ROOT
@click.option("--files", is_flag=True, help="Also each file with its address and SHA-256.")
def list_(root: Path | None, files: bool) -> None:
    """List the weights that each encoder needs, their origin and licence, and whether they exist here."""
    here = fetch.weights_root(root) if root or os.environ.get(WEIGHTS_VARIABLE) else None
    for item in catalogue.known_sets().values():
        _show(item, here, files=files)
    echo("hf/ORG/NAME  any audio model of the Hugging Face hub")
    for folder in fetch.fetched_folders(here) if here else []:
        name = folder.relative_to(here).as_posix() if here else ""
        if name.startswith("hf/"):
            echo(f"  {name}: here, {folder}")


def _show(item: catalogue.WeightSet, root: Path | None, *, files: bool) -> None:
    folder = root / item.name if root else None
    state = f"here, {folder}" if folder and folder.is_dir() else "not here"
    echo(f"{item.name}  {item.size}, {state}\n  from {item.origin}\n  licence: {item.licence}")
    recorded = {entry.name: entry.sha256 for entry in fetch.read_record(folder)} if folder else {}
    if files:
        for source in item.sources:
            digest = source.sha256 or recorded.get(source.name) or "unknown"
            echo(f"  {source.name}\n    {source.url}\n    SHA-256 {digest}")


@command.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_ROOT
@click.option("--revision", help="Branch, tag or commit, for hf/ORG/NAME.  [default: main]")
def fetch_(names: tuple[str, ...], root: Path | None, revision: str | None) -> None:
    """Download weights by name (`voxshard weights list`), hf/ORG/NAME for any model of the Hugging Face hub, or a
    SavedModel by its https://tfhub.dev/... address or Kaggle handle.

    Files that are here and complete are not fetched again. Every file is checked against its published digest where
    there is one, and recorded in weights.json. $HF_TOKEN opens models whose terms you have accepted; $HF_ENDPOINT names
    a mirror. A SavedModel (TRILLsson, handles) is a program that can read and write files: trust its publisher.
    """
    handles = [name for name in names if _HANDLE.fullmatch(name)]
    wanted = [catalogue.weight_set(name, revision) for name in names if name not in handles]
    where = fetch.weights_root(root)
    with progress_display() as progress:
        for handle in handles:
            hub = _framework_module(_HUB, f"fetching {handle}", "tensorflow")
            folder = where / "savedmodels" / handle.removeprefix("https://").strip("/")
            progress.note(f"{handle}: {hub.fetch_savedmodel(handle, folder)}; give it as --set weights=FOLDER")
            progress.note(_IS_A_PROGRAM)
        for item in wanted:
            folder = fetch.fetch(item, where, progress=progress)
            progress.note(f"{item.name}: {folder} (licence: {item.licence})")
            if (folder / GRAPH).exists():
                progress.note(_IS_A_PROGRAM)


@command.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@_ROOT
def verify(names: tuple[str, ...], root: Path | None) -> None:
    """Compare every file with its recorded or published SHA-256; exit with code 3 if one is changed or missing."""
    where = fetch.weights_root(root)
    bad = count = 0
    for finding in fetch.verify(where, list(names)):
        echo(f"{finding.state:8} {finding.path}{f': {finding.detail}' if finding.detail else ''}")
        bad += finding.state in ("changed", "missing")
        count += 1
    if bad:
        raise CorruptFileError(f"{bad} of {count} files changed or missing; `voxshard weights fetch` brings them again")
    echo_info(f"{counted(count, 'file')} in {where}, none changed or missing")


@command.command("convert")
@click.argument("source", type=EXISTING)
@click.argument("folder", type=PATH, required=False)
@click.option("--base", metavar="FOLDER|ORG/NAME", help="What a MODEL.pt of naip-w2v2 began as, if it is not found.")
def convert(source: Path, folder: Path | None, base: str | None) -> None:
    """Convert SOURCE to files that voxshard reads, in FOLDER.

    VGGish's TensorFlow checkpoint becomes a safetensors file, for use without TensorFlow; FOLDER is by default the one
    SOURCE is in. A MODEL.pt of the clinical speech programs naip-w2v2 and naip-ecapa-tdnn becomes a run, for `evaluate
    --on` and the encoder checkpoint; FOLDER is by default MODEL. The args.pkl next to it is read as plain values; one
    that holds anything else is refused.
    """
    if source.suffix == ".pt":
        torch = _framework_module(_CONVERT_MODEL, "converting a model", "torch")
        run = torch.convert_clinical_model(source, folder or source.with_suffix(""), base)
        echo_info(f"{run}: written; next: voxshard evaluate {quoted(run)} --on MANIFEST")
        return
    if base is not None:
        raise ConfigError("--base: only of a MODEL.pt")
    tensorflow = _framework_module(_CONVERT, "converting", "tensorflow")
    echo_info(f"{tensorflow.convert_vggish(source, folder)}: written")


_FRAMEWORKS = {"tensorflow": "TensorFlow", "torch": "PyTorch"}
"""Extra -> the framework that it installs."""


def _framework_module(name: str, what: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] == "voxshard":
            raise
        raise BackendUnavailableError(
            f"{what} needs {exc.name}, which is not installed here; run it where {_FRAMEWORKS[extra]} is, or"
            f" `pip install 'voxshard[{extra}]'`"
        ) from exc
