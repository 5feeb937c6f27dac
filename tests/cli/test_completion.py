"""Shells complete commands, options, names and paths."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def completed(words: str) -> list[str]:
    """What bash is offered for a command line, the last word being completed."""
    line = f"voxshard {words}"
    variables = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    variables["_VOXSHARD_COMPLETE"] = "bash_complete"
    done = subprocess.run(
        [sys.executable, "-m", "voxshard"], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("eva", ["plain,evaluate"]),
        ("extract --enc", ["plain,--encoder"]),
        ("extract --encoder mf", ["plain,mfcc"]),
        ("prepare asv", ["plain,asvspoof5"]),
        ("train --network ec", ["plain,ecapa"]),
        ("submit --site snel", ["plain,snellius"]),
        ("networks vgg", ["plain,vgg", "plain,vggish"]),
        ("extract mani", ["file,mani"]),
    ],
)
def test_what_is_offered(words: str, offered: list[str]) -> None:
    assert completed(words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_names_the_command(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "voxshard", "completion", shell], capture_output=True, text=True, check=True
    )
    assert f"_VOXSHARD_COMPLETE={shell}_complete" in done.stdout
