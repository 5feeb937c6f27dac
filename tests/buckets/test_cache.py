"""The cache when it is damaged, cannot be written, or is used by several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest

from support.fault_proxy import FaultProxy
from support.object_stores import ObjectStore
from voxshard import audio, locations
from voxshard.audio import ReadAhead
from voxshard.cli import main
from voxshard.locations import Url, local_copy

_COPY = """
import sys
from voxshard.locations import Url, local_copy
print(local_copy(Url(sys.argv[1])))
"""


def test_of_several_processes_one_transfers_an_object(s3: ObjectStore, proxy: FaultProxy, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "set" / name).write_text(name)
    s3.put(tmp_path / "set", s3.url("at-once"))
    proxy.requests.clear()
    proxy.latency_s = 0.1
    command = [sys.executable, "-c", _COPY, s3.url("at-once")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ, text=True) for _ in range(3)]
    copies = {child.communicate()[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    (copy,) = copies
    assert sorted(path.name for path in Path(copy).iterdir()) == ["a.txt", "b.txt"]
    assert sum(request.startswith("GET") and ".txt" in request for request in proxy.requests) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "entry"])
def test_a_damaged_copy_is_made_again(damage: str, s3: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("content")
    url = Url(s3.url("damaged", damage))
    s3.put(tmp_path / "a.txt", url)
    copy = local_copy(url)
    if damage == "cut":
        copy.write_text("cont")
    elif damage == "changed":
        copy.write_text("CONTENT")
    elif damage == "removed":
        copy.unlink()
    else:
        (copy.parents[1] / "entry.json").write_text("{")
    locations._cached.cache_clear()
    assert local_copy(url).read_text() == "content"


def test_a_cache_that_cannot_be_made_is_one_line(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("")
    s3.put(tmp_path / "a.txt", s3.url("no-cache.yaml"))
    monkeypatch.setenv(locations.CACHE_VARIABLE, str(tmp_path / "a.txt" / "cache"))
    with pytest.raises(SystemExit) as caught:
        main(["run", s3.url("no-cache.yaml")])
    assert caught.value.code == 4
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "a.txt/cache" in line


class _Held:
    """Stands for the pool of requests: begins nothing, so that a test decides what has arrived."""

    def __init__(self) -> None:
        self.begun: dict[str, Future[bytes]] = {}

    def submit(self, _: object, url: str) -> Future[bytes]:
        self.begun[url] = Future()
        return self.begun[url]


def test_read_ahead_holds_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadAhead, "_current", None)
    ahead, pool = ReadAhead(4, max_bytes=100), _Held()
    monkeypatch.setattr(ahead, "_pool", pool)
    names = [f"s3://voices/{number}.wav" for number in range(5)]
    for name in names:
        ahead.ask(name, 40)
    ahead.ask(names[0], 40)
    ahead.ask("local.wav", 40)
    assert list(pool.begun) == names[:2], "two of 40 bytes fit into 100"
    pool.begun[names[0]].set_result(b"zero")
    assert ReadAhead.take(names[0]) == b"zero"
    assert list(pool.begun) == names[:2], "it is taken once more, by another span of the recording"
    assert ReadAhead.take(names[0]) == b"zero"
    assert list(pool.begun) == names[:3], "what was taken makes room"
    assert ReadAhead.take(names[4]) is None, "not begun: whoever needs it reads it, and waits for nobody"
    pool.begun[names[1]].set_exception(OSError("reset"))
    with pytest.raises(OSError, match="reset"):
        ReadAhead.take(names[1])
    assert list(pool.begun) == names[:4]
    ahead.ask("s3://voices/large.wav", 1000)
    for name in names[2:4]:
        pool.begun[name].set_result(b"")
        ReadAhead.take(name)
    assert list(pool.begun)[-1] == "s3://voices/large.wav", "one object is fetched, however large"
    assert audio.ReadAhead.take("s3://voices/unasked.wav") is None
