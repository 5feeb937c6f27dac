from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from support.trees import Notes, column, prepare, rows, write_audio, write_text
from voxshard.config import validated
from voxshard.errors import ConfigError, DuplicateIdError, EmptyCorpusError, StoppedError
from voxshard.manifest import Manifest
from voxshard.stages.base import Task
from voxshard.stages.prepare import PrepareConfig, run, summary


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    for speaker in ("ann", "bob"):
        for take in range(3):
            write_audio(root / speaker / f"{take}.wav", seconds=0.5)
    return root


def test_options_work_together_and_the_more_particular_one_wins(corpus: Path, tmp_path: Path) -> None:
    labels = write_text(tmp_path / "labels.csv", "path,speaker,mood,split\nann/0.wav,S1,calm,dev\nbob/0.wav,S2,,dev\n")
    dev = write_text(tmp_path / "dev.txt", ["bob/2.wav"])
    notes = Notes()
    manifest = prepare(
        "folder",
        corpus,
        tmp_path / "m.parquet",
        notes,
        labels=str(labels),
        label_from=r"(?P<who>\w+)/(?P<take>\d)",
        split_from=("/0=test", "ann=train"),
        split=(f"dev={dev}",),
        study="demo",
    )
    assert rows(manifest, "path", "split", "speaker", "mood", "who", "take", "study") == [
        ("ann/0.wav", "test", "S1", "calm", "ann", "0", "demo"),
        ("bob/0.wav", "test", "S2", None, "bob", "0", "demo"),
        ("ann/1.wav", "train", None, None, "ann", "1", "demo"),
        ("ann/2.wav", "train", None, None, "ann", "2", "demo"),
        ("bob/2.wav", "dev", None, None, "bob", "2", "demo"),
        ("bob/1.wav", None, None, None, "bob", "1", "demo"),
    ]
    assert manifest.label_columns == ["study", "mood", "who", "take", "format"]
    assert notes.lines == [
        f"--labels {labels}: 4 of 6 utterances have no row in it",
        "--split-from: 2 of 6 paths match no rule; add '.*=NAME' last for the remaining ones",
    ]


