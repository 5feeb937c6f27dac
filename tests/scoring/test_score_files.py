from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from voxshard.errors import ScoreError
from voxshard.scoring.score_files import read_keys, read_scores, scores_for

MINI = Path(__file__).parents[3] / "shared" / "data" / "asvspoof5_mini"


@pytest.fixture
def write(tmp_path):
    def write(name, *lines):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def official(write):
    scores = write("scores.tsv", "filename\tcm-score", "E_3\t-1e-3", "E_1\t0.25", "E_2\t-7")
    keys = write("keys.tsv", "filename\tcm-label", "E_1\tbonafide", "E_2\tspoof", "E_3\tspoof")
    return scores, keys


def refusal(function, *arguments):
    with pytest.raises(ScoreError) as caught:
        function(*arguments)
    return str(caught.value)


def test_scores_are_put_into_the_order_of_the_keys(official):
    scores, keys = read_scores(official[0]), read_keys(official[1])
    assert scores_for(keys, scores).tolist() == [0.25, -7, -0.001]
    assert keys.is_bonafide.tolist() == [True, False, False]
    assert keys.speakers is None


def test_columns_may_stand_in_any_order_and_lines_end_as_on_windows(tmp_path):
    path = tmp_path / "scores.tsv"
    path.write_bytes(b"\xef\xbb\xbfcm-score\tfilename\tcomment\r\n1.5\tE_1\tfine\r\n2\tE_2\t\r\n")
    found = read_scores(path)
    assert found.names.to_pylist() == ["E_1", "E_2"]
    assert found.scores.tolist() == [1.5, 2]


def test_scores_are_read_to_the_last_digit(write):
    numbers = np.random.default_rng(0).normal(size=500) * 10.0 ** np.arange(-250, 250)
    path = write(
        "scores.tsv", "filename\tcm-score", *(f"E_{row}\t{number!r}" for row, number in enumerate(numbers.tolist()))
    )
    assert read_scores(path).scores.tolist() == numbers.tolist()


def test_a_protocol_gives_keys_and_speakers(write):
    path = write(
        "protocol.tsv",
        "D_ada D_1 F - - - AC1 A02 spoof -",
        "D_ada  D_2 F C01 4 D_9 -\tbonafide bonafide -",
        "D_bob D_3 M - - - - bonafide bonafide -",
    )
    keys = read_keys(path)
    assert keys.names.to_pylist() == ["D_1", "D_2", "D_3"]
    assert keys.is_bonafide.tolist() == [False, True, True]
    assert keys.speakers.tolist() == [0, 0, 1]


@pytest.mark.skipif(not MINI.exists(), reason="no asvspoof5_mini next to the repository")
def test_a_real_protocol_is_read():
    protocol = MINI / "ASVspoof5.eval.track_1.tsv"
    keys = read_keys(protocol)
    rows = [line.split() for line in protocol.read_text().splitlines()]
    assert keys.names.to_pylist() == [row[1] for row in rows]
    assert keys.is_bonafide.tolist() == [row[8] == "bonafide" for row in rows]
    assert len(set(keys.speakers.tolist())) == len({row[0] for row in rows})


def test_a_runs_single_score_is_taken_whatever_its_name(write):
    path = write("scores.tsv", "utterance_id\tscore\tprediction", "a/b c.wav\t0.5\tbonafide", '"q""x.wav"\t1\tspoof')
    found = read_scores(path)
    assert found.names.to_pylist() == ["a/b c.wav", 'q"x.wav']
    assert found.scores.tolist() == [0.5, 1]


def test_of_a_runs_several_scores_the_one_for_bona_fide_is_taken(write):
    path = write("scores.tsv", "utterance_id\tscore_spoof\tscore_bonafide\tprediction", "a\t0.1\t0.9\tbonafide")
    assert read_scores(path).scores.tolist() == [0.9]


def test_names_as_a_spreadsheet_or_csv_writer_would_quote_them_are_read(tmp_path):
    path = tmp_path / "scores.tsv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows([["filename", "cm-score"], ["tab\tand\nline", 1], ["plain", 2]])
    assert read_scores(path).names.to_pylist() == ["tab\tand\nline", "plain"]


def test_several_scores_none_for_bona_fide_are_refused(write):
    path = write("scores.tsv", "utterance_id\tscore_dog\tscore_cat\tprediction", "a\t1\t2\tdog")
    assert refusal(read_scores, path) == (
        f"{path}: which column scores bona fide? Found score_dog, score_cat; "
        "wanted a single one, or one named score_bonafide"
    )


