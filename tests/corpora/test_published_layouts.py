"""file-lists, urbansound8k, tut-asc and esc50 on miniature trees; sources of the layouts are in the adapters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.trees import Notes, column, prepare, rows, write_audio, write_text
from voxshard.corpora.formats import adapter
from voxshard.errors import ConfigError, EmptyCorpusError, ManifestError


def test_a_format_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"^no such corpus format; formats: folder, table, asvspoof5, uid-folders, "):
        adapter("wavs")


@pytest.fixture
def gtzan(tmp_path: Path) -> Path:
    root = tmp_path / "gtzan"
    lists = {"train": ["blues/blues.00029.wav", "rock/rock.00001.wav"], "valid": ["blues/blues.00000.wav"],
             "test": ["rock/rock.00002.wav"]}  # fmt: skip
    for split, paths in lists.items():
        write_text(root / f"{split}_filtered.txt", paths)
        for path in paths:
            write_audio(root / "genres" / path, sample_rate=22050)
    return root


def test_gtzan_lists_give_splits_and_folders_give_labels(gtzan: Path, tmp_path: Path) -> None:
    notes = Notes()
    manifest = prepare("file-lists", gtzan, tmp_path / "m.parquet", notes)
    assert rows(manifest, "utterance_id", "split", "label", "problem") == [
        ("genres/blues/blues.00029.wav", "train", "blues", None),
        ("genres/rock/rock.00001.wav", "train", "rock", None),
        ("genres/blues/blues.00000.wav", "valid", "blues", None),
        ("genres/rock/rock.00002.wav", "test", "rock", None),
    ]
    assert notes.lines[0] == f"split train: {gtzan}/train_filtered.txt"


def test_lists_named_by_hand_replace_those_of_the_root(gtzan: Path, tmp_path: Path) -> None:
    mine = write_text(tmp_path / "mine.txt", ["# my own", "./rock/rock.00002.wav", ""])
    manifest = prepare("file-lists", gtzan, tmp_path / "m.parquet", split=(f"held_out={mine}",))
    assert rows(manifest, "path", "split") == [("genres/rock/rock.00002.wav", "held_out")]


def test_a_listed_file_that_is_gone_is_a_row_with_a_problem(gtzan: Path, tmp_path: Path) -> None:
    (gtzan / "genres/rock/rock.00002.wav").unlink()
    manifest = prepare("file-lists", gtzan, tmp_path / "m.parquet")
    assert column(manifest, "problem")[-1] == "MissingRecordingError: no such file"


def test_a_file_in_two_lists_is_refused_by_both(gtzan: Path, tmp_path: Path) -> None:
    write_text(gtzan / "test_filtered.txt", ["blues/blues.00029.wav"])
    message = (
        f"blues/blues.00029.wav is in {gtzan}/train_filtered.txt and in {gtzan}/test_filtered.txt; "
        "a recording has one split"
    )
    with pytest.raises(ManifestError, match=f"^{re.escape(message)}$"):
        prepare("file-lists", gtzan, tmp_path / "m.parquet")


def test_lists_whose_files_are_nowhere_say_where_was_looked(gtzan: Path, tmp_path: Path) -> None:
    (gtzan / "genres").rename(tmp_path / "away")
    (gtzan / "docs").mkdir()
    message = (
        f"{gtzan}/train_filtered.txt: none of its files was found below {gtzan}, nor below 'docs'; "
        "it lists 'blues/blues.00029.wav', 'rock/rock.00001.wav'"
    )
    with pytest.raises(EmptyCorpusError, match=f"^{re.escape(message)}$"):
        prepare("file-lists", gtzan, tmp_path / "m.parquet")


def test_no_lists_is_an_empty_corpus(tmp_path: Path) -> None:
    write_text(tmp_path / "c" / "README.txt", "x")
    message = (
        f"{tmp_path}/c: no list named after a split (train*.txt, valid*.txt, test*.txt); found 1 .txt; "
        "name the lists with --split NAME=FILE"
    )
    with pytest.raises(EmptyCorpusError, match=f"^{re.escape(message)}$"):
        prepare("file-lists", tmp_path / "c", tmp_path / "m.parquet")


def test_urbansound8k_keeps_its_columns_and_ten_folds(tmp_path: Path) -> None:
    root = tmp_path / "UrbanSound8K"
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in range(1, 11):
        name = f"{100000 + fold}-3-0-{fold}.wav"
        lines.append(f"{name},{100000 + fold},{fold}.5,{fold + 4}.5,1,{fold},3,dog_bark")
        write_audio(root / "audio" / f"fold{fold}" / name, num_channels=2, sample_rate=44100)
    write_text(root / "metadata" / "UrbanSound8K.csv", lines)
    manifest = prepare("urbansound8k", root, tmp_path / "m.parquet")
    assert column(manifest, "fold") == [str(fold) for fold in range(1, 11)]
    assert column(manifest, "problem") == [None] * 10
    names = ("utterance_id", "label", "class", "classID", "fsID", "start", "end", "salience", "slice_file_name")
    assert rows(manifest, *names)[4] == (
        "audio/fold5/100005-3-0-5.wav", "dog_bark", "dog_bark", 3, 100005, 5.5, 9.5, 1, "100005-3-0-5.wav",
    )  # fmt: skip
    assert column(manifest, "start_s") == [None] * 10
    assert column(prepare("urbansound8k", root, tmp_path / "m.parquet", part="audio/fold1"), "fold") == ["1"]


def test_esc50_keeps_its_columns_and_five_folds(tmp_path: Path) -> None:
    root = tmp_path / "ESC-50-master"
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        lines.append(f"{fold}-100032-A-0.wav,{fold},0,dog,True,100032,A")
        write_audio(root / "audio" / f"{fold}-100032-A-0.wav", sample_rate=44100)
    write_text(root / "meta" / "esc50.csv", lines)
    manifest = prepare("esc50", root, tmp_path / "m.parquet")
    assert column(manifest, "fold") == ["1", "2", "3", "4", "5"]
    names = ("utterance_id", "label", "category", "target", "esc10", "src_file", "take", "problem")
    assert rows(manifest, *names)[0] == ("audio/1-100032-A-0.wav", "dog", "dog", 0, "True", 100032, "A", None)


@pytest.mark.parametrize(
    ("corpus", "file", "hint"),
    [
        ("esc50", "meta/esc50.csv", "give the folder that holds meta/ and audio/"),
        ("urbansound8k", "metadata/UrbanSound8K.csv", "give the folder that holds metadata/ and audio/"),
    ],
)
def test_a_root_without_the_published_table_says_what_is_missing(
    tmp_path: Path, corpus: str, file: str, hint: str
) -> None:
    write_audio(tmp_path / "c" / "x.wav")
    with pytest.raises(EmptyCorpusError, match=f"^{re.escape(f'{tmp_path}/c: no {file}; found 1 .wav; {hint}')}$"):
        prepare(corpus, tmp_path / "c", tmp_path / "m.parquet")
    write_text(tmp_path / "c" / file, "filename\nx.wav\n")
    with pytest.raises(ManifestError, match=rf"{file}: no column .*; it has filename; expected the file as it was"):
        prepare(corpus, tmp_path / "c", tmp_path / "m.parquet")


@pytest.fixture
def tut2017(tmp_path: Path) -> Path:
    root = tmp_path / "tut"
    development = root / "TUT-acoustic-scenes-2017-development"
    files = {
        "audio/b020_90_100.wav": "beach",
        "audio/b020_110_120.wav": "beach",
        "audio/a001_0_10.wav": "cafe/restaurant",
    }
    write_text(
        development / "meta.txt",
        [f"{file}\t{scene}\t{Path(file).name.partition('_')[0]}" for file, scene in files.items()],
    )
    setup = development / "evaluation_setup"
    write_text(setup / "fold1_train.txt", ["audio/a001_0_10.wav\tcafe/restaurant"])
    write_text(setup / "fold1_test.txt", ["audio/b020_90_100.wav", "audio/b020_110_120.wav"])
    write_text(setup / "fold1_evaluate.txt", ["audio/b020_90_100.wav\tbeach", "audio/b020_110_120.wav\tbeach"])
    write_text(setup / "fold2_test.txt", ["audio/a001_0_10.wav"])
    evaluation = root / "TUT-acoustic-scenes-2017-evaluation"
    write_text(evaluation / "evaluation_setup" / "test.txt", ["audio/1.wav", "audio/2.wav"])
    write_text(evaluation / "evaluation_setup" / "evaluate.txt", ["audio/2.wav\ttram"])
    for path in (*(development / file for file in files), evaluation / "audio/1.wav", evaluation / "audio/2.wav"):
        write_audio(path, num_channels=2, sample_rate=44100)
    return root


def test_tut_development_is_train_and_evaluation_is_test(tut2017: Path, tmp_path: Path) -> None:
    manifest = prepare("tut-asc", tut2017, tmp_path / "m.parquet")
    prefix = "TUT-acoustic-scenes-2017"
    assert rows(manifest, "utterance_id", "split", "fold", "label", "location", "problem") == [
        (f"{prefix}-development/audio/b020_90_100.wav", "train", "1", "beach", "b020", None),
        (f"{prefix}-development/audio/b020_110_120.wav", "train", "1", "beach", "b020", None),
        (f"{prefix}-development/audio/a001_0_10.wav", "train", "2", "cafe/restaurant", "a001", None),
        (f"{prefix}-evaluation/audio/2.wav", "test", None, "tram", "2.wav", None),
        (f"{prefix}-evaluation/audio/1.wav", "test", None, None, "1.wav", None),
    ]


def test_tut_2016_has_its_locations_in_the_names(tmp_path: Path) -> None:
    folder = tmp_path / "tut" / "TUT-acoustic-scenes-2016-development"
    write_text(folder / "meta.txt", ["audio/a001_0_30.wav\tresidential_area"])
    write_audio(folder / "audio" / "a001_0_30.wav")
    manifest = prepare("tut-asc", tmp_path / "tut", tmp_path / "m.parquet")
    assert rows(manifest, "label", "location", "split") == [("residential_area", "a001", "train")]
    manifest = prepare("tut-asc", folder, tmp_path / "m.parquet")
    assert rows(manifest, "path", "split") == [("audio/a001_0_30.wav", "train")]


def test_tut_lists_that_contradict_each_other_are_refused(tut2017: Path, tmp_path: Path) -> None:
    development = tut2017 / "TUT-acoustic-scenes-2017-development"
    (development / "meta.txt").unlink()
    write_text(development / "evaluation_setup" / "fold3_train.txt", ["audio/b020_90_100.wav\ttram"])
    with pytest.raises(ManifestError, match=r"b020_90_100.wav is 'beach' here and 'tram' in another list$"):
        prepare("tut-asc", tut2017, tmp_path / "m.parquet")


def test_tut_without_either_set_is_an_empty_corpus(tmp_path: Path) -> None:
    write_audio(tmp_path / "c" / "x.wav")
    with pytest.raises(
        EmptyCorpusError, match=r"/c: no folder TUT-acoustic-scenes-2016-development or the like .*; found 1 .wav"
    ):
        prepare("tut-asc", tmp_path / "c", tmp_path / "m.parquet")


@pytest.mark.parametrize(
    "corpus", ["folder", "asvspoof5", "uid-folders", "file-lists", "urbansound8k", "tut-asc", "esc50"]
)
def test_formats_without_settings_refuse_them(tmp_path: Path, corpus: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set x: no such setting of this corpus format; valid: none$"):
        prepare(corpus, tmp_path, tmp_path / "m.parquet", settings={"x": 1})
