from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from support.trees import Notes, column, prepare, rows, write_audio, write_text
from voxshard.errors import EmptyCorpusError, ManifestError

MINI = Path(__file__).parents[3] / "shared" / "data" / "asvspoof5_mini"

# Lines as the published protocols have them (README.txt of the corpus): train and dev without codecs; in eval, files
# without codec have quality 0.
TRAIN = [
    "T_4850 T_0000000000 F - - - AC3 A05 spoof -",
    "T_0061 T_0000000001 M - - - - bonafide bonafide -",
]
DEV = ["D_0062 D_0000000001 F - - - AC1 A11 spoof -"]
EVAL = [
    "E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -",
    "E_2040 E_0000000034 M - 0 - AC1 A31 spoof -",
    "E_2041 E_0000000035 F C11 8 E_0000000036 - bonafide bonafide -",
]


def make(root: Path, protocols: str = "ASVspoof5_protocols") -> Path:
    write_text(root / protocols / "ASVspoof5.train.tsv", TRAIN)
    write_text(root / protocols / "ASVspoof5.dev.track_1.tsv", DEV)
    write_text(root / protocols / "ASVspoof5.eval.track_1.tsv", EVAL)
    write_text(root / protocols / "ASVspoof5.dev.track_2.trial.tsv", ["D_0062 D_0000000001 F A11 spoof"])
    for folder, lines in (("flac_T", TRAIN), ("flac_D", DEV), ("flac_E_eval", EVAL)):
        for line in lines:
            write_audio(root / folder / f"{line.split()[1]}.flac", sample_rate=16000, kind="FLAC")
    return root


@pytest.mark.parametrize("protocols", ["ASVspoof5_protocols", "."])
def test_protocols_become_columns_splits_and_codes(tmp_path: Path, protocols: str) -> None:
    manifest = prepare("asvspoof5", make(tmp_path / "c", protocols), tmp_path / "m.parquet")
    assert manifest.ids == [line.split()[1] for line in TRAIN + DEV + EVAL]
    assert column(manifest, "flac_file") == manifest.ids
    assert column(manifest, "path")[-1] == "flac_E_eval/E_0000000035.flac"
    assert column(manifest, "split") == ["train", "train", "dev", "eval", "eval", "eval"]
    assert column(manifest, "problem") == [None] * 6
    names = ("speaker", "gender", "codec", "codec_q", "codec_seed", "attack_tag", "attack_label", "label")
    assert rows(manifest, *names)[1] == ("T_0061", "M", "NONE", "NONE", "NONE", "NONE", "bonafide", "bonafide")
    assert rows(manifest, *names)[3:5] == [
        ("E_1607", "M", "C05", "2", "E_0009486171", "AC1", "A26", "spoof"),
        ("E_2040", "M", "NONE", "NONE", "NONE", "AC1", "A31", "spoof"),
    ]
    assert rows(manifest, "y_task", "y_codec", "y_codec_q") == [
        (1, 0, 0), (0, 0, 0), (1, 0, 0), (1, 5, 2), (1, 0, 0), (0, 11, 8),
    ]  # fmt: skip


@pytest.mark.parametrize("separator", ["\t", "  "])
def test_protocols_may_be_separated_by_any_blanks(tmp_path: Path, separator: str) -> None:
    root = make(tmp_path / "c")
    lines = [f" {line} \r".replace(" ", separator) for line in TRAIN]
    write_text(root / "ASVspoof5_protocols" / "ASVspoof5.train.tsv", ["", *lines, ""])
    manifest = prepare("asvspoof5", root, tmp_path / "m.parquet").select_split("train")
    assert rows(manifest, "flac_file", "label") == [("T_0000000000", "spoof"), ("T_0000000001", "bonafide")]


def test_folders_as_untarring_leaves_them_are_found(tmp_path: Path) -> None:
    root = make(tmp_path / "c")
    (root / "flac_T").rename(root / "inner")
    (root / "flac_T").mkdir()
    (root / "inner").rename(root / "flac_T" / "flac_T")
    for number, archive in enumerate(("flac_E_aa", "flac_E_ab")):
        (root / archive / "flac_E_eval").mkdir(parents=True)
        for line in EVAL[number::2]:
            name = f"{line.split()[1]}.flac"
            (root / "flac_E_eval" / name).rename(root / archive / "flac_E_eval" / name)
    (root / "flac_E_eval").rmdir()
    manifest = prepare("asvspoof5", root, tmp_path / "m.parquet")
    assert column(manifest, "problem") == [None] * 6
    assert column(manifest, "path") == [
        "flac_T/flac_T/T_0000000000.flac",
        "flac_T/flac_T/T_0000000001.flac",
        "flac_D/D_0000000001.flac",
        "flac_E_aa/flac_E_eval/E_0009538969.flac",
        "flac_E_ab/flac_E_eval/E_0000000034.flac",
        "flac_E_aa/flac_E_eval/E_0000000035.flac",
    ]