def test_another_header_is_refused_with_what_was_found_and_wanted(write):
    path = write("scores.tsv", "file\tscore", "a\t1")
    found, wanted = "file, score", "a tab-separated header with filename and cm-score (ASVspoof 5)"
    assert refusal(read_scores, path) == (
        f"{path}: found the columns {found}; wanted {wanted}, "
        "or the scores.tsv of a run (utterance_id, score, prediction)"
    )
    assert refusal(read_keys, path) == (
        f"{path}: neither keys nor a protocol; wanted a tab-separated header with filename and cm-label, "
        "or the 10 columns of an ASVspoof 5 protocol without header"
    )


def test_scores_that_are_not_finite_numbers_are_refused_with_count_and_names(write):
    lines = [f"E_{row}\t{text}" for row, text in enumerate(["1", "nan", "-inf", "", "abc", "2", "NaN", "inf"])]
    path = write("scores.tsv", "filename\tcm-score", *lines)
    assert refusal(read_scores, path) == (
        f"{path}: 6 of 8 scores are not finite numbers: E_1 (nan), E_2 (-inf), E_3 (), E_4 (abc), E_6 (NaN), ...; "
        "score these trials again"
    )


def test_nan_among_numbers_is_refused(write):
    path = write("scores.tsv", "filename\tcm-score", "E_0\t1", "E_1\tnan")
    assert refusal(read_scores, path) == (
        f"{path}: 1 of 2 scores are not finite numbers: E_1 (nan); score these trials again"
    )


def test_names_given_twice_are_refused_with_count_and_names(write):
    names = ["b", "a", "b", "c", "a", "b"]
    message = "2 names occur more than once: b (3 times), a (2 times); wanted one line per trial"
    path = write("scores.tsv", "filename\tcm-score", *(f"{name}\t1" for name in names))
    assert refusal(read_scores, path) == f"{path}: {message}"
    path = write("keys.tsv", "filename\tcm-label", *(f"{name}\tspoof" for name in names))
    assert refusal(read_keys, path) == f"{path}: {message}"


def test_missing_and_extra_trials_are_refused_together_with_counts_and_names(write):
    scores = write("scores.tsv", "filename\tcm-score", *(f"E_{row}\t1" for row in range(7, 12)))
    keys = write("keys.tsv", "filename\tcm-label", "E_0\tbonafide", *(f"E_{row}\tspoof" for row in range(1, 10)))
    assert refusal(scores_for, read_keys(keys), read_scores(scores)) == (
        f"{scores} and {keys}: 7 of 10 trials have no score: E_0, E_1, E_2, E_3, E_4, ...; "
        "2 of 5 scores have no key: E_10, E_11; score exactly the trials of the keys"
    )


def test_unknown_keys_are_refused_with_count_and_names(write):
    path = write("keys.tsv", "filename\tcm-label", "E_1\tbonafide", "E_2\tfake", "E_3\tspoof", "E_4\tBonafide")
    assert refusal(read_keys, path) == f"{path}: 2 keys are neither bonafide nor spoof: E_2 (fake), E_4 (Bonafide)"


@pytest.mark.parametrize(
    ("key", "counts"), [("spoof", "0 bonafide and 2 spoof"), ("bonafide", "2 bonafide and 0 spoof")]
)
def test_keys_of_one_class_are_refused(write, key, counts):
    path = write("keys.tsv", "filename\tcm-label", f"E_1\t{key}", f"E_2\t{key}")
    assert refusal(read_keys, path) == f"{path}: {counts} trials; error rates need at least one of each"


def test_a_line_with_another_number_of_columns_is_refused(write):
    path = write("scores.tsv", "filename\tcm-score", "E_1\t1", "E_2\t2\t3")
    assert "Expected 2 columns, got 3: E_2\t2\t3" in refusal(read_scores, path)
    path = write("protocol.tsv", "D_ada D_1 F - - - AC1 A02 spoof -", "D_ada D_2 F - - - AC1 A02 spoof")
    assert "Expected 10 columns, got 9" in refusal(read_keys, path)


def test_empty_and_unreadable_files_are_refused(write, tmp_path):
    path = write("empty.tsv", "")
    assert refusal(read_scores, path) == f"{path}: empty; wanted one line per trial"
    path = write("header.tsv", "filename\tcm-score")
    assert refusal(read_scores, path) == f"{path}: a header and no trials; wanted one line per trial"
    assert refusal(read_keys, tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "scores.tsv"
    path.write_bytes(b"filename\tcm-score\nE_\xff\t1\n")
    assert refusal(read_scores, path).startswith(f"{path}: ")
