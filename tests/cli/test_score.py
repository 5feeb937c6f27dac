from __future__ import annotations

import json
import re

import numpy as np
import pytest

from support.official_trials import detection_cases
from voxshard.cli import main
from voxshard.scoring.detection import detection_metrics


@pytest.fixture
def files(tmp_path):
    bonafide, spoof = detection_cases()["some-ties-100-400"]
    scores = np.concatenate((bonafide, spoof))
    is_bonafide = np.arange(500) < 100
    score_file, key_file, protocol = (tmp_path / name for name in ("scores.tsv", "keys.tsv", "protocol.tsv"))
    keys = np.where(is_bonafide, "bonafide", "spoof")
    score_lines = [f"E_{row}\t{scores[row]}" for row in np.random.default_rng(0).permutation(500)]
    score_file.write_text("\n".join(["filename\tcm-score", *score_lines]) + "\n")
    key_file.write_text("\n".join(["filename\tcm-label", *(f"E_{row}\t{key}" for row, key in enumerate(keys))]) + "\n")
    protocol.write_text("".join(f"S_{row % 20} E_{row} M - - - - - {key} -\n" for row, key in enumerate(keys)))
    return score_file, key_file, protocol, detection_metrics(scores, is_bonafide)


def test_json_holds_the_official_metrics_and_counts_and_nothing_else(files, capsys):
    scores, keys, _, expected = files
    main(["score", str(scores), str(keys), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == {
        **{name: expected[name] for name in ("eer", "min_dcf", "act_dcf", "cllr", "eer_tie_aware")},
        "num_bonafide": 100,
        "num_spoof": 400,
    }


def test_a_protocol_serves_as_keys(files, capsys):
    scores, keys, protocol, _ = files
    outputs = []
    for key_file in (keys, protocol):
        main(["score", str(scores), str(key_file), "--json"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_the_table_shows_every_metric_in_its_unit(files, capsys):
    scores, keys, _, expected = files
    main(["score", str(scores), str(keys)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "100 bona fide, 400 spoof; prior of spoof 0.05, cost of a miss 1, of a false alarm 10"
    assert [line.split() for line in lines[2:]] == [
        ["value"],
        ["minDCF", f"{expected['min_dcf']:.5f}"],
        ["actDCF", f"{expected['act_dcf']:.5f}"],
        ["Cllr,", "bits", f"{expected['cllr']:.5f}"],
        ["EER,", "%", f"{100 * expected['eer']:.3f}"],
        ["EER", "tie-aware,", "%", f"{100 * expected['eer_tie_aware']:.3f}"],
        ["AUC,", "%", f"{100 * expected['auc']:.3f}"],
    ]


def test_intervals_come_by_utterance_and_where_the_keys_name_speakers_by_speaker(files, capsys):
    scores, keys, protocol, _ = files
    main(["score", str(scores), str(protocol), "--bootstrap", "100"])
    with_speakers = capsys.readouterr().out
    assert re.search(r"value +95 % by utterance +95 % by speaker\n", with_speakers)
    assert len(re.findall(r" to ", with_speakers)) == 12
    main(["score", str(scores), str(keys), "--bootstrap", "100"])
    without = capsys.readouterr().out
    assert re.search(r"value +95 % by utterance\n", without)
    assert len(re.findall(r" to ", without)) == 6
    main(["score", str(scores), str(keys), "--bootstrap", "100"])
    assert capsys.readouterr().out == without


def test_scores_that_do_not_fit_the_keys_end_with_exit_code_3_and_names(files, capsys):
    scores, keys, _, _ = files
    scores.write_text(scores.read_text() + "E_900\t1\n")
    with pytest.raises(SystemExit) as caught:
        main(["score", str(scores), str(keys)])
    assert caught.value.code == 3
    assert capsys.readouterr().err == (
        f"voxshard: {scores} and {keys}: 1 of 501 scores have no key: E_900; score exactly the trials of the keys\n"
    )


def test_intervals_do_not_go_into_the_json(files, capsys):
    scores, keys, _, _ = files
    with pytest.raises(SystemExit) as caught:
        main(["score", str(scores), str(keys), "--json", "--bootstrap", "10"])
    assert caught.value.code == 2
    assert "--bootstrap belongs to the table; leave out --json" in capsys.readouterr().err
