"""Recordings that tests make, and what probing and reading give of one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from voxshard import audio

RATE = 16000
JOINED = "2 recordings one after the other, joined"


class Result(NamedTuple):
    """What probing and reading give, which agree."""

    samples: np.ndarray
    header: audio.AudioHeader
    warning: str | None


def result_of(path: Path) -> Result:
    header = audio.probe(path)
    found: list[str] = []
    samples = audio.read(path, sample_rate=header.sample_rate, on_warning=found.append)
    assert header.num_frames == len(samples)
    assert found == ([header.warning] if header.warning else [])
    return Result(samples, header, header.warning)


def tone(seconds: float = 1.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(3).standard_normal((len(time), channels))
    return (0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time)[:, None] + 0.02 * noise).astype(np.float32)


def encoded(container: str, coding: str, samples: np.ndarray | None = None, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, tone() if samples is None else samples, rate, format=container, subtype=coding)
    return stream.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
