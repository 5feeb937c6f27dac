from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from support.trees import Notes, column, prepare, rows, write_audio, write_text
from voxshard.corpora.walk import glob_pattern
from voxshard.errors import BackendUnavailableError, EmptyCorpusError

FSDD = Path(__file__).parents[3] / "shared" / "data" / "fsdd"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    for name in ("part_003/e8/7b/e87b.wav", "part_003/00/aa/00aa.WAV", "part_001/ff/00/ff00.flac", "top.ogg"):
        write_audio(root / name, kind={"flac": "FLAC", "ogg": "OGG"}.get(name[-4:].strip("."), "WAV"))
    write_text(root / "README.txt", "not audio")
    write_audio(root / ".hidden.wav")
    write_audio(root / ".trash" / "a.wav")
    return root


def test_ids_are_paths_relative_to_the_root_at_any_depth_in_order(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare("folder", corpus, tmp_path / "m.parquet")
    expected = ["part_001/ff/00/ff00.flac", "part_003/00/aa/00aa.WAV", "part_003/e8/7b/e87b.wav", "top.ogg"]
    assert manifest.ids == expected
    assert column(manifest, "path") == expected
    assert manifest.root == str(corpus)
    assert manifest.corpus == "folder"


def test_headers_are_probed(tmp_path: Path) -> None:
    write_audio(tmp_path / "c" / "a.wav", seconds=0.25, sample_rate=16000, num_channels=2)
    write_audio(tmp_path / "c" / "b.flac", seconds=0.5, sample_rate=44100, kind="FLAC")
    manifest = prepare("folder", tmp_path / "c", tmp_path / "m.parquet")
    names = ("duration_s", "sample_rate", "num_channels", "num_bytes", "format", "problem")
    sizes = [(tmp_path / "c" / name).stat().st_size for name in ("a.wav", "b.flac")]
    assert rows(manifest, *names) == [
        (0.25, 16000, 2, sizes[0], "wav", None),
        (0.5, 44100, 1, sizes[1], "flac", None),
    ]


def test_without_probe_sizes_are_known_and_durations_are_not(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare("folder", corpus, tmp_path / "m.parquet", probe=False)
    assert column(manifest, "duration_s") == [None] * 4
    assert column(manifest, "num_bytes") == [(corpus / name).stat().st_size for name in manifest.ids]


def test_part_lists_one_folder_and_keeps_ids_relative_to_the_root(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare("folder", corpus, tmp_path / "m.parquet", part="part_003")
    assert manifest.ids == ["part_003/00/aa/00aa.WAV", "part_003/e8/7b/e87b.wav"]


def test_a_part_that_is_not_there_names_those_that_are(corpus: Path, tmp_path: Path) -> None:
    message = f"{corpus}/part_009: no such folder; {corpus} has 'part_001', 'part_003'"
    with pytest.raises(EmptyCorpusError, match=re.escape(message)):
        prepare("folder", corpus, tmp_path / "m.parquet", part="part_009")


def test_glob_replaces_the_list_of_extensions(corpus: Path, tmp_path: Path) -> None:
    assert prepare("folder", corpus, tmp_path / "m.parquet", glob="*.wav").ids == ["part_003/e8/7b/e87b.wav"]
    manifest = prepare("folder", corpus, tmp_path / "m.parquet", glob="*.txt")
    assert rows(manifest, "utterance_id", "duration_s") == [("README.txt", None)]
    assert column(manifest, "problem")[0].startswith("UnreadableAudioError: ")


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("*.wav", "a/b/c.wav", True),
        ("*.wav", "a/b/c.WAV", False),
        ("a/*.wav", "a/c.wav", True),
        ("a/*.wav", "a/b/c.wav", False),
        ("a/**/*.wav", "a/b/c.wav", True),
        ("a/**/*.wav", "a/c.wav", True),
        ("**/c.wav", "c.wav", True),
        ("a/**", "a/b/c.wav", True),
        ("?.wav", "c.wav", True),
        ("[!a-b].wav", "c.wav", True),
        ("[!a-b].wav", "a.wav", False),
        ("a.wav", "abwav", False),
        ("new\nline*.wav", "new\nline1.wav", True),
    ],
)
def test_globs_mean_what_shells_mean(glob: str, path: str, fits: bool) -> None:
    assert (glob_pattern(glob).fullmatch(path) is not None) == fits


def test_nothing_found_says_where_and_which_extensions_were_seen(tmp_path: Path) -> None:
    for name in ("a.txt", "b.TXT", "deep/c.npy", "LICENSE"):
        write_text(tmp_path / "c" / name, "x")
    message = f"{tmp_path}/c: no audio file; found 2 .txt, 1 without extension, 1 .npy"
    with pytest.raises(EmptyCorpusError, match=f"^{re.escape(message)}$"):
        prepare("folder", tmp_path / "c", tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


def test_a_glob_that_fits_nothing_says_so(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(EmptyCorpusError) as caught:
        prepare("folder", corpus, tmp_path / "m.parquet", glob="train/*.wav", part="part_001")
    assert str(caught.value) == (
        f"{corpus}/part_001: no file matches --glob train/*.wav; found 1 .flac; "
        "check the pattern: it is matched against the path relative to the root"
    )


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EmptyCorpusError, match=f"^{re.escape(str(tmp_path))}/nope: no such folder$"):
        prepare("folder", tmp_path / "nope", tmp_path / "m.parquet")


def test_an_empty_folder_says_no_files(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(EmptyCorpusError, match="no audio file; found no files"):
        prepare("folder", tmp_path / "c", tmp_path / "m.parquet")


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    write_audio(tmp_path / "elsewhere" / "x.wav")
    root = tmp_path / "c"
    write_audio(root / "a" / "y.wav")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "back").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    assert prepare("folder", root, tmp_path / "m.parquet").ids == ["a/y.wav", "linked/x.wav"]


def test_a_nasty_folder_is_listed_whole_and_what_is_bad_says_why(tmp_path: Path) -> None:
    root = tmp_path / "c"
    write_audio(root / "good 'quoted' \"name\"\nnew line.wav")
    write_audio(root / "größe 語.flac", kind="FLAC")
    write_audio(os.fsencode(root) + b"/caf\xe9.wav")
    write_audio(root / "channels8.wav", num_channels=8, sample_rate=96000)
    (root / "empty.wav").write_bytes(b"")
    (root / "text.wav").write_text("this is no audio at all, only text\n" * 10)
    (root / "gone.wav").symlink_to(root / "nowhere.wav")
    write_audio(root / "cut.wav", seconds=1.0)
    whole = (root / "cut.wav").read_bytes()
    (root / "cut.wav").write_bytes(whole[:3000])
    write_audio(root / "streamed.wav")
    streamed = bytearray((root / "streamed.wav").read_bytes())
    at = streamed.index(b"data") + 4
    streamed[4:8] = streamed[at : at + 4] = b"\xff\xff\xff\xff"  # what programs write into a pipe
    (root / "streamed.wav").write_bytes(bytes(streamed))

    manifest = prepare("folder", root, tmp_path / "m.parquet")

    problems = dict(rows(manifest, "utterance_id", "problem"))
    assert set(problems) == {
        "good 'quoted' \"name\"\nnew line.wav", "größe 語.flac", r"caf\xe9.wav", "channels8.wav", "empty.wav",
        "text.wav", "gone.wav", "cut.wav", "streamed.wav",
    }  # fmt: skip
    bad = {name: text.partition(":")[0] for name, text in problems.items() if text}
    assert bad == {
        "empty.wav": "EmptyAudioError",
        "text.wav": "UnreadableAudioError",
        "gone.wav": "MissingRecordingError",
        "cut.wav": "TruncatedAudioError",
    }
    paths = dict(rows(manifest, "utterance_id", "path"))
    assert paths[r"caf\xe9.wav"] == b"caf\xe9.wav"
    assert paths["größe 語.flac"] == "größe 語.flac".encode()
    durations = dict(rows(manifest, "utterance_id", "duration_s"))
    assert durations["streamed.wav"] == pytest.approx(0.1)
    assert durations["empty.wav"] is None


def test_names_that_differ_only_by_escaping_are_refused_by_both_names(tmp_path: Path) -> None:
    from voxshard.errors import DuplicateIdError

    root = tmp_path / "c"
    write_audio(os.fsencode(root) + b"/a\xe9.wav")
    write_audio(root / r"a\xe9.wav")
    with pytest.raises(DuplicateIdError, match=r"b'a\\\\xe9.wav'.*b'a\\xe9.wav'"):
        prepare("folder", root, tmp_path / "m.parquet")


def test_a_folder_that_may_not_be_listed_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "c"
    write_audio(root / "a" / "x.wav")
    write_audio(root / "b" / "y.wav")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    notes = Notes()
    assert prepare("folder", root, tmp_path / "m.parquet", notes).ids == ["a/x.wav"]
    assert notes.lines == ["left out, since they may not be listed: 1 of the folders, 'b'"]


def test_urls_without_fsspec_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = "memory://corpus: memory:// needs fsspec, not installed in this environment: `pip install"
    with pytest.raises(BackendUnavailableError, match=re.escape(message)):
        prepare("folder", "memory://corpus", tmp_path / "m.parquet")


def test_a_bucket_is_listed_and_probed_through_fsspec(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="URLs need fsspec (extra buckets)")
    write_audio(tmp_path / "x.wav", seconds=0.25)
    store = fsspec.filesystem("memory")
    for name in ("deep/er/x.wav", "y.wav"):
        store.pipe_file(f"/corpus/{name}", (tmp_path / "x.wav").read_bytes())
    store.pipe_file("/corpus/notes.txt", b"x")
    store.pipe_file("/corpus/table.csv", b"path,label\ny.wav,a\n")
    try:
        manifest = prepare("folder", "memory://corpus", tmp_path / "m.parquet")
        assert rows(manifest, "utterance_id", "duration_s") == [("deep/er/x.wav", 0.25), ("y.wav", 0.25)]
        assert manifest.root == "memory://corpus"
        assert prepare("folder", "memory://corpus", tmp_path / "m.parquet", part="deep").ids == ["deep/er/x.wav"]
        manifest = prepare("table", "memory://corpus/table.csv", tmp_path / "m.parquet")
        assert rows(manifest, "utterance_id", "duration_s", "label") == [("y.wav", 0.25, "a")]
        assert manifest.root == "memory://corpus"
        with pytest.raises(EmptyCorpusError, match=r"^memory://corpus: no file matches --glob"):
            prepare("folder", "memory://corpus", tmp_path / "m.parquet", glob="*.flac")
    finally:
        store.rm("/corpus", recursive=True)


@pytest.mark.skipif(not FSDD.is_dir(), reason=f"{FSDD} is not here")
def test_fsdd_gets_its_labels_and_its_official_split_from_names(tmp_path: Path) -> None:
    manifest = prepare(
        "folder",
        FSDD,
        tmp_path / "m.parquet",
        label_from=r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)",
        split_from=(r"_[0-4]\.wav$=test", ".*=train"),
    )
    assert len(manifest) == 3000
    assert set(column(manifest, "digit")) == set("0123456789")
    assert len(set(column(manifest, "speaker"))) == 6
    assert {split for take, split in rows(manifest, "take", "split") if int(take) < 5} == {"test"}
    assert len(manifest.select_split("test")) == 300
    assert len(manifest.select_split("train")) == 2700
    assert manifest.table["problem"].null_count == 3000


def test_a_file_in_place_of_a_folder_is_told_what_reads_it(tmp_path: Path) -> None:
    write_text(tmp_path / "list.csv", "path")
    with pytest.raises(EmptyCorpusError, match=r"list.csv: a file; this format reads a folder"):
        prepare("folder", tmp_path / "list.csv", tmp_path / "m.parquet")
