"""The attacks: what is tried on which command, drawn with a seed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from fuzz import odd
from fuzz.archives import ODD_MEMBERS, archive
from fuzz.crafted_hdf5 import Craft, crafted, with_changed_facts
from fuzz.harness import Attack, Case
from support.feature_sets import write_set
from support.hub_server import ODD_HEADERS, Hub, environment, serving
from voxshard.cli import COMMANDS
from voxshard.config import dump_yaml, load_yaml

DEMO = Path(__file__).parents[2] / "src" / "voxshard" / "demo" / "demo.yaml"
NUM_ROWS, DIM = 24, 6
_SLOW_OR_ENDLESS = ("demo", "cancel", "logs")


def make_corpus(folder: Path) -> Path:
    """Six short recordings with labels in their names."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(6):
        soundfile.write(folder / f"s{number}-{'ab'[number % 2]}.wav", 0.1 * rng.standard_normal(1600), 16000)
    return folder


def make_set(folder: Path, mode: str = "packed") -> Path:
    """A merged feature set with labels and splits."""
    rng = np.random.default_rng(2)
    arrays = {f"u{row:02d}": rng.standard_normal(DIM).astype(np.float32) for row in range(NUM_ROWS)}
    columns = {
        "split": ["train" if row % 3 else "test" for row in range(NUM_ROWS)],
        "label": ["ab"[row % 2] for row in range(NUM_ROWS)],
    }
    return write_set(folder, arrays, columns, mode=mode, per_shard=8)


def attack_config(work: Path, seed: int) -> Iterator[Case]:
    """Configs with changed values, as text with odd pieces, and `--set` with odd values: 300."""
    rng = random.Random(300 + seed)
    corpus = make_corpus(work / "corpus")
    base = {**load_yaml(DEMO), "out": "exp", "prepare": {"format": "folder", "root": str(corpus)}}
    text = dump_yaml(base)
    for number in range(300):
        path = work / f"c{number}.yaml"
        kind = number % 4
        if kind == 0:
            content = odd.changed(base, rng)
            path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
        elif kind == 1:
            at = rng.randrange(len(text))
            path.write_text(text[:at] + odd.text(rng) + text[at:], encoding="utf-8", errors="surrogatepass")
        elif kind == 2:
            path.write_bytes(odd.damaged(text.encode(), rng))
        else:
            path.write_text(text)
        key = rng.choice(
            ["out", "prepare.root", "extract.mfcc.encoder", "train.label", "train.settings", "report", "x.y"]
        )
        options = ["--set", f"{key}={odd.text(rng)}"] if kind == 3 else []
        command = ["submit", "--dry-run", "--site", "local"] if number % 2 else ["doctor"]
        if command == ["doctor"] and options:
            command = ["submit", "--dry-run", "--site", "snellius"]
        yield Case(f"{number}", [*command, str(path), *options])


def attack_cli(work: Path, seed: int) -> Iterator[Case]:
    """Commands with options and arguments that are odd, missing, or of another command: 400."""
    rng = random.Random(400 + seed)
    corpus, features = make_corpus(work / "corpus"), make_set(work / "set")
    (work / "file.txt").write_text("x")
    places = [str(corpus), str(features), "file.txt", "nowhere", str(features / "features.h5"), "out/new", "."]
    commands = [name for name in COMMANDS if name not in _SLOW_OR_ENDLESS]
    options = sorted({option for name in commands for option in _options_of(name)} - {"--watch"})
    for number in range(400):
        command = commands[number % len(commands)]
        arguments = [command]
        for _ in range(rng.randrange(5)):
            if rng.random() < 0.5:
                own = sorted(set(_options_of(command)) - {"--watch"}) or options
                arguments.append(rng.choice(own if rng.random() < 0.9 else options))
            arguments.append(rng.choice(places) if rng.random() < 0.5 else odd.text(rng))
        if command == "weights" and "fetch" in arguments:
            continue
        yield Case(f"{number} {arguments!r:.200}", arguments)


def _options_of(name: str) -> list[str]:
    import importlib

    command = importlib.import_module(f"voxshard.cli.{COMMANDS[name][0]}").command
    return [option for parameter in command.params for option in parameter.opts if option.startswith("--")]


