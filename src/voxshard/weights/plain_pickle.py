"""Read settings from a pickle without running anything in it."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path, PurePosixPath
from typing import Any

from voxshard.errors import CorruptFileError

_LARGEST_BYTES = 1 << 20
_MOST_VALUES = 100_000
_DEEPEST = 20
_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path", "PurePath")
_NEW_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Names of modules that pickles up to protocol 2 call as Python 2 did."""
_WANTED = "only plain settings are read: argparse.Namespace, dict, list, text, numbers, paths"


def read_settings(path: Path) -> dict[str, Any]:
    """Read a pickled `argparse.Namespace`, or a dict with text as its keys.

    Returns
    -------
    Its values by name: text, numbers, true and false, None, and lists and dicts of these; paths as text.

    Raises
    ------
    CorruptFileError : no such pickle, or one with any other object, which is never made.
    """
    content = path.read_bytes()[: _LARGEST_BYTES + 1]
    if len(content) > _LARGEST_BYTES:
        raise CorruptFileError(f"{path}: refused: larger than 1 MiB, which settings are not")
    try:
        _check_memo(content)
        reader = _SettingsReader(content)
        found = reader.load()
    except _RefusedError as exc:
        raise CorruptFileError(f"{path}: refused: it holds {exc}; {_WANTED}") from None
    except Exception as exc:  # an unpickler raises whatever it meets
        reason = str(exc).partition("\n")[0][:200]
        raise CorruptFileError(f"{path}: not a readable pickle: {reason}") from exc
    if isinstance(found, reader.namespace):
        found = vars(found)
    try:
        plain = _Plain().of(found, 0)
    except _RefusedError as exc:
        raise CorruptFileError(f"{path}: refused: it holds {exc}; {_WANTED}") from None
    if not isinstance(plain, dict):
        raise CorruptFileError(f"{path}: holds a {type(plain).__name__}, not settings by name; {_WANTED}")
    return plain


class _RefusedError(Exception):
    """The pickle contains something that is not plain."""


class _SettingsReader(pickle.Unpickler):
    """Unpickler that knows only stand-ins for a namespace and for paths."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))

        class Arguments:
            pass

        def path_of(*parts: object) -> str:
            return str(PurePosixPath(*(str(part) for part in parts)))

        def reconstruct(kind: object, base: object, state: object) -> Arguments:
            if kind is not Arguments or base is not nothing or state is not None:
                raise _RefusedError("an object that is not a namespace")
            return Arguments()

        def nothing() -> None:
            return None

        self.namespace = Arguments
        self._known: dict[tuple[str, str], object] = {
            ("argparse", "Namespace"): Arguments,
            ("builtins", "object"): nothing,
            ("copyreg", "_reconstructor"): reconstruct,  # of protocols 0 and 1
            **{(module, name): path_of for module in ("pathlib", "pathlib._local") for name in _PATHS},
        }

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return self._known[_NEW_NAMES.get(module, module), name]
        except KeyError:
            raise _RefusedError(f"{f'{module}.{name}'[:80]!r}") from None


def _check_memo(content: bytes) -> None:
    """Refuse memo numbers that only a forged pickle has: memory is allocated for all numbers below."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise _RefusedError(f"the memo number {argument}")


class _Plain:
    """Copies plain values within bounds: a small pickle can refer to one list a thousand times."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, value: object, depth: int) -> Any:
        self.count += 1
        if self.count > _MOST_VALUES or depth > _DEEPEST:
            raise _RefusedError("more values than settings have")
        if value is None or type(value) in (str, int, float, bool):
            return value
        if type(value) in (list, tuple):
            return [self.of(item, depth + 1) for item in value]  # type: ignore[attr-defined]
        if type(value) is dict and all(type(key) is str for key in value):
            return {key: self.of(item, depth + 1) for key, item in value.items()}
        raise _RefusedError(f"a value of type {type(value).__name__}")
