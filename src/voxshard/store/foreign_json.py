"""Reading of features in a JSON object, one member at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from voxshard.errors import CorruptFileError, FeatureMismatchError
from voxshard.store.foreign_base import Array, ForeignFile
from voxshard.store.hdf5 import Arrays
from voxshard.store.output_spec import Granularity

_JSON_BYTES = 4 << 20
_JSON_SPACE = " \t\r\n"


def read_json_features(path: Path) -> ForeignFile:
    def items() -> Iterator[tuple[str, Arrays]]:
        for name, value in _json_items(path):
            array = table_of_numbers(path, name, value)
            if array.ndim == 0:
                raise FeatureMismatchError(
                    f"{path}: {name!r} is {value!r}; a list of numbers, or of such lists, is wanted"
                )
            yield name, {"embedding" if array.ndim == 1 else "frames": array}

    first = next(items(), None)
    granularity: Granularity = "utterance" if first is None or "embedding" in first[1] else "frames"
    return ForeignFile(path, granularity, items, {})


def table_of_numbers(path: Path, name: str, value: Any) -> Array:
    try:
        array = np.array(value)
    except (ValueError, TypeError) as exc:  # rows of different lengths
        raise FeatureMismatchError(f"{path}: {name!r} is not a table of numbers: {exc}") from exc
    if array.dtype.kind != "f":
        raise FeatureMismatchError(f"{path}: {name!r} is not a table of numbers: {value!r:.60}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and a failure
        return array.astype(np.float32)


def _json_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the members of a JSON object one at a time, so that only the largest member must fit in memory."""
    decoder = json.JSONDecoder(parse_int=float)
    with path.open(encoding="utf-8") as stream:
        text, at, is_over = "", 0, False

        def more() -> None:
            nonlocal text, at, is_over
            block = stream.read(max(_JSON_BYTES, len(text) - at))  # doubling keeps a long member linear
            is_over = not block
            text, at = text[at:] + block, 0

        def skip(characters: str) -> str:
            nonlocal at
            while True:
                while at < len(text) and text[at] in characters:
                    at += 1
                if at < len(text):
                    return text[at]
                more()
                if is_over:
                    raise CorruptFileError(f"{path}: ends in the middle; truncated")

        def decode() -> Any:
            nonlocal at
            while True:
                try:
                    value, end = decoder.raw_decode(text, at)
                except RecursionError as exc:
                    raise CorruptFileError(f"{path}: nested too deeply for features") from exc
                except json.JSONDecodeError as exc:
                    if is_over:
                        raise CorruptFileError(f"{path}: not JSON, or truncated: {exc.msg}") from exc
                    more()
                else:
                    at = end
                    return value

        name: Any = None
        if skip(_JSON_SPACE + "\ufeff") != "{":
            raise FeatureMismatchError(
                f"{path}: starts with {text[at]!r}; an object is wanted: {{'utterance_id': [[...], ...]}}"
            )
        at += 1
        while (mark := skip(_JSON_SPACE)) != "}":
            if name is not None:  # after the first member
                if mark != ",":
                    raise CorruptFileError(f"{path}: not a JSON object after {name!r:.80}: {mark!r} instead of a comma")
                at += 1
                skip(_JSON_SPACE)
            name = decode()
            if not isinstance(name, str) or skip(_JSON_SPACE) != ":":
                raise CorruptFileError(f"{path}: not a JSON object after {name!r:.80}")
            at += 1
            skip(_JSON_SPACE)
            yield name, decode()
        rest = text[at + 1 :].strip(_JSON_SPACE) or stream.read(1024).strip(_JSON_SPACE)
        if rest:
            raise CorruptFileError(f"{path}: there is content after the JSON object: {rest[:40]!r}")
