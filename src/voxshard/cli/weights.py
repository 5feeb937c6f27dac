"""`voxshard weights`: what pretrained weights there are, fetching, checking and converting them."""

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
from voxshard.errors import BackendUnavailableError, CorruptFileError
from voxshard.progress_display import progress_display
from voxshard.weights import catalogue, fetch

_ROOT = click.option("--root", type=PATH, help="Folder of all weights.  [default: $VOXSHARD_WEIGHTS]")
_CONVERT = "voxshard.encoders._tensorflow.convert"
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
    """Show what each encoder needs, where it comes from, its licence, and what is here."""
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
    where = fetch.weights_root(root)
    handles = [name for name in names if _HANDLE.fullmatch(name)]
    wanted = [catalogue.weight_set(name, revision) for name in names if name not in handles]
    with progress_display() as progress:
        for handle in handles:
            hub = _tensorflow_module(_HUB, f"fetching {handle}")
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
    """Compare every file with its recorded or published SHA-256; exit 3 if one is changed or missing."""
    where = fetch.weights_root(root)
    bad = count = 0
    for finding in fetch.verify(where, list(names)):
        echo(f"{finding.state:8} {finding.path}{f': {finding.detail}' if finding.detail else ''}")
        bad += finding.state in ("changed", "missing")
        count += 1
    if bad:
        raise CorruptFileError(f"{bad} of {count} files changed or missing; `voxshard weights fetch` brings them again")
    echo_info(f"{count} files in {where}, none changed or missing")


@command.command("convert")
@click.argument("source", type=EXISTING)
@click.argument("folder", type=PATH, required=False)
def convert(source: Path, folder: Path | None) -> None:
    """Turn VGGish's TensorFlow checkpoint SOURCE into a safetensors file in FOLDER, for use without TensorFlow.

    FOLDER is by default the one SOURCE is in.
    """
    module = _tensorflow_module(_CONVERT, "converting")
    echo_info(f"{module.convert_vggish(source, folder)}: written")


def _tensorflow_module(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] == "voxshard":
            raise
        raise BackendUnavailableError(
            f"{what} needs {exc.name}, which is not installed here; run it where TensorFlow is, or"
            " `pip install 'voxshard[tensorflow]'`"
        ) from exc
