"""Folders of weights with odd configs, where transformers reads them."""

from __future__ import annotations

from pathlib import Path

from fuzz.attacks import ATTACKS
from fuzz.harness import is_complete, run_attack


def test_no_folder_of_weights_gives_a_traceback(tmp_path: Path) -> None:
    tally = run_attack("weights folders", ATTACKS["weights folders"], tmp_path / "sandbox", complete=is_complete())
    assert tally.tried
    assert tally.broke == []
