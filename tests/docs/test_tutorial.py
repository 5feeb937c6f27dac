"""The notebook of the tutorial runs from its first to its last cell."""

from __future__ import annotations

import json
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from voxshard.demo.corpus import RATE, speak

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorials" / "first-report.ipynb"


def spoken_digits(folder: Path) -> None:
    """Recordings with the names and the rate of the Free Spoken Digit Dataset."""
    folder.mkdir(parents=True)
    for voice, speaker in enumerate(("george", "lucas", "theo")):
        for digit in range(10):
            for take in range(3, 8):
                spoken = speak(digit, voice, np.random.default_rng([voice, digit, take]), natural=True)
                samples = librosa.resample(spoken, orig_sr=RATE, target_sr=8000)
                soundfile.write(folder / f"{digit}_{speaker}_{take}.wav", samples, 8000)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spoken_digits(tmp_path / "fsdd" / "recordings")
    monkeypatch.setenv("FSDD", str(tmp_path / "fsdd"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    assert "150 recordings, 120 numbers each" in printed
    assert "as in the feature set: True" in printed
    assert "TruncatedAudioError" in printed
    assert (tmp_path / "tutorial" / "report.html").stat().st_size > 10_000
