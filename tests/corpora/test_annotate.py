from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from support.trees import write_text
from voxshard.corpora.annotate import apply_split_lists, join_labels, labels_from_paths, put, splits_from_paths
from voxshard.errors import ConfigError, ManifestError


@pytest.fixture
def table() -> pa.Table:
    paths = ["p1/0_ann_7.wav", "p1/1_bob_0.wav", "p2/0_ann_1.flac"]
    return pa.table({"utterance_id": paths, "path": paths})


def splits(table: pa.Table) -> list[str | None]:
    return list(table["split"].to_pylist())


@pytest.mark.parametrize(
    "lines",
    [["p1/0_ann_7.wav", "p2/0_ann_1.flac"], ["./p1/0_ann_7.wav", "./p2/0_ann_1.flac"], ["0_ann_7.wav", "0_ann_1.flac"],
     ["0_ann_7", "0_ann_1"]],
)  # fmt: skip
def test_a_list_may_name_ids_paths_file_names_or_stems(table: pa.Table, tmp_path: Path, lines: list[str]) -> None:
    file = write_text(tmp_path / "l.txt", lines)
    found, notes = apply_split_lists(table, [("train", str(file))])
    assert (splits(found), notes) == (["train", None, "train"], [])


def test_a_list_may_be_a_table(table: pa.Table, tmp_path: Path) -> None:
    file = write_text(tmp_path / "l.csv", "split,filename\nx,1_bob_0.wav\n")
    assert splits(apply_split_lists(table, [("dev", str(file))])[0]) == [None, "dev", None]


def test_a_list_may_hold_names_that_are_not_utf8(tmp_path: Path) -> None:
    paths = pa.array([b"caf\xe9.wav", b"b.wav"], pa.binary())
    table = pa.table({"utterance_id": [r"caf\xe9.wav", "b.wav"], "path": paths})
    (tmp_path / "l.txt").write_bytes(b"caf\xe9.wav\n")
    assert splits(apply_split_lists(table, [("train", str(tmp_path / "l.txt"))])[0]) == ["train", None]
    (tmp_path / "l.txt").write_bytes(rb"caf\xe9.wav")
    assert splits(apply_split_lists(table, [("train", str(tmp_path / "l.txt"))])[0]) == ["train", None]


def test_lines_that_match_nothing_are_counted_and_named(table: pa.Table, tmp_path: Path) -> None:
    file = write_text(tmp_path / "l.txt", ["0_ann_7", "x", "y", "z", "w"])
    message = (
        f"--split train={file}: 4 of 5 entries match no utterance: 'x', 'y', 'z', ...; an entry is an id, a path, "
        "a file name or its stem; the ids here are like 'p1/0_ann_7.wav', 'p1/1_bob_0.wav', 'p2/0_ann_1.flac'"
    )
    with pytest.raises(ManifestError, match=f"^{re.escape(message)}$"):
        apply_split_lists(table, [("train", str(file))])


def test_in_a_part_of_a_corpus_lines_of_the_rest_are_only_counted(table: pa.Table, tmp_path: Path) -> None:
    file = write_text(tmp_path / "l.txt", ["p1/0_ann_7.wav", "p9/other.wav"])
    found, notes = apply_split_lists(table, [("train", str(file))], require_all=False)
    assert splits(found) == ["train", None, None]
    assert notes == [f"--split train={file}: 1 of 2 entries are not in what was chosen of the corpus"]
    write_text(file, ["p9/other.wav"])
    with pytest.raises(ManifestError, match="1 of 1 entries match no utterance"):
        apply_split_lists(table, [("train", str(file))], require_all=False)


def test_a_file_name_that_two_recordings_share_names_neither(tmp_path: Path) -> None:
    paths = ["a/x.wav", "b/x.wav"]
    file = write_text(tmp_path / "l.txt", ["x.wav"])
    with pytest.raises(ManifestError, match="1 of 1 entries match no utterance"):
        apply_split_lists(pa.table({"utterance_id": paths, "path": paths}), [("train", str(file))])


def test_an_utterance_in_two_splits_is_refused(table: pa.Table, tmp_path: Path) -> None:
    first, second = (write_text(tmp_path / name, ["0_ann_7"]) for name in ("a.txt", "b.txt"))
    message = f"--split test={second}: 'p1/0_ann_7.wav' is in split train too; an utterance has one split"
    with pytest.raises(ManifestError, match=f"^{re.escape(message)}$"):
        apply_split_lists(table, [("train", str(first)), ("test", str(second))])


def test_one_split_may_come_from_two_files(table: pa.Table, tmp_path: Path) -> None:
    first, second = write_text(tmp_path / "a.txt", ["0_ann_7"]), write_text(tmp_path / "b.txt", ["1_bob_0"])
    found, _ = apply_split_lists(table, [("train", str(first)), ("train", str(second))])
    assert splits(found) == ["train", "train", None]


def test_an_empty_list_is_refused(table: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"l.txt: no entries in it$"):
        apply_split_lists(table, [("train", str(write_text(tmp_path / "l.txt", ["# nothing"])))])
    with pytest.raises(ManifestError, match=r"gone.txt: no such file$"):
        apply_split_lists(table, [("train", str(tmp_path / "gone.txt"))])


