"""Tar archives of given members, also of kinds that nobody should unpack."""

from __future__ import annotations

import io
import tarfile
from typing import Any


def archive(members: dict[str, Any], mode: str = "w:gz") -> bytes:
    """A tar archive of files by name; a TarInfo in place of content is added as it is."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
                continue
            item = tarfile.TarInfo(name)
            item.size, item.mode = len(content), 0o600
            tar.addfile(item, io.BytesIO(content))
    return stream.getvalue()


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    item = tarfile.TarInfo("x")
    item.type, item.linkname = kind, target
    return item
