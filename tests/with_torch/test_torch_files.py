from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from voxshard.encoders._torch.torch_files import read_tensors
from voxshard.errors import CorruptFileError


def test_tensors_by_name_come_back(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    assert read_tensors(tmp_path / "x.pt")["a"].tolist() == [1, 1]


@pytest.mark.parametrize("content", [[1], {"a": 1}, {1: torch.ones(2)}, torch.ones(2)])
def test_anything_else_is_no_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CorruptFileError, match=r"x\.pt: not a state dict, tensors by name"):
        read_tensors(tmp_path / "x.pt")


def test_a_cut_off_file_is_damaged(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match=r"x\.pt: not a readable checkpoint: .*; fetch it again"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("raised", "passed_on"),
    [
        (ModuleNotFoundError("No module named 'numpy'"), ImportError),
        (MemoryError(), MemoryError),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"), MemoryError),
        (OSError(errno.EIO, "Input/output error", "x.pt"), OSError),
    ],
)
def test_what_the_machine_lacks_is_no_verdict_on_the_file(
    raised: Exception, passed_on: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(passed_on) as caught:
        read_tensors(Path("x.pt"))
    assert not isinstance(caught.value, CorruptFileError)
