"""A report's data with every part filled, made of random numbers with a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from voxshard.reporting.report_data import (
    Account,
    Breakdown,
    Comparison,
    Confusion,
    EmbeddingMap,
    ErrorCurve,
    FailureReason,
    FeatureSetReport,
    FewShot,
    Group,
    MetricEstimate,
    ReportData,
    ScoreHistogram,
    Series,
    SplitResult,
    System,
    TrainingCurve,
)

CODECS = ("NONE", "opus", "mp3", "gsm", "vorbis")


def estimate(value: float, width: float = 0.02) -> MetricEstimate:
    return MetricEstimate(value, max(value - width, 0.0), min(value + width, 1.0))


def error_curve(shift: float, count: int = 200) -> ErrorCurve:
    generator = np.random.default_rng(7)
    targets, others = generator.normal(shift, 1, count), generator.normal(0, 1, count)
    thresholds = np.sort(np.concatenate([targets, others, [-9.0, 9.0]]))
    return ErrorCurve(
        false_alarm_rate=(others[None] >= thresholds[:, None]).mean(axis=1),
        miss_rate=(targets[None] < thresholds[:, None]).mean(axis=1),
    )


def detector(name: str, eer: float, shift: float, seed: int = 0) -> System:
    generator = np.random.default_rng(seed)
    edges = np.linspace(-6, 6, 41)
    split = SplitResult(
        num_utterances=400,
        metrics={
            "eer": estimate(eer),
            "min_dcf": estimate(2 * eer),
            "auc": estimate(1 - eer / 2),
            "accuracy": estimate(1 - eer),
        },
        error_curve=error_curve(shift),
        histogram=ScoreHistogram(
            edges=edges,
            counts={
                "bonafide": np.histogram(generator.normal(shift / 2, 1, 150), edges)[0],
                "spoof": np.histogram(generator.normal(-shift / 2, 1, 250), edges)[0],
            },
            threshold=0.1,
        ),
        confusion=Confusion(labels=["bonafide", "spoof"], counts=np.array([[140, 10], [20, 230]])),
        breakdowns=[
            Breakdown(
                column="codec",
                groups=[
                    Group(
                        name=codec,
                        num_utterances=80 - 7 * place,
                        metrics={"eer": estimate(eer * (1 + place / 3), 0.05)},
                    )
                    for place, codec in enumerate(CODECS)
                ],
            ),
            Breakdown(
                column="attack_label",
                groups=[Group(name="A01", num_utterances=80, metrics={"eer": MetricEstimate(None)})],
            ),
        ],
    )
    return System(
        name=name, kind="detection", label="label", seed=seed,
        features=name.rsplit("-", 2)[0], classifier=name.rsplit("-", 2)[1],
        splits={"train": SplitResult(num_utterances=900, metrics={"eer": estimate(eer / 2)}), "eval": split},
        config=f"classifier: logistic\nseed: {seed}\n",
        facts={"features' fingerprint": "0123abcd" * 8, "label": "label"},
    )  # fmt: skip


def feature_set(name: str = "mfcc") -> FeatureSetReport:
    generator = np.random.default_rng(3)
    labels = generator.choice(["bonafide", "spoof"], 600)
    points = generator.normal(0, 1, (600, 2)) + (labels == "spoof")[:, None] * [2.0, 0.5]
    time_s = np.arange(60) * 60.0
    return FeatureSetReport(
        name=name,
        encoder=name,
        facts={"fingerprint": "89abcdef" * 8, "dimension": "120", "sample rate": "16,000 Hz"},
        versions={"voxshard": "0.1.0", "numpy": "2.4.0", "librosa": "0.11.0"},
        costs={"audio": "12.0 h", "CPU hours": "0.52", "GPU hours": "0.00", "x real time": "240"},
        config="encoder: mfcc\nbatch_seconds: 240\n",
        accounts=[
            Account(split="train", num_total=900, num_ok=898, num_failed=2, num_pending=0),
            Account(split="eval", num_total=420, num_ok=400, num_failed=0, num_pending=20),
        ],
        failures=[
            FailureReason(
                kind="EmptyAudioError",
                count=2,
                examples=[
                    ("part_001/<script>alert(1)</script>.wav", "0 samples & nothing to embed"),
                    ("b.wav", "0 samples"),
                ],
            )
        ],
        embedding_map=EmbeddingMap(
            points=points, explained=(0.41, 0.13), num_total=1298,
            columns={"label": labels.tolist(), "codec": generator.choice(CODECS, 600).tolist()},
        ),
        timelines=[
            *(
                Series(
                    quantity="throughput", unit="x real time", name=f"task {task}", time_s=time_s,
                    values=100 + 10 * generator.random(60) + 5 * task,
                )
                for task in range(3)
            ),
            Series(quantity="GPU utilisation", unit="%", name="task 0", time_s=time_s,
                   values=60 + 20 * generator.random(60)),
        ],
        advice="GPU waited 38% for decoding: ask for 6 more CPUs.",
    )  # fmt: skip


def report_data(**changes: Any) -> ReportData:
    systems = [
        detector("mfcc-logistic-0", 0.1234, 2.3),
        detector("lfcc-logistic-0", 0.0871, 2.7),
        detector("lfcc-svm-0", 0.0912, 2.6),
        detector("lfcc-logistic-1", 0.0899, 2.65, seed=1),
    ]
    shots = [
        FewShot(split="eval", num_shots=count, metrics={"eer": [0.4 / count**0.4 + 0.01 * run for run in range(3)]})
        for count in (1, 5, 20)
    ]
    epochs = np.arange(1.0, 11.0)
    trained = System(
        few_shot=shots,
        name="ecapa-ft-0", kind="detection", label="label", features="ecapa", classifier="network", seed=0,
        splits={"eval": SplitResult(num_utterances=400, metrics={"eer": estimate(0.0871)})},
        training=[
            TrainingCurve(name="train_loss", epochs=epochs, values=1 / epochs),
            TrainingCurve(name="dev_loss", epochs=epochs, values=0.3 + 1 / epochs),
            TrainingCurve(name="dev_eer", epochs=epochs, values=0.4 / epochs),
        ],
    )  # fmt: skip
    content: dict[str, Any] = {
        "title": "asvspoof-mini: spoofing detection",
        "date": "2026-11-03 14:20 UTC",
        "made_by": "voxshard 0.1.0",
        "sources": ["exp"],
        "systems": [*systems, trained],
        "comparisons": [
            Comparison(
                split="eval", metric="eer", first="lfcc-logistic-0", second="mfcc-logistic-0",
                difference=MetricEstimate(-0.0363, -0.061, -0.012), p_value=0.004, num_utterances=400,
            ),
            Comparison(
                split="eval", metric="eer", first="lfcc-logistic-0", second="lfcc-svm-0",
                difference=MetricEstimate(-0.0041, -0.02, 0.013), p_value=0.62, num_utterances=400,
            ),
        ],
        "feature_sets": [feature_set("mfcc"), feature_set("lfcc")],
        "config": "name: asvspoof-mini\n",
    }  # fmt: skip
    return ReportData(**{**content, **changes})


@pytest.fixture(scope="session")
def make_report() -> Callable[..., ReportData]:
    """A full report; keyword arguments replace its parts."""
    return report_data
