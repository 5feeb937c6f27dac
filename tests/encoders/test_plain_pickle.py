"""Settings come out of a pickle as plain values, and nothing that a forged one asks for happens."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voxshard.errors import CorruptFileError
from voxshard.weights.plain_pickle import read_settings

VALUES = {
    "checkpoint": "wav2vec2-base", "layer": -1, "clip_length": 10.0, "weighted": True, "study": None,
    "label_groups": [["slow rate", "distortions"], ["strained"]], "n_class": [2, 1], "odd": {"a": (1, 2)},
}  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_namespace_is_read_as_it_was_written(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "args.pkl"
    path.write_bytes(pickle.dumps(argparse.Namespace(**VALUES, prefix=Path("/data/speech")), protocol))
    assert read_settings(path) == {**VALUES, "odd": {"a": [1, 2]}, "prefix": "/data/speech"}
    path.write_bytes(pickle.dumps(VALUES, protocol))
    assert read_settings(path) == {**VALUES, "odd": {"a": [1, 2]}}


class Runs:
    """Unpickled the usual way, it runs a program."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def laughing() -> list[Any]:
    """A list that holds another one ten times, and so on, eight deep."""
    found: list[Any] = ["ha"]
    for _ in range(8):
        found = [found] * 10
    return found


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(argparse.Namespace(a=Runs(os.system, "touch MARK"))), r"it holds '(posix|nt)\.system'"),
        (pickle.dumps(Runs(eval, "open('MARK', 'w')")), r"it holds 'builtins\.eval'"),
        (pickle.dumps(Runs(getattr, "", "upper")), r"it holds 'builtins\.getattr'"),
        (pickle.dumps(argparse.Namespace(a=collections.OrderedDict())), r"it holds 'collections\.OrderedDict'"),
        (pickle.dumps({"a": {1, 2}}), "it holds a value of type set"),
        (pickle.dumps({"a": b"bytes"}), "it holds a value of type bytes"),
        (pickle.dumps({1: "a"}), "it holds a value of type dict"),
        (pickle.dumps({"a": laughing()}), "more values than settings have"),
        (pickle.dumps({"a": endless()}), "more values than settings have"),
        (b"\x80\x04\x8c\x01ar\xff\xff\xff\x7f.", "it holds the memo number 2147483647"),
        (b"cargparse\nNamespace\n.", "a value of type type"),
        (b"ccopy_reg\n_reconstructor\n(cpathlib\nPosixPath\nc__builtin__\nobject\nNtR.", "an object that is not a"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line_and_never_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "args.pkl"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=rf"args\.pkl: refused: .*{reason}.*; only plain settings") as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(VALUES)[:-30], b"\x80\x04N", b"\x80\x04)R."])
def test_what_is_no_pickle_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "args.pkl"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"args\.pkl: not a readable pickle: .") as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)


def test_a_single_value_and_a_large_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "args.pkl"
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(CorruptFileError, match="holds a list, not settings by name"):
        read_settings(path)
    path.write_bytes(pickle.dumps({"a": "b" * (1 << 20)}))
    with pytest.raises(CorruptFileError, match="larger than 1 MiB"):
        read_settings(path)


def test_a_forged_state_changes_nothing_of_the_reader(tmp_path: Path) -> None:
    """BUILD on the class itself, then a namespace: each file has stand-ins of its own."""
    path = tmp_path / "args.pkl"
    path.write_bytes(b"\x80\x02cargparse\nNamespace\n(}(X\x01\x00\x00\x00aK\x01utb.")
    with pytest.raises(CorruptFileError):
        read_settings(path)
    path.write_bytes(pickle.dumps(argparse.Namespace(b=2)))
    assert read_settings(path) == {"b": 2}
