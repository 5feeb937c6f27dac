"""Run the official scorers on the trials of `official_trials` and write down what they give.

Their code is fetched apart and stays outside this repository; it wants pandas:

    git clone https://github.com/asvspoof-challenge/asvspoof5
    git clone https://github.com/shimhz/a_DCF
    PYTHONPATH=tests python tests/scoring/run_official.py asvspoof5 a_DCF tests/scoring/data/official.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from support.official_trials import Floats, detection_cases, one_class_cases, verification_cases
from voxshard.scoring.verification import A_DCF1, ASVSPOOF5_TRACK2, CLASSES, VerificationCosts

NUMBERS = ("min_dcf", "eer", "cllr", "act_dcf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("asvspoof5", type=Path, help="clone of asvspoof-challenge/asvspoof5")
    parser.add_argument("a_dcf", type=Path, help="clone of shimhz/a_DCF")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.asvspoof5 / "evaluation-package"))
    import calculate_metrics  # theirs

    track1 = calculate_metrics.calculate_minDCF_EER_CLLR_actDCF
    package = _module("a_dcf_package", arguments.a_dcf / "a_dcf" / "a_dcf.py")
    warnings.simplefilter("ignore")  # one class alone makes their code divide by zero
    results = {
        "made_by": {
            "asvspoof-challenge/asvspoof5, evaluation-package": _revision(arguments.asvspoof5),
            "shimhz/a_DCF": _revision(arguments.a_dcf),
        },
        "detection": {name: _track1(track1, *scores) for name, scores in detection_cases().items()},
        "one_class": {name: _track1(track1, *scores) for name, scores in one_class_cases().items()},
        "verification": {
            name: {
                "a_dcf1": _a_dcf(package, scores, A_DCF1),
                "asvspoof5_track2": _a_dcf(package, scores, ASVSPOOF5_TRACK2),
            }
            for name, scores in verification_cases().items()
        },
    }
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def _module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _revision(clone: Path) -> str:
    command = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _track1(score: Any, bonafide: Floats, spoof: Floats) -> dict[str, float | str]:
    keys = np.array(["bonafide"] * len(bonafide) + ["spoof"] * len(spoof))
    numbers = score(np.concatenate((bonafide, spoof)), keys, None, printout=False)
    return {
        name: float(number) if np.isfinite(number) else str(number)
        for name, number in zip(NUMBERS, numbers, strict=True)
    }


def _a_dcf(package: Any, scores: tuple[Floats, Floats, Floats], costs: VerificationCosts) -> float:
    path = Path("a-dcf-trials.txt")  # their public function reads a file
    lines = [
        f"speaker utterance {score!r} {name}"
        for name, class_scores in zip(CLASSES, scores, strict=True)
        for score in class_scores.tolist()
    ]
    path.write_text("\n".join(lines) + "\n")
    model = package.CostModel(
        Pspf=costs.prior_spoof,
        Pnontrg=costs.prior_nontarget,
        Ptrg=costs.prior_target,
        Cmiss=costs.cost_miss,
        Cfa_asv=costs.cost_false_alarm_nontarget,
        Cfa_cm=costs.cost_false_alarm_spoof,
    )
    try:
        return float(package.calculate_a_dcf(str(path), model, printres=False)["min_a_dcf"])
    finally:
        path.unlink()


if __name__ == "__main__":
    main()
