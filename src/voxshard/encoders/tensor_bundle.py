"""Read variables from a TensorFlow checkpoint of the second format (index and data file), without TensorFlow.

The index is a sorted table of LevelDB: blocks of (shared length, unshared length, value length, rest of the key,
value), each followed by its restart points and five bytes of trailer; a footer says where the block of blocks is. Every
value is a protocol buffer, BundleEntryProto. Nothing in these files can be executed.

References
----------
tensorflow, core/util/tensor_bundle and core/protobuf/tensor_bundle.proto; LevelDB, doc/table_format.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from voxshard.errors import CorruptFileError

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_BYTES = 48
_FLOAT = 1
"""DT_FLOAT in tensorflow/core/framework/types.proto."""


def read_variables(index: bytes, data: bytes, *, where: str) -> dict[str, npt.NDArray[np.float32]]:
    """Return the float32 variables of a checkpoint by name; those of other types are left out.

    Parameters
    ----------
    index, data : contents of `.index` and of the only `.data-00000-of-00001`.
    where : names the checkpoint in errors.

    Raises
    ------
    CorruptFileError : not such a checkpoint, compressed, in several data files, or damaged.
    """
    try:
        return dict(_variables(index, data))
    except (ValueError, IndexError, KeyError, TypeError) as exc:
        raise CorruptFileError(f"{where}: not a TensorFlow checkpoint that can be read: {exc}") from exc


def _variables(index: bytes, data: bytes) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    if len(index) < _FOOTER_BYTES or not index.endswith(_MAGIC):
        raise ValueError("its index does not end with LevelDB's magic number")
    footer = index[-_FOOTER_BYTES:]
    _, place = _handle(footer, 0)  # of the block of metadata, which is empty
    (start, size), _ = _handle(footer, place)
    for _, handle in _entries(index, start, size):
        for key, value in _entries(index, *_handle(handle, 0)[0]):
            fields = _fields(value)
            if not key or fields.get(1) != _FLOAT:
                continue  # the header, or integers such as the step
            if fields.get(3, 0) != 0:
                raise ValueError(f"{key.decode()} is in another data file")
            shape = _shape(fields.get(2, b""))
            offset, num_bytes = fields.get(4, 0), fields[5]
            content = data[offset : offset + num_bytes]
            if len(content) != num_bytes:
                raise ValueError(f"{key.decode()} reaches beyond the data")
            yield key.decode(), np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)


def _entries(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; keys omit what they share with the key before."""
    block = table[start : start + size]
    if len(block) != size or size < 4 or table[start + size] != 0:
        raise ValueError("a block of its index is cut off, or compressed")
    end = size - 4 * (1 + int.from_bytes(block[-4:], "little"))
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        unshared, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + unshared]
        place += unshared
        yield key, block[place : place + length]
        place += length


def _handle(content: bytes, place: int) -> tuple[tuple[int, int], int]:
    """Return start and size of a block, and the position in `content` after them."""
    start, place = _varint(content, place)
    size, place = _varint(content, place)
    return (start, size), place


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while content[place] & 0x80:
        value |= (content[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | content[place] << shift, place + 1


def _shape(content: bytes) -> tuple[int, ...]:
    """TensorShapeProto: a repeated field 2, each with the size in its own field 1."""
    return tuple(_fields(dim).get(1, 0) for number, dim in _pairs(content) if number == 2)


def _fields(content: bytes) -> dict[int, Any]:
    return dict(_pairs(content))


def _pairs(content: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a protocol buffer."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(content, place)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, place = _varint(content, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a protocol buffer has a field of kind {kind}")
        yield tag >> 3, content[place : place + size]
        place += size
