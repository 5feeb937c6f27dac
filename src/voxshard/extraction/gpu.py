"""GPU counters through NVML: utilisation, memory, power, temperature, energy. Without a GPU, nothing is reported."""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

SAMPLE_EVERY_S = 5.0
LOG_EVERY_S = 60.0
MAX_SAMPLES = 240


@dataclass(frozen=True)
class GpuSample:
    """Counters of a GPU at one moment."""

    utilisation: float
    """Fraction of the driver's last sample period in which a kernel ran, 0 to 1."""
    memory_used_gb: float
    memory_total_gb: float
    """Total memory, in GB of 10^9 bytes."""
    power_w: float
    temperature_c: float
    energy_j: float
    """Energy used since the driver was loaded, in joules."""

    def __str__(self) -> str:
        return (
            f"{self.utilisation:.0%} busy, {self.memory_used_gb:.1f} of {self.memory_total_gb:.1f} GB, "
            f"{self.power_w:.0f} W, {self.temperature_c:.0f} °C"
        )


class GpuReader(Protocol):
    """Interface that reads the counters of a GPU."""

    name: str

    def read(self) -> GpuSample: ...


class NvmlReader:
    """Reader of one GPU through NVML."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        name = nvml.nvmlDeviceGetName(handle)
        self.name = name.decode() if isinstance(name, bytes) else str(name)

    def read(self) -> GpuSample:
        """Return the current counters; one that a card does not have (a MIG slice has no power meter) is 0."""
        nvml, handle = self._nvml, self._handle
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return GpuSample(
            utilisation=self._or_zero(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100,
            memory_used_gb=memory.used / 1e9,
            memory_total_gb=memory.total / 1e9,
            power_w=self._or_zero(lambda: nvml.nvmlDeviceGetPowerUsage(handle)) / 1e3,
            temperature_c=self._or_zero(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            energy_j=self._or_zero(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3,
        )

    def _or_zero(self, read: Callable[[], float]) -> float:
        try:
            return float(read())
        except self._nvml.NVMLError:
            return 0.0


def open_reader(device: str) -> GpuReader | None:
    """Return a reader of the GPU that `device` ("cuda", "cuda:1") means in this process; None if there is none."""
    if not device.startswith("cuda"):
        return None
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return None
    try:
        nvml.nvmlInit()
        return NvmlReader(nvml, _handle(nvml, int(device.partition(":")[2] or 0)))
    except (nvml.NVMLError, IndexError):
        return None


def _handle(nvml: ModuleType, index: int) -> Any:
    """Return the NVML handle: NVML counts all GPUs, CUDA those in CUDA_VISIBLE_DEVICES, by number or UUID."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    name = [item.strip() for item in visible.split(",")][index] if visible else str(index)
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)


@dataclass
class GpuRecorder:
    """Time series of one GPU over one task."""

    reader: GpuReader | None
    tell: Callable[[str], None] = lambda message: None
    """Receives a line after loading, every minute, and at the end."""
    clock: Callable[[], float] = time.time
    _series: list[tuple[float, GpuSample]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> GpuRecorder:
        if self.reader is not None:
            self.log("at the start")
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self.log("at the end")

    def sample(self) -> GpuSample | None:
        """Take one sample; none is added if the GPU cannot be read."""
        if self.reader is None:
            return None
        try:
            sample = self.reader.read()
        except Exception:  # noqa: BLE001  a driver's hiccup must not end an extraction
            return None
        with self._lock:
            self._series.append((self.clock(), sample))
            if len(self._series) > MAX_SAMPLES:  # every second one: the same span, half as dense
                self._series[1:-1] = self._series[1:-1:2]
        return sample

    def log(self, when: str) -> None:
        """Take a sample and log it."""
        sample = self.sample()
        if sample is not None and self.reader is not None:
            self.tell(f"{self.reader.name} {when}: {sample}")

    def as_dict(self) -> dict[str, Any]:
        """Return the series by column, and what the task used; empty if there was nothing to read."""
        with self._lock:
            series = list(self._series)
        if self.reader is None or not series:
            return {}
        samples = [sample for _, sample in series]
        return {
            "name": self.reader.name,
            "memory_total_gb": round(samples[0].memory_total_gb, 2),
            "mean_utilisation": round(sum(sample.utilisation for sample in samples) / len(samples), 3),
            "energy_j": round(samples[-1].energy_j - samples[0].energy_j, 1),
            "time": [round(moment, 1) for moment, _ in series],
            "utilisation": [round(sample.utilisation, 3) for sample in samples],
            "memory_used_gb": [round(sample.memory_used_gb, 2) for sample in samples],
            "power_w": [round(sample.power_w, 1) for sample in samples],
            "temperature_c": [round(sample.temperature_c, 1) for sample in samples],
        }

    def _watch(self) -> None:
        told = time.monotonic()
        while not self._end.wait(SAMPLE_EVERY_S):
            if time.monotonic() - told >= LOG_EVERY_S:
                told = time.monotonic()
                self.log("now")
            else:
                self.sample()
