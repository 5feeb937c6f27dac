"""bench/gpu.py, the measurements for a machine with a GPU, in its small version on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.py"


@pytest.mark.timeout(1800)
def test_every_figure_is_a_line_and_so_is_every_error(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "environment", "memory", "training", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--budget", "1200", "--out", str(tmp_path)], capture_output=True, text=True, timeout=1500, check=True
    )
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert not [row for row in rows if "error" in row], done.stdout
    assert next(row for row in rows if row["part"] == "environment")["torch"]
    speeds = [row["x_real_time"] for row in rows if row["part"] == "memory" and "x_real_time" in row]
    assert len(speeds) == 9
    assert min(speeds) > 0
    trained = [row for row in rows if "ms_per_step" in row]
    assert [(row["network"], row["precision"]) for row in trained] == [
        ("ecapa", "float32"),
        ("ecapa", "bf16"),
        ("wav2vec2", "bf16"),
    ]
    assert all(row["scored_on"] == ["cpu"] for row in trained)
    assert all(f"| {row['part']} | " in done.stdout for row in rows)


@pytest.mark.timeout(900)
def test_a_part_that_takes_too_long_is_ended_and_named(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "training", "--device", "cpu", "--budget", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert "ended after its share of 5 s" in done.stdout
