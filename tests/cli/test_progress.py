"""Progress as plain lines."""

from __future__ import annotations

import pytest

from voxshard.progress_display import amount, progress_display


def test_work_is_told_to_be_done_when_it_is_not_when_more_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display() as progress:
        progress.begin("evaluate", items=2)
        progress.advance()
        progress.advance()
        progress.note("the report")
    assert capsys.readouterr().err.splitlines() == ["evaluate: 2 of 2 in 0 s", "the report"]


@pytest.mark.parametrize(
    ("items", "elapsed_s", "told"),
    [
        (1, 20.0, "1 of 3,000"),
        (30, 20.0, "30 of 3,000, 33 min 00 s left"),
        (1, 70.0, "1 of 3,000, 58 h 18 min left"),
        (3000, 70.0, "3,000 of 3,000"),
    ],
)
def test_the_remaining_time_is_told_once_there_is_something_to_tell_it_from(
    items: int, elapsed_s: float, told: str
) -> None:
    assert amount(items, 3000, 0.0, elapsed_s, None) == told
