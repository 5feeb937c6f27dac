"""The images' locks: one exact, hashed version of everything that pyproject.toml asks for, from no particular place."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = runpy.run_path(str(ROOT / "containers" / "wheels.py"))["EXTRAS"]


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "containers" / f"{name}.lock").read_text()
    return {_canonical(found): version for found, version in re.findall(r"^([\w.\-]+)==(\S+)", text, re.MULTILINE)}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_what_pyproject_asks_for_is_locked_in_a_version_it_takes(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    there = locked(name)
    asked = [*project["dependencies"]]
    for extra in LOCKS[name]:
        asked += project["optional-dependencies"][extra]
    environment = {**default_environment(), "python_version": "3.11"}
    for requirement in map(Requirement, asked):
        if requirement.name == "voxshard" or (requirement.marker and not requirement.marker.evaluate(environment)):
            continue
        assert requirement.specifier.contains(there[_canonical(requirement.name)]), requirement


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_host_and_every_package_has_its_hashes(name):
    lines = (ROOT / "containers" / f"{name}.lock").read_text().splitlines()
    assert len(lines) == len(locked(name)) > 30
    assert all(re.fullmatch(r"[\w.\-]+==[\w.+]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)


def test_the_frameworks_are_apart():
    assert "tensorflow" not in locked("pytorch")
    assert not {"torch", "torchaudio", "transformers"} & {*locked("tensorflow"), *locked("tensorflow-cpu")}