def test_labels_are_joined_and_gaps_counted(table: pa.Table, tmp_path: Path) -> None:
    file = write_text(
        tmp_path / "l.tsv", "file\tage\tspeaker\tsplit\n0_ann_1.flac\t31\t007\ttest\n0_ann_7.wav\t8\t8\t\n"
    )
    found, notes = join_labels(table, str(file))
    assert found.select(["age", "speaker", "split"]).to_pydict() == {
        "age": [8, None, 31],
        "speaker": ["8", None, "007"],
        "split": [None, None, "test"],
    }
    assert notes == [f"--labels {file}: 1 of 3 utterances have no row in it"]


def test_measured_columns_of_a_label_table_are_left_out(table: pa.Table, tmp_path: Path) -> None:
    file = write_text(tmp_path / "l.csv", "utterance_id,duration_s,mood\n" + "".join(
        f"{name},9,ok\n" for name in table["path"].to_pylist()))  # fmt: skip
    found, notes = join_labels(table, str(file))
    assert found.column_names == ["utterance_id", "path", "mood"]
    assert notes == [f"--labels {file}: columns duration_s are left out, prepare finds them itself"]


def test_label_rows_that_match_nothing_or_stand_twice_are_refused(table: pa.Table, tmp_path: Path) -> None:
    file = write_text(tmp_path / "l.csv", "path,label\np1/0_ann_7.wav,a\nx.wav,b\n")
    with pytest.raises(
        ManifestError, match=re.escape(f"--labels {file}: 1 of 2 entries match no utterance: 'x.wav'; ")
    ):
        join_labels(table, str(file))
    write_text(file, "path,label\np1/0_ann_7.wav,a\np1/0_ann_7.wav,b\n")
    message = f"--labels {file}: 1 values of path appear twice: 'p1/0_ann_7.wav'"
    with pytest.raises(ManifestError, match=f"^{re.escape(message)}$"):
        join_labels(table, str(file))
    write_text(file, "who,label\nx,a\n")
    message = f"--labels {file}: no column with ids or paths, such as utterance_id or path; it has who, label"
    with pytest.raises(ManifestError, match=f"^{re.escape(message)}$"):
        join_labels(table, str(file))


def test_named_groups_become_columns(table: pa.Table) -> None:
    found, notes = labels_from_paths(table, r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)")
    assert found.select(["digit", "speaker", "take"]).to_pydict() == {
        "digit": ["0", "1", "0"],
        "speaker": ["ann", "bob", "ann"],
        "take": ["7", "0", "1"],
    }
    assert notes == []


def test_paths_without_the_pattern_are_counted(table: pa.Table) -> None:
    found, notes = labels_from_paths(table, r"(?P<who>ann)")
    assert found["who"].to_pylist() == ["ann", None, "ann"]
    assert notes == ["--label-from (?P<who>ann): 1 of 3 paths do not match: 'p1/1_bob_0.wav'"]


@pytest.mark.parametrize(
    ("expression", "kind", "message"),
    [
        ("(?P<x>", ConfigError, "--label-from (?P<x>: not a regular expression: missing ), unterminated subpattern"),
        (
            r"\d+",
            ConfigError,
            r"--label-from \d+: no named group; write (?P<label>...) around what is to become a column",
        ),
        ("(?P<path>a)", ConfigError, "--label-from (?P<path>a): path cannot be a label; choose another name"),
        (
            "(?P<x>zzz)",
            ManifestError,
            "--label-from (?P<x>zzz): matches no path; the paths are like 'p1/0_ann_7.wav', ",
        ),
    ],
)
def test_expressions_that_cannot_label_say_why(
    table: pa.Table, expression: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match="^" + re.escape(message)):
        labels_from_paths(table, expression)


def test_the_first_rule_that_matches_gives_the_split(table: pa.Table) -> None:
    found, notes = splits_from_paths(table, [(r"_[0-4]\.", "test"), (".*", "train")])
    assert (splits(found), notes) == (["train", "test", "test"], [])


def test_paths_without_a_rule_are_counted(table: pa.Table) -> None:
    found, notes = splits_from_paths(table, [("bob", "test")])
    assert splits(found) == [None, "test", None]
    assert notes == ["--split-from: 2 of 3 paths match no rule; add '.*=NAME' last for the remaining ones"]


def test_a_rule_that_matches_no_path_is_refused(table: pa.Table) -> None:
    message = "--split-from eve=dev: matches no path; the paths are like 'p1/0_ann_7.wav', "
    with pytest.raises(ManifestError, match=re.escape(message)):
        splits_from_paths(table, [(".*", "train"), ("eve", "dev")])


def test_a_rule_whose_paths_all_went_to_earlier_rules_is_no_error(table: pa.Table) -> None:
    assert splits(splits_from_paths(table, [(".*", "train"), ("bob", "dev")])[0]) == ["train"] * 3


def test_what_the_user_says_overrules_and_gaps_keep_what_was_there() -> None:
    table = pa.table({"label": ["a", "b", None], "grade": [1, 2, 3]})
    assert put(table, "label", pa.array([None, "x", "y"]))["label"].to_pylist() == ["a", "x", "y"]
    assert put(table, "grade", pa.array([None, "x", None]))["grade"].to_pylist() == ["1", "x", "3"]
    assert put(table, "grade", pa.array(["p", "q", "r"]))["grade"].to_pylist() == ["p", "q", "r"]
    assert put(table, "new", pa.array([1.5, None, None]))["new"].to_pylist() == [1.5, None, None]
