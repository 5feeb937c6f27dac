"""What the last line of defence makes of an exception that nothing expected."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import click
import pytest

from voxshard.cli import LazyGroup, main
from voxshard.progress import printable


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of a command that raises this."""

    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(LazyGroup, "get_command", lambda self, ctx, name: command)
    with pytest.raises(SystemExit) as caught:
        main(["status"])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_an_unexpected_exception_is_one_line_and_a_file_with_the_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert raising(KeyError("shards"), monkeypatch) == 1
    (path,) = tmp_path.iterdir()
    line = f"voxshard: this is a bug in voxshard, please report it: KeyError: 'shards'; the traceback is in {path}\n"
    assert capsys.readouterr().err == line
    text = path.read_text()
    assert "arguments: status" in text
    assert text.endswith("raise error\nKeyError: 'shards'\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 8.00 GiB"), "out of memory (Unable to allocate 8.00 GiB)"),
        (RuntimeError("can't start new thread"), "out of memory (can't start new thread)"),
        (
            RuntimeError("Failed to launch worker thread: again"),
            "out of memory (Failed to launch worker thread: again)",
        ),
        (ModuleNotFoundError("No module named 'skops'", name="skops"), "a package cannot be imported: No module named"),
        (OSError(errno.EIO, "Input/output error", "m.parquet"), "m.parquet: Input/output error; check the path"),
    ],
)
def test_what_the_machine_causes_is_no_bug(
    error: Exception,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert raising(error, monkeypatch) == 4
    assert capsys.readouterr().err.startswith(f"voxshard: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_module_of_voxshard_itself_is_a_bug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert raising(ModuleNotFoundError("No module named 'voxshard.x'", name="voxshard.x"), monkeypatch) == 1


@pytest.mark.parametrize("argument", ["a\0b", "a\ud800b"])
def test_an_argument_that_no_path_can_be_is_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["status", argument])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(
        ": an argument cannot contain a NUL character or half of a surrogate pair\n"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 音\n\tnext", "plain ünïcode 音\n\tnext"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("one\rtwo", "one\\rtwo"),
        ("gpj\u202ewav", "gpj\\u202ewav"),
        ("c1\x9b31m", "c1\\x9b31m"),
        ("half \udce9", "half \\udce9"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_too_small_an_address_space_is_reported_before_numpy_is_loaded() -> None:
    """OpenBLAS would end the process with a message of its own, or never."""
    command = [sys.executable, "-m", "voxshard", "prepare", "folder", "nowhere", "--out", "m.parquet"]
    ended = subprocess.run(
        ["sh", "-c", 'ulimit -v 300000; exec "$@"', "sh", *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 4, ended.stderr
    assert ended.stderr.startswith("voxshard: `ulimit -v` leaves this process 300,000 kB of address space")
    assert ended.stderr.count("\n") == 1
