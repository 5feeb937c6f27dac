"""A scheduler that takes every job and runs none, for tests of what is submitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxshard.slurm import queue, sbatch

COMMANDS = {
    "srun": "exit 1",
    "sinfo": 'echo "up idle"',
    "scancel": 'echo "$@" >> {folder}/cancelled',
    "scontrol": 'echo "ClusterName = made-up"; echo "MaxArraySize = 1001"',
    # As after a few minutes: what was submitted has ended, unless {folder}/state states otherwise.
    "squeue": """case " $* " in
*" all "*) cat {folder}/queue ;;
*) grep -v COMPLETED {folder}/queue ;;
esac 2>/dev/null; exit 0""",
    "sbatch": r"""for word; do case $word in --test-only) exit 0 ;; esac; script=$word; done
number=$(($(cat {folder}/last 2>/dev/null || echo 0) + 1))
echo $number > {folder}/last
env > {folder}/environment
option() { sed -n "s/^#SBATCH --$1=//p" "$script"; }
printf '%s\037' $number 0 "$(cat {folder}/state 2>/dev/null || echo COMPLETED)" "$(option comment)" n1 None "$script" \
  >> {folder}/queue
option job-name >> {folder}/queue
echo $number""",
}


def put_into(folder: Path) -> Path:
    """Write SLURM's commands into a folder that is to be on PATH."""
    folder.mkdir()
    for name, lines in COMMANDS.items():
        write(folder, name, lines)
    return folder


def impatient(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, patience_s: float, retry_every_s: float = queue.RETRY_EVERY_S
) -> Path:
    """Put SLURM's commands on PATH, asked with little patience: nothing in a test waits for long."""
    put_into(folder)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(queue, "RETRY_EVERY_S", retry_every_s)
    monkeypatch.setattr(queue, "PATIENCE_S", patience_s)
    monkeypatch.setattr(sbatch, "_APPEARS_WITHIN_S", 0.1)
    return folder


def write(folder: Path, name: str, lines: str) -> None:
    """Write one command, e.g. in the place of another; `{folder}` in its lines is where it is."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines.replace('{folder}', str(folder))}\n")
    path.chmod(0o755)
