"""Progress as plain lines."""

from __future__ import annotations

import pytest

from voxshard.progress import counted
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


def test_work_without_an_amount_is_done_and_not_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display() as progress:
        progress.begin("score")
        progress.begin("list")
        progress.advance(3)
    assert capsys.readouterr().err.splitlines() == ["score: done in 0 s", "list: 3 in 0 s"]


def test_finished_work_has_no_time_left_though_some_audio_could_not_be_read() -> None:
    assert "left" not in amount(3, 3, 10.0, 5.0, 12.0)


def test_what_is_counted_is_in_the_singular_only_if_it_is_one() -> None:
    assert [counted(count, "failure") for count in (0, 1, 1200)] == ["0 failures", "1 failure", "1,200 failures"]
    assert [counted(count, "copy", "copies") for count in (1, 2)] == ["1 copy", "2 copies"]