def test_missing_files_protocols_and_folders_are_said(tmp_path: Path) -> None:
    root = make(tmp_path / "c")
    (root / "flac_T" / "T_0000000001.flac").unlink()
    (root / "flac_D" / "D_0000000001.flac").unlink()
    (root / "flac_D").rmdir()
    (root / "ASVspoof5_protocols" / "ASVspoof5.eval.track_1.tsv").unlink()
    notes = Notes()
    manifest = prepare("asvspoof5", root, tmp_path / "m.parquet", notes)
    missing = "MissingRecordingError: no such file"
    assert rows(manifest, "utterance_id", "problem") == [
        ("T_0000000000", None),
        ("T_0000000001", missing),
        ("D_0000000001", missing),
    ]
    assert notes.lines == [
        "no folder flac_D: the 1 files of the dev split are missing",
        "no protocol of the eval split (ASVspoof5.eval.track_1.tsv): left out",
    ]


def test_the_release_of_the_challenge_is_read(tmp_path: Path) -> None:
    lines = ["T_4850 T_0000000000 F - A05 spoof", "T_0061 T_0000000001 M - bonafide bonafide"]
    write_text(tmp_path / "c" / "ASVspoof5.train.metadata.txt", lines)
    for number in range(2):
        write_audio(tmp_path / "c" / "flac_T" / f"T_000000000{number}.flac", kind="FLAC")
    manifest = prepare("asvspoof5", tmp_path / "c", tmp_path / "m.parquet")
    assert rows(manifest, "speaker", "codec", "attack_label", "label", "y_task") == [
        ("T_4850", "NONE", "A05", "spoof", 1),
        ("T_0061", "NONE", "bonafide", "bonafide", 0),
    ]


def test_a_part_is_a_folder(tmp_path: Path) -> None:
    manifest = prepare("asvspoof5", make(tmp_path / "c"), tmp_path / "m.parquet", part="flac_D")
    assert column(manifest, "split") == ["dev"]


def test_no_protocol_is_an_empty_corpus(tmp_path: Path) -> None:
    write_audio(tmp_path / "c" / "flac_T" / "T_1.flac", kind="FLAC")
    message = (
        f"{tmp_path}/c: no ASVspoof 5 protocol (ASVspoof5.train.tsv, ASVspoof5.dev.track_1.tsv, "
        "ASVspoof5.eval.track_1.tsv), nor in a folder below; found 1 .flac"
    )
    with pytest.raises(EmptyCorpusError, match=f"^{re.escape(message)}$"):
        prepare("asvspoof5", tmp_path / "c", tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["T_4850 T_0000000000 spoof"], "3 columns in the first line; expected 10 (SPEAKER_ID FLAC_FILE_NAME GENDER "),
        ([*TRAIN, "T_1 T_2 spoof"], "expected 10 columns in each line"),
        ([TRAIN[0].replace("spoof", "fake")], "1 lines have a key other than bonafide or spoof; the first is "
         "T_0000000000 with 'fake'"),
    ],
)  # fmt: skip
def test_damaged_protocols_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    root = make(tmp_path / "c")
    write_text(root / "ASVspoof5_protocols" / "ASVspoof5.train.tsv", lines)
    with pytest.raises(ManifestError, match=r"ASVspoof5.train.tsv: .*" + re.escape(message)):
        prepare("asvspoof5", root, tmp_path / "m.parquet")


@pytest.mark.skipif(not MINI.is_dir(), reason=f"{MINI} is not here")
def test_counts_per_split_and_key_equal_the_protocols(tmp_path: Path) -> None:
    manifest = prepare("asvspoof5", MINI, tmp_path / "m.parquet")
    expected: Counter[tuple[str, str, str]] = Counter()
    for split, name in (("train", "train"), ("dev", "dev.track_1"), ("eval", "eval.track_1")):
        for line in (MINI / f"ASVspoof5.{name}.tsv").read_text().splitlines():
            fields = line.split()
            expected[split, fields[8], fields[3].replace("-", "NONE")] += 1
    assert Counter(rows(manifest, "split", "label", "codec")) == expected
    assert column(manifest, "problem") == [None] * 420
    assert min(column(manifest, "duration_s")) > 0
