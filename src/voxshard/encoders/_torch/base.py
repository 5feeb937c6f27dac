"""Common parts of the PyTorch encoders: loading, copies to and from the device, precision.

Suffixes: B utterances, L padded feature length, T padded frames.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders._torch.device import check_placement, memory_errors, on_device, resolve_device, take_device
from voxshard.encoders._torch.precision import arithmetic
from voxshard.encoders._torch.streams import Streams
from voxshard.encoders.base import Encoder, EncoderSettings, Output, Precision

TensorOutput: TypeAlias = torch.Tensor | list[torch.Tensor]
"""One tensor (B, ...), or one for each utterance."""


class TorchEncoder(Encoder):
    """An encoder whose model is a `torch.nn.Module`. Subclasses define how it is built and what one batch goes through.

    On a CPU `forward` runs in several threads at once, each with its own batch.
    """

    settings: EncoderSettings
    _streams: Streams[list[Output]] | None = None

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """Make the model with its weights, on the CPU."""

    @abstractmethod
    def forward(self, features_BL: torch.Tensor, lengths_B: npt.NDArray[np.int64]) -> Mapping[str, TensorOutput]:
        """Embed one batch on the device.

        Returns
        -------
        "embedding" (B, ...), or "frames" (B, T, ...) and perhaps "codes" (B, T) or (B, T, K), right-padded. With
        "num_frames" (B,), int, the number of frames of each utterance; without it, `num_frames(length)` computes it.
        """

    def num_frames(self, length: int) -> int:
        """Return the number of frames for features of this length; only called for encoders that return frames."""
        raise NotImplementedError

    def choose_device(self, request: str) -> tuple[str, str]:
        """See `voxshard.encoders._torch.device.resolve_device`."""
        return resolve_device(request)

    def load(self, device: str) -> None:
        """Build the model, bring it onto the device, and check that all of it arrived."""
        self.device = take_device(device)
        with memory_errors(self.device):
            self.model = self.build().eval().requires_grad_(False).to(self.device)
        check_placement(self.model, self.device)
        if self.device.type == "cpu":
            self._streams = Streams()
            self.in_flight = 2 * self._streams.count  # one that runs and one that waits, for each stream

    def encode(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[Output]:
        """Embed one batch, on all the threads there are, and wait for it."""
        return self._queue(features, lengths, self.settings.precision)()

    def encode_in(
        self, precision: Precision, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]
    ) -> list[Output]:
        return self._queue(features, lengths, precision)()

    @property
    def precisions(self) -> Sequence[Precision]:  # type: ignore[override]
        """Return the precisions that the settings allow."""
        return get_args(type(self.settings).model_fields["precision"].annotation)

    def start(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> Callable[[], list[Output]]:
        """Begin a batch: on a GPU by queueing its work, on a CPU by giving it to the next stream that is free."""
        if self._streams is None:
            return self._queue(features, lengths, self.settings.precision)
        return self._streams.submit(lambda: self.encode(features, lengths)).result

    def _queue(
        self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64], precision: Precision
    ) -> Callable[[], list[Output]]:
        """Call `forward`; on a GPU this returns once the work is queued, so that a second batch can queue behind."""
        with memory_errors(self.device), torch.inference_mode(), arithmetic(precision, self.device):
            results = self.forward(on_device(features, self.device), lengths)
            arrived = {key: self._to_host(tensor) for key, tensor in results.items()}
            done = torch.cuda.Event() if self.device.type == "cuda" else None
            if done is not None:
                done.record(torch.cuda.current_stream(self.device))

        def finish() -> list[Output]:
            if done is not None:
                with memory_errors(self.device):
                    done.synchronize()
            return [self._row(arrived, row, int(length)) for row, length in enumerate(lengths)]

        return finish

    def _row(self, arrived: dict[str, TensorOutput], row: int, length: int) -> Output:
        output: Output = {}
        for key, tensor in arrived.items():
            if key == "num_frames":
                continue
            array = tensor[row].numpy()
            if key != "embedding":
                counts = arrived.get("num_frames")
                array = array[: self.num_frames(length) if counts is None else int(counts[row])]
            output[key] = array.copy()
        return output

    def _to_host(self, tensor: TensorOutput) -> TensorOutput:
        if isinstance(tensor, list):
            return [self._copied(item) for item in tensor]
        return self._copied(tensor)

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.float() if tensor.is_floating_point() else tensor.int()
        if self.device.type == "cpu":
            return tensor
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return pinned.copy_(tensor, non_blocking=True)

    def lengths_on_device(self, lengths_B: npt.NDArray[np.int64]) -> torch.Tensor:
        """int64 (B,) on the device, without waiting for it."""
        return on_device(np.ascontiguousarray(lengths_B, np.int64), self.device)
