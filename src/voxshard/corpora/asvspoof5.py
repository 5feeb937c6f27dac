"""`asvspoof5`: ASVspoof 5, Track 1 (stand-alone detection).

    ROOT/ASVspoof5.train.tsv  ASVspoof5.dev.track_1.tsv  ASVspoof5.eval.track_1.tsv    (or in a folder below)
    ROOT/flac_T/T_0000000000.flac  flac_D/D_0000000001.flac  flac_E_eval/E_0000000024.flac

Protocols have no header and one line per file, columns separated by blanks in spite of the name:
SPEAKER_ID FLAC_FILE_NAME SPEAKER_GENDER CODEC CODEC_Q CODEC_SEED ATTACK_TAG ATTACK_LABEL KEY TMP.
Source: README.txt of the corpus, https://zenodo.org/records/14498691. The release of the challenge (2024) had
ASVspoof5.train.metadata.txt and ASVspoof5.dev.metadata.txt with six columns, SPEAKER_ID FLAC_FILE_NAME GENDER CODEC
ATTACK_LABEL KEY; they are read where the published ones are missing.

The id is the file's name (`E_0000000024`), the key of official score files.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from voxshard.corpora.base import Listing, Request
from voxshard.corpora.remote_folder import CorpusPath, content_of, relative
from voxshard.corpora.walk import contents, folders_in
from voxshard.errors import EmptyCorpusError, ManifestError

PUBLISHED = (
    "speaker",
    "flac_file",
    "gender",
    "codec",
    "codec_q",
    "codec_seed",
    "attack_tag",
    "attack_label",
    "label",
    "tmp",
)
CHALLENGE = ("speaker", "flac_file", "gender", "codec", "attack_label", "label")

# Split -> names of its protocol and of its folder, the published ones first.
SPLITS = {
    "train": (("ASVspoof5.train.tsv", "ASVspoof5.train.metadata.txt"), ("flac_T",)),
    "dev": (("ASVspoof5.dev.track_1.tsv", "ASVspoof5.dev.metadata.txt"), ("flac_D",)),
    "eval": (("ASVspoof5.eval.track_1.tsv",), ("flac_E_eval", "flac_E")),
}
NONE = "NONE"  # what `-` becomes
# Codes of classes, stable whatever a protocol holds. C01 to C11: table 3 of https://arxiv.org/abs/2502.08857, whose
# C00 is what protocols write as `-`. Qualities are 1 to 8; the evaluation protocol has 0 for files without codec.
CODECS = (NONE, *(f"C{number:02d}" for number in range(1, 12)))
QUALITIES = (NONE, *(str(number) for number in range(1, 9)))
TASKS = ("bonafide", "spoof")


def list_corpus(request: Request) -> Listing:
    """List all files of the available protocols: train, dev, eval, in the order of the protocols. Takes no settings."""
    request.allow()
    root = request.folder
    places = _places(root)
    tables, notes = [], []
    for split, (protocols, folders) in SPLITS.items():
        protocol = next((place / name for name in protocols for place in places if (place / name).is_file()), None)
        if protocol is None:
            notes.append(f"no protocol of the {split} split ({protocols[0]}): left out")
            continue
        table = read_protocol(protocol)
        audio = _audio_folders(root, places, folders)
        if not audio:
            notes.append(f"no folder {folders[0]}: the {len(table):,} files of the {split} split are missing")
        paths = _paths(root, table["flac_file"].to_pylist(), audio or [folders[0]])
        table = table.append_column("path", pa.array(paths, pa.string()))
        tables.append(table.append_column("split", pa.array([split] * len(table), pa.string())))
    if not tables:
        raise EmptyCorpusError(
            f"{request.root}: no ASVspoof 5 protocol ({', '.join(names[0] for names, _ in SPLITS.values())}), nor in a "
            f"folder below; found {contents(request.root)}"
        )
    table = pa.concat_tables(tables, promote_options="default")
    return Listing(table.append_column("utterance_id", table["flac_file"]), request.root, notes=notes)


def read_protocol(path: CorpusPath) -> pa.Table:
    """Read one protocol as columns, with the class codes `y_task`, `y_codec` and `y_codec_q`.

    Raises
    ------
    ManifestError : another number of columns, or a key that is neither bonafide nor spoof.
    """
    content = re.sub(rb"[ \t]+", b"\t", re.sub(rb"[ \t\r]*\n\s*", b"\n", content_of(path).strip() + b"\n"))
    width = content.split(b"\n", 1)[0].count(b"\t") + 1
    names = {len(PUBLISHED): PUBLISHED, len(CHALLENGE): CHALLENGE}.get(width)
    if names is None:
        raise ManifestError(
            f"{path}: {width} columns in the first line; expected {len(PUBLISHED)} "
            "(SPEAKER_ID FLAC_FILE_NAME GENDER CODEC CODEC_Q CODEC_SEED ATTACK_TAG ATTACK_LABEL KEY TMP)"
        )
    try:
        table = pacsv.read_csv(
            pa.BufferReader(content),
            read_options=pacsv.ReadOptions(column_names=names),
            parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid as exc:
        raise ManifestError(f"{path}: {exc}; expected {width} columns in each line") from exc
    for name in names:
        if name not in ("speaker", "flac_file"):
            column = pc.if_else(pc.equal(table[name], "-"), NONE, table[name])
            table = table.set_column(table.column_names.index(name), name, column)
    if "codec_q" in names:
        unused = pc.and_(pc.equal(table["codec_q"], "0"), pc.equal(table["codec"], NONE))
        table = table.set_column(
            table.column_names.index("codec_q"), "codec_q", pc.if_else(unused, NONE, table["codec_q"])
        )
    odd = table.filter(pc.invert(pc.is_in(table["label"], pa.array(TASKS))))
    if len(odd):
        raise ManifestError(
            f"{path}: {len(odd):,} lines have a key other than bonafide or spoof; the first is "
            f"{odd['flac_file'][0].as_py()} with {odd['label'][0].as_py()!r}"
        )
    for name, source, classes in (
        ("y_task", "label", TASKS),
        ("y_codec", "codec", CODECS),
        ("y_codec_q", "codec_q", QUALITIES),
    ):
        if source in names:
            table = table.append_column(name, pc.index_in(table[source], value_set=pa.array(classes)))
    return table.drop_columns(["tmp"]) if "tmp" in names else table


def _places(root: CorpusPath) -> list[CorpusPath]:
    """Return the root and its subfolders up to two levels down."""
    places, above = [root], [root]
    for _ in range(2):
        above = [folder / name for folder in above for name in folders_in(folder)]
        places += above
    return places


def _audio_folders(root: CorpusPath, places: list[CorpusPath], names: tuple[str, ...]) -> list[str]:
    """Return the audio folders of one split, relative to the root; nested ones (flac_T/flac_T) count once."""
    found = []
    for name in names:
        for place in places:
            if place.name == name and place != root:
                inner = place / name
                found.append(relative(inner if inner.is_dir() else place, root))
    return list(dict.fromkeys(found))


def _paths(root: CorpusPath, names: list[str], folders: list[str]) -> list[str]:
    if len(folders) == 1:
        return [f"{folders[0]}/{name}.flac" for name in names]
    # Archives unpacked side by side (flac_T_aa/flac_T, flac_T_ab/flac_T): each file is in one of them.
    place = {entry.name: folder for folder in reversed(folders) for entry in (root / folder).iterdir()}
    return [f"{place.get(f'{name}.flac', folders[0])}/{name}.flac" for name in names]
