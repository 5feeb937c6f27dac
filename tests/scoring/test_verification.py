from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from support.official_trials import verification_cases
from voxshard.errors import ScoreError
from voxshard.scoring.intervals import point_estimates
from voxshard.scoring.verification import A_DCF1, ASVSPOOF5_TRACK2, CLASSES, VerificationTrials

OFFICIAL = json.loads((Path(__file__).parent / "data" / "official.json").read_text())["verification"]
CASES = verification_cases()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("costs_name", "costs"), [("a_dcf1", A_DCF1), ("asvspoof5_track2", ASVSPOOF5_TRACK2)])
def test_a_dcf_equals_the_packages(name, costs_name, costs):
    scores = np.concatenate(CASES[name])
    classes = np.repeat(CLASSES, [len(part) for part in CASES[name]])
    shuffle = np.random.default_rng(0).permutation(len(scores))
    found = point_estimates(VerificationTrials(scores[shuffle], classes[shuffle], costs))
    assert found["a_dcf"] == pytest.approx(OFFICIAL[name][costs_name], rel=1e-9, abs=1e-9)


def test_the_packages_numbers_cover_every_case():
    assert OFFICIAL.keys() == CASES.keys()


def test_weights_give_the_a_dcf_of_the_trials_repeated_that_often():
    random = np.random.default_rng(1)
    for _ in range(20):
        classes = np.concatenate((CLASSES, random.choice(CLASSES, 30)))
        scores = np.round(random.normal(size=33), 1)
        weights = random.poisson(1, size=(5, 33))
        measured = VerificationTrials(scores, classes).measure(weights)["a_dcf"]
        for found, times in zip(measured, weights, strict=True):
            repeated = np.repeat(classes, times)
            if set(repeated) == set(CLASSES):
                expected = point_estimates(VerificationTrials(np.repeat(scores, times), repeated))["a_dcf"]
                assert found == pytest.approx(expected, abs=1e-12)
            else:
                assert np.isnan(found)


def test_classes_that_do_not_occur_or_are_unknown_are_refused():
    with pytest.raises(ScoreError) as caught:
        VerificationTrials([1.0, 2.0], ["target", "target"])
    assert str(caught.value) == "no nontarget and no spoof trial; the a-DCF needs target, nontarget and spoof trials"
    with pytest.raises(ScoreError) as caught:
        VerificationTrials([1.0, 2.0, 3.0], ["target", "impostor", "bonafide"])
    assert str(caught.value) == "2 of 3 classes are none of target, nontarget, spoof: impostor at position 1"
