"""How decode workers and the extraction hand things to each other: small pickles on a socket, arrays in memory files.

A block's arrays are in one anonymous memory file whose descriptor travels over the socket. It has no name, so nothing
is left behind whoever is killed, and the receiver maps it without a copy.
"""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from voxshard.encoders.base import Features
from voxshard.errors import EnvironmentProblemError
from voxshard.extraction.decode import PreparedUtterance
from voxshard.manifest import Utterance
from voxshard.store.shard import Failure

_ALIGNMENT = 64
_PADDING = memoryview(bytes(_ALIGNMENT))
_PIECES_AT_ONCE = 512
"""Linux takes 1,024 in one call."""


@dataclass(frozen=True)
class Block:
    """Some utterances that one worker decodes in one go; the unit of dispatch."""

    number: int
    utterances: Sequence[Utterance]


@dataclass(frozen=True)
class Fault:
    """Decoding failed for reasons outside the recordings."""

    error: EnvironmentProblemError
    """What the extraction is to raise."""


@dataclass(frozen=True)
class WorkerStart:
    """What a worker is given when it starts."""

    decoder: bytes
    """The pickled Decoder; unpickling it imports the module of the encoder's preparer."""
    encoder: str
    """Name and settings of the encoder, for messages."""
    num_readers: int
    missing_hint: str
    """What else may hide recordings from this process, for the error of a corpus that is gone."""


@dataclass(frozen=True)
class DecodedBlock:
    """What came of a block."""

    number: int
    results: Sequence[PreparedUtterance | Failure]
    """One per utterance, in order."""
    busy_s: float
    """How long the worker was at it."""


@dataclass(frozen=True)
class _Array:
    shape: tuple[int, ...]
    dtype: str
    offset: int


@dataclass(frozen=True)
class _Placed:
    pieces: tuple[_Array, ...]
    audio_s: float
    warning: str | None


@dataclass(frozen=True)
class _Header:
    number: int
    results: tuple[_Placed | Failure, ...]
    num_bytes: int
    busy_s: float


def send_block(connection: Connection, block: DecodedBlock) -> None:
    """Send a block's results, arrays by memory file."""
    offset = 0
    placed: list[_Placed | Failure] = []
    arrays: list[tuple[int, Features]] = []
    for result in block.results:
        if isinstance(result, Failure):
            placed.append(result)
            continue
        pieces = []
        for piece in result.pieces:
            pieces.append(_Array(piece.shape, piece.dtype.str, offset))
            arrays.append((offset, piece))
            offset += -(-piece.nbytes // _ALIGNMENT) * _ALIGNMENT
        placed.append(_Placed(tuple(pieces), result.audio_s, result.warning))
    header = _Header(block.number, tuple(placed), offset, block.busy_s)
    if not offset:
        connection.send(header)
        return
    descriptor = _memory_file()
    try:
        # Filled first: what fails here, fails before anything is sent, and the receiver does not wait for it.
        _fill(descriptor, arrays, offset)
        connection.send(header)
        with _socket_of(connection) as channel:
            socket.send_fds(channel, [b"m"], [descriptor])
    finally:
        os.close(descriptor)


def _fill(descriptor: int, arrays: Sequence[tuple[int, Features]], num_bytes: int) -> None:
    """Write arrays to their places; writing costs half of mapping the file, whose fresh pages fault one by one."""
    pieces: list[memoryview] = []
    position = 0
    for start, array in arrays:
        pieces.append(_PADDING[: start - position])
        content = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        pieces.append(content)
        position = start + len(content)
    pieces.append(_PADDING[: num_bytes - position])
    first = 0
    while first < len(pieces):
        count = os.writev(descriptor, pieces[first : first + _PIECES_AT_ONCE])
        while first < len(pieces) and count >= len(pieces[first]):
            count -= len(pieces[first])
            first += 1
        if count:
            pieces[first] = pieces[first][count:]


def receive(connection: Connection) -> DecodedBlock | Fault | str:
    """Receive what a worker sends: a block's results, a fault, or the word that it is ready."""
    message = connection.recv()
    if not isinstance(message, _Header):
        return message  # type: ignore[no-any-return]
    memory = None
    if message.num_bytes:
        with _socket_of(connection) as channel:
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not descriptors:
            raise EOFError("worker went away while handing over a block")
        try:
            # All pages at once: one fault for each group of them would take longer than the copy that follows.
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            memory = mmap.mmap(descriptors[0], message.num_bytes, flags=flags, prot=mmap.PROT_READ)
        finally:
            os.close(descriptors[0])
    results: list[PreparedUtterance | Failure] = []
    for item in message.results:
        if isinstance(item, Failure):
            results.append(item)
        else:
            assert memory is not None
            results.append(
                PreparedUtterance([_view(memory, piece) for piece in item.pieces], item.audio_s, item.warning)
            )
    return DecodedBlock(message.number, results, message.busy_s)


def _view(memory: mmap.mmap, piece: _Array) -> Features:
    count = int(np.prod(piece.shape))
    return np.frombuffer(memory, np.dtype(piece.dtype), count, piece.offset).reshape(piece.shape)


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("voxshard-block")
    else:
        with tempfile.TemporaryFile() as stream:
            descriptor = os.dup(stream.fileno())
    return descriptor


def _socket_of(connection: Connection) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))
