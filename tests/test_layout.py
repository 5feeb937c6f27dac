"""The layout of the package: one meaning per module name."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "voxshard"
MIRRORED = {"_torch", "_tensorflow"}
"""Folders that hold one framework's half of what the module of the same name next to them describes."""


def test_no_basename_has_two_meanings() -> None:
    """Commands and stages are named after what they run; `base` and `__init__` are exempt, too."""
    places: dict[str, set[Path]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        folder = path.parent.relative_to(PACKAGE)
        if path == PACKAGE / "hear.py":  # the name under which HEAR's tools load any encoder; `encoders/hear.py` is one
            continue
        if path.stem in ("__init__", "__main__", "base") or folder.parts[:1] in (("cli",), ("stages",)):
            continue
        places[path.stem].add(folder.parent if folder.name in MIRRORED else folder)
    assert {name: sorted(map(str, found)) for name, found in places.items() if len(found) > 1} == {}


def test_no_class_name_has_two_meanings() -> None:
    """A name in a message, a docstring or an import says which class it is."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for name in re.findall(r"^class (\w+)", path.read_text(), flags=re.MULTILINE):
            places[name].append(str(path.relative_to(PACKAGE)))
    assert {name: sorted(found) for name, found in places.items() if len(found) > 1} == {}
