"""Data of a report; `loading` reads it from files, and `sections` turns it into tables and plots.

Everything here is small whatever the size of the corpus: curves are thinned, scores are counted into bins and
embeddings are sampled before they get here. Letters: B bins, C classes, P points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["detection", "classification", "multilabel"]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MetricEstimate:
    """A number with its confidence interval; `low` and `high` are None if none was computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class ErrorCurve:
    """Thinned error rates of a detector over all thresholds, in [0, 1]."""

    false_alarm_rate: Array
    """(P,) false alarm rate at each threshold."""
    miss_rate: Array
    """(P,) miss rate at each threshold."""


@dataclass(frozen=True, kw_only=True)
class ScoreHistogram:
    """Distribution of the scores of each class."""

    edges: Array
    """(B + 1,) edges of the bins."""
    counts: Mapping[str, npt.NDArray[np.int64]]
    """(B,) number of scores in each bin, by class."""
    threshold: float | None = None
    """Score at the equal error rate."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Confusion matrix of true and predicted classes."""

    labels: Sequence[str]
    counts: npt.NDArray[np.int64]
    """(C, C) numbers of utterances; rows are true classes, columns predicted ones."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One value of a column, with the metrics of its utterances."""

    name: str
    num_utterances: int
    metrics: Mapping[str, MetricEstimate]


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Metrics for each value of a column (codec, attack, fold, speaker)."""

    column: str
    groups: Sequence[Group]


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """Results of a system on one split."""

    num_utterances: int | None = None
    metrics: Mapping[str, MetricEstimate] = field(default_factory=dict)
    """Metrics with intervals over utterances."""
    by_speaker: Mapping[str, MetricEstimate] = field(default_factory=dict)
    """The same estimates with intervals over speakers, if speakers are known."""
    error_curve: ErrorCurve | None = None
    histogram: ScoreHistogram | None = None
    confusion: Confusion | None = None
    breakdowns: Sequence[Breakdown] = ()


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Results on one split after several trainings on a few examples per class."""

    split: str
    num_shots: int
    metrics: Mapping[str, Sequence[float]]
    """One value per run for each metric."""


@dataclass(frozen=True, kw_only=True)
class TrainingCurve:
    """A quantity over the epochs of a training."""

    name: str
    epochs: Array
    values: Array


@dataclass(frozen=True, kw_only=True)
class System:
    """One run: its features, its classifier and its results per split."""

    name: str
    kind: Kind
    label: str
    """Label columns that the system predicts."""
    features: str
    classifier: str
    seed: int | None = None
    settings: str = ""
    """All that was set except the seed; runs that have it in common are repetitions of one experiment."""
    splits: Mapping[str, SplitResult] = field(default_factory=dict)
    few_shot: Sequence[FewShot] = ()
    training: Sequence[TrainingCurve] = ()
    config: str = ""
    """Resolved config of the run, in YAML."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints, versions and other facts about the origin of the run."""
    notes: Sequence[str] = ()
    """Messages from training or testing."""
    not_scored: str = ""
    """Sentence on why there are no results; empty if there are results."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A paired bootstrap test of two systems on the same utterances; the difference is first minus second."""

    split: str
    metric: str
    first: str
    second: str
    difference: MetricEstimate
    p_value: float
    num_utterances: int


@dataclass(frozen=True, kw_only=True)
class Account:
    """Numbers of rows of one split, by state."""

    split: str
    num_total: int
    num_ok: int
    num_failed: int
    num_pending: int


@dataclass(frozen=True, kw_only=True)
class FailureReason:
    """One kind of failure with its first examples."""

    kind: str
    count: int
    examples: Sequence[tuple[str, str]]
    """(utterance_id, message) of each example."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """A sample of the embeddings on their first two principal components."""

    points: Array
    """(P, 2) coordinates."""
    explained: tuple[float, float]
    """Fraction of the sample's variance on each component, in [0, 1]."""
    columns: Mapping[str, Sequence[str]]
    """(P,) values of each column for colouring."""
    num_total: int


@dataclass(frozen=True, kw_only=True)
class Series:
    """A quantity over wall time; series of the same quantity are drawn together."""

    quantity: str
    unit: str
    name: str
    """Name of the task or device that was measured."""
    time_s: Array
    values: Array


@dataclass(frozen=True, kw_only=True)
class FeatureSetReport:
    """One feature set: its origin, its cost, and the state of every row."""

    name: str
    encoder: str
    facts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    accounts: Sequence[Account] = ()
    not_counted: str = ""
    """Sentence on why the rows are not counted yet."""
    failures: Sequence[FailureReason] = ()
    embedding_map: EmbeddingMap | None = None
    no_map: str = ""
    """Sentence on why there is no map."""
    timelines: Sequence[Series] = ()
    """Throughput, device load, memory and power over time."""
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All data of one report."""

    title: str
    date: str
    """Creation time of the newest result shown, as text."""
    made_by: str
    """Name and version of the program."""
    sources: Sequence[str]
    systems: Sequence[System] = ()
    comparisons: Sequence[Comparison] = ()
    feature_sets: Sequence[FeatureSetReport] = ()
    config: str = ""
    """Resolved config of the experiment, in YAML."""
    notes: Sequence[str] = ()
    """Sentences about parts that could not be read."""
    jobs: Sequence[Mapping[str, Any]] = ()
    """Costs of the steps of experiments that ran on a cluster, from their jobs/accounting.json."""
    inputs: str = ""
    """Digest of the results that were read; see `reporting.report_inputs`."""
