"""A path that looks like a URL is never a local folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import voxshard
from support.bucket_corpora import tones
from voxshard import urls
from voxshard.cli import COMMANDS, cli, main
from voxshard.cli.options import LocationType
from voxshard.config import Settings
from voxshard.errors import BackendUnavailableError, ConfigError
from voxshard.locations import Location, Url, parse

SOURCES = Path(voxshard.__file__).parent


def test_a_location_is_a_path_or_a_url_and_never_both() -> None:
    assert parse("s3://bucket/a") == Url("s3://bucket/a")
    assert not isinstance(parse("s3://bucket/a"), Path)
    assert parse("file:///a/b") == Path("/a/b")
    assert parse("a/b") == Path("a/b")
    assert parse(Path("a")) == Path("a")
    assert parse("~/a") == Path.home() / "a"
    assert parse("~no such user/a") == Path("~no such user/a")
    with pytest.raises(ConfigError, match=r"^s3:/bucket/a: looks like a URL; write s3://bucket/a, or "):
        parse(Path("s3://bucket/a"))
    with pytest.raises(ValueError, match="expected a path or a URL, not an empty text"):
        parse("")


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield path, node


def test_no_setting_takes_a_bare_path() -> None:
    """A field of type Path would make a folder named `s3:` of a URL; Location and LocalPath do not."""
    found = list(classes())
    models = {"Settings"}
    while more := {node.name for _, node in found if {ast.unparse(base) for base in node.bases} & models} - models:
        models |= more
    assert {"PrepareConfig", "TrainConfig", "ExperimentConfig", "Site"} <= models
    bare = [
        f"{path.relative_to(SOURCES)}: {node.name}.{ast.unparse(item.target)}"
        for path, node in found
        if node.name in models
        for item in node.body
        if isinstance(item, ast.AnnAssign) and re.search(r"\bPath\b", ast.unparse(item.annotation))
    ]
    assert bare == []


def parameters(command: click.Command) -> Iterator[tuple[str, click.Parameter]]:
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from parameters(inner)
    for parameter in command.params:
        yield f"{command.name} {parameter.name}", parameter


def all_parameters() -> dict[str, click.Parameter]:
    """Of every command that is registered, so that new ones are tested as well."""
    context = click.Context(cli)
    found: dict[str, click.Parameter] = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found |= {f"{name}: {where}": parameter for where, parameter in parameters(command)}
    return found


PLAIN_TEXT = {
    "prepare: command root": "a URL, or a path that the format resolves",
    "prepare: command labels": "read by the corpus's reader of tables",
    "prepare: command split": "NAME=FILE",
    "ingest: command inputs": "[SPLIT=]FILE",
    "cache: clear urls": "URLs only",
    "weights: convert base": "FOLDER|ORG/NAME, looked up like the setting `weights`",
}
"""Parameters of text that hold paths or URLs."""


def test_no_command_takes_a_bare_path() -> None:
    assert [where for where, parameter in all_parameters().items() if isinstance(parameter.type, click.Path)] == []


def test_every_parameter_that_names_a_place_takes_a_location() -> None:
    """Or is text that a stage turns into one."""
    words = re.compile(r"\b(file|folder|path|directory|url|dir|manifest|run|exp|config)\b", re.IGNORECASE)
    found = []
    for where, parameter in all_parameters().items():
        names = f"{parameter.name} {parameter.metavar}".replace("|", " ").replace("_", " ")
        if words.search(names) and isinstance(parameter.type, click.types.StringParamType) and where not in PLAIN_TEXT:
            found.append(where)
    assert found == []


@pytest.mark.parametrize(
    "where", [name for name, item in all_parameters().items() if isinstance(item.type, LocationType)]
)
def test_without_the_packages_every_command_ends_with_exit_code_4_before_anything_starts(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = urls.importlib.util.find_spec
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda name: None if name == "s3fs" else plain(name))
    parameter = all_parameters()[where]
    assert isinstance(parameter.type, LocationType)
    with pytest.raises((BackendUnavailableError, click.BadParameter)) as caught:
        parameter.type.convert("s3://bucket/x", parameter, None)
    if parameter.type.local:
        assert "`voxshard publish PATH URL`" in str(caught.value)
    else:
        assert isinstance(caught.value, BackendUnavailableError)
        assert caught.value.exit_code == 4
        assert "s3://bucket/x: s3:// needs s3fs, not installed in this environment: `pip install" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["s3:/voices/x", "GS:/voices/x", "gcs:voices/x", "abfs:/c/x", "https:/host/x", "s3://"]
)
def test_no_command_takes_a_url_with_a_typo_for_a_path(text: str) -> None:
    for where, parameter in all_parameters().items():
        if isinstance(parameter.type, LocationType):
            with pytest.raises((ConfigError, click.BadParameter)) as caught:
                parameter.type.convert(text, parameter, None)
            assert text in str(caught.value), where


@pytest.mark.parametrize("url", ["S3://voices/x", "gcs://voices/x", "https://host/x", "memory://x"])
def test_no_command_takes_a_url_for_a_path(url: str) -> None:
    for where, parameter in all_parameters().items():
        if isinstance(parameter.type, LocationType) and not parameter.type.local:
            location = parameter.type.convert(url, parameter, None)
            assert isinstance(location, Url), where
            assert str(location) == url.replace("S3", "s3"), where


@pytest.mark.parametrize(
    "words",
    [
        ["prepare", "folder", "s3://voices/c", "--out", "m.parquet"],
        ["prepare", "folder", "corpus", "--out", "m.parquet", "--labels", "s3://voices/l.csv"],
        ["prepare", "folder", "corpus", "--out", "m.parquet", "--split", "train=s3://voices/l.csv"],
        ["ingest", "train=s3://voices/x.npy", "--out", "set"],
        ["extract", "m0.parquet", "--encoder", "onnx", "--set", "weights=s3://voices/w", "--out", "set"],
        ["run", "exp.yaml"],
    ],
)
def test_without_the_packages_urls_in_text_end_with_exit_code_4_and_nothing_is_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tones(tmp_path / "corpus", ["a.wav"])
    main(["prepare", "folder", "corpus", "--out", "m0.parquet"])
    (tmp_path / "exp.yaml").write_text(
        "out: exp\nprepare: {format: folder, root: corpus}\nextract: {mfcc: {encoder: mfcc}}\n"
        "publish: s3://voices/results\n"
    )
    before = sorted(tmp_path.rglob("*"))
    plain = urls.importlib.util.find_spec
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda name: None if name == "s3fs" else plain(name))
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 4
    assert "s3:// needs s3fs, not installed in this environment" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_locations_are_written_to_configs_as_text() -> None:
    class Example(Settings):
        place: Location

    assert Example(place="gs://bucket/a").model_dump(mode="json") == {"place": "gs://bucket/a"}
    assert Example(place=Path("a")).model_dump(mode="json") == {"place": "a"}
