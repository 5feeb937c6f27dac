"""Small corpora for the tests of prepare."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from voxshard.manifest import Manifest
from voxshard.progress import Silent
from voxshard.stages.base import Task
from voxshard.stages.prepare import PrepareConfig, run


def write_audio(
    path: Path | bytes, *, seconds: float = 0.1, sample_rate: int = 8000, num_channels: int = 1, kind: str = "WAV"
) -> None:
    """A recording of silence, its folder made if need be."""
    name = Path(os.fsdecode(path))
    name.parent.mkdir(parents=True, exist_ok=True)
    samples = np.zeros((round(seconds * sample_rate), num_channels), np.float32)
    with open(name, "wb") as stream:
        soundfile.write(stream, samples, sample_rate, format=kind)


def write_text(path: Path, text: str | Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else "".join(f"{line}\n" for line in text))
    return path


class Notes(Silent):
    """Progress that keeps what a person should have read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def prepare(corpus: str, root: Path | str, out: Path, notes: Notes | None = None, **settings: Any) -> Manifest:
    """Prepare a corpus and read the manifest that was written, with its columns as they are stored."""
    config = PrepareConfig(format=corpus, root=str(root), out=out, **settings)
    run(config, Task(progress=notes or Notes()))
    return Manifest.read(out)


def column(manifest: Manifest, name: str) -> list[Any]:
    return list(manifest.table[name].to_pylist())


def rows(manifest: Manifest, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(column(manifest, name) for name in names), strict=True))
