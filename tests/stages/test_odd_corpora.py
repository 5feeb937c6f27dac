"""A folder with everything that can be wrong in it, and storage that fills up: from prepare to the merged set."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import voxshard
from conftest import MakeCorpus
from support import toy_encoder
from voxshard.errors import StorageFullError, TooManyFailuresError
from voxshard.stages import extract, merge, prepare
from voxshard.stages.base import Task
from voxshard.stages.extract import ExtractConfig
from voxshard.stages.merge import MergeConfig
from voxshard.stages.prepare import PrepareConfig
from voxshard.stages.verify import VerifyConfig
from voxshard.stages.verify import run as verify

RATE = 16000
GOOD_NAMES = [
    "plain.wav",
    "with space.wav",
    'it\'s "quoted".wav',
    "new\nline.wav",
    "ünïcode-語.wav",
    "deep/er/one.flac",
]


def write_good(root: Path) -> list[str]:
    rng = np.random.default_rng(1)
    for name in GOOD_NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, 0.2 * rng.standard_normal(RATE), RATE)
    soundfile.write(root / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(root / "96k.wav", 0.2 * rng.standard_normal(96_000), 96_000)
    soundfile.write(root / "8ch.wav", 0.2 * rng.standard_normal((RATE, 8)), RATE)
    bytes_name = os.fsencode(root) + b"/latin-\xe9.wav"
    shutil.copy(root / "plain.wav", bytes_name)
    return [*GOOD_NAMES, "silent.wav", "96k.wav", "8ch.wav", "latin-\\xe9.wav"]


def write_bad(root: Path) -> dict[str, str]:
    whole = (root / "plain.wav").read_bytes()
    (root / "empty.wav").write_bytes(b"")
    (root / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    (root / "page.wav").write_text("<!DOCTYPE html><html>404</html>")
    samples = np.zeros(RATE, np.float32)
    samples[100] = np.nan
    soundfile.write(root / "nan.wav", samples, RATE, subtype="FLOAT")
    flac = (root / "deep/er/one.flac").read_bytes()
    (root / "cut.flac").write_bytes(flac[: len(flac) // 2])
    return {
        "empty.wav": "EmptyAudioError",
        "truncated.wav": "TruncatedAudioError",
        "page.wav": "UnreadableAudioError",
        "nan.wav": "NonFiniteAudioError",
        "cut.flac": "TruncatedAudioError",
    }


def pipeline(root: Path, out: Path, encoder: str, max_failure_fraction: float = 0.9) -> Path:
    prepare.run(PrepareConfig(format="folder", root=str(root), out=out / "manifest.parquet"), Task())
    config = ExtractConfig(
        manifest=out / "manifest.parquet",
        encoder=encoder,
        out=out / "set",
        workers=1,
        io_retry_delays_s=(0.01,),
        max_failure_fraction=max_failure_fraction,
    )
    extract.run(config)
    merge.run(MergeConfig(features=out / "set"))
    return out / "set"


@pytest.mark.parametrize("encoder", ["mfcc", "lfcc"])
def test_everything_good_is_extracted_and_everything_bad_has_its_reason(tmp_path: Path, encoder: str) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    good, bad = write_good(root), write_bad(root)
    folder = pipeline(root, tmp_path, encoder)
    features = voxshard.open_features(folder)
    assert sorted(features.ids) == sorted(good)
    assert np.isfinite(features.embeddings).all()
    assert all(np.any(features[name]) for name in good)
    with open(folder / "failures.csv", newline="") as stream:
        failures = {row["utterance_id"]: row for row in csv.DictReader(stream)}
    assert {name: row["error"] for name, row in failures.items()} == bad
    assert all(len(row["message"]) > 10 for row in failures.values())
    np.testing.assert_allclose(features["latin-\\xe9.wav"], features["plain.wav"])


def test_one_sample_is_an_embedding_or_a_failure_with_a_reason(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    write_good(root)
    soundfile.write(root / "one.wav", [0.5], RATE)
    folder = pipeline(root, tmp_path, "mfcc")
    if "one.wav" not in voxshard.open_features(folder):
        with open(folder / "failures.csv", newline="") as stream:
            (row,) = csv.DictReader(stream)
        assert row["error"] == "TooShortError"
        assert row["message"].startswith("1 samples at 16000 Hz")


def test_too_many_failures_stop_the_chain_after_publishing_what_is_good(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    write_good(root)
    for number in range(30):
        (root / f"broken-{number}.wav").write_bytes(b"")
    with pytest.raises(TooManyFailuresError, match="EmptyAudioError"):
        pipeline(root, tmp_path, "lfcc", max_failure_fraction=0.05)
    assert len(voxshard.open_features(tmp_path / "set")) == 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_a_clear_error_and_a_later_run_goes_on(
    make_corpus: MakeCorpus, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_encoder.install(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    manifest = make_corpus([3.0] * 60)
    config = ExtractConfig(
        manifest=manifest,
        encoder="toy",
        out=small_disk / "set",
        workers=1,
        shards=12,
        settings={"granularity": "frames"},
    )
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    with pytest.raises(StorageFullError, match=r"no space left .* same command again, what is finished is kept"):
        extract.run(config)
    kept = {path.name for path in (small_disk / "set" / "shards").glob("*.h5")}
    assert 0 < len(kept) < 12
    assert not list((small_disk / "set").rglob("*.tmp"))
    ballast.unlink()
    assert extract.run(config).missing == []
    merge.run(MergeConfig(features=config.out))
    assert verify(VerifyConfig(features=config.out)).problems == []
    assert len(voxshard.open_features(config.out)) == 60
