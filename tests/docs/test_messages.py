"""Messages that pages on faults quote are those of the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["operating.md", "images.md"]
CODE = re.compile(r"(voxshard|--|make|python|apptainer|scontrol|sbatch)\b|IMAGE=")
LITERAL = 0.4
"""Least share of a quotation that is fixed text of the message; the remainder are values."""
Parts = tuple[str | None, ...]


def quotations(page: str) -> Iterator[str]:
    """Yield the messages on a page: code of four words and more that is no command, cut where it has an ellipsis."""
    text = (ROOT / "docs" / page).read_text()
    fences = "".join(re.findall(r"^```\n(.*?)^```", text, re.M | re.S))
    yield from re.findall(r"^voxshard: (.*)$", fences, re.M)
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        if len(code.split()) >= 4 and not CODE.match(code):
            yield from (piece.strip() for piece in code.split("...") if len(piece.split()) >= 4)


@cache
def messages() -> list[Parts]:
    """Return every text of the source as its fixed parts; None is a value."""
    found: list[Parts] = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((node.value,))
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else None for part in node.values)
                found.append(tuple(part if part is None else str(part) for part in parts))
    return found


def follows(text: str, parts: Parts) -> int | None:
    """Return how much of a text is fixed if it is the beginning of a message, else None."""
    if not text or not parts:
        return None if text else 0
    first, others = parts[0], parts[1:]
    if first is None:
        lengths = [follows(text[length:], others) for length in range(1, len(text) + 1)]
        return max((length for length in lengths if length is not None), default=None)
    if first.startswith(text):
        return len(text)
    rest = follows(text[len(first) :], others) if text.startswith(first) else None
    return None if rest is None else len(first) + rest


def is_part(text: str, parts: Parts) -> bool:
    """Whether a text is part of a message with some values."""
    if not any(part and (text in part or part.strip()[:8] in text) for part in parts):
        return False
    starts: list[Parts] = [parts[at:] for at, part in enumerate(parts) if part is None]
    for at, part in enumerate(parts):
        if part:
            starts += [(part[offset:], *parts[at + 1 :]) for offset in range(len(part)) if part[offset] == text[0]]
    return any((follows(text, start) or 0) >= LITERAL * len(text) for start in starts)


@pytest.mark.parametrize("page", PAGES)
def test_every_message_that_a_page_quotes_is_in_the_source(page: str) -> None:
    quoted = list(quotations(page))
    assert len(quoted) >= 6
    assert [text for text in quoted if not any(is_part(text, parts) for parts in messages())] == []


def test_a_message_that_was_reworded_is_found() -> None:
    parts: Parts = (None, ": ", None, " of ", None, " shards are missing")
    assert is_part("f: 1 of 2 shards are missing", parts)
    assert not is_part("f: 1 of 2 shards are not there", parts)
