"""Progress as plain lines."""

from __future__ import annotations

import pytest

from voxshard.cli.progress import drawing


def test_work_is_told_to_be_done_when_it_is_not_when_more_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with drawing() as progress:
        progress.begin("evaluate", items=2)
        progress.advance()
        progress.advance()
        progress.note("the report")
    assert capsys.readouterr().err.splitlines() == ["evaluate: 2 of 2 in 0 s", "the report"]
