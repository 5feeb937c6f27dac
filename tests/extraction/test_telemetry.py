from __future__ import annotations

import pytest

from voxshard.cpus import available_cpus, decode_workers
from voxshard.extraction.telemetry import Timers, advice, summed


def timers(encode_s: float, wait_decode_s: float = 0.0, wait_write_s: float = 0.0) -> dict[str, float]:
    return Timers(encode_s=encode_s, wait_decode_s=wait_decode_s, wait_write_s=wait_write_s).as_dict()


@pytest.mark.parametrize(
    ("times", "device", "sentence"),
    [
        (timers(62, 38), "cuda", "GPU waited 38% for decoding: ask for 10 more CPUs."),
        (timers(85, 15), "cuda:1", "GPU waited 15% for decoding: ask for 3 more CPUs."),
        (timers(6, 94), "cuda", "GPU waited 94% for decoding: ask for 64 more CPUs."),
        (timers(95, 5), "cuda", "GPU was busy 95% of the time."),
        (timers(80, 0, 20), "cpu", "encoder waited 20% for writing: put --out on faster storage."),
        (timers(0.01, 99), "cpu", "Decoding and preparing took all the time, on 16 workers: more CPUs make it faster."),
        (timers(0), "cpu", "Nothing was encoded."),
    ],
)
def test_advice_names_the_wait_and_the_mend(times: dict[str, float], device: str, sentence: str) -> None:
    assert advice(times, num_workers=16, device=device) == sentence


def test_timers_add_up_over_tasks() -> None:
    assert summed([timers(1, 2), timers(3, 4)])["wait_decode_s"] == 6


def test_slurm_says_how_many_cpus_a_task_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "18")
    assert available_cpus() == 18
    assert decode_workers(encodes_in_prepare=False) == 16
    assert decode_workers(encodes_in_prepare=True) == 18
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert decode_workers(encodes_in_prepare=False) == 1
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    assert available_cpus() >= 1


def test_timers_that_another_version_did_not_write_are_zero() -> None:
    found = summed([{"encode_s": 3.0}, {"encode_s": 1.0, "wait_decode_s": 0.2}])
    assert advice(found, num_workers=2, device="cuda") == "GPU was busy 95% of the time."
