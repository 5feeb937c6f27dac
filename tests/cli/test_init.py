"""`voxshard init` recognises corpora, and the config it writes runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import asvspoof5
from support.bucket_corpora import esc_corpus, list_corpus, tut_corpus, uid_corpus, urban_corpus
from support.trees import write_audio, write_text
from voxshard.cli import main
from voxshard.config import parse_yaml


def init(root: Path, out: Path) -> dict[str, Any]:
    main(["init", str(root), "--out", str(out)])
    return dict(parse_yaml(out.read_text(), where=out.name))


def by_folders(root: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "it's a dog"):
            for number in range(4):
                write_audio(root / split / label / f"{number}.wav", seconds=0.5)


def by_names(root: Path) -> None:
    for digit in range(3):
        for speaker in ("ann", "bob", "eve"):
            for take in range(4):
                write_audio(root / f"{digit}_{speaker}_{take}.wav")


def test_folders_give_labels_and_splits_and_the_config_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    by_folders(tmp_path / "corpus")
    config = init(tmp_path / "corpus", Path("pets.yaml"))
    assert config["prepare"]["split_from"] == ["^test/=test", "^train/=train"]
    assert config["extract"]["mfcc"]["encoder"] == {"name": "mfcc", "sample_rate": 8000}
    assert "splits       test, train\nlabel        label, 2 classes" in capsys.readouterr().out
    main(["run", "pets.yaml"])
    runs = tmp_path / "experiments/corpus/runs"
    assert "accuracy" in json.loads((runs / "mfcc-knn-0/metrics.json").read_text())["metrics"]["test"]
    (runs / "runs.csv").touch()
    main(["report", *map(str, sorted(runs.iterdir())), "--out", "all.html"])
    assert "mfcc-knn-0" in Path("all.html").read_text()


def test_words_of_names_become_columns_and_one_of_them_folds(tmp_path: Path) -> None:
    by_names(tmp_path / "corpus")
    config = init(tmp_path / "corpus", tmp_path / "digits.yaml")
    assert config["prepare"]["label_from"] == r"(?P<part1>[^/_-]+)[_-](?P<part2>[^/_-]+)[_-](?P<part3>[^/_-]+)\.\w+$"
    assert (config["train"]["label"], config["train"]["folds"]) == ("part1", "part2")


def test_without_splits_the_config_trains_in_folds_and_its_report_has_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for label in ("cat", "dog"):
        for number in range(12):
            write_audio(tmp_path / "corpus" / label / f"{number}.wav", seconds=0.5)
    config = init(tmp_path / "corpus", Path("pets.yaml"))
    assert config["train"]["folds"] == "utterance_id"
    assert config["train"]["settings"] == {"standardize": True, "num_folds": 5}
    main(["run", "pets.yaml"])
    metrics = json.loads((tmp_path / "experiments/corpus/runs/mfcc-knn-0/metrics.json").read_text())["metrics"]
    assert metrics["folds"]["accuracy"]["value"] is not None
    assert "next: " not in capfd.readouterr().err


def test_speakers_of_a_table_become_the_folds(tmp_path: Path) -> None:
    write_text(
        tmp_path / "list.csv",
        "path,speaker,word\n" + "".join(f"{n}.wav,s{n % 4},{'yes' if n % 3 else 'no'}\n" for n in range(12)),
    )
    for number in range(12):
        write_audio(tmp_path / f"{number}.wav")
    config = init(tmp_path / "list.csv", tmp_path / "config.yaml")
    assert (config["train"]["label"], config["train"]["folds"]) == ("word", "speaker")
    assert config["train"]["settings"] == {"standardize": True}


@pytest.mark.parametrize(
    ("make", "layout", "label"),
    [
        (lambda root: asvspoof5.write(root, {"T": 4, "D": 4, "E": 4}), "asvspoof5", "label"),
        (urban_corpus, "urbansound8k", "label"),
        (esc_corpus, "esc50", None),
        (tut_corpus, "tut-asc", "label"),
        (uid_corpus, "uid-folders", None),
        (list_corpus, "file-lists", "label"),
    ],
    ids=["asvspoof5", "urbansound8k", "esc50", "tut-asc", "uid-folders", "file-lists"],
)
def test_published_layouts_are_recognised(
    tmp_path: Path, make: Callable[[Path], Any], layout: str, label: str | None
) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    make(root)
    config = init(root, tmp_path / "config.yaml")
    assert config["prepare"]["format"] == layout
    if label is not None:
        assert config["train"]["label"] == label


def test_without_labels_training_is_left_to_the_user(tmp_path: Path) -> None:
    for number in range(3):
        write_audio(tmp_path / "corpus" / f"{number}.wav")
    config = init(tmp_path / "corpus", tmp_path / "config.yaml")
    assert "train" not in config
    assert "#   label: COLUMN" in (tmp_path / "config.yaml").read_text()


def test_nothing_is_overwritten_and_what_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / "mine.yaml", "out: x\n")
    with pytest.raises(SystemExit, match="2"):
        main(["init", str(tmp_path), "--out", str(tmp_path / "mine.yaml")])
    assert "there already; give another name" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["init", str(tmp_path / "nowhere"), "--out", str(tmp_path / "new.yaml")])
    assert "no such file or folder" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="3"):
        main(["init", str(tmp_path), "--out", str(tmp_path / "new.yaml")])
    assert not (tmp_path / "new.yaml").exists()
