"""The documentation holds: links lead somewhere, every command is described, examples parse."""

from __future__ import annotations

import importlib.util
import itertools
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from voxshard import open_features
from voxshard.cli import COMMANDS
from voxshard.config import parse_yaml, validated
from voxshard.experiment.schema import ExperimentConfig
from voxshard.learning.network_config import NetworkConfig
from voxshard.progress import Silent
from voxshard.store.ingest import IngestConfig, ingest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_documentation_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for match in LINK.finditer(text):
        target = match[1] or match[2]
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{target} in {page.name}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{target} in {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_list_begins_after_a_blank_line(page: Path) -> None:
    """Without it the site shows one paragraph with hyphens; GitHub shows a list either way."""
    lines = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S).splitlines()
    item = re.compile(r"([-*]|\d+\.) ")
    for above, line in itertools.pairwise(lines):
        assert not item.match(line) or not above or above[0] in " #" or item.match(above), f"{above} / {line}"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_reference_is_what_the_commands_say() -> None:
    writer = load(ROOT / "docs" / "write_commands.py")
    assert writer.TARGET.read_text() == writer.reference(), "run `python docs/write_commands.py`"


def test_every_command_stands_in_the_reference() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for name in COMMANDS:
        assert re.search(rf"^voxshard {name}\b", text, re.M), name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_valid(path: Path) -> None:
    text = re.sub(r"\$\{?\w+(:-[^}]*)?\}?", "somewhere", path.read_text())
    validated(ExperimentConfig, parse_yaml(text, where=path.name), where=path.name)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "networks").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_of_a_network_is_valid(path: Path) -> None:
    text = re.sub(r"\$\{?\w+(:-[^}]*)?\}?", "somewhere", path.read_text())
    validated(NetworkConfig, parse_yaml(text, where=path.name), where=path.name).network_settings()


def test_the_sample_of_latents_is_what_ingest_reads(tmp_path: Path) -> None:
    sample = ROOT / "docs" / "samples" / "metis-latents.json"
    ingest(IngestConfig(inputs=[str(sample)], out=tmp_path / "set"), Silent(), lambda: None)
    found = open_features(tmp_path / "set")
    assert [found.frames(name).shape for name in found.ids] == [(100, 8)] * 3
    assert all(name.startswith("part_003/") for name in found.ids)


def test_no_tracked_file_names_this_machine_or_hides_an_unfinished_place() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    unfinished = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    home = re.compile(r"/(?:home|work|root)/[a-z]+/")
    for name in listed.stdout.split("\n"):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".sh") and path.is_file():
            text = path.read_text()
            assert not unfinished.search(text), name
            assert not home.search(text), f"{name}: {home.search(text)}"
