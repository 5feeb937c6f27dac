"""The code blocks of the documentation, and the commands in them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
    if page.name != "commands.md"  # made from the commands, with their usage lines
]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
CALL = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*(?:srun |uvx |\.venv\S*/bin/)?(voxshard(?: .*)?)$")
SHELL = ("", "sh", "bash", "console")


class Block(NamedTuple):
    """A code block; `page` is relative to the repository."""

    page: str
    language: str
    code: str

    @property
    def start(self) -> str:
        """What a list calls it: the begin of its first line."""
        return self.code.split("\n", 1)[0].partition("  ")[0][:60].rstrip()

    @property
    def lines(self) -> list[str]:
        """The command lines: comments, the output below a `$` line and explanations after two blanks are left out."""
        lines = re.sub(r" *\\\n *", " ", self.code).splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        plain = (re.split(r"(?:^|  +)#", line)[0].strip().partition("  ")[0] for line in lines)
        return [line for line in plain if line]

    @property
    def is_shell(self) -> bool:
        return self.language in SHELL[1:] or (not self.language and any(map(CALL.match, self.lines)))


def blocks(page: Path, *languages: str) -> list[Block]:
    name = str(page.relative_to(ROOT))
    found = (Block(name, match[1], match[2]) for match in FENCE.finditer(page.read_text()))
    return [block for block in found if block.language in languages]


def words_of(line: str) -> list[str]:
    """Return the words of a command, without a comment, a redirection and what follows a pipe."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|>")  # `<` begins a placeholder
    lexer.whitespace_split = True
    return list(itertools.takewhile(lambda word: word[0] not in ";&|>", (word or "''" for word in lexer)))


def calls(page: Path) -> Iterator[list[str]]:
    """Yield the words of each `voxshard ...` line."""
    for block in blocks(page, *SHELL):
        for line in block.lines:
            if match := CALL.match(line):
                yield words_of(match[1])
