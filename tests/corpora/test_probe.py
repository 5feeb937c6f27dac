from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from support import odd_probes
from support.trees import write_audio
from voxshard import audio
from voxshard.corpora.headers import probe, reason
from voxshard.corpora.probe import SCHEMA, probe_all
from voxshard.errors import EmptyAudioError, StoppedError, TransientFaultError


def names(count: int, *bad: int) -> pa.Array:
    return pa.array([f"bad{number}" if number in bad else "x" * (number % 50 + 1) for number in range(count)])


def test_processes_give_the_same_rows_in_the_same_order_as_none() -> None:
    paths = names(3000)
    alone = probe_all("/r", paths, num_processes=0, probe_one=odd_probes.count_bytes)
    together = probe_all("/r", paths, num_processes=2, probe_one=odd_probes.count_bytes)
    assert together.equals(alone)
    assert together.schema == SCHEMA
    assert together["num_bytes"].to_pylist() == [len("/r/") + number % 50 + 1 for number in range(3000)]


def test_no_paths_give_no_rows() -> None:
    assert probe_all("/r", pa.array([], pa.string())).num_rows == 0


def test_recordings_that_kill_the_process_are_named_and_all_others_probed() -> None:
    found = probe_all("/r", names(600, 5), num_processes=2, probe_one=odd_probes.die_on_bad)
    problems = {row: text for row, text in enumerate(found["problem"].to_pylist()) if text}
    assert problems == {5: "WorkerCrashedError: reading its header kills the process"}
    assert found["duration_s"].null_count == 1


@pytest.mark.parametrize("num_processes", [0, 1])
def test_storage_that_fails_ends_the_probe_and_is_no_verdict(num_processes: int) -> None:
    message = (
        "bad40: cannot be read: Input/output error; the storage below /r fails, not the recording; "
        "run the same command again"
    )
    with pytest.raises(TransientFaultError, match=f"^{re.escape(message)}$"):
        probe_all("/r", names(50, 40), num_processes=num_processes, probe_one=odd_probes.fail_on_bad)


def test_a_fault_that_passes_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "a.wav")
    tries = []

    def flaky(path: object) -> audio.AudioHeader:
        tries.append(path)
        if len(tries) < 3:
            raise OSError(116, "Stale file handle")
        return audio.AudioHeader(1.0, 8000, 1, 8000, "wav")

    monkeypatch.setattr("voxshard.corpora.headers.audio.probe", flaky)
    monkeypatch.setattr("voxshard.corpora.headers.time.sleep", lambda seconds: None)
    assert probe(str(tmp_path / "a.wav"), True)[0] == 1.0
    assert len(tries) == 3


def test_a_file_that_may_not_be_opened_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "a.wav")

    def refused(path: object) -> audio.AudioHeader:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("voxshard.corpora.headers.audio.probe", refused)
    row = probe(str(tmp_path / "a.wav"), True)
    assert row[4] == "UnreadableAudioError: cannot be opened: Permission denied"
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    row = probe(str(tmp_path / "loop.wav"), True)
    assert row[4] == "UnreadableAudioError: cannot be opened: Too many levels of symbolic links"


def test_a_reason_names_the_class_that_errors_py_knows() -> None:
    class OwnError(EmptyAudioError):
        pass

    assert reason(OwnError("no samples in it")) == "EmptyAudioError: no samples in it"


def test_a_stop_is_heeded_between_bunches() -> None:
    seen = []

    def on_rows(items: int, audio_s: float) -> None:
        seen.append((items, audio_s))
        raise StoppedError("stop")

    with pytest.raises(StoppedError):
        probe_all("/r", names(3000), num_processes=2, on_rows=on_rows, probe_one=odd_probes.count_bytes)
    assert seen == [(256, 256.0)]


def test_probing_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import pyarrow as pa\n"
        "from support.odd_probes import note_pid_and_wait\n"
        "from voxshard.corpora.probe import probe_all\n"
        "if __name__ == '__main__':\n"
        f"    probe_all({str(tmp_path)!r}, pa.array(['a', 'b'] * 200), num_processes=2, probe_one=note_pid_and_wait)\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "program.py")], env=environment)
    try:
        children = _wait_for(lambda: [int(path.stem) for path in tmp_path.glob("*.pid")], wanted=2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _wait_for(lambda: [pid for pid in children if not _alive(pid)], wanted=2)


def _wait_for(look: object, *, wanted: int) -> list[int]:
    end = time.monotonic() + 600
    while time.monotonic() < end:
        found = look()  # type: ignore[operator]
        if len(found) >= wanted:
            return list(found)
        time.sleep(0.05)
    raise AssertionError(f"waited 60 s for {wanted}, found {found}")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
