from __future__ import annotations

from pathlib import Path

import pytest

from support.trees import rows, write_audio, write_text
from voxshard.cli import main
from voxshard.corpora.formats import FORMATS
from voxshard.manifest import Manifest
from voxshard.progress import STEP_VARIABLE


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("part_001/0_ann_0.wav", "part_003/1_ann_9.wav", "part_003/2_bob_3.wav"):
        write_audio(tmp_path / "corpus" / name, seconds=0.5)
    return tmp_path / "corpus"


def exit_code(*arguments: str | Path) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exc:
        return int(exc.code or 0)
    return 0


def test_prepare_writes_a_manifest_and_says_what_is_in_it(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "manifest.parquet"
    arguments: list[str | Path] = ["prepare", "folder", corpus, "--out", out, "--part", "part_003", "--study", "demo"]
    arguments += ["--label-from", r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)"]
    arguments += ["--split-from", r"_[0-4]\.wav$=test", "--split-from", ".*=train"]
    assert exit_code(*arguments) == 0
    assert rows(Manifest.read(out), "utterance_id", "split", "digit", "speaker", "take", "study") == [
        ("part_003/1_ann_9.wav", "train", "1", "ann", "9", "demo"),
        ("part_003/2_bob_3.wav", "test", "2", "bob", "3", "demo"),
    ]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-4:] == [
        "2 utterances, 0.00 h of audio",
        "  split train: 1, 0.00 h of audio",
        "  split test: 1, 0.00 h of audio",
        f"{out}: written; next: voxshard extract {out} --encoder NAME --out DIR",
    ]


def test_prepare_takes_lists_labels_settings_limits_and_no_probe(corpus: Path, tmp_path: Path) -> None:
    table = write_text(corpus / "t.tsv", "clip\tname\npart_001/0_ann_0.wav\tx\npart_003/1_ann_9.wav\ty\n")
    labels = write_text(tmp_path / "l.csv", "utterance_id,label\nx,yes\n")
    train = write_text(tmp_path / "train.txt", ["x", "y"])
    out = tmp_path / "m.parquet"
    settings = ["--set", "path_column=clip", "--set", "id_column=name", "--no-probe", "--limit", "1"]
    lists: list[str | Path] = ["--labels", labels, "--split", f"train={train}", "--glob", "*.wav"]
    assert exit_code("prepare", "table", table, "--out", out, *lists, *settings) == 0
    assert rows(Manifest.read(out), "utterance_id", "path", "label", "split", "duration_s") == [
        ("x", "part_001/0_ann_0.wav", "yes", "train", None)
    ]


def test_nothing_found_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(tmp_path / "c" / "x.txt", "x")
    assert exit_code("prepare", "folder", tmp_path / "c", "--glob", "*.wav", "--out", tmp_path / "m.parquet") == 3
    assert capsys.readouterr().err.endswith(
        f"voxshard: {tmp_path}/c: no file matches --glob *.wav; found 1 .txt; "
        "check the pattern: it is matched against the path relative to the root\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wavs"], "prepare: 1 problem\n  FORMAT: no such corpus format; formats: folder, table, asvspoof5"),
        (["folder", "--split", "train"], "  --split: expected two sides joined by `=`, got 'train'"),
        (["folder", "--set", "x=1"], "voxshard: --set x: no such setting of this corpus format; valid: none"),
    ],
)
def test_wrong_options_are_exit_2(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    form, *more = arguments
    assert exit_code("prepare", form, corpus, "--out", tmp_path / "m.parquet", *more) == 2
    assert message in capsys.readouterr().err


def test_the_help_lists_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("prepare", "--help") == 0
    shown = capsys.readouterr().out
    for name, about in FORMATS.items():
        assert f"    {name:13} {about.summary}\n" in shown


def test_a_name_that_promises_another_format_is_refused_before_any_work(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.csv"
    assert exit_code("prepare", "folder", corpus, "--out", out) == 2
    assert capsys.readouterr().err == (
        f"voxshard: --out {out}: this writes .parquet, not .csv; give a name that ends in .parquet\n"
    )
    for name in ("no-suffix", "corpus.v2", "m.pq"):
        assert exit_code("prepare", "folder", corpus, "--out", tmp_path / name) == 0


def test_a_step_of_a_run_does_not_name_the_next_one(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code("prepare", "folder", corpus, "--out", tmp_path / "m.parquet") == 0
    assert "written; next: voxshard extract" in capsys.readouterr().err
    monkeypatch.setenv(STEP_VARIABLE, "1")
    assert exit_code("prepare", "folder", corpus, "--out", tmp_path / "m.parquet") == 0
    assert capsys.readouterr().err.endswith("m.parquet: written\n")


def test_a_folder_of_recordings_is_not_a_manifest(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("extract", corpus, "--encoder", "mfcc", "--out", tmp_path / "set") == 3
    assert capsys.readouterr().err == (
        f"voxshard: {corpus}: a folder; expected a manifest, made with `voxshard prepare folder {corpus} --out "
        "manifest.parquet`\n"
    )


def test_missing_options_are_named_as_they_are_typed(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("prepare", "folder") == 2
    assert capsys.readouterr().err == "voxshard: prepare: 2 problems\n  ROOT: required\n  --out: required\n"


def test_a_tilde_is_the_home_folder_also_after_an_equals_sign(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert exit_code("prepare", "folder", corpus, "--out=~/m.parquet") == 0
    assert (tmp_path / "home" / "m.parquet").is_file()
    assert exit_code("extract", "~/m.parquet", "--encoder", "mfcc", "--out=~/set", "--plan-only") == 0
    assert (tmp_path / "home" / "set" / "identity.json").is_file()
    assert not (tmp_path / "~").exists()


def test_features_are_not_written_among_the_recordings(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("prepare", "folder", corpus, "--out", tmp_path / "m.parquet") == 0
    capsys.readouterr()
    before = sorted(corpus.rglob("*"))
    assert exit_code("extract", tmp_path / "m.parquet", "--encoder", "mfcc", "--out", corpus) == 2
    assert capsys.readouterr().err == (
        f"voxshard: --out {corpus}: the corpus itself; give a new folder for its features\n"
    )
    assert sorted(corpus.rglob("*")) == before
