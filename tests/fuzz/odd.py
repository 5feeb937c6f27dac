"""Odd values and damage, drawn with a seed."""

from __future__ import annotations

import random
from typing import Any

TEXTS = (
    "", " ", "-", "--", "=", "a=b", "null", "~", "no", "yes", ".nan", "-.inf", "1e400", "1e-3", "0", "-1",
    "007", "1_000", "99999999999999999999", "2024-01-31", "12:00:00", "[", "]", "{", "}", "[]", "{}", "{a: 1}",
    "[[1]]", "!!set {a}", "!!binary aGVsbG8=", "!!python/object:os.system x", "&a [*a]", "*a", "<<: *x", "? x",
    "| x", "%YAML 9", "---", "...", "$HOME", "${NOPE}", "${HOME:-x}", "../../x", "/", ".", "..", "/dev/null",
    "/dev/zero", "/proc/self/mem", "~/x", "x" * 300, "x" * 5000, "a\nb", "a\tb", "a\rb", "\x1b[2J", "ünï", "音声",
    "e\u0301", "\u202e", "\ufeff", "\ud800", "🙂", "%s%n", "{0}", "*", "**", "(", "(?P<x>", "(a+)+$", "s3://",
    "s3://x/y", "file:///etc/passwd", "hf/", "hf/../..", "hf/a/b", "http://127.0.0.1:9/x", "cuda:99", "metis8d",
    "mfcc", "logmel", "train", "label", "utterance_id", "embedding_idx", "NaN", "inf", "True", "1.5", "1,2",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 10**6, 2**31, 2**63, 1e-300, 1.5, 1e17, "", "x", [], {}, [None], [[]],
    {"x": 1}, {"": ""}, {1: 2}, ["a", "a"], "a\nb", "ünï", "/nope", ["../x"], {"a": {"b": {"c": 1}}},
    "2024-01-31", "mfcc", "auto", ".*", "(",
)  # fmt: skip


def text(rng: random.Random) -> str:
    if rng.random() < 0.8:
        return rng.choice(TEXTS)
    return "".join(
        chr(rng.choice((rng.randrange(1, 128), rng.randrange(128, 0x2FF)))) for _ in range(rng.randrange(1, 20))
    )


def value(rng: random.Random) -> Any:
    return rng.choice(VALUES)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Content with bits flipped, a piece removed, repeated, or overwritten, or its end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        if not data:
            break
        at = rng.randrange(len(data))
        size = min(rng.choice((1, 2, 8, 100)), len(data) - at)
        how = rng.randrange(6)
        if how <= 1:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            data[at : at + size] = rng.randbytes(size)
        elif how == 3:
            del data[at : at + size]
        elif how == 4:
            data[at:at] = data[at : at + size]
        else:
            del data[at:]
    return bytes(data)


def changed(content: Any, rng: random.Random) -> Any:
    """Nested content with one value replaced, removed, renamed or added."""
    paths = list(_paths(content))
    path = rng.choice(paths)
    return _changed(content, path, rng)


def _paths(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, item in items:
        found += _paths(item, (*path, key))
    return found


def _changed(content: Any, path: tuple[Any, ...], rng: random.Random) -> Any:
    if not path:
        return value(rng)
    key, *rest = path
    copy = dict(content) if isinstance(content, dict) else list(content)
    if rest:
        copy[key] = _changed(content[key], tuple(rest), rng)
        return copy
    how = rng.randrange(4)
    if how == 0:
        del copy[key]
    elif how == 1 and isinstance(copy, dict):
        copy[text(rng)] = copy.pop(key)
    elif how == 2 and isinstance(copy, dict):
        copy[text(rng)] = value(rng)
    else:
        copy[key] = value(rng)
    return copy
