from __future__ import annotations

import errno
import gc
import json
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from conftest import MakeCorpus
from support import toy_encoder
from support.shards import verify_shard
from support.trees import write_audio
from voxshard import files, leases
from voxshard.cli.extract import print_summary
from voxshard.config import validated
from voxshard.errors import (
    ConfigError,
    IdentityError,
    ManifestError,
    StoppedError,
    TooManyFailuresError,
    TransientFaultError,
)
from voxshard.extraction.heartbeat import read_progress
from voxshard.manifest import Manifest, ManifestFile, Utterance
from voxshard.progress import Silent
from voxshard.stages import extract, prepare, repair
from voxshard.stages.base import Task
from voxshard.stages.extract import ExtractConfig, Extraction, ExtractResult
from voxshard.stages.prepare import PrepareConfig
from voxshard.store.layout import Plan
from voxshard.store.merge import MergeConfig, merge
from voxshard.store.shard import read_shard

TESTS = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    toy_encoder.install(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(TESTS.parent / "src"), str(TESTS))))


def config_of(manifest: Path, out: Path, **values: object) -> ExtractConfig:
    return ExtractConfig(
        **{
            "manifest": manifest,
            "encoder": "toy",
            "out": out,
            "workers": 1,
            "shards": 4,
            "io_retry_delays_s": (0.01,),
            **values,
        }
    )


def contents(result: ExtractResult) -> dict[str, list[bytes]]:
    """Every shard's arrays, after verifying each."""
    plan = Plan.read(result.folder.plan)
    found: dict[str, list[bytes]] = {}
    for index in range(plan.num_shards):
        shard = verify_shard(result.folder.shard(index, plan.num_shards), identity=result.identity, plan=plan)
        found |= {name: [array.tobytes() for array in output.values()] for name, output in shard.outputs()}
    return found


