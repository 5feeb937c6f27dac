from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support import toy_encoder
from voxshard import files, open_features
from voxshard.errors import IdentityError
from voxshard.manifest import Manifest
from voxshard.progress import Silent
from voxshard.stages import extract
from voxshard.stages.extract import ExtractConfig
from voxshard.store.merge import MergeConfig, merge

TESTS = Path(__file__).parent.parent
NUM_OLD, NUM_NEW = 3_000, 100


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    toy_encoder.install(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(TESTS.parent / "src"), str(TESTS))))


def prepared(root: Path, count: int, *, changed: int | None = None) -> Path:
    """A manifest of spans of recordings, of ten utterances each; one recording has another size."""
    root.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        path = root / f"r{number // 10}.wav"
        if not path.exists():
            noise = 0.3 * np.random.default_rng(number).standard_normal(16000).astype(np.float32)
            soundfile.write(path, noise, 16000, subtype="FLOAT")
        size = path.stat().st_size + (number == changed)
        start = number % 10 / 10
        rows.append({"utterance_id": f"u{number:04d}", "path": path.name, "start_s": start, "end_s": start + 0.1,
                     "duration_s": 0.1, "num_bytes": size})  # fmt: skip
    manifest = root.parent / f"{count}.parquet"
    Manifest.from_rows(rows, root=root, corpus="folder").write(manifest)
    return manifest


def extracted(manifest: Path, out: Path, reuse: Path | None = None, **settings: object) -> Path:
    config = ExtractConfig(manifest=manifest, encoder="toy", out=out, workers=1, reuse=reuse, settings=dict(settings))
    extract.run(config)
    merge(MergeConfig(features=out), Silent(), lambda: None)
    return out


def test_a_corpus_that_grew_computes_only_what_is_new(tmp_path: Path) -> None:
    old = extracted(prepared(tmp_path / "corpus", NUM_OLD), tmp_path / "old")
    manifest = prepared(tmp_path / "corpus", NUM_OLD + NUM_NEW, changed=7)
    wanted = open_features(old).embeddings.copy()
    for number in range(1, NUM_OLD // 10):  # whoever reads one of these again fails
        (tmp_path / f"corpus/r{number}.wav").write_bytes(b"")
    new = extracted(manifest, tmp_path / "new", reuse=old)
    features = open_features(new)
    assert features.ids == [f"u{number:04d}" for number in range(NUM_OLD + NUM_NEW)]
    np.testing.assert_array_equal(features.embeddings[:NUM_OLD], wanted)
    assert features.failures == []
    for path in sorted(old.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert len(list(open_features(new).iter_batches(1000))) == 4


def test_a_set_of_another_fingerprint_is_refused(tmp_path: Path) -> None:
    manifest = prepared(tmp_path / "corpus", 20)
    old = extracted(manifest, tmp_path / "old")
    with pytest.raises(IdentityError, match="its numbers would be others"):
        extracted(manifest, tmp_path / "new", reuse=old, store_dtype="float16")


def test_failures_are_tried_again(tmp_path: Path) -> None:
    manifest = prepared(tmp_path / "corpus", 40)
    good = (tmp_path / "corpus/r1.wav").read_bytes()
    (tmp_path / "corpus/r1.wav").write_bytes(b"")
    config = ExtractConfig(manifest=manifest, encoder="toy", out=tmp_path / "old", workers=1)
    extract.run(config)
    merge(MergeConfig(features=tmp_path / "old", max_failure_fraction=1.0), Silent(), lambda: None)
    assert len(open_features(tmp_path / "old").failures) == 10
    files.publish_bytes(tmp_path / "corpus/r1.wav", good)
    new = extracted(manifest, tmp_path / "new", reuse=tmp_path / "old")
    assert (len(open_features(new)), open_features(new).failures) == (40, [])


def test_what_was_odd_about_a_reused_recording_is_kept(tmp_path: Path) -> None:
    manifest = prepared(tmp_path / "corpus", 40)
    path = tmp_path / "corpus/r1.wav"
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = (int.from_bytes(content[at : at + 4], "little") + 36).to_bytes(4, "little")
    path.write_bytes(content)
    old = extracted(manifest, tmp_path / "old")
    path.write_bytes(b"")  # whoever reads it again fails
    new = extracted(manifest, tmp_path / "new", reuse=old)
    summaries = [open_features(folder).summary for folder in (old, new)]
    assert [summary["decoded_with_warning"] for summary in summaries] == [10, 10]
    texts = [open_features(folder).table["warning"].to_pylist() for folder in (old, new)]
    assert texts[0] == texts[1]
    assert texts[1][9] is None
    assert "its header promises 36 more bytes" in texts[1][10]
    third = extracted(manifest, tmp_path / "third", reuse=new)
    assert open_features(third).table["warning"].to_pylist() == texts[0]
