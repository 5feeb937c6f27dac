"""Encoder in this process, for notebooks and scripts: recordings or waveforms in, arrays out."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from voxshard import errors
from voxshard.config import problems_error
from voxshard.cpus import available_cpus
from voxshard.encoders import registry
from voxshard.encoders.base import EncoderInfo
from voxshard.encoders.device_request import parse_device
from voxshard.errors import MissingRecordingError, TransientFaultError, UtteranceError
from voxshard.extraction.decode import Decoder, PreparedUtterance
from voxshard.extraction.encode import TOLERANCE_RMS, Budget, Result, ShardEncoder, default_batch_seconds
from voxshard.extraction.telemetry import Timers
from voxshard.manifest import Utterance
from voxshard.store.shard import Failure

Array: TypeAlias = npt.NDArray[Any]
Recording: TypeAlias = str | os.PathLike[str] | npt.NDArray[np.floating[Any]]
"""A path, a URL, or the samples (S,) of a waveform."""

_GROUP_RECORDINGS = 256
"""Recordings between two self-checks, as a shard in an extraction."""


class LoadedEncoder:
    """Encoder whose model is on a device, ready to embed; see `voxshard.load_encoder`.

    Recordings are decoded, cut, batched and encoded by the code that `voxshard extract` runs, so the numbers are the
    same: those of a recording do not depend on the others in the list.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], *, device: str = "auto") -> None:
        parse_device(device)
        self._encoder = registry.create(name, settings)
        self._settings = registry.settings_of(name, settings)
        self.device = self._encoder.choose_device(device)[0]
        """Where the model is: cpu, cuda or cuda:1."""
        self._decoder = Decoder.of("", self.info, self._settings, self._encoder.preparer, ())
        self._budget = Budget(default_batch_seconds(self.device), note=lambda message: None)
        self._decoder.warm_up()
        self._encoder.load(self.device)
        # Decode workers use one thread each, and the last bits of a matrix product depend on the number of threads.
        self._blas = ThreadpoolController().select(internal_api="openblas")

    def __repr__(self) -> str:
        info = self.info
        return f"<{info.name} on {self.device}: {info.granularity} of {info.size_text}, {info.sample_rate} Hz>"

    @property
    def info(self) -> EncoderInfo:
        """Return the facts of the encoder: sample_rate, dim, granularity, fingerprint and so on."""
        return self._encoder.info

    @overload
    def embed(  # type: ignore[overload-overlap]  # a str is iterable, too
        self, recordings: Recording, *, sample_rate: int | None = None, on_error: Literal["raise"] = "raise"
    ) -> Array: ...

    @overload
    def embed(  # type: ignore[overload-overlap]
        self, recordings: Recording, *, sample_rate: int | None = None, on_error: Literal["return"]
    ) -> Array | UtteranceError: ...

    @overload
    def embed(
        self, recordings: Iterable[Recording], *, sample_rate: int | None = None, on_error: Literal["raise"] = "raise"
    ) -> list[Array]: ...

    @overload
    def embed(
        self, recordings: Iterable[Recording], *, sample_rate: int | None = None, on_error: Literal["return"]
    ) -> list[Array | UtteranceError]: ...

    def embed(
        self,
        recordings: Recording | Iterable[Recording],
        *,
        sample_rate: int | None = None,
        on_error: Literal["raise", "return"] = "raise",
    ) -> Array | UtteranceError | list[Array] | list[Array | UtteranceError]:
        """Embed one recording, or several in batches.

        What is odd about a recording that can be decoded (`extract` has it in the column `warning`) is a `UserWarning`.

        Parameters
        ----------
        recordings : a path, a URL or a waveform, or a sequence of these. A waveform is a float array (S,) in [-1, 1].
        sample_rate : sample rate of the waveforms, in Hz; paths need none. A waveform of another rate than the
            encoder's is resampled as recordings are.
        on_error : "raise" raises the error of the first recording that cannot be embedded; "return" puts each such
            error into the result, in the place of the recording's array.

        Returns
        -------
        For one recording its array, for a sequence a list in the same order: (D,) or (L, D) with one embedding per
        recording, (T, D) or (T, L, D) with frames or windows.

        Raises
        ------
        ConfigError : a wrong argument.
        UtteranceError : a recording cannot be embedded; the message names it and the reason.
        TransientFaultError : the storage fails.
        """
        is_one = isinstance(recordings, str | os.PathLike) or _is_waveform(recordings)
        given: list[Any] = [recordings] if is_one else _as_list(recordings)
        problems: list[str] = []
        if on_error not in ("raise", "return"):
            problems.append(f"on_error: expected 'raise' or 'return' (got {on_error!r})")
        items = [_item(number, item, problems) for number, item in enumerate(given)]
        if any(isinstance(item, np.ndarray) for item in items) and not _is_rate(sample_rate):
            problems.append(f"sample_rate: a waveform needs its sample rate, an int in Hz (got {sample_rate!r})")
        if problems:
            raise problems_error("embed", problems)
        results: list[Any] = []
        for start in range(0, len(items), _GROUP_RECORDINGS):
            for result in self._encode_group(items[start : start + _GROUP_RECORDINGS], sample_rate or 0):
                if isinstance(result, UtteranceError) and on_error == "raise":
                    raise result
                results.append(result)
        return results[0] if is_one else results

    def _encode_group(self, items: Sequence[str | Array], sample_rate: int) -> list[Array | UtteranceError]:
        names = [item if isinstance(item, str) else f"waveform {number}" for number, item in enumerate(items)]

        def decode(item: str | Array, name: str) -> PreparedUtterance | Failure:
            if isinstance(item, str):
                return self._decode_file(item)
            return self._decoder.decode_samples(item, sample_rate, name)

        odd: dict[str, str] = {}
        results, deviation = self._encode(names, [*zip(items, names, strict=True)], decode, odd, alone=False)
        if deviation is not None and deviation > TOLERANCE_RMS[self._settings.precision]:
            results, _ = self._encode(names, [*zip(items, names, strict=True)], decode, odd, alone=True)
        for name, what in odd.items():
            warnings.warn(f"{name}: {what}", UserWarning, stacklevel=3)
        return [_array_or_error(result) for result in results]

    def _encode(
        self,
        names: Sequence[str],
        items: Sequence[tuple[str | Array, str]],
        decode: Callable[[str | Array, str], PreparedUtterance | Failure],
        odd: dict[str, str],
        *,
        alone: bool,
    ) -> tuple[list[Result], float | None]:
        """Decode in threads while the encoder works; return the results and the self-check's deviation.

        Parameters
        ----------
        odd : gets the warning of each recording that has one, by its name.
        """
        shard = ShardEncoder(
            self._encoder, self._budget, names, store_dtype=self._settings.store_dtype, timers=Timers(), alone=alone
        )
        with self._blas.limit(limits=1):
            for position, decoded in enumerate(_ahead(decode, items)):
                if isinstance(decoded, PreparedUtterance) and decoded.warning is not None:
                    odd[names[position]] = decoded.warning
                shard.add(position, decoded)
        results = shard.finish()
        return results, None if alone else shard.check(self._settings.precision)

    def _decode_file(self, path: str) -> PreparedUtterance | Failure:
        try:
            return self._decoder.decode(Utterance(path, path))
        except FileNotFoundError as exc:
            return Failure(path, MissingRecordingError.__name__, str(exc.strerror or exc))
        except OSError as exc:
            raise TransientFaultError(f"{path}: cannot be read: {exc}") from exc


