"""Exchange between decode workers and the extraction: small pickles on a socket, arrays in memory files.

A block's arrays are in one anonymous memory file whose descriptor travels over the socket. It has no name, so nothing
is left behind whoever is killed, and the receiver maps it without a copy. Workers fill a file again once the receiver
has no array of it left, and the receiver keeps it mapped.
"""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt

from voxshard.encoders.base import Features
from voxshard.errors import EnvironmentProblemError
from voxshard.extraction.decode import PreparedUtterance
from voxshard.manifest import Utterance
from voxshard.store.shard import Failure

_ALIGNMENT = 64
_PADDING = memoryview(bytes(_ALIGNMENT))
_PIECES_AT_ONCE = 512
"""Linux takes 1,024 in one call."""
RING_BYTES = 64 << 20
"""Memory files that one worker keeps, together; what does not fit in is handed over in files that are used once."""


@dataclass(frozen=True)
class Block:
    """Utterances that one worker decodes together; the unit of dispatch."""

    number: int
    utterances: Sequence[Utterance]


@dataclass(frozen=True)
class DecodeRequest:
    """Message to a worker: a block, and which of its memory files have been read."""

    block: Block
    read: tuple[int, ...]


@dataclass(frozen=True)
class Fault:
    """Failure of decoding for reasons outside the recordings."""

    error: EnvironmentProblemError
    """Error that the extraction raises."""


@dataclass(frozen=True)
class WorkerStart:
    """Message that starts a worker."""

    decoder: bytes
    """The pickled Decoder; unpickling it imports the module of the encoder's preparer."""
    encoder: str
    """Name and settings of the encoder, for messages."""
    num_readers: int
    missing_hint: str
    """Hint for the error of a corpus that disappeared: what else may hide recordings from this process."""


@dataclass(frozen=True)
class DecodedBlock:
    """Results of a block."""

    number: int
    results: Sequence[PreparedUtterance | Failure]
    """One result per utterance, in order."""
    busy_s: float
    """Seconds that the worker spent on the block."""


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
    slot: int | None
    """Index of the worker's memory file; None: a file that is used once."""
    sends_descriptor: bool
    """Whether the memory file follows, because the receiver does not have it, or less of it."""


