"""The `onnx` encoder: a model exported to ONNX, described by a few lines of JSON, computed by onnxruntime.

Suffixes: B utterances, S samples, F filter-bank frames, M mel bands, T output frames, D embedding size.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from voxshard.cpus import available_cpus
from voxshard.encoders.base import Encoder, KnownHashes, Output, describe
from voxshard.encoders.device_request import (
    check_allotted,
    device_fault,
    is_device_fault,
    is_out_of_memory,
    parse_device,
)
from voxshard.encoders.onnx import DESCRIPTION, MODEL, OnnxSettings, ScaledWaveform, read_description
from voxshard.encoders.weight_files import hash_files, locate
from voxshard.errors import (
    BackendUnavailableError,
    ConfigError,
    CorruptFileError,
    DeviceMemoryError,
    DeviceUnavailableError,
)

_CUDA = "CUDAExecutionProvider"
_CODE_VERSION = 1
_PROBE_S = (1.0, 3.0)
"""Two lengths of noise that show the size of an embedding and the frame rate."""
_FATAL = 4
"""onnxruntime's log level; what it would log at lower ones arrives as an exception too."""


class OnnxEncoder(Encoder):
    """A model with one input and dynamic batch and time axes; utterances of equal length share a batch.

    Padding would change what a model makes of a recording, and an export takes no mask.
    """

    settings_model = OnnxSettings

    def __init__(self, name: str, settings: OnnxSettings, known_hashes: KnownHashes) -> None:
        self.settings = settings
        self.folder = locate(name, settings.weights, required=(DESCRIPTION, MODEL))
        self.description = read_description(self.folder)
        if self.description.input == "fbank":
            fbank = self.description.fbank
            self.preparer, least, self._hop_samples = fbank, fbank.frame_samples, fbank.hop_samples
        else:
            scale = self.description.scale
            self.preparer = None if scale == 1.0 else ScaledWaveform(scale)
            least, self._hop_samples = self.description.sample_rate // 40, 1
        self._session = _open(self.folder, ["CPUExecutionProvider"])
        self._input = self._checked_input()
        self._rate = self.description.sample_rate
        shapes = [self._probe(seconds).shape for seconds in _PROBE_S]
        keeps_frames = self.description.granularity == "frames"
        frame_rate_hz = (shapes[1][0] - shapes[0][0]) / (_PROBE_S[1] - _PROBE_S[0]) if keeps_frames else None
        self.info = describe(
            name=name,
            settings=settings,
            code_version=_CODE_VERSION,
            libraries=("onnxruntime",),
            weights_folder=self.folder,
            weight_files=hash_files(self.folder, settings.weight_files(self.folder), known_hashes),
            requires=("onnxruntime",),
            needs_gpu=_CUDA in onnxruntime.get_available_providers(),
            sample_rate=self._rate,
            dim=shapes[0][-1],
            granularity=self.description.granularity,
            frame_rate_hz=frame_rate_hz or None,
            batch_policy="single" if self._has_fixed_batch else "equal_length",
            min_samples=self.description.min_samples or self._least_samples(least),
        )

    def choose_device(self, request: str) -> tuple[str, str]:
        kind, index = parse_device(request)
        if kind == "cpu":
            return "cpu", "asked for"
        if _CUDA in onnxruntime.get_available_providers() and (kind == "cuda" or _sees_gpu()):
            return f"cuda:{index}", "onnxruntime-gpu"
        if kind == "cuda":
            raise DeviceUnavailableError(
                f"--device {request}: this onnxruntime ({onnxruntime.__version__}) has no CUDA; `pip install"
                " onnxruntime-gpu` in place of onnxruntime, or run with `--device cpu`"
            )
        if self.info.needs_gpu:
            check_allotted("onnxruntime sees no GPU")
        return "cpu", "onnxruntime sees no GPU it can use"

    def load(self, device: str) -> None:
        """Open the model on the device.

        Raises
        ------
        DeviceUnavailableError : onnxruntime does not get the GPU.
        """
        kind, index = parse_device(device)
        if kind != "cuda":
            return  # opened when it was constructed
        options = {"device_id": index, "use_tf32": int(self.settings.precision == "tf32")}
        self._session = _open(self.folder, [(_CUDA, options), "CPUExecutionProvider"])
        if _CUDA not in self._session.get_providers():
            raise DeviceUnavailableError(
                f"--device {device}: onnxruntime cannot use this GPU (see its log above); check that"
                " CUDA and cuDNN are those its release asks for, or run with `--device cpu`"
            )

    def encode(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[Output]:
        rows = self._run(np.ascontiguousarray(features, np.float32))
        key = "frames" if self.description.granularity == "frames" else "embedding"
        return [{key: row.copy()} for row in rows]

    def cost(self, length: int) -> float:
        return length * self._hop_samples / self._rate

    def _run(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            (found,) = self._session.run([self.description.output], {self._input: features})
        except Exception as exc:
            first_line = (str(exc) or type(exc).__name__).splitlines()[0]
            if is_out_of_memory(str(exc)) or isinstance(exc, MemoryError):
                raise DeviceMemoryError(f"onnxruntime: {first_line}") from exc
            if is_device_fault(str(exc)):
                raise device_fault("onnxruntime", first_line) from exc
            raise
        return np.asarray(found, np.float32)

    def _checked_input(self) -> str:
        inputs = self._session.get_inputs()
        outputs = [item.name for item in self._session.get_outputs()]
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            listed = ", ".join(f"{item.name} {item.type}" for item in inputs)
            raise ConfigError(f"{self.folder / MODEL}: its inputs are {listed}; one float32 input is supported")
        if self.description.output not in outputs:
            raise ConfigError(
                f"{self.folder / DESCRIPTION}: output {self.description.output!r}; {MODEL} has {', '.join(outputs)}"
            )
        self._has_fixed_batch = inputs[0].shape[:1] == [1]
        return str(inputs[0].name)

    def _least_samples(self, least: int) -> int:
        """Return the shortest clip that the model accepts, from `least` on: exports do not record it."""

        def runs(num_samples: int) -> bool:
            try:
                self._run(self.prepare(np.full(num_samples, 0.01, np.float32))[None])
            except Exception:  # noqa: BLE001  onnxruntime has many classes of error for one meaning: too short
                return False
            return True

        low, high = least, round(_PROBE_S[0] * self._rate)  # one of a second has run
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if runs(middle) else (middle + 1, high)
        return high

    def _probe(self, seconds: float) -> npt.NDArray[np.float32]:
        """Return the output for one utterance of noise, without the batch axis."""
        noise_S = np.random.default_rng(0).standard_normal(round(seconds * self._rate)).astype(np.float32) * 0.1
        wanted = 2 if self.description.granularity == "frames" else 1
        features = self.prepare(noise_S)[None]
        try:
            found = self._run(features)
        except Exception as exc:
            raise ConfigError(
                f"{self.folder}: {MODEL} does not run on what {DESCRIPTION} describes, float32"
                f" {features.shape}: {str(exc).splitlines()[0]}"
            ) from exc
        if found.ndim != wanted + 1 or len(found) != 1:
            raise ConfigError(
                f"{self.folder / DESCRIPTION}: granularity {self.description.granularity}, but output"
                f" {self.description.output!r} has shape {found.shape} for one utterance"
            )
        return found[0]  # type: ignore[no-any-return]


def _sees_gpu() -> bool:
    return Path("/dev/nvidia0").exists()


def _open(folder: Path, providers: list[Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores may be shared
    try:
        return onnxruntime.InferenceSession(folder / MODEL, options, providers=providers)
    except Exception as exc:
        if re.search(r"IR version|opset", str(exc), re.I):
            raise BackendUnavailableError(
                f"{folder / MODEL}: made for a newer onnxruntime than {onnxruntime.__version__}, which is installed "
                f"here: {str(exc).splitlines()[0]}; install a newer one, or export it for an older opset"
            ) from exc
        raise CorruptFileError(
            f"{folder / MODEL}: onnxruntime {onnxruntime.__version__} cannot open it: {str(exc).splitlines()[0]}; fetch"
            " or export it again"
        ) from exc
