"""A folder in which code blocks of the documentation run, and what each of them needs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import soundfile

import voxshard
from support.bucket_corpora import CORPORA, GENRES
from support.doc_blocks import PAGES, ROOT, SHELL, Block, blocks, words_of
from support.spoken_digits import spoken_digits
from voxshard.cli import main
from voxshard.encoders.registry import SPECS, has_weights

ELSEWHERE = {  # page and language of blocks -> the test that runs them
    ("docs/coming-from/ecapa.md", "sh"): "tests/across/test_coming_from.py",
    ("docs/coming-from/ecapa.md", ""): "tests/buckets/test_migration.py",
    ("docs/coming-from/few-audio.md", "sh"): "tests/across/test_coming_from.py",
    ("docs/coming-from/metis.md", "sh"): "tests/across/test_coming_from.py",
    ("docs/coming-from/sklearn-transfer.md", "sh"): "tests/across/test_coming_from.py",
    ("docs/coming-from/trillsson.md", "sh"): "tests/across/test_coming_from.py",
    ("docs/coming-from/wav2vec2.md", "sh"): "tests/across/test_coming_from.py",
    ("docs/coming-from/wav2vec2.md", ""): "tests/buckets/test_migration.py",
    ("docs/offline-workflow.md", "sh"): "tests/across/test_both_frameworks.py",
    ("docs/offline-workflow.md", "bash"): "tests/across/test_both_frameworks.py",
    ("docs/third-party-encoders.md", "python"): "tests/encoders/test_third_party_example.py",
    ("docs/third-party.md", "python"): "tests/learning/test_third_party.py",
}
PLACES = re.compile(r"/(?:data|projects/me|scratch-shared/me)/")
"""Absolute folders that pages name; in the sandbox they are below the current folder."""
EXISTING = {  # page -> what exists before its first block: path in the sandbox = path in the folder that `make` made
    "README.md": ["data/corpus=corpus", "a.wav=a.wav", "b.flac=b.flac"],
    "docs/classifiers.md": ["features/mfcc"],
    "docs/coming-from/sklearn-transfer.md": [
        "training_data_GTZAN_MSDmusicnn_taggram.npz=train.npz",
        "evaluation_data_GTZAN_MSDmusicnn_taggram.npz=test.npz",
    ],
    "docs/corpora.md": [
        "data/corpus=corpus",
        "data/fsdd/recordings=corpus",
        "data/clinic/site_2=corpus",
        "data/calls=corpus",
        "lists",
        "diagnoses.csv",
        "calls.parquet",
        "splits",
        "my_train.txt",
        "my_test.txt",
    ],
    "docs/encoders/acoustic.md": ["manifest.parquet"],
    "docs/encoders/tensorflow.md": ["openl3_train.npz=train.npz", "openl3_test.npz=test.npz"],
    "docs/feature-sets.md": [
        "DIR=features/mfcc",
        "data/corpus=corpus",
        "features",
        "train.npy",
        "train_metadata.csv",
        "test.npy",
        "test_metadata.csv",
        "semantic_features.json",
        "windows_train.npz",
        "windows_test.npz",
    ],
    "docs/index.md": ["data/corpus=corpus"],
    "docs/operating.md": ["g=features/mfcc"],
    "docs/python.md": ["data/digits=corpus", "a.wav=a.wav", "b.flac=b.flac"],
    "docs/report.md": ["runs"],
    "docs/scoring.md": ["SCORES.tsv", "KEYS.tsv", "runs"],
    "docs/slurm.md": ["spoof=features/mfcc"],
    "docs/tutorials/cluster.md": ["projects/me/digits=corpus", "scratch-shared/me/digits=features/mfcc"],
    "docs/augmentation.md": ["digits.parquet=manifest.parquet"],
    "docs/networks.md": ["recordings=corpus", "other-corpus.parquet=manifest.parquet"],
}


SPLITS = {"train": range(4), "test": range(4, 8)}
"""Split -> numbers of the uids that `CORPORA["uid-folders"]` has in it."""


def executable_blocks(page: Path) -> list[Block]:
    """Return the Python and shell blocks of a page that no other test runs."""
    found = blocks(page, "python", *SHELL)
    found = [block for block in found if (block.page, block.language) not in ELSEWHERE]
    return [block for block in found if block.is_shell or block.language == "python"]


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of every command of a shell block."""
    for line in block.lines:
        for part in line.split(" && "):
            words = words_of(part)
            yield [Path(words[0]).name, *words[1:]]


def needs(block: Block) -> str:
    """Return what a block needs and the base environment does not have, with commas between; empty: nothing."""
    if not block.is_shell:
        return ", ".join({"PyTorch": None} if re.search(r"\btorch\b", block.code) else {})
    found = set()
    for words in commands(block):
        line = " ".join(words)
        if words[0] not in ("voxshard", "export"):
            found.add(words[0])
        if "://" in line or line.startswith("voxshard weights fetch"):
            found.add("a network")
        if {"submit", "logs", "retry", "--site"} & set(words):
            found.add("SLURM")
        if "--config configs/" in line:
            found.add("the configs of the repository")
        if line.startswith(("voxshard weights verify", "voxshard weights convert")):
            found.add("weights")
        encoder = SPECS.get(words[words.index("--encoder") + 1]) if "--encoder" in words else None
        if encoder and has_weights(encoder.name) and "weights=runs/" not in line:
            found.add("weights")
        extra = "torch" if "--network" in words else encoder and encoder.extra
        found |= {"torch": {"PyTorch"}, "tensorflow": {"TensorFlow"}}.get(str(extra), set())
    return ", ".join(sorted(found))