def test_splits_stand_one_after_the_other_so_that_shards_stay_few(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare("folder", corpus, tmp_path / "m.parquet", split_from=("/1=test", ".*=train"))
    assert rows(manifest, "path", "split") == [
        ("ann/0.wav", "train"),
        ("ann/2.wav", "train"),
        ("bob/0.wav", "train"),
        ("bob/2.wav", "train"),
        ("ann/1.wav", "test"),
        ("bob/1.wav", "test"),
    ]


def test_limit_takes_the_first_utterances_and_lists_may_name_the_rest(corpus: Path, tmp_path: Path) -> None:
    train = write_text(tmp_path / "train.txt", ["ann/0.wav", "bob/2.wav"])
    manifest = prepare("folder", corpus, tmp_path / "m.parquet", split=(f"train={train}",), limit=2)
    assert rows(manifest, "path", "split") == [("ann/0.wav", "train"), ("ann/1.wav", None)]


def test_a_part_of_the_corpus_may_be_named_by_a_list_of_the_whole(corpus: Path, tmp_path: Path) -> None:
    train = write_text(tmp_path / "train.txt", ["ann/0.wav", "bob/2.wav"])
    notes = Notes()
    manifest = prepare("folder", corpus, tmp_path / "m.parquet", notes, split=(f"train={train}",), part="bob")
    assert rows(manifest, "path", "split") == [("bob/2.wav", "train"), ("bob/0.wav", None), ("bob/1.wav", None)]
    assert notes.lines == [f"--split train={train}: 1 of 2 entries are not in what was chosen of the corpus"]


def test_part_and_glob_narrow_any_corpus(corpus: Path, tmp_path: Path) -> None:
    table = write_text(corpus / "t.csv", ["path", "ann/0.wav", "ann/1.wav", "bob/0.wav"])
    assert prepare("table", table, tmp_path / "m.parquet", part="ann/", glob="*0.wav").ids == ["ann/0.wav"]
    message = (
        f"{table}: none of its 3 utterances fits --part eve and --glob *.wav; "
        "their paths are like 'ann/0.wav', 'ann/1.wav', 'bob/0.wav'"
    )
    with pytest.raises(EmptyCorpusError, match=f"^{re.escape(message)}$"):
        prepare("table", table, tmp_path / "m.parquet", part="eve", glob="*.wav")


def test_relative_roots_are_made_absolute_and_links_in_them_kept(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(corpus)
    monkeypatch.chdir(tmp_path)
    assert prepare("folder", "link", tmp_path / "m.parquet").root == str(tmp_path / "link")


def test_the_manifests_folder_is_made_and_the_file_replaced_whole(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "m.parquet"
    prepare("folder", corpus, out, limit=1)
    assert len(prepare("folder", corpus, out)) == 6
    assert [path.name for path in out.parent.iterdir()] == ["m.parquet"]


def test_the_same_corpus_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    prepare("folder", corpus, tmp_path / "a.parquet")
    prepare("folder", corpus, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_stop_writes_nothing(corpus: Path, tmp_path: Path) -> None:
    task = Task()
    task.stop.set()
    with pytest.raises(StoppedError):
        run(PrepareConfig(format="folder", root=str(corpus), out=tmp_path / "m.parquet"), task)
    assert not (tmp_path / "m.parquet").exists()


def test_doubled_ids_are_found_before_any_header_is_read(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxshard.stages.prepare.probe_all", None)
    table = write_text(corpus / "t.csv", "path\nann/0.wav\nann/0.wav\n")
    with pytest.raises(DuplicateIdError, match=r"utterance_id 'ann/0.wav' is in rows 0"):
        prepare("table", table, tmp_path / "m.parquet")


def test_progress_counts_recordings_and_audio(corpus: Path, tmp_path: Path) -> None:
    class Counting(Notes):
        def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
            self.lines.append(f"{what} {items}")

        def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
            self.lines.append(f"{items} {audio_s}")

    progress = Counting()
    prepare("folder", corpus, tmp_path / "m.parquet", progress)
    assert progress.lines == [f"listing {corpus} None", "6 0.0", "reading headers 6", "6 3.0"]


def test_a_summary_says_hours_splits_problems_and_warnings(tmp_path: Path) -> None:
    ok = {"problem": None, "duration_s": 1800.0}
    manifest = Manifest.from_rows(
        [
            {"utterance_id": "a", "path": "a", "split": "train", "warning": "odd", **ok},
            {"utterance_id": "b", "path": "b", "split": "test", **ok},
            {"utterance_id": "c", "path": "c", "problem": "EmptyAudioError: the file is empty (0 bytes)"},
            {"utterance_id": "d", "path": "d", "problem": "TruncatedAudioError: truncated: 5 bytes"},
            {"utterance_id": "e", "path": "e", "problem": "EmptyAudioError: no samples in it"},
            {"utterance_id": "f", "path": "f", "problem": "TruncatedAudioError: truncated: 7 bytes"},
        ],
        root="/r",
        corpus="folder",
    )
    assert summary(manifest) == [
        "6 utterances, 1.00 h of audio",
        "  split train: 1, 0.50 h of audio",
        "  split test: 1, 0.50 h of audio",
        "  without a split: 4",
        "4 of 6 cannot be read:",
        "  2 TruncatedAudioError, such as 'd': truncated: 5 bytes",
        "  1 EmptyAudioError, such as 'c': the file is empty (0 bytes)",
        "  1 EmptyAudioError, such as 'e': no samples in it",
        "warnings: 1",
        "  1 such as 'a': odd",
    ]


def test_a_summary_of_an_unprobed_corpus_gives_no_hours(corpus: Path, tmp_path: Path) -> None:
    assert summary(prepare("folder", corpus, tmp_path / "m.parquet", probe=False)) == ["6 utterances"]


def test_all_problems_of_a_config_come_at_once() -> None:
    content = {"format": "wav", "root": "r", "out": "o", "split": ["train"], "split_from": ["=x"], "limit": 0, "x": 1}
    with pytest.raises(ConfigError) as caught:
        validated(PrepareConfig, content, where="prepare")
    message = str(caught.value)
    assert message.startswith(
        "prepare: 5 problems\n  format: no such corpus format; formats: folder, table, asvspoof5,"
    )
    assert "  split: expected two sides joined by `=`, got 'train' (got ['train'])\n" in message
    assert "  split_from: expected two sides joined by `=`, got '=x'" in message
    assert "  limit: Input should be greater than or equal to 1 (got 0)" in message
    assert "  x: unknown key; valid keys: format, glob, label_from, labels, limit, out, part, probe, root," in message


def test_the_file_is_plain_parquet_that_others_can_read(corpus: Path, tmp_path: Path) -> None:
    prepare("folder", corpus, tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.column_names == [
        "utterance_id", "path", "start_s", "end_s", "duration_s", "sample_rate", "num_channels", "num_bytes", "split",
        "fold", "speaker", "problem", "format",
    ]  # fmt: skip
    assert column(Manifest.read(tmp_path / "m.parquet"), "duration_s") == [0.5] * 6


@pytest.mark.parametrize("name", ["table.csv", "table.parquet", "folder"])
def test_a_manifest_replaces_nothing_but_a_manifest(name: str, corpus: Path, tmp_path: Path) -> None:
    table = pa.table({"path": ["corpus/ann/0.wav"]})
    pq.write_table(table, tmp_path / "table.parquet")
    pa_csv.write_csv(table, tmp_path / "table.csv")
    (tmp_path / "folder").mkdir()
    source = tmp_path / "table.csv" if name == "folder" else tmp_path / name
    before = source.read_bytes()
    with pytest.raises(
        ConfigError,
        match=r": there already, and no manifest|: a folder; give the name|: this writes .parquet, not .csv",
    ):
        prepare("table", source, tmp_path / name)
    assert source.read_bytes() == before
