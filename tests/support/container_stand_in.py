"""A program in the place of apptainer: it notes how it was called and runs the command outside of any image."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

SCRIPT = """\
#!{python}
import json, os, pathlib, sys
words = sys.argv[1:]
place = next(number for number, word in enumerate(words) if word.endswith(".sif"))
prefix = "APPTAINERENV_"
carried = {{name[len(prefix):]: value for name, value in os.environ.items() if name.startswith(prefix)}}
with open({log!r}, "a") as log:
    print(json.dumps({{"words": words[:place], "command": words[place + 1 :], "environment": carried}}), file=log)
version = os.environ.get("STAND_IN_VERSION")
if version and "-c" in words:
    print(version)
    sys.exit()
if "STAND_IN_FAILS" in os.environ and "-c" not in words:
    print("FATAL:   container creation failed", file=sys.stderr)
    sys.exit(255)
os.chdir(words[words.index("--pwd") + 1])
kept = {{name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}}
own = {{name: value for name, value in carried.items() if "CACHE" not in name and name != "MPLCONFIGDIR"}}
os.execve({python!r}, [{python!r}, *words[place + 2 :]], {{**kept, **own}})
"""


class StandIn:
    """The program, and what it was called with."""

    def __init__(self, folder: Path, name: str = "apptainer") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / name
        self._log = folder / f"{name}.log"
        self.path.write_text(SCRIPT.format(python=sys.executable, log=str(self._log)))
        self.path.chmod(0o755)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """words (before the image), command, environment of each call."""
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []


def write_image(path: Path) -> Path:
    """A file that looks like a SIF from outside."""
    content = b"not a file system"
    head = b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0".ljust(112, b"\0") + struct.pack("<2q", 128, len(content))
    path.write_bytes(head + content)
    return path
