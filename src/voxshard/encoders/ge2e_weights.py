"""Weights of Resemblyzer's speaker encoder: from its pretrained.pt without unpickling, or from our own file.

pretrained.pt is in PyTorch's format before 1.6: four pickles (a magic number, a version, facts of the machine, the
content), then the keys of the storages, then each storage's number of values and raw bytes. The reader below builds
dicts, numbers, and arrays out of the three names the content refers to, and refuses every other name.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from voxshard import files
from voxshard.errors import CorruptFileError, MissingWeightsError

CONVERTED = "ge2e.npz"
"""Our file: the arrays of `SHAPES` by name, float32."""
PUBLISHED = "resemblyzer/pretrained.pt"
"""The member of the wheel."""
PUBLISHED_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
NUM_LAYERS, HIDDEN, NUM_MELS = 3, 256, 40
SHAPES: dict[str, tuple[int, ...]] = {
    **{f"lstm.weight_ih_l{n}": (4 * HIDDEN, HIDDEN if n else NUM_MELS) for n in range(NUM_LAYERS)},
    **{f"lstm.weight_hh_l{n}": (4 * HIDDEN, HIDDEN) for n in range(NUM_LAYERS)},
    **{f"lstm.bias_{part}_l{n}": (4 * HIDDEN,) for part in ("ih", "hh") for n in range(NUM_LAYERS)},
    "linear.weight": (HIDDEN, HIDDEN),
    "linear.bias": (HIDDEN,),
}
_MAGIC = 0x1950A86A20F9469CFC6C
"""Magic number of PyTorch's legacy format (torch/serialization.py, MAGIC_NUMBER)."""
_LARGEST_STORAGE = 1 << 24
"""Values; a larger number is damage, not a speaker encoder."""
Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]


class _Storage:
    """Bytes that come later in the file; tensors are views of them."""

    def __init__(self, dtype: np.dtype[Any], size: int) -> None:
        self.dtype, self.size = dtype, size
        self.values: npt.NDArray[Any] | None = None


class _Tensor:
    """A view of a storage, made an array once its bytes are read."""

    def __init__(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> None:
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def array(self) -> npt.NDArray[Any]:
        """Return a copy of the values."""
        assert self.storage.values is not None
        count = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if self.offset < 0 or min(self.stride, default=0) < 0 or self.offset + count > self.storage.size:
            raise ValueError("a tensor reaches beyond its storage")
        strides = [step * self.storage.dtype.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(self.storage.values[self.offset :], self.shape, strides).copy()


class _Reader(pickle.Unpickler):
    """Builds plain values; the names below stand for our own classes, every other name is refused."""

    dtypes: ClassVar[dict[str, str]] = {"FloatStorage": "<f4", "LongStorage": "<i8"}

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in self.dtypes:
            return np.dtype(self.dtypes[name])
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, size, _view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not 0 <= int(size) <= _LARGEST_STORAGE:
            raise pickle.UnpicklingError(f"it holds a {kind!r} of {size} values")
        return self.storages.setdefault(str(key), _Storage(dtype, int(size)))


def read_published(stream: BinaryIO, *, where: str) -> dict[str, npt.NDArray[np.float32]]:
    """Read the arrays of the model in a pretrained.pt, those in `SHAPES`.

    Raises
    ------
    CorruptFileError : not such a file, damaged, or of another model; nothing in it was executed.
    """
    try:
        if _Reader(stream).load() != _MAGIC:
            raise ValueError("it does not start with PyTorch's magic number")
        for _ in range(2):  # version of the format, facts of the machine that wrote it
            _Reader(stream).load()
        reader = _Reader(stream)
        content = reader.load()
        for key in _Reader(stream).load():
            storage = reader.storages[str(key)]
            count = int(np.frombuffer(stream.read(8), "<i8")[0])
            if count != storage.size:
                raise ValueError(f"storage {key} has {count} values, {storage.size} were announced")
            storage.values = np.frombuffer(stream.read(count * storage.dtype.itemsize), storage.dtype, count)
        state = content["model_state"]
        found = {name: state[name].array().astype(np.float32) for name in SHAPES}
    except (pickle.UnpicklingError, ValueError, KeyError, TypeError, AttributeError, EOFError, IndexError) as exc:
        raise CorruptFileError(f"{where}: not Resemblyzer's pretrained.pt: {exc}; fetch it again") from exc
    return checked(found, where)


def convert_wheel(wheel: Path, target: Path) -> None:
    """Write the weights inside Resemblyzer's wheel as our own file.

    Raises
    ------
    CorruptFileError : the wheel or its pretrained.pt is not the published one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(PUBLISHED)
    except (zipfile.BadZipFile, KeyError) as exc:
        raise CorruptFileError(f"{wheel.name}: not Resemblyzer's wheel: {exc}") from exc
    digest = hashlib.sha256(content).hexdigest()
    if digest != PUBLISHED_SHA256:
        raise CorruptFileError(f"{wheel.name}: {PUBLISHED} has SHA-256 {digest}, published is {PUBLISHED_SHA256}")
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(read_published(io.BytesIO(content), where=f"{wheel.name}/{PUBLISHED}"))
    np.savez(buffer, **arrays)
    files.publish_bytes(target, buffer.getvalue())


def read_converted(path: Path) -> Weights:
    """Read the arrays of our own file.

    Raises
    ------
    MissingWeightsError : no such file.
    CorruptFileError : damaged, or of another model.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except FileNotFoundError as exc:
        raise MissingWeightsError(f"{path}: no such file; `voxshard weights fetch ge2e` brings it") from exc
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise CorruptFileError(f"{path}: not an npz of arrays: {exc}; fetch it again") from exc
    return checked(found, str(path))


def checked(found: dict[str, npt.NDArray[Any]], where: str) -> dict[str, npt.NDArray[np.float32]]:
    """Return the arrays if all of them exist in the shapes of the model.

    Raises
    ------
    CorruptFileError : names the first that is not.
    """
    for name, shape in SHAPES.items():
        if name not in found or found[name].shape != shape or found[name].dtype != np.float32:
            what = f"{found[name].dtype} {found[name].shape}" if name in found else "absent"
            raise CorruptFileError(f"{where}: {name} is {what}; expected float32 {shape}; fetch it again")
    return found