class BlockSender:
    """Worker's end: sends blocks, and fills memory files again that the receiver has read.

    A fresh page costs four times what writing to it again costs.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ring: list[_MemoryFile] = []
        self._free: deque[int] = deque()

    def reuse(self, slots: Iterable[int]) -> None:
        """Take back memory files that the receiver has read; may be called from another thread."""
        self._free.extend(slots)

    def send(self, block: DecodedBlock) -> None:
        """Send the results of a block; arrays go through a memory file."""
        num_bytes = 0
        placed: list[_Placed | Failure] = []
        arrays: list[tuple[int, Features]] = []
        for result in block.results:
            if isinstance(result, Failure):
                placed.append(result)
                continue
            pieces = []
            for piece in result.pieces:
                pieces.append(_Array(piece.shape, piece.dtype.str, num_bytes))
                arrays.append((num_bytes, piece))
                num_bytes += -(-piece.nbytes // _ALIGNMENT) * _ALIGNMENT
            placed.append(_Placed(tuple(pieces), result.audio_s, result.warning))
        slot = self._slot_for(num_bytes) if num_bytes else None
        memory = _MemoryFile() if slot is None else self._ring[slot]
        is_known = num_bytes <= memory.num_bytes  # to the receiver, who has mapped it
        memory.num_bytes = max(memory.num_bytes, num_bytes)
        try:
            # Filled first: what fails here, fails before anything is sent, and the receiver does not wait for it.
            _fill(memory.descriptor, arrays, num_bytes)
            header = _Header(block.number, tuple(placed), num_bytes, block.busy_s, slot, not is_known)
            self._connection.send(header)
            if not is_known:
                with _socket_of(self._connection) as channel:
                    socket.send_fds(channel, [b"m"], [memory.descriptor])
        finally:
            if slot is None:
                os.close(memory.descriptor)

    def _slot_for(self, num_bytes: int) -> int | None:
        """Return the number of a memory file that may be filled; None if the ring is full."""
        left = RING_BYTES - sum(memory.num_bytes for memory in self._ring)
        free = [self._free.popleft() for _ in range(len(self._free))]
        slot = max(free, key=lambda number: self._ring[number].num_bytes, default=None)
        if slot is not None and num_bytes - self._ring[slot].num_bytes > left:
            slot = None
        self._free.extend(number for number in free if number != slot)
        if slot is None and num_bytes <= left:
            slot = len(self._ring)
            self._ring.append(_MemoryFile())
        return slot


def _fill(descriptor: int, arrays: Sequence[tuple[int, Features]], num_bytes: int) -> None:
    """Write arrays to their places; writing costs half of mapping the file, whose new pages fault one by one."""
    pieces: list[memoryview] = []
    position = 0
    for start, array in arrays:
        pieces.append(_PADDING[: start - position])
        content = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        pieces.append(content)
        position = start + len(content)
    pieces.append(_PADDING[: num_bytes - position])
    first = written = 0
    while first < len(pieces):
        count = os.pwritev(descriptor, pieces[first : first + _PIECES_AT_ONCE], written)
        written += count
        while first < len(pieces) and count >= len(pieces[first]):
            count -= len(pieces[first])
            first += 1
        if count:
            pieces[first] = pieces[first][count:]


class BlockReceiver:
    """Parent's end of the connection to one worker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ring: dict[int, mmap.mmap] = {}
        self._read: deque[int] = deque()

    def take_read(self) -> tuple[int, ...]:
        """Return the memory files of which no array is left here, so that the worker may fill them again."""
        return tuple(self._read.popleft() for _ in range(len(self._read)))

    def receive(self) -> DecodedBlock | Fault | str:
        """Receive a message of the worker: a block's results, a fault, or that it is ready.

        Raises
        ------
        EOFError, OSError : the worker is gone.
        """
        message = self._connection.recv()
        if not isinstance(message, _Header):
            return message  # type: ignore[no-any-return]
        content = self._content(message) if message.num_bytes else np.empty(0, np.uint8)
        results: list[PreparedUtterance | Failure] = []
        for item in message.results:
            if isinstance(item, Failure):
                results.append(item)
            else:
                pieces = [_view(content, piece) for piece in item.pieces]
                results.append(PreparedUtterance(pieces, item.audio_s, item.warning))
        return DecodedBlock(message.number, results, message.busy_s)

    def _content(self, header: _Header) -> npt.NDArray[np.uint8]:
        """Return a block's bytes; when no array shares them any more, their memory file counts as read."""
        memory = self._map(header.num_bytes) if header.sends_descriptor else self._ring[header.slot or 0]
        content = np.frombuffer(memory, np.uint8, header.num_bytes)
        if header.slot is not None:
            self._ring[header.slot] = memory
            weakref.finalize(content, self._read.append, header.slot).atexit = False
        return content

    def _map(self, num_bytes: int) -> mmap.mmap:
        with _socket_of(self._connection) as channel:
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not descriptors:
            raise EOFError("worker went away while handing over a block")
        try:
            # All pages at once: one fault for each group of them would take longer than the copy that follows.
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            return mmap.mmap(descriptors[0], num_bytes, flags=flags, prot=mmap.PROT_READ)
        finally:
            os.close(descriptors[0])


def _view(content: npt.NDArray[np.uint8], piece: _Array) -> Features:
    """An array of a block. It keeps `content` alive: the base of a view of an array that owns no memory is that array,
    never what is below it."""
    dtype = np.dtype(piece.dtype)
    num_bytes = int(np.prod(piece.shape)) * dtype.itemsize
    return content[piece.offset : piece.offset + num_bytes].view(dtype).reshape(piece.shape)


class _MemoryFile:
    """Anonymous file in memory, and how much of it the receiver knows."""

    def __init__(self) -> None:
        self.num_bytes = 0
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("voxshard-block")
        else:
            with tempfile.TemporaryFile() as stream:
                self.descriptor = os.dup(stream.fileno())


def _socket_of(connection: Connection) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))
