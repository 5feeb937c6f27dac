from __future__ import annotations

from pathlib import Path

import pytest

from support.flips import flip, made_set


@pytest.mark.parametrize("granularity", ["utterance", "frames"])
@pytest.mark.parametrize("mode", ["packed", "index"])
def test_no_changed_byte_becomes_a_number_a_label_or_a_traceback(mode: str, granularity: str, tmp_path: Path) -> None:
    outcomes = flip(made_set(tmp_path / "intact", mode, granularity), tmp_path, 30, seed=len(mode + granularity))
    assert {name for name in outcomes if not name.endswith((": found", ": right"))} == set()
    assert outcomes["open: found"] > 10