def attack_tables(work: Path, seed: int) -> Iterator[Case]:
    """Tables of recordings and of labels, damaged and with odd cells: 200."""
    rng = random.Random(200 + seed)
    corpus = make_corpus(work / "corpus")
    names = sorted(path.name for path in corpus.iterdir())
    for number in range(200):
        suffix = (".csv", ".tsv", ".parquet", ".txt", ".json", ".jsonl")[number % 6]
        path = work / f"t{number}{suffix}"
        cells = [{"path": name, "label": odd.text(rng), "x": odd.value(rng)} for name in names]
        if rng.random() < 0.5:
            cells = odd.changed(cells, rng)
        path.write_bytes(odd.damaged(_table(suffix, cells), rng) if rng.random() < 0.6 else _table(suffix, cells))
        shutil.copy(path, corpus / f"table{suffix}")
        if number % 2:
            yield Case(
                f"table {number}", ["prepare", "table", str(corpus / f"table{suffix}"), "--out", f"m{number}.parquet"]
            )
        else:
            yield Case(
                f"labels {number}",
                ["prepare", "folder", str(corpus), "--labels", str(path), "--no-probe", "--out", f"m{number}.parquet"],
            )
        (corpus / f"table{suffix}").unlink()


def _table(suffix: str, cells: Any) -> bytes:
    rows = [row if isinstance(row, dict) else {"path": row} for row in cells] if isinstance(cells, list) else []
    if suffix in (".json", ".jsonl"):
        text = json.dumps(cells) if suffix == ".json" else "\n".join(json.dumps(row) for row in rows)
        return text.encode(errors="surrogatepass")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if suffix == ".parquet":
        sink = pa.BufferOutputStream()
        texts = {str(key): [_utf8(row.get(key)) for row in rows] for key in columns}
        pq.write_table(pa.table({_utf8(key) or "": column for key, column in texts.items()}), sink)
        return sink.getvalue().to_pybytes()
    mark = "," if suffix == ".csv" else "\t"
    lines = [mark.join(map(str, columns)), *(mark.join(str(row.get(key, "")) for key in columns) for row in rows)]
    return "\n".join(lines).encode(errors="surrogatepass")


def _utf8(item: Any) -> str | None:
    return None if item is None else str(item).encode(errors="replace").decode()


def attack_hdf5(work: Path, seed: int) -> Iterator[Case]:
    """Merged files whose seals are right and whose content is not what voxshard writes: 40 HDF5, 90 descriptions."""
    rng = random.Random(40 + seed)
    bases = {mode: make_set(work / mode, mode) for mode in ("packed", "index")}
    right = _exported(bases["packed"], work / "right")
    facts = [(f"facts {number}", partial(with_changed_facts, rng=rng)) for number in range(90)]
    crafts: list[tuple[str, str, Craft]] = [("packed", *item) for item in crafted()]
    crafts += [(("packed", "index")[number % 2], *item) for number, item in enumerate(facts)]
    for number, (mode, name, craft) in enumerate(crafts):
        target = work / f"h{number}"
        shutil.copytree(bases[mode], target)
        craft(target / "features.h5")
        out = f"npy{number}"
        judge = _same_as(work / out, right) if "NaN" not in name else lambda code: None
        yield Case(f"export {name}", ["export", str(target), "--format", "npy", "--out", out], judge)
        yield Case(f"verify {name}", ["verify", str(target)], _never_fine if "facts" not in name else lambda code: None)


def _exported(features: Path, out: Path) -> dict[str, bytes]:
    from voxshard.cli import main

    main(["export", str(features), "--format", "npy", "--out", str(out)])
    return _contents(out)


def _contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*") if path.suffix in (".npy", ".csv")}


def _same_as(out: Path, right: dict[str, bytes]) -> Callable[[int], str | None]:
    def judge(code: int) -> str | None:
        return "exported other numbers or ids and reported success" if code == 0 and _contents(out) != right else None

    return judge


def _never_fine(code: int) -> str | None:
    return "verify found nothing" if code == 0 else None