def _ahead(
    decode: Callable[[str | Array, str], PreparedUtterance | Failure], items: Sequence[tuple[str | Array, str]]
) -> Iterator[PreparedUtterance | Failure]:
    """Yield the results of `decode` in order, computed by threads a few recordings ahead."""
    if len(items) == 1:
        yield decode(*items[0])
        return
    num_threads = available_cpus()
    with ThreadPoolExecutor(num_threads) as threads:
        waiting: deque[Future[PreparedUtterance | Failure]] = deque()
        for item in items:
            waiting.append(threads.submit(decode, *item))
            if len(waiting) > 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _array_or_error(result: Result) -> Array | UtteranceError:
    if not isinstance(result, Failure):
        return result["embedding"] if "embedding" in result else result["frames"]
    kind = getattr(errors, result.error, None)
    if isinstance(kind, type) and issubclass(kind, UtteranceError):
        return kind(f"{result.utterance_id}: {result.message}")
    return UtteranceError(f"{result.utterance_id}: {result.error}: {result.message}")


def _is_waveform(value: Any) -> bool:
    """Whether it is an array of numbers; one of texts, as a column of pandas, is a sequence of paths."""
    return hasattr(value, "__array__") and np.asarray(value).dtype.kind not in "OUST"


def _as_list(recordings: Any) -> list[Any]:
    return list(recordings) if isinstance(recordings, Iterable) else [recordings]


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value > 0)


def _item(number: int, item: Any, problems: list[str]) -> str | Array:
    """Return a path as text, or a waveform as float32 (S,)."""
    if isinstance(item, str | os.PathLike):
        return os.fspath(item)
    where = f"recordings[{number}]"
    if not hasattr(item, "__array__"):
        problems.append(f"{where}: expected a path or an array of samples (got {type(item).__name__})")
        return ""
    samples = np.asarray(item)
    if samples.ndim != 1:
        problems.append(f"{where}: expected mono samples of shape (S,) (got {samples.shape}); average the channels")
    elif not np.issubdtype(samples.dtype, np.floating):
        problems.append(f"{where}: expected float samples in [-1, 1] (got {samples.dtype}); divide int16 by 32768")
    return samples.astype(np.float32)
