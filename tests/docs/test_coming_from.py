"""The pages for users of earlier programs name all that these users typed, and every new form is accepted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from voxshard.cli import COMMANDS, cli
from voxshard.config import parse_assignments, validated
from voxshard.encoders.registry import settings_of
from voxshard.errors import ConfigError
from voxshard.learning.network_config import SET_KEYS, NetworkConfig
from voxshard.learning.train_config import TrainConfig

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "coming-from"
EARLIER: dict[str, dict[str, list[str]]] = yaml.safe_load(
    (ROOT / "tests" / "data" / "earlier_programs.yaml").read_text()
)
NETWORKS = {"wav2vec2.md": ["wav2vec2"], "ecapa.md": ["ecapa"], "few-audio.md": ["vgg", "sbcnn", "timbre", "vggish"]}
ENCODERS = {
    "trillsson.md": ["trillsson3"],
    "metis.md": ["metis8d"],
    "sklearn-transfer.md": ["vggish"],
    "wav2vec2.md": ["hf", "checkpoint"],
    "ecapa.md": ["ecapa", "checkpoint"],
    "few-audio.md": ["mfcc", "checkpoint"],
}
CLASSIFIERS = ["logistic", "mlp", "svm", "linear-svm", "knn", "perceptron"]


def rows(page: str) -> Iterator[list[str]]:
    """The cells of every row of every table of a page."""
    for line in re.findall(r"^\|(.*)\|$", (PAGES / page).read_text(), re.M):
        cells = re.split(r"(?<!\\)\|", line)
        if not set(cells[0].strip()) <= {"-", " "}:
            yield cells


@pytest.mark.parametrize("page", sorted(EARLIER))
def test_all_that_was_typed_is_on_the_page(page: str) -> None:
    code = " ".join(word for cells in rows(page) for word in re.findall(r"`([^`]+)`", cells[0]))
    code += " " + " ".join(re.findall(r"^#+ .*|^# python .*", (PAGES / page).read_text(), re.M))
    words = set(re.split(r"[\s,:=()'\"`/]+", code))
    missing = [name for names in EARLIER[page].values() for name in names if name not in words]
    assert missing == []


def test_every_page_is_checked() -> None:
    assert sorted(path.name for path in PAGES.glob("*.md")) == sorted(EARLIER)


def new_forms() -> list[Any]:
    found = []
    for page in sorted(EARLIER):
        for cells in rows(page):
            for code in re.findall(r"`([^`]+)`", cells[-1].replace("\\|", "|")):
                if code.startswith(("--", "voxshard ")):
                    found.append(pytest.param(page, code, id=f"{page}: {code}"))
    return found


@pytest.mark.parametrize(("page", "code"), new_forms())
def test_every_new_form_is_accepted(page: str, code: str) -> None:
    words = shlex.split(code)
    known = options_of(words[1:]) if words[0] == "voxshard" else all_options()
    assert {word for word in words if re.match(r"--?[a-z]", word)} <= known
    values = [
        words[i + 1].replace("=2S", "=2").replace("=M", "=0").replace("=S", "=1")
        for i, word in enumerate(words[:-1])
        if word == "--set"
    ]
    if values:
        assert any(is_accepted(page, kind, name, values) for kind, name in candidates(page)), values


def options_of(words: list[str]) -> set[str]:
    command: click.Command = cli.get_command(click.Context(cli), words[0]) or pytest.fail(words[0])
    if isinstance(command, click.Group) and len(words) > 1:
        command = command.get_command(click.Context(command), words[1]) or pytest.fail(words[1])
    return {option for parameter in command.params for option in parameter.opts}


def all_options() -> set[str]:
    return {option for name in COMMANDS for option in options_of([name])}


def candidates(page: str) -> Iterator[tuple[str, str]]:
    yield from (("network", name) for name in NETWORKS.get(page, []))
    yield from (("encoder", name) for name in ENCODERS[page])
    yield from (("classifier", name) for name in CLASSIFIERS)


def is_accepted(page: str, kind: str, name: str, assignments: list[str]) -> bool:
    settings = parse_assignments(tuple(assignments))
    try:
        if kind == "network":
            sections = {key: settings.pop(key) for key in SET_KEYS if key in settings}
            described = {"manifest": "m.parquet", "out": "run", "network": name, "settings": settings, **sections}
            if "labels_file" not in sections:
                described["label"] = "label"
            validated(NetworkConfig, described, where=page).network_settings()
        elif kind == "encoder":
            settings_of(name, settings)
        else:
            described = {"features": ["set"], "label": "label", "classifier": name, "out": "run", "settings": settings}
            validated(TrainConfig, described, where=page)
    except ConfigError:
        return False
    return True
