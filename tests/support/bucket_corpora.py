"""Small corpora of every format, and a classifier on features, for tests with object stores."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import voxshard
from support.archives import archive as archive_of
from support.feature_sets import write_set

RATE = 8000
GENRES = ("blues", "jazz")


def tones(folder: Path, names: list[str]) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pitch = 200.0 * (1 + number % 2)
        samples = 0.3 * np.sin(np.arange(RATE // 5) * 2 * np.pi * pitch / RATE) + 0.01 * rng.standard_normal(RATE // 5)
        soundfile.write(path, samples.astype(np.float32), RATE, subtype="PCM_16")


def folder_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"{split}/{label}/{n}.wav" for split in ("train", "test") for n in range(3) for label in GENRES])
    return {"split_from": ("^train=train", "^test=test"), "label_from": "/(?P<label>blues|jazz)/"}


def table_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"audio/{n}.wav" for n in range(4)])
    (root / "clips.csv").write_text("path,label\n" + "".join(f"audio/{n}.wav,{GENRES[n % 2]}\n" for n in range(4)))
    return {}


def uid_corpus(root: Path, study: str = "clinic") -> dict[str, Any]:
    tones(root / study, [f"u{n}/waveform.wav" for n in range(8)])
    for n in range(8):
        (root / study / f"u{n}" / "metadata.json").write_text('{"encoding": "WAV", "sample_rate_hz": 8000}')
    for split, numbers in (("train", range(4)), ("test", range(4, 8))):
        (root / f"{split}.csv").write_text("uid,fluent\n" + "".join(f"u{n},{n % 2}\n" for n in numbers))
    return {"study": study}


def list_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"genres/{label}/{label}.{n}.wav" for n in range(2) for label in GENRES])
    for split, n in (("train", 0), ("test", 1)):
        (root / f"{split}_filtered.txt").write_text("".join(f"{label}/{label}.{n}.wav\n" for label in GENRES))
    return {}


def urban_corpus(root: Path) -> dict[str, Any]:
    head = "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
    tones(root, [f"audio/fold{n + 1}/{n}.wav" for n in range(2)])
    (root / "metadata").mkdir()
    rows = "".join(f"{n}.wav,{n},0,1,1,{n + 1},{n},{GENRES[n]}\n" for n in range(2))
    (root / "metadata" / "UrbanSound8K.csv").write_text(head + rows)
    return {}


def esc_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"audio/{n}.wav" for n in range(2)])
    (root / "meta").mkdir()
    rows = "".join(f"{n}.wav,1,0,{GENRES[n]},False,1,A\n" for n in range(2))
    (root / "meta" / "esc50.csv").write_text("filename,fold,target,category,esc10,src_file,take\n" + rows)
    return {}


def tut_corpus(root: Path) -> dict[str, Any]:
    folder = root / "TUT-acoustic-scenes-2017-development"
    tones(folder, [f"audio/{n}.wav" for n in range(2)])
    (folder / "meta.txt").write_text("audio/0.wav\tbeach\tb0\naudio/1.wav\tbus\tb1\n")
    (folder / "evaluation_setup").mkdir()
    (folder / "evaluation_setup" / "fold1_test.txt").write_text("audio/0.wav\n")
    return {}


def asvspoof_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"flac_T/T_{n}.flac" for n in range(2)])
    lines = [f"S0 T_{n} F - - - AC1 A0{n} {label} -" for n, label in enumerate(("bonafide", "spoof"))]
    (root / "ASVspoof5.train.tsv").write_text("\n".join(lines) + "\n")
    return {}


def json_lines_corpus(root: Path) -> dict[str, Any]:
    """Rows whose paths start from the folder above the table's."""
    tones(root, [f"audio/{n}.wav" for n in range(4)])
    (root / "lists").mkdir()
    rows = [{"audio_filepath": f"../audio/{n}.wav", "text": GENRES[n % 2]} for n in range(4)]
    (root / "lists" / "clips.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {"root": "lists/clips.jsonl"}


def kaldi_corpus(root: Path) -> dict[str, Any]:
    """A data directory two levels below the folder where the recipe runs, with two spans of every recording."""
    tones(root, [f"wav/{n}.wav" for n in range(3)])
    data = root / "data" / "train"
    data.mkdir(parents=True)
    (data / "wav.scp").write_text("".join(f"r{n} wav/{n}.wav\n" for n in range(3)))
    spans = ((f"r{n}-{part}", f"r{n}", part * 0.1, part * 0.1 + 0.1) for n in range(3) for part in range(2))
    (data / "segments").write_text("".join(f"{name} {of} {start:.2f} {end:.2f}\n" for name, of, start, end in spans))
    (data / "utt2spk").write_text("".join(f"r{n}-{part} s{n}\n" for n in range(3) for part in range(2)))
    return {"root": "data/train"}


def lhotse_corpus(root: Path) -> dict[str, Any]:
    """The root is the manifest of recordings, compressed; the other manifest is found next to it."""
    tones(root, [f"audio/{n}.wav" for n in range(3)])
    recordings = [
        {"id": f"r{n}", "sources": [{"type": "file", "source": f"audio/{n}.wav"}], "sampling_rate": RATE,
         "duration": 0.2} for n in range(3)
    ]  # fmt: skip
    supervisions = [
        {"id": f"s{n}", "recording_id": f"r{n}", "start": 0.05, "duration": 0.1, "speaker": f"p{n}"} for n in range(3)
    ]
    for name, items in (("recordings", recordings), ("supervisions", supervisions)):
        content = "".join(f"{json.dumps(item)}\n" for item in items).encode()
        (root / f"corpus_{name}_train.jsonl.gz").write_bytes(gzip.compress(content))
    return {"root": "corpus_recordings_train.jsonl.gz"}


def tar_corpus(root: Path) -> dict[str, Any]:
    """Two archives of WebDataset, one in a folder."""
    tones(root / "unpacked", [f"{n}.wav" for n in range(6)])
    for archive, numbers in (("train-000.tar", range(3)), ("more/train-001.tar", range(3, 6))):
        members: dict[str, bytes] = {}
        for n in numbers:
            members[f"{n}.wav"] = (root / "unpacked" / f"{n}.wav").read_bytes()
            members[f"{n}.json"] = json.dumps({"genre": GENRES[n % 2], "number": n}).encode()
        (root / archive).parent.mkdir(parents=True, exist_ok=True)
        (root / archive).write_bytes(archive_of(members, "w:"))
    shutil.rmtree(root / "unpacked")
    return {}


def one_archive(root: Path) -> dict[str, Any]:
    tar_corpus(root)
    return {"root": "more/train-001.tar"}


CORPORA: dict[str, Callable[[Path], dict[str, Any]]] = {
    "folder": folder_corpus,
    "table": table_corpus,
    "table, JSON lines": json_lines_corpus,
    "uid-folders": uid_corpus,
    "file-lists": list_corpus,
    "urbansound8k": urban_corpus,
    "esc50": esc_corpus,
    "tut-asc": tut_corpus,
    "asvspoof5": asvspoof_corpus,
    "kaldi": kaldi_corpus,
    "lhotse": lhotse_corpus,
    "tar": tar_corpus,
    "tar, one archive": one_archive,
}
"""Format, and a comma and more if it is there twice -> what makes it and returns options of `prepare`; `root`: what is
prepared is below the folder."""


def trained_classifier(folder: Path) -> Path:
    """A feature set `mfcc` and a run `run` on it, in one folder, without an extraction."""
    rng = np.random.default_rng(0)
    names = [f"u{number}" for number in range(24)]
    labels = [GENRES[number % 2] for number in range(24)]
    vectors = {name: rng.normal(number % 2, 1.0, 4).astype(np.float32) for number, name in enumerate(names)}
    splits = ["train" if number < 12 else "test" for number in range(24)]
    write_set(folder / "mfcc", vectors, {"label": labels, "split": splits}, per_shard=6)
    voxshard.train(folder / "mfcc", label="label", classifier="logistic", out=folder / "run", replicates=20)
    return folder