def make(place: Path) -> Path:
    """Make what `EXISTING` takes from: recordings, a manifest, feature sets, runs, scores."""
    spoken_digits(place / "corpus", digits=range(2), takes=(0, 1, 5, 6))
    paths = sorted((place / "corpus").iterdir())
    shutil.copy(paths[0], place / "a.wav")
    soundfile.write(place / "b.flac", *soundfile.read(paths[1]))
    voxshard.prepare(
        "folder", place / "corpus", out=place / "manifest.parquet",
        label_from=r"(?P<digit>\d)_(?P<speaker>[a-z]+)_", split_from=[r"_[0-4]\.wav$=test", ".*=train"],
    )  # fmt: skip
    settings: dict[str, dict[str, Any]] = {"mfcc": {}, "frames": {"pooling": "none"}}
    for name, values in settings.items():
        voxshard.extract(place / "manifest.parquet", encoder="mfcc", out=place / "features" / name, settings=values)
    for name in ("logistic", "knn"):
        voxshard.train(place / "features" / "mfcc", label="digit", classifier=name, out=place / "runs" / name)
    for name in ("lists", "splits"):
        (place / name).mkdir()
    for split, pattern in (("train", "*_[56].wav"), ("test", "*_[01].wav")):
        names = [path.name for path in paths if path.match(pattern)]
        (place / "lists" / f"{split}.txt").write_text("\n".join(names) + "\n")
        (place / "splits" / f"{split}.csv").write_text("uid,fluent\n" + "".join(f"u{n},1\n" for n in SPLITS[split]))
        (place / f"my_{split}.txt").write_text(
            "".join(f"{genre}/{genre}.{SPLITS[split][0] // 4}.wav\n" for genre in GENRES)
        )
        windows = {"X": np.eye(len(names), 4, dtype=np.float32), "IDS": np.array(names), "Y": np.arange(len(names)) % 2}
        np.savez(place / f"{split}.npz", **windows)
        np.savez(place / f"windows_{split}.npz", **windows)
        np.save(place / f"{split}.npy", windows["X"])
        pyarrow.csv.write_csv(pa.table({"utterance_id": names}), place / f"{split}_metadata.csv")
    latents = {path.name: np.eye(3, 8).tolist() for path in paths}
    (place / "semantic_features.json").write_text(json.dumps(latents))
    pyarrow.parquet.write_table(pa.table({"recording": [path.name for path in paths]}), place / "calls.parquet")
    (place / "diagnoses.csv").write_text("file,diagnosis\n" + "".join(f"{path.name},none\n" for path in paths))
    trials = [(path.name, "bonafide" if number % 2 else "spoof", number) for number, path in enumerate(paths)]
    (place / "SCORES.tsv").write_text(
        "filename\tcm-score\n" + "".join(f"{name}\t{number % 7 - 3.0}\n" for name, _, number in trials)
    )
    (place / "KEYS.tsv").write_text("filename\tcm-label\n" + "".join(f"{name}\t{label}\n" for name, label, _ in trials))
    return place


def furnish(page: str, made: Path, place: Path) -> None:
    """Put what exists before the first block of a page into a folder."""
    for entry in EXISTING.get(page, []):
        target, _, source = entry.partition("=")
        origin = made / (source or target)
        (place / target).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if origin.is_dir() else shutil.copy)(origin, place / target)


def corpus_at(root: Path, layout: str) -> None:
    """Make a corpus of a format where a command expects one; Kaldi's is the folder `data` of a recipe."""
    if root.parts[0] == "ROOT":
        root = Path("ROOT")
    if root.name == "data":
        root = root.parent
    CORPORA[layout](root / "part_003" if layout == "folder" else root)


def run(block: Block, names: dict[str, object]) -> None:
    """Run a block in the current folder; Python blocks of a page share `names`."""
    code = PLACES.sub(lambda match: match[0][1:], block.code)
    if not block.is_shell:
        exec(compile(code, block.page, "exec"), names)
        return
    shutil.rmtree("ROOT", ignore_errors=True)  # the corpus of an earlier block, of another format
    for words in commands(block._replace(code=code)):
        words = [os.path.expandvars(word) for word in words]
        if words[0] == "export":
            os.environ.update(word.split("=", 1) for word in words[1:])
            continue
        if words[1] == "prepare" and not Path(words[3]).exists():
            corpus_at(Path(words[3]), words[2])
        main(words[1:])


def pages_with(need: str) -> list[Path]:
    """Return the pages that have a block which needs this and nothing else."""
    return [page for page in PAGES if any(needs(block) == need for block in executable_blocks(page))]


def run_page(page: Path, allowed: str, made: Path, place: Path) -> None:
    """Run the blocks of a page in a folder: those that need nothing, or only `allowed`."""
    furnish(str(page.relative_to(ROOT)), made, place)
    names: dict[str, object] = {}
    with contextlib.chdir(place), mock.patch.dict(os.environ):
        for block in executable_blocks(page):
            if needs(block) in ("", allowed):
                run(block, names)