def test_every_good_utterance_is_embedded_and_every_bad_one_is_a_failure(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    manifest = make_corpus([0.2] * 20)
    (tmp_path / "corpus" / "u0003.wav").write_bytes(b"")
    (tmp_path / "corpus" / "u0007.wav").write_text("<html>not found</html>")
    result = extract.run(config_of(manifest, tmp_path / "set"))
    assert result.missing == []
    assert result.num_failed == 2
    assert sorted(contents(result)) == sorted(set(Manifest.read(manifest).ids) - {"u0003", "u0007"})
    failures = [failure for path in result.folder.shards.iterdir() for failure in read_shard(path).failures]
    assert {failure.utterance_id: failure.error for failure in failures} == {
        "u0003": "EmptyAudioError",
        "u0007": "UnreadableAudioError",
    }


@pytest.mark.parametrize("count", [1, 3, 7])
def test_any_number_of_tasks_make_the_same_set(make_corpus: MakeCorpus, tmp_path: Path, count: int) -> None:
    manifest = make_corpus([0.05 * (1 + n % 9) for n in range(40)])
    reference = extract.run(config_of(manifest, tmp_path / "reference", shards=7))
    tasks = [
        threading.Thread(target=extract.run, args=(config_of(manifest, tmp_path / "set", shards=7), Task(index, count)))
        for index in range(count)
    ]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    result = extract.run(config_of(manifest, tmp_path / "set", shards=7))
    assert contents(result) == contents(reference)
    assert not list(result.folder.progress.glob("*.lease"))


def test_splits_fill_one_folder_one_after_the_other(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = make_corpus([0.2] * 12, splits=["train"] * 8 + ["dev"] * 4)
    train = extract.run(config_of(manifest, tmp_path / "set", split="train"))
    assert (train.num_selected, train.missing) == (3, [])
    assert len(list(train.folder.shards.iterdir())) == 3
    dev = extract.run(config_of(manifest, tmp_path / "set", split="dev"))
    assert (dev.num_selected, dev.missing) == (2, [])
    assert len(contents(dev)) == 12
    with pytest.raises(ManifestError, match=r"no utterance has split 'eval'; splits here: train, dev"):
        extract.run(config_of(manifest, tmp_path / "set", split="eval"))


def test_plan_only_freezes_identity_and_plan_and_encodes_nothing(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    result = extract.run(config_of(make_corpus([0.2] * 8), tmp_path / "set"), plan_only=True)
    assert result.missing == [0, 1, 2, 3]
    assert result.folder.identity.exists()
    assert not list(result.folder.shards.iterdir())


def test_other_settings_are_refused_and_named(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = make_corpus([0.2] * 8)
    extract.run(config_of(manifest, tmp_path / "set"), plan_only=True)
    with pytest.raises(IdentityError, match=r"different: settings.granularity \(default there, frames here\). Give"):
        extract.run(config_of(manifest, tmp_path / "set", settings={"granularity": "frames"}))
    with pytest.raises(IdentityError, match=r"is cut into 4 shards already, --shards 2 would make 2"):
        extract.run(config_of(manifest, tmp_path / "set", shards=2))
    other = make_corpus([0.2] * 9, name="other")
    with pytest.raises(IdentityError, match=r"different: the manifest's utterances or spans"):
        extract.run(config_of(other, tmp_path / "set", shards=None))


def test_of_two_extractions_that_start_at_once_with_other_shards_the_second_reports_it(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_corpus([0.2] * 8)
    write = Plan.write

    def write_after_another(plan: Plan, *arguments: object) -> None:
        monkeypatch.setattr(Plan, "write", write)
        extract.run(config_of(manifest, tmp_path / "set", shards=4), plan_only=True)
        plan.write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Plan, "write", write_after_another)
    with pytest.raises(IdentityError, match=r"is cut into 4 shards already, --shards 2 would make 2; omit it, or give"):
        extract.run(config_of(manifest, tmp_path / "set", shards=2), plan_only=True)
    assert Plan.read(tmp_path / "set" / "plan.parquet").num_shards == 4


def test_what_does_not_change_numbers_does_not_change_the_identity(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = make_corpus([0.2] * 8)
    first = extract.run(config_of(manifest, tmp_path / "set"), plan_only=True)
    second = extract.run(config_of(manifest, tmp_path / "set", workers=2, batch_seconds=3.0, device="cpu"))
    assert second.identity == first.identity


def test_a_stop_publishes_what_is_whole_and_the_next_run_goes_on(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = make_corpus([0.2] * 40)
    stop = threading.Event()

    class StopAfter(Silent):
        def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
            self.items = getattr(self, "items", 0) + items
            if self.items == 25:  # in the third of four shards
                stop.set()

    config = config_of(manifest, tmp_path / "set")
    with pytest.raises(StoppedError):
        extract.run(config, Task(stop=stop, progress=StopAfter()))
    assert len(list((tmp_path / "set" / "shards").iterdir())) == 2
    (state,) = read_progress(tmp_path / "set" / "progress")
    assert state.state == "stopped"
    result = extract.run(config)
    assert len(contents(result)) == 40
    assert contents(result) == contents(extract.run(config_of(manifest, tmp_path / "reference")))


def test_an_encoder_that_leaks_padding_is_noticed_and_its_shards_are_encoded_one_by_one(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    manifest = make_corpus([0.1 * (1 + n) for n in range(6)])
    notes: list[str] = []

    class Notes(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    config = config_of(manifest, tmp_path / "set", settings={"leak": 1e-3}, shards=1)
    result = extract.run(config, Task(progress=Notes()))
    assert any("encoded again, one utterance at a time" in note for note in notes)
    assert contents(result) == contents(extract.run(config_of(manifest, tmp_path / "reference", shards=1)))


def test_a_task_gives_up_early_when_most_recordings_fail(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "EARLY_STOP_UTTERANCES", 20)
    manifest = make_corpus([0.001] * 60)  # all too short
    with pytest.raises(TooManyFailuresError, match=r"TooShortError x \d+; what is good is kept") as raised:
        extract.run(config_of(manifest, tmp_path / "set", shards=6))
    found = re.match(r"(\d+) of this task's first (\d+) utterances failed", str(raised.value))
    assert found is not None
    assert found[1] == found[2]
    assert int(found[1]) in (20, 30, 40)  # shards of ten; a busy machine notices some shards later
    assert list((tmp_path / "set" / "shards").iterdir())


def test_retry_makes_only_what_is_missing_and_failed_recordings_get_a_second_chance(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    manifest = make_corpus([0.2] * 20)
    broken = tmp_path / "corpus" / "u0003.wav"
    good = broken.read_bytes()
    broken.write_bytes(b"")
    first = extract.run(config_of(manifest, tmp_path / "set"))
    lost = first.folder.shard(2, 4)
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in first.folder.shards.iterdir()}
    config = repair.last_config(first.folder)
    (result,) = repair.missing(config, Task())
    assert result.missing == []
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    broken.write_bytes(good)
    assert repair.failed(config, Task()) == repair.Repaired(1, 1)
    assert contents(result) == contents(extract.run(config_of(manifest, tmp_path / "reference")))
    assert repair.failed(config, Task()) == repair.Repaired(0, 0)


def test_a_link_to_a_missing_folder_stays_failed_and_does_not_keep_others_from_a_second_chance(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_audio(corpus / "good.wav", seconds=0.5)
    (corpus / "later.wav").write_bytes(b"")
    (corpus / "gone.wav").symlink_to(tmp_path / "nowhere" / "gone.wav")
    (corpus / "back.wav").symlink_to(tmp_path / "away" / "back.wav")
    prepare.run(
        validated(PrepareConfig, {"format": "folder", "root": str(corpus), "out": tmp_path / "m.parquet"}, where="test")
    )
    result = extract.run(config_of(tmp_path / "m.parquet", tmp_path / "set", shards=1, io_retry_delays_s=()))
    write_audio(corpus / "later.wav", seconds=0.5)
    write_audio(tmp_path / "away" / "back.wav", seconds=0.5)
    assert repair.failed(repair.last_config(result.folder), Task()) == repair.Repaired(3, 2)
    shard = read_shard(result.folder.shard(0, 1))
    assert sorted(name for name, _ in shard.outputs()) == ["back.wav", "good.wav", "later.wav"]
    assert [(failure.utterance_id, failure.error) for failure in shard.failures] == [
        ("gone.wav", "MissingRecordingError")
    ]


def test_a_shard_leased_by_a_living_task_is_left_to_it(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    config = config_of(make_corpus([0.2] * 8), tmp_path / "set")
    folder = extract.run(config, plan_only=True).folder
    owner = {"host": files.host_name(), "boot": files.boot_id(), "pid": 1}
    (folder.progress / "shard-00001.lease").write_text(json.dumps(owner))
    assert extract.run(config).missing == [1]
    (folder.progress / "shard-00001.lease").write_text(json.dumps({**owner, "pid": 2**22 + 1}))  # no such process
    assert extract.run(config).missing == []


def test_a_lease_that_is_not_touched_any_more_is_taken_over(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(make_corpus([0.2] * 8), tmp_path / "set")
    folder = extract.run(config, plan_only=True).folder
    lease = folder.progress / "shard-00001.lease"
    lease.write_text(json.dumps({"host": "elsewhere", "boot": "0" * 8, "pid": 1}))
    assert extract.run(config).missing == [1]
    monkeypatch.setattr(leases, "STALE_AFTER_S", 0.0)
    assert extract.run(config).missing == []


def test_float16_is_stored_as_asked_and_is_another_identity(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = make_corpus([0.2] * 4)
    result = extract.run(config_of(manifest, tmp_path / "set", settings={"store_dtype": "float16"}, shards=1))
    assert read_shard(result.folder.shard(0, 1)).read("embeddings").dtype == np.float16
    with pytest.raises(IdentityError, match=r"settings.store_dtype \(float16 there, default here\)"):
        extract.run(config_of(manifest, tmp_path / "set", shards=1))


def test_the_header_and_heartbeat_say_where_the_time_went(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    result = extract.run(config_of(make_corpus([0.2] * 8), tmp_path / "set", settings={"sleep_s": 0.05}))
    headers = [read_shard(result.folder.shard(index, 4)).header for index in range(4)]
    assert headers[0].audio_s == pytest.approx(0.4)
    assert headers[0].encode_s >= 0.05
    (state,) = read_progress(result.folder.progress)
    assert (state.state, state.num_ok, state.shards_published) == ("done", 8, 4)
    assert state.audio_s == pytest.approx(1.6)
    assert state.timers["encode_s"] >= 0.2
    assert headers[0].decode_s > 0  # its first block was waited for, and that is the shard's
    assert sum(header.decode_s for header in headers) == pytest.approx(state.timers["wait_decode_s"], abs=0.1)


def test_a_shard_names_the_image_it_was_made_in(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tmp_path / "labels.json"
    prefix = "org.opencontainers.image"
    labels.write_text(json.dumps({f"{prefix}.title": "voxshard-pytorch", f"{prefix}.version": "0.1.0"}))
    monkeypatch.setattr(files, "_IMAGE_LABELS", labels)
    monkeypatch.setattr(extract, "software", extract.software.__wrapped__)  # as in a process that has not asked yet
    monkeypatch.setenv("VOXSHARD_IMAGE_DIGEST", "sha256:0123")
    result = extract.run(config_of(make_corpus([0.5]), tmp_path / "set", shards=1))
    header = read_shard(result.folder.shard(0, 1)).header
    assert (header.software["image"], header.image_digest) == ("voxshard-pytorch 0.1.0", "sha256:0123")


def test_what_a_process_in_another_pid_namespace_writes_is_left_alone(tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c"]
    script = "from voxshard import files; import sys, pathlib; files.temp_path_for(pathlib.Path(sys.argv[1])).touch()"
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src")}
    done = subprocess.run([*unshare, script, str(tmp_path / "x")], env=environment, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to make a pid namespace")
    assert files.sweep_temporaries(tmp_path) == []
    assert len(files.sweep_temporaries(tmp_path, everything=True)) == 1


def test_a_task_keeps_nothing_per_utterance_of_manifest_and_plan(tmp_path: Path) -> None:
    def kept(count: int) -> tuple[int, int]:
        """Bytes of Python and of Arrow that an open extraction of so many utterances in four shards holds."""
        rows = [{"utterance_id": f"utterance-{n:06d}", "path": f"{n}.wav", "duration_s": 1.0} for n in range(count)]
        Manifest.from_rows(rows, root=tmp_path, corpus="folder").write(tmp_path / f"{count}.parquet")
        config = config_of(tmp_path / f"{count}.parquet", tmp_path / str(count))
        del rows
        Extraction.open(config, Task())
        gc.collect()
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        extraction = Extraction.open(config, Task())
        gc.collect()
        held = tracemalloc.get_traced_memory()[0], pa.total_allocated_bytes() - before
        tracemalloc.stop()
        assert [len(extraction.utterances_of(shard)) for shard in extraction.shards_of(None)] == [count // 4] * 4
        return held

    few, many = kept(400), kept(4000)
    assert many[0] - few[0] < 3600  # not a byte for each utterance
    assert many[1] - few[1] < 3600


@pytest.mark.parametrize("asked", [{}, {"shards": None}, {"limit": 5}], ids=["shards", "default", "limit"])
def test_the_first_task_reads_the_manifest_once_and_the_others_do_not(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, object]
) -> None:
    config = config_of(make_corpus([0.2] * 8), tmp_path / "set", **asked)
    reads: list[Path] = []
    read = Manifest.read.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Manifest, "read", classmethod(lambda cls, path: (reads.append(path), read(cls, path))[1]))
    first = Extraction.open(config, Task())
    assert reads == [config.manifest]
    again = Extraction.open(config, Task())
    assert (len(reads), again.identity, again.shards) == (1, first.identity, first.shards)


def test_an_extraction_replaces_no_file_of_something_else(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "config.yaml").write_text("format_version: 1\n")
    with pytest.raises(ConfigError, match=r"run: its config\.yaml would be replaced, and it is no feature set"):
        extract.run(config_of(make_corpus([0.2] * 4), run))
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "model"]
    assert (run / "config.yaml").read_text() == "format_version: 1\n"
    with pytest.raises(ConfigError, match=r"corpus\.parquet: a file; a feature set is a folder"):
        extract.run(config_of(tmp_path / "corpus.parquet", tmp_path / "corpus.parquet"))


def test_a_folder_whose_beginning_was_killed_is_begun_again_with_the_same_manifest_only(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    manifest, other = make_corpus([0.2] * 4), make_corpus([0.2] * 5, name="other")
    (tmp_path / "set" / "shards").mkdir(parents=True)
    Manifest.read(manifest).write(tmp_path / "set" / "manifest.parquet")
    with pytest.raises(IdentityError, match="was begun with another manifest"):
        extract.run(config_of(other, tmp_path / "set"))
    assert extract.run(config_of(manifest, tmp_path / "set")).missing == []


def test_a_manifest_that_can_no_longer_be_read_is_a_fault_of_the_storage(
    tmp_path: Path, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> list[Utterance]:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    manifest = make_corpus([1.0] * 4)
    monkeypatch.setattr(ManifestFile, "utterances", gone)
    with pytest.raises(TransientFaultError, match=r"corpus.parquet: .*Stale file handle; what is finished is kept"):
        extract.run(config_of(manifest, tmp_path / "set"))


def test_what_is_merged_already_is_not_told_to_be_merged(
    make_corpus: MakeCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = make_corpus([0.2] * 4)
    print_summary(extract.run(config_of(manifest, tmp_path / "set")))
    assert f"shards are done; next: voxshard merge {tmp_path / 'set'}" in capsys.readouterr().err
    merge(MergeConfig(features=tmp_path / "set"), Silent(), lambda: None)
    print_summary(extract.run(config_of(manifest, tmp_path / "set")))
    assert capsys.readouterr().err == "all 4 shards are done, and merged\n"


def test_what_was_missing_at_prepare_and_still_is_counts_as_missing(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = Manifest.read(make_corpus([0.2] * 4))
    rows = manifest.table.to_pylist()
    rows[2] |= {"path": "gone.wav", "problem": "MissingRecordingError: no such file"}
    Manifest.from_rows(rows, root=manifest.root, corpus="folder").write(tmp_path / "m.parquet")
    result = extract.run(config_of(tmp_path / "m.parquet", tmp_path / "set"))
    (failure,) = [failure for path in result.folder.shards.iterdir() for failure in read_shard(path).failures]
    assert (failure.utterance_id, failure.error) == ("u0002", "MissingRecordingError")
