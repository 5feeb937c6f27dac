"""Members of archives that must not be unpacked."""

from __future__ import annotations

import tarfile
from typing import Any

from support.archives import archive, special

__all__ = ["ODD_MEMBERS", "archive"]

ODD_MEMBERS: tuple[dict[str, Any], ...] = (
    {"../outside/sentinel": b"x"},
    {"../../../outside/sentinel": b"x"},
    {"/voxshard-fuzz-evil": b"x"},
    {"a": special(tarfile.SYMTYPE, ".."), "a/outside/x": b"x"},
    {"a": special(tarfile.SYMTYPE, "/"), "a/voxshard-fuzz-evil": b"x"},
    {"a": b"x", "b": special(tarfile.LNKTYPE, "a")},
    {"a": special(tarfile.LNKTYPE, "../../outside/sentinel"), "a2": b"x"},
    {"a": special(tarfile.FIFOTYPE)},
    {"a": special(tarfile.CHRTYPE)},
    {"bomb": bytes(80 << 20)},
    {"a": b"x", "a/b": b"y"},
    {"weights.json": b"{}"},
    {"n" * 300: b"x"},
    {"\x1b[2J": b"x"},
)
