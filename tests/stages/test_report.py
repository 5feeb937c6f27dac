"""`report`: from run directories, experiments and feature sets on disk to the page, results.csv and results.tex."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("jinja2", reason="reports need the extra `report`")
pytest.importorskip("matplotlib", reason="reports need the extra `report`")

from voxshard.errors import ConfigError, CorruptFileError, IncompleteError
from voxshard.scoring.classification import ClassificationTrials
from voxshard.scoring.detection import DetectionTrials
from voxshard.scoring.intervals import bootstrap
from voxshard.stages.report import ReportConfig, run
from voxshard.store.runs import publish_run

MakeRun = Callable[..., Path]
CODECS = np.array(["NONE", "opus", "mp3"])


def detection_run(
    path: Path, *, shift: float = 2.0, seed: int = 0, num_trials: int = 240, features: Path | None = None
) -> Path:
    """A run with random scores; bona fide ones are higher by `shift` deviations."""
    generator = np.random.default_rng(seed)
    positive = np.arange(num_trials) % 3 == 0
    scores = generator.normal(size=num_trials) + shift * positive
    labels = np.where(positive, "bonafide", "spoof")
    predicted = np.where(scores > shift / 2, "bonafide", "spoof")
    trials = pa.table(
        {
            "utterance_id": [f"E_{number:04d}" for number in range(num_trials)],
            "split": ["eval"] * num_trials,
            "label": labels,
            "prediction": predicted,
            "score": scores,
            "codec": CODECS[np.arange(num_trials) % 3],
        }
    )
    metrics = bootstrap(DetectionTrials(scores, positive), num_replicates=50)
    metrics |= bootstrap(
        ClassificationTrials((labels == "spoof").astype(int), (predicted == "spoof").astype(int), 2), num_replicates=50
    )
    by_codec = [
        {
            "codec": codec,
            "count": 80,
            "num_positive": 27,
            "num_negative": 53,
            "eer": eer,
            "eer_low": eer - 0.02,
            "eer_high": eer + 0.02,
        }
        for codec, eer in (("NONE", 0.10), ("opus", 0.15), (None, 0.20))
    ]
    target = {"kind": "detection", "labels": ["label"], "classes": ["bonafide", "spoof"], "positive": 0}
    as_json = {"eval": {name: interval.to_json() for name, interval in metrics.items()}}
    tables = {"by-codec-eval": pa.Table.from_pylist(by_codec)}
    write_run(path, target=target, metrics=as_json, trials=trials, tables=tables, seed=seed, features=features)
    return path


def write_run(
    path: Path, *, target: dict[str, Any], metrics: dict[str, Any], trials: pa.Table | None, seed: int = 0,
    features: Path | None = None, tables: dict[str, pa.Table] | None = None,
) -> None:  # fmt: skip
    with publish_run(path) as written:
        source = {
            "path": str(features or path.parent / "gone"),
            "name": "lfcc",
            "encoder": "lfcc",
            "fingerprint": "f" * 64,
        }
        written.write_config({"features": [source], "label": target["labels"], "classifier": "logistic", "seed": seed})
        (written.model / "model.json").write_text(json.dumps({"target": target, "software": {"numpy": "2.4.0"}}))
        written.write_metrics({"metrics": metrics, "counts": {}})
        if trials is not None:
            written.write_trials(trials)
        for name, table in (tables or {}).items():
            written.write_table(name, table)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_a_run_becomes_a_page_with_its_numbers_and_results_beside_it(tmp_path: Path) -> None:
    folder = detection_run(tmp_path / "lfcc-logistic-0")
    out = run(ReportConfig(paths=(folder,), out=tmp_path / "report" / "report.html"))
    assert out == tmp_path / "report" / "report.html"
    assert sorted(path.name for path in out.parent.iterdir()) == ["report.html", "results.csv", "results.tex"]
    page = read(out)
    eer = json.loads(read(folder / "metrics.json"))["metrics"]["eval"]["eer"]
    assert (
        f'<td class="number">{100 * eer["value"]:.2f}'
        f"<small>{100 * eer['low']:.2f}–{100 * eer['high']:.2f}</small></td>" in page
    )
    for key in ("det", "roc", "scores-0", "confusion-0", "groups-0"):
        assert f'<figure id="{key}" ' in page
    assert "(none) (80)" in page
    assert f"nothing is at {tmp_path}/gone any more" in page


def test_the_csv_has_every_metric_in_full_and_the_table_for_latex_has_intervals(tmp_path: Path) -> None:
    folder = detection_run(tmp_path / "lfcc_logistic-0")
    run(ReportConfig(paths=(folder,), out=tmp_path / "report.html"))
    with open(tmp_path / "results.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    stored = json.loads(read(folder / "metrics.json"))["metrics"]["eval"]
    assert row["system"] == "lfcc_logistic-0"
    assert (row["split"], row["num_utterances"]) == ("eval", "240")
    assert {name: float(row[name]) for name in stored} == {name: item["value"] for name, item in stored.items()}
    assert float(row["eer_high"]) == stored["eer"]["high"]
    latex = read(tmp_path / "results.tex")
    assert r"\toprule" in latex
    assert r"lfcc\_logistic-0 & " in latex
    assert r"EER, \%" in latex
    assert re.search(r"\{\\scriptsize \[\d+\.\d\d, \d+\.\d\d\]\}", latex)


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    folder = detection_run(tmp_path / "a")
    first = run(ReportConfig(paths=(folder,), out=tmp_path / "1.html")).read_bytes()
    assert run(ReportConfig(paths=(folder,), out=tmp_path / "2.html")).read_bytes() == first


def test_an_experiment_compares_its_runs_with_the_paired_test(tmp_path: Path) -> None:
    detection_run(tmp_path / "exp/runs/good-logistic-0", shift=3.0)
    detection_run(tmp_path / "exp/runs/bad-logistic-0", shift=0.5)
    detection_run(tmp_path / "exp/runs/same-logistic-0", shift=3.0)
    (tmp_path / "exp/config.yaml").write_text("name: mine\n")
    page = read(run(ReportConfig(paths=(tmp_path / "exp",), out=tmp_path / "report.html", title="Mine & yours")))
    assert "<h1>Mine &amp; yours</h1>" in page
    comparison = page[page.index("Paired bootstrap comparison") : page.index('<section id="detection"')]
    rows = re.findall(
        r"<tr><th scope=\"row\">eval</th><td>good-logistic-0</td><td>(\S+)</td><td>EER, points</td><td>(yes|no)</td>",
        comparison,
    )
    assert rows == [("same-logistic-0", "no"), ("bad-logistic-0", "yes")]
    assert "name: mine" in page


def test_runs_of_the_same_name_in_two_experiments_are_told_apart(tmp_path: Path) -> None:
    detection_run(tmp_path / "one/runs/lfcc-svm-0")
    detection_run(tmp_path / "two/runs/lfcc-svm-0", seed=1)
    page = read(run(ReportConfig(paths=(tmp_path / "one", tmp_path / "two"), out=tmp_path / "report.html")))
    assert '<th scope="row">one/lfcc-svm-0</th>' in page
    assert '<th scope="row">two/lfcc-svm-0</th>' in page


def test_runs_whose_paths_differ_in_the_folder_runs_alone_are_told_apart(tmp_path: Path) -> None:
    detection_run(tmp_path / "exp/runs/lfcc")
    detection_run(tmp_path / "exp/lfcc", seed=1)
    paths = (tmp_path / "exp/runs/lfcc", tmp_path / "exp/lfcc")
    page = read(run(ReportConfig(paths=paths, out=tmp_path / "report.html")))
    assert "<h1>2 runs</h1>" in page
    assert '<th scope="row">exp/lfcc</th>' in page
    assert '<th scope="row">runs/lfcc</th>' in page


def test_the_paired_test_uses_the_utterances_that_the_metrics_use(tmp_path: Path) -> None:
    classes, truth = ["a", "b"], np.array(["a", "b", "new"])[np.arange(90) % 3]
    target = {"kind": "classification", "labels": ["digit"], "classes": classes, "positive": None}
    for name, wrong in (("good", 10), ("poor", 30)):
        predicted = np.where(np.arange(90) < wrong, "b", np.where(truth == "new", "a", truth))
        known = truth != "new"
        numbers = ((truth == "b").astype(int)[known], (predicted == "b").astype(int)[known])
        metrics = bootstrap(ClassificationTrials(*numbers, 2), num_replicates=20)
        ids = [f"u{number}" for number in range(90)]
        trials = pa.table({"utterance_id": ids, "split": ["test"] * 90, "label": truth, "prediction": predicted})
        as_json = {"test": {key: interval.to_json() for key, interval in metrics.items()}}
        write_run(tmp_path / "exp/runs" / name, target=target, metrics=as_json, trials=trials)
    page = read(run(ReportConfig(paths=(tmp_path / "exp",), out=tmp_path / "report.html")))
    accuracy = [float(row["accuracy"]) for row in csv.DictReader(read(tmp_path / "results.csv").splitlines())]
    found = re.search(r'<td>accuracy, points</td>.*?<td class="number">\+([\d.]+)<.*?>60</td></tr>', page)
    assert found is not None
    assert found[1] == f"{100 * (max(accuracy) - min(accuracy)):.2f}"


def test_a_damaged_run_of_an_experiment_is_left_out_with_the_reason(tmp_path: Path) -> None:
    detection_run(tmp_path / "exp/runs/good")
    bad = detection_run(tmp_path / "exp/runs/bad")
    (bad / "metrics.json").write_text("{")
    page = read(run(ReportConfig(paths=(tmp_path / "exp",), out=tmp_path / "report.html")))
    left_out = page[page.index('<section id="left-out"') :]
    assert f"Run bad is left out: {bad}/metrics.json: not metrics of voxshard" in left_out
    assert "Something is left out; the reasons are under “Left out”." in page
    with pytest.raises(CorruptFileError, match="not metrics of voxshard"):
        run(ReportConfig(paths=(bad,), out=tmp_path / "report.html"))


def test_a_run_of_many_classes_shows_confusions_and_accuracy(tmp_path: Path) -> None:
    classes = [str(number) for number in range(10)]
    truth = np.arange(300) % 10
    predicted = np.where(np.arange(300) % 7 == 0, (truth + 1) % 10, truth)
    metrics = bootstrap(ClassificationTrials(truth, predicted, 10), num_replicates=20)
    trials = pa.table(
        {
            "utterance_id": [f"u{number}" for number in range(300)], "split": ["test"] * 300,
            "label": [classes[number] for number in truth], "prediction": [classes[number] for number in predicted],
        }
    )  # fmt: skip
    target = {"kind": "classification", "labels": ["digit"], "classes": classes, "positive": None}
    as_json = {"test": {name: interval.to_json() for name, interval in metrics.items()}}
    write_run(tmp_path / "digits", target=target, metrics=as_json, trials=trials)
    page = read(run(ReportConfig(paths=(tmp_path / "digits",), out=tmp_path / "report.html")))
    right = int((truth == predicted).sum())
    assert f"{right} of 300 utterances are on the diagonal." in page
    assert f"on test (300 utterances) its accuracy is {100 * right / 300:.2f} %" in page
    assert 'id="det"' not in page


def test_a_run_without_scored_trials_is_reported_without_plots(tmp_path: Path) -> None:
    target = {"kind": "classification", "labels": ["digit"], "classes": ["0", "1"], "positive": None}
    write_run(tmp_path / "bare", target=target, metrics={}, trials=None)
    page = read(run(ReportConfig(paths=(tmp_path / "bare",), out=tmp_path / "report.html")))
    assert "bare: trained, but no split with labels was scored." in page
    assert "<svg" not in page


def test_paths_that_hold_nothing_to_report_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        IncompleteError, match=re.escape(f"{tmp_path}/empty: neither a run (config.yaml and model/), nor")
    ):
        run(ReportConfig(paths=(tmp_path / "empty",), out=tmp_path / "report.html"))
    (tmp_path / "exp/runs").mkdir(parents=True)
    with pytest.raises(IncompleteError, match=re.escape(f"{tmp_path}/exp: an experiment without runs or features yet")):
        run(ReportConfig(paths=(tmp_path / "exp",), out=tmp_path / "report.html"))
    with pytest.raises(ConfigError, match=re.escape(f"--out {tmp_path}: a folder; give the name of the HTML file")):
        run(ReportConfig(paths=(tmp_path / "exp",), out=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "exp"]


def test_a_folder_of_runs_names_the_pattern_that_reports_on_all(tmp_path: Path) -> None:
    detection_run(tmp_path / "runs" / "a")
    with pytest.raises(
        IncompleteError, match=r"runs: a folder of several; give them: voxshard report \S+/runs/\* --out"
    ):
        run(ReportConfig(paths=(tmp_path / "runs",), out=tmp_path / "r.html"))


def test_the_suffix_of_another_format_is_refused(tmp_path: Path) -> None:
    detection_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"r\.pdf: this writes \.html, not \.pdf"):
        run(ReportConfig(paths=(tmp_path / "a",), out=tmp_path / "r.pdf"))
