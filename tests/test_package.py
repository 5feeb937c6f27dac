"""What the package states about itself, and who may publish it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def workflow(name: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(ROOT / ".github/workflows" / name)
    return content


def test_the_readme_describes_every_extra_for_users() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("| extra | brings |") : readme.index("Without an installation")]
    names = [row.split("|")[1] for row in table.strip().splitlines()[2:]]
    described = set(re.findall("`([^`]+)`", " ".join(names)))
    assert described == PROJECT["optional-dependencies"].keys() - {"dev", "docs"}


def test_the_python_versions_that_are_claimed_are_tested() -> None:
    claimed = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)}
    assert claimed == set(workflow("checks.yml")["jobs"]["tests"]["strategy"]["matrix"]["python-version"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit_and_keep_no_credentials(path: Path) -> None:
    """A tag of an action can be moved by whoever controls its repository; a commit cannot."""
    uses = re.findall(r"uses: (\S+)(.*)", path.read_text())
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r"  # v\d+\.\d+\.\d+", comment), action
    steps = [step for job in workflow(path.name)["jobs"].values() for step in job["steps"]]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_the_job_that_may_publish_runs_nothing_of_the_repository() -> None:
    release = workflow("release.yml")
    assert release["permissions"] == {"contents": "read"}
    publishing = {name: job for name, job in release["jobs"].items() if "id-token" in job.get("permissions", {})}
    assert list(publishing) == ["publish"]
    job = publishing["publish"]
    assert (job["environment"], job["permissions"]) == ("pypi", {"id-token": "write"})
    assert [step["uses"].partition("@")[0] for step in job["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    assert all("password" not in step.get("with", {}) for step in job["steps"])