def attack_small_files(work: Path, seed: int) -> Iterator[Case]:
    """identity, summary, plan, manifest and utterances of a set, damaged or with changed keys: 200."""
    rng = random.Random(201 + seed)
    base = make_set(work / "base", "index")
    right = _exported(base, work / "right")
    names = ("identity.json", "summary.json", "plan.parquet", "manifest.parquet", "utterances.parquet", "failures.csv")
    commands: tuple[tuple[str, ...], ...] = (
        ("verify",),
        ("status",),
        ("merge",),
        ("export", "--format", "npy", "--out"),
        ("retry",),
        ("train", "--label", "label", "--classifier", "logistic", "--out"),
        ("extract", "--encoder", "mfcc", "--out"),
    )
    for number in range(200):
        target, out = work / f"s{number}", f"out{number}"
        shutil.copytree(base, target)
        path = target / names[number % len(names)]
        if path.suffix == ".json" and rng.random() < 0.7:
            path.write_text(json.dumps(odd.changed(_without_digest(path, rng), rng)), errors="surrogatepass")
        else:
            path.write_bytes(odd.damaged(path.read_bytes(), rng))
        command, *options = commands[number // len(names) % len(commands)]
        if command == "extract":
            arguments = [command, str(target / "manifest.parquet"), *options, str(target), "--plan-only"]
        else:
            arguments = [command, str(target), *options, *([out] if options else [])]
        judge = _same_as(work / out, right) if command == "export" else lambda code: None
        yield Case(f"{number} {path.name} {command}", arguments, judge)


def _without_digest(path: Path, rng: random.Random) -> Any:
    """Content of a JSON file; half of the time as format 1 had it, whose changes no digest shows."""
    content = json.loads(path.read_text())
    if rng.random() < 0.5:
        content = {**content, "format_version": 1}
        del content["digest"]
    return content


def attack_flips(work: Path, seed: int) -> Iterator[Case]:
    """One bit changed anywhere in a set, of both modes, before an export, a training or an opening in Python: 600."""
    rng = random.Random(600 + seed)
    bases = [make_set(work / mode, mode) for mode in ("packed", "index")]
    rights = [
        (_exported(base, work / f"right-{base.name}"), _trained(base, work / f"run-{base.name}")) for base in bases
    ]
    for number in range(600):
        base, (numbers, scores) = bases[number % 2], rights[number % 2]
        target, out = work / f"f{number}", work / f"o{number}"
        shutil.copytree(base, target)
        sizes = {path: path.stat().st_size for path in sorted(target.rglob("*")) if path.is_file()}
        path = rng.choice([path for path, size in sizes.items() if size])
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        if number // 2 % 2:
            arguments, judge = ["export", str(target), "--format", "npy", "--out", str(out)], _same_as(out, numbers)
        else:
            arguments, judge = _training(target, out), _same_scores(out, scores)
        yield Case(f"{number} {path.name} {arguments[0]}", arguments, judge)
        shutil.rmtree(target)
        shutil.rmtree(out, ignore_errors=True)


def _training(features: Path, out: Path) -> list[str]:
    return ["train", str(features), "--label", "label", "--classifier", "prototypes", "--out", str(out)]


def _trained(features: Path, out: Path) -> bytes:
    from voxshard.cli import main

    main(_training(features, out))
    return (out / "scores.tsv").read_bytes()


def _same_scores(out: Path, right: bytes) -> Callable[[int], str | None]:
    def judge(code: int) -> str | None:
        if code == 0 and (out / "scores.tsv").read_bytes() != right:
            return "trained on other numbers and reported success"
        return None

    return judge


def attack_ingest(work: Path, seed: int) -> Iterator[Case]:
    """Features of other programs, damaged: 125."""
    rng = random.Random(125 + seed)
    numbers = np.random.default_rng(3).standard_normal((NUM_ROWS, DIM)).astype(np.float32)
    ids = np.array([f"u{row:02d}" for row in range(NUM_ROWS)])
    for number in range(125):
        folder = work / f"i{number}"
        folder.mkdir()
        suffix = (".npy", ".npz", ".json", ".parquet", ".tsv")[number % 5]
        path = folder / f"x{suffix}"
        _write_features(path, numbers, ids, framewise=bool(number // 5 % 2))
        beside = sorted(folder.iterdir())
        victim = rng.choice(beside)
        victim.write_bytes(odd.damaged(victim.read_bytes(), rng))
        yield Case(f"{number} {suffix}", ["ingest", str(path), "--out", str(folder / "set")])


def _write_features(path: Path, numbers: Any, ids: Any, *, framewise: bool) -> None:
    offsets = np.arange(0, NUM_ROWS + 1, 2)
    if path.suffix == ".npy":
        np.save(path, numbers)
        rows = "".join(f"{name},{row},{'ab'[row % 2]}\n" for row, name in enumerate(ids))
        path.with_name("x_metadata.csv").write_text(f"utterance_id,embedding_idx,label\n{rows}")
    elif path.suffix == ".npz" and framewise:
        codes = np.arange(NUM_ROWS, dtype=np.int32)
        np.savez_compressed(path, X=numbers, ids=ids[: NUM_ROWS // 2], offsets=offsets, codes=codes)
    elif path.suffix == ".npz":
        np.savez(path, X=numbers, ids=ids)
    elif path.suffix == ".json":
        rows = numbers.reshape(NUM_ROWS // 2, 2, DIM) if framewise else numbers
        path.write_text(json.dumps({str(name): row.tolist() for name, row in zip(ids, rows, strict=False)}))
    elif path.suffix == ".parquet":
        pq.write_table(
            pa.table({"utterance_id": ids.tolist(), "embedding": numbers.tolist(), "label": ids.tolist()}), path
        )
    else:
        head = "\t".join(["utterance_id", *(f"embedding_{at}" for at in range(DIM))])
        path.write_text(
            "\n".join([head, *("\t".join([name, *map(str, row)]) for name, row in zip(ids, numbers, strict=True))])
        )


def attack_weights(work: Path, seed: int) -> Iterator[Case]:
    """Folders of weights with odd configs and records: 100."""
    rng = random.Random(100 + seed)
    corpus = make_corpus(work / "corpus")
    from voxshard.cli import main

    main(["prepare", "folder", str(corpus), "--out", "m.parquet"])
    config = {
        "model_type": "wav2vec2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "conv_dim": [8, 8],         "conv_kernel": [10, 3], "conv_stride": [5, 2],
        "architectures": ["Wav2Vec2Model"], "do_stable_layer_norm": False,
    }  # fmt: skip
    preprocessor = {"sampling_rate": 16000, "do_normalize": True, "feature_size": 1, "return_attention_mask": False}
    record = {
        "name": "x",
        "files": [
            {"name": "config.json", "num_bytes": 2, "sha256": "0" * 64, "url": "u", "checked_against": "nothing"}
        ],
    }
    for number in range(100):
        folder = work / "weights" / f"w{number}"
        folder.mkdir(parents=True)
        contents = {"config.json": config, "preprocessor_config.json": preprocessor, "weights.json": record}
        victim = rng.choice(list(contents))
        for name, content in contents.items():
            text = json.dumps(odd.changed(content, rng) if name == victim else content).encode(errors="surrogatepass")
            (folder / name).write_bytes(odd.damaged(text, rng) if name == victim and rng.random() < 0.3 else text)
        (folder / "model.safetensors").write_bytes(rng.randbytes(50))
        if number % 3 == 0:
            yield Case(f"{number} verify {victim}", ["weights", "verify", f"w{number}"])
        else:
            yield Case(
                f"{number} plan {victim}",
                [
                    "extract",
                    "m.parquet",
                    "--encoder",
                    "hf",
                    "--set",
                    f"weights={folder}",
                    "--out",
                    f"o{number}",
                    "--plan-only",
                ],
            )


def attack_archives(work: Path, seed: int) -> Iterator[Case]:
    """Archives of weights that lead outside, expand without end, or are damaged: 24."""
    rng = random.Random(24 + seed)
    good = archive({"saved_model.pb": b"graph" * 100, "variables/index": b"index"})
    contents = [archive(members) for members in ODD_MEMBERS] + [
        odd.damaged(good, rng) for _ in range(24 - len(ODD_MEMBERS))
    ]
    with serving(Hub()) as server, patch("time.sleep"), patch("voxshard.weights.catalogue._KAGGLE", server.address):
        for number, content in enumerate(contents):
            server.files["/1/1/download"] = content
            root = work / f"a{number}"
            yield Case(f"{number}", ["weights", "fetch", "trillsson1", "--root", str(root)], _no_links(root))


def _no_links(root: Path) -> Callable[[int], str | None]:
    def judge(code: int) -> str | None:
        found = [path for path in root.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())]
        return f"unpacked {found}" if found else None

    return judge


def attack_http(work: Path, _seed: int) -> Iterator[Case]:
    """Answers with headers that make no sense, from the hub and from another server: 14."""
    content = b"x" * 5000
    model = dict.fromkeys(("config.json", "preprocessor_config.json", "model.safetensors"), content)
    with serving(Hub(models={"org/name@main": model})) as server, patch("time.sleep"), environment(server.address):
        server.files["/1/1/download"] = archive({"saved_model.pb": content})
        with patch("voxshard.weights.catalogue._KAGGLE", server.address):
            for number, (name, headers) in enumerate(
                (name, headers) for name in ("hf/org/name", "trillsson1") for headers in ODD_HEADERS
            ):
                server.headers = headers
                root = work / f"h{number}"
                yield Case(f"{name} {headers}", ["weights", "fetch", name, "--root", str(root)], _whole(root, content))


def _whole(root: Path, content: bytes) -> Callable[[int], str | None]:
    def judge(code: int) -> str | None:
        arrived = [path for path in root.rglob("*") if path.name in ("model.safetensors", "saved_model.pb")]
        if code == 0 and not (arrived and arrived[0].read_bytes() == content):
            return "reported success without the file"
        return None

    return judge


ATTACKS: dict[str, Attack] = {
    "config": attack_config,
    "command line": attack_cli,
    "tables": attack_tables,
    "crafted HDF5": attack_hdf5,
    "small files of a set": attack_small_files,
    "flips": attack_flips,
    "ingest": attack_ingest,
    "weights folders": attack_weights,
    "archives": attack_archives,
    "HTTP": attack_http,
}
