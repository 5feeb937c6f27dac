"""What is odd about a recording that was decoded is in the merged table, and counted in the summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from support.trees import prepare
from voxshard.config import validated
from voxshard.progress import Silent
from voxshard.stages import extract
from voxshard.stages.base import Task
from voxshard.stages.extract import ExtractConfig
from voxshard.store.layout import FeatureDir
from voxshard.store.merge import MergeConfig, merge
from voxshard.store.verify import verify


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "c"
    folder.mkdir()
    for name in ("a", "b", "c"):
        soundfile.write(folder / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    content = (folder / "b.wav").read_bytes()
    (folder / "b.wav").write_bytes(content[: len(content) // 2])  # half of it is missing
    changed = bytearray((folder / "c.wav").read_bytes())
    changed[40:44] = (32036).to_bytes(4, "little")  # a size that is 36 bytes too large
    (folder / "c.wav").write_bytes(changed)
    return folder


def extracted(corpus: Path, out: Path, **settings: object) -> tuple[dict[str, str | None], dict[str, object]]:
    """Warnings by utterance_id, and the summary."""
    manifest = out.parent / "m.parquet"
    prepare("folder", corpus, manifest)
    content = {"manifest": manifest, "encoder": "mfcc", "out": out, "settings": settings, "max_failure_fraction": 1}
    extract.run(validated(ExtractConfig, content, where="test"), Task(progress=Silent()))
    summary = merge(MergeConfig(features=out), Silent(), lambda: None)
    table = pq.read_table(FeatureDir(out).utterances)
    return dict(zip(table["utterance_id"].to_pylist(), table["warning"].to_pylist(), strict=True)), summary


def test_accepted_truncation_is_a_warning_in_the_table_and_a_count_in_the_summary(corpus: Path, tmp_path: Path) -> None:
    warnings, summary = extracted(corpus, tmp_path / "f", accept_truncated=True)
    assert warnings["a.wav"] is None
    assert warnings["b.wav"] == "its header promises 16022 more bytes than the 16022 there are"
    assert warnings["c.wav"] == "its header promises 36 more bytes than the 32044 there are"
    assert summary["decoded_with_warning"] == 2
    assert json.loads(FeatureDir(tmp_path / "f").summary.read_text())["decoded_with_warning"] == 2
    assert not verify(FeatureDir(tmp_path / "f"), Silent(), lambda: None).problems


def test_by_default_a_truncated_recording_is_a_failure_and_an_odd_header_a_warning(
    corpus: Path, tmp_path: Path
) -> None:
    warnings, summary = extracted(corpus, tmp_path / "f")
    assert warnings == {"a.wav": None, "c.wav": "its header promises 36 more bytes than the 32044 there are"}
    assert (summary["decoded_with_warning"], summary["reasons"]) == (1, {"TruncatedAudioError": 1})
