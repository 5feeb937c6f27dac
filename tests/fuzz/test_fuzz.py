"""Hostile input: no traceback, nothing written outside, no success on what cannot be right.

`VOXSHARD_FUZZ=complete` runs every case; without it each attack runs those that fit a few seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.attacks import ATTACKS
from fuzz.harness import is_complete, run_attack


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_input_gives_a_traceback_a_file_outside_or_a_silent_failure(attack: str, tmp_path: Path) -> None:
    tally = run_attack(attack, ATTACKS[attack], tmp_path / "sandbox", complete=is_complete())
    print(f"{attack}: {tally.tried} tried, {tally.held} held, {len(tally.broke)} broke, {tally.refused} refused")
    assert tally.tried
    assert tally.broke == []
