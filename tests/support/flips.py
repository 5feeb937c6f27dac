"""One changed byte at a time in the files of a feature set, and what opens it does then.

A change may be found (an error), or be without effect: the bytes of HDF5 that no reader uses, for example. It must
never give other numbers, ids or labels than the intact set.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from support.feature_sets import write_set
from voxshard import open_features
from voxshard.errors import IncompleteError, VoxshardError
from voxshard.extraction.telemetry import advice
from voxshard.learning.data import Dataset
from voxshard.learning.train_config import EvaluateConfig, TrainConfig
from voxshard.progress import Silent
from voxshard.reporting.feature_summaries import load_feature_set
from voxshard.stages import evaluate, train
from voxshard.store.export import ExportConfig, export
from voxshard.store.layout import FeatureDir, Identity
from voxshard.store.verify import verify


def read_open(path: Path) -> Any:
    """Everything that opening and a pass over the set give."""
    features = open_features(path)
    batches = [(batch.ids, *(_hash(part) for part in batch[2:])) for batch in features.iter_batches(5)]
    facts = (features.encoder, features.granularity, features.dim, features.num_layers, len(features))
    return facts, batches, features.ids, features.rows(features.ids).tolist(), features.failures, features.table


def read_training(path: Path) -> Any:
    """What training and evaluation read: rows, labels and splits of every utterance."""
    dataset = Dataset.open([path])
    rows, starts = dataset.rows_of(np.arange(len(dataset)))
    labels = dataset.column("label", option="--label")
    return _hash(dataset.take(rows)), starts.tolist(), labels, dataset.splits, dataset.table["utterance_id"].to_pylist()


def read_export(path: Path) -> Any:
    """The bytes of an export."""
    target = path.parent / "export.json"
    export(ExportConfig(features=path, format="json", out=target), Silent(), lambda: None)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def read_evaluation(path: Path) -> Any:
    """The metrics and the scores that the classifier of a run of `trained_run` gives on the set."""
    run = path.parent / "run"
    scored = shutil.copytree(path.parent / TRAINED, run)
    try:
        config = EvaluateConfig(run=scored, on=(path,), replicates=0)
        return evaluate.run(config).metrics, (scored / f"scores-{path.name}.tsv").read_text()
    finally:
        shutil.rmtree(run)


def read_report(path: Path) -> Any:
    """What a report shows of the set."""
    found = load_feature_set(path, "set", labels=["label"], advise=advice)
    if found.no_map:
        raise IncompleteError(found.no_map)  # which the page states instead
    return orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY).decode()


READERS: dict[str, Callable[[Path], Any]] = {
    "open": read_open,
    "train": read_training,
    "evaluate": read_evaluation,
    "export": read_export,
    "report": read_report,
}
TRAINED = "trained"


def _hash(array: Any) -> Any:
    return None if array is None else (array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest())


def made_set(path: Path, mode: str, granularity: str) -> Path:
    """A merged set of 24 utterances in three shards."""
    choose = np.random.default_rng(0)
    ids = [f"part/{n:03d}.wav" for n in range(24)]
    shapes = [(40,) if granularity == "utterance" else (1 + n % 5, 40) for n in range(24)]
    arrays = {name: choose.standard_normal(shape).astype(np.float32) for name, shape in zip(ids, shapes, strict=True)}
    columns = {"label": [f"class-{n % 3}" for n in range(24)], "split": ["train"] * 16 + ["test"] * 8}
    return write_set(path, arrays, columns, granularity=granularity, mode=mode, per_shard=8)


def targets(path: Path) -> list[Path]:
    """The files that are changed: all but config.yaml, which nothing that is read later depends on."""
    return sorted(item for item in path.rglob("*") if item.is_file() and item.suffix != ".yaml")


def flip(source: Path, folder: Path, count: int, seed: int) -> Counter[str]:
    """Change one byte after the other in copies of a merged set, spread over all of its files.

    Returns
    -------
    How often each reader found the change ("NAME: found"), gave the right content ("NAME: right") or another one
    ("NAME: WRONG"), or raised something that is no error of voxshard ("NAME: TRACEBACK ..."); and what `verify` did.
    """
    choose = random.Random(seed)
    train.run(TrainConfig(features=(source,), label=("label",), classifier="knn", out=folder / TRAINED, replicates=0))
    path = shutil.copytree(source, folder / "set")
    expected = {name: reader(path) for name, reader in READERS.items()}
    shutil.rmtree(path)
    manifest = Identity.read(source / "identity.json").manifest_file
    outcomes: Counter[str] = Counter()
    for number in range(count):
        shutil.copytree(source, path)
        files = targets(path)
        file = files[number % len(files)]
        content = bytearray(file.read_bytes())
        position = choose.randrange(len(content))
        content[position] ^= choose.randrange(1, 256)
        file.write_bytes(content)
        where = f"{file.relative_to(path)}, byte {position}"
        for name, reader in READERS.items():
            outcomes[_outcome(name, reader, path, expected[name], where)] += 1
        if file.name == "manifest.parquet" and manifest is not None:
            problems = _problems(path)
            outcomes["verify: found" if problems else f"verify: WRONG ({where})"] += 1
        shutil.rmtree(path)
    return outcomes


def _outcome(name: str, reader: Callable[[Path], Any], path: Path, expected: Any, where: str) -> str:
    try:
        found = reader(path)
    except VoxshardError:
        return f"{name}: found"
    except Exception as exc:  # noqa: BLE001  counted, so that a run names all of them
        return f"{name}: TRACEBACK {type(exc).__name__}: {exc} ({where})"
    return f"{name}: right" if _same(found, expected) else f"{name}: WRONG ({where})"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(_same, one, other))
    return (
        bool(one.equals(other))
        if hasattr(one, "equals")
        else json.dumps(one, default=str) == json.dumps(other, default=str)
    )


def _problems(path: Path) -> bool:
    try:
        return bool(verify(FeatureDir(path), Silent(), lambda: None).problems)
    except VoxshardError:
        return True
