"""Conversion of errors in data-loader workers into one-line messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from voxshard.errors import TransientFaultError, VoxshardError

_FROM_WORKER = "Caught "
"""Pattern with which torch's data loader begins the message of an error from a worker: a traceback follows, its last
line is ours."""


@contextmanager
def reading_faults() -> Iterator[None]:
    """Convert storage errors and dead workers into TransientFaultError, and remove the worker's traceback from our
    errors."""
    try:
        yield
    except VoxshardError as exc:
        if not str(exc).startswith(_FROM_WORKER):
            raise
        raise type(exc)(_last_line(exc).partition(": ")[2]) from exc
    except OSError as exc:
        raise TransientFaultError(
            f"{_last_line(exc)}; when it can be read again, run the same command: it continues from what is saved"
        ) from exc
    except RuntimeError as exc:
        if not str(exc).startswith("DataLoader worker"):
            raise
        raise TransientFaultError(
            f"{_last_line(exc)}; lack of memory is the usual reason: ask for more, or give fewer --set workers=N, and "
            "run the same command again: it continues from what is saved"
        ) from exc


def _last_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[-1]
