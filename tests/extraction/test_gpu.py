from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from voxshard.extraction import gpu as recording
from voxshard.extraction.gpu import GpuRecorder, GpuSample, open_reader


class Reader:
    name = "Test GPU"

    def __init__(self, utilisations: list[float]) -> None:
        self.left = list(utilisations)
        self.energy_j = 1000.0

    def read(self) -> GpuSample:
        if not self.left:
            raise RuntimeError("driver hiccup")
        self.energy_j += 50
        return GpuSample(self.left.pop(0), 10.0, 40.0, 200.0, 55.0, self.energy_j)


def test_the_series_holds_what_the_gpu_did_and_used() -> None:
    clock = iter(range(100, 200))
    recorder = GpuRecorder(Reader([0.2, 0.8, 0.5]), clock=lambda: float(next(clock)))
    for _ in range(4):  # the fourth meets a hiccup and leaves nothing
        recorder.sample()
    assert recorder.as_dict() == {
        "name": "Test GPU",
        "memory_total_gb": 40.0,
        "mean_utilisation": 0.5,
        "energy_j": 100.0,
        "time": [100.0, 101.0, 102.0],
        "utilisation": [0.2, 0.8, 0.5],
        "memory_used_gb": [10.0] * 3,
        "power_w": [200.0] * 3,
        "temperature_c": [55.0] * 3,
    }


def test_a_long_task_keeps_a_short_series_over_its_whole_span() -> None:
    count = 20 * recording.MAX_SAMPLES
    moments = iter(range(count))
    recorder = GpuRecorder(Reader([0.5] * count), clock=lambda: float(next(moments)))
    for _ in range(count):
        recorder.sample()
    found = recorder.as_dict()
    assert len(found["time"]) <= recording.MAX_SAMPLES
    assert (found["time"][0], found["time"][-1]) == (0, count - 1)
    assert found["time"] == sorted(found["time"])


def test_the_gpu_is_told_of_at_the_start_after_loading_and_at_the_end() -> None:
    told: list[str] = []
    with GpuRecorder(Reader([0.0, 0.25, 0.9]), told.append) as recorder:
        recorder.log("after loading")
    assert told == [
        "Test GPU at the start: 0% busy, 10.0 of 40.0 GB, 200 W, 55 °C",
        "Test GPU after loading: 25% busy, 10.0 of 40.0 GB, 200 W, 55 °C",
        "Test GPU at the end: 90% busy, 10.0 of 40.0 GB, 200 W, 55 °C",
    ]


def test_without_a_gpu_nothing_is_said() -> None:
    told: list[str] = []
    with GpuRecorder(open_reader("cpu"), told.append) as recorder:
        recorder.log("after loading")
    assert told == []
    assert recorder.as_dict() == {}


class FakeNvml(SimpleNamespace):
    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"index {index}"

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        return f"uuid {name}"

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return handle.encode()

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=2e9, total=4e10)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(gpu=75)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        raise self.NVMLError("not supported on a slice")

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        return 61

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return 5000


@pytest.mark.parametrize(
    ("visible", "device", "name"),
    [("", "cuda:1", "index 1"), ("2,3", "cuda:1", "index 3"), ("GPU-ab,MIG-cd", "cuda", "uuid GPU-ab")],
)
def test_the_gpu_read_is_the_one_cuda_means(
    monkeypatch: pytest.MonkeyPatch, visible: str, device: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    reader = open_reader(device)
    assert reader is not None
    assert reader.name == name
    assert reader.read() == GpuSample(0.75, 2.0, 40.0, 0.0, 61.0, 5.0)
