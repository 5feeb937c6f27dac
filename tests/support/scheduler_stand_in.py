"""A scheduler that takes every job and runs none, for tests of what is submitted."""

from __future__ import annotations

from pathlib import Path

COMMANDS = {
    "srun": "exit 1",
    "squeue": "",
    "scontrol": 'echo "ClusterName = made-up"; echo "MaxArraySize = 1001"',
    "sbatch": """case "$1" in --test-only) exit 0;; esac
number=$(($(cat {folder}/last 2>/dev/null || echo 0) + 1))
echo $number > {folder}/last
echo $number""",
}


def put_into(folder: Path) -> Path:
    """Write SLURM's commands into a folder that is to stand on PATH."""
    folder.mkdir()
    for name, lines in COMMANDS.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{lines.replace('{folder}', str(folder))}\n")
        path.chmod(0o755)
    return folder
