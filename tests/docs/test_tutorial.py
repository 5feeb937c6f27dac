"""The notebook of the tutorial runs from its first to its last cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.spoken_digits import spoken_digits

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorials" / "first-report.ipynb"


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
