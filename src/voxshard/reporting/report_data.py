"""What a report shows, as plain data: `loading` fills it from files, `sections` turns it into tables and plots.

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
    """A number with its confidence interval; `low` and `high` are None where none was computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class ErrorCurve:
    """Error rates of a detector over all thresholds, thinned; rates in [0, 1]."""

    false_alarm_rate: Array
    """(P,)"""
    miss_rate: Array
    """(P,)"""


@dataclass(frozen=True, kw_only=True)
class ScoreHistogram:
    """How the scores of each class are spread."""

    edges: Array
    """(B + 1,)"""
    counts: Mapping[str, npt.NDArray[np.int64]]
    """Class -> (B,)."""
    threshold: float | None = None
    """Score at the equal error rate."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often each true class was taken for each predicted one."""

    labels: Sequence[str]
    counts: npt.NDArray[np.int64]
    """(C, C), rows are true classes, columns predicted ones."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One value of a column and what was measured on its utterances."""

    name: str
    num_utterances: int
    metrics: Mapping[str, MetricEstimate]


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Metrics apart for each value of a column (codec, attack, fold, speaker)."""

    column: str
    groups: Sequence[Group]


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """What a system did on one split."""

    num_utterances: int | None = None
    metrics: Mapping[str, MetricEstimate] = field(default_factory=dict)
    """Intervals over utterances."""
    by_speaker: Mapping[str, MetricEstimate] = field(default_factory=dict)
    """The estimates with intervals over speakers, where speakers are known."""
    error_curve: ErrorCurve | None = None
    histogram: ScoreHistogram | None = None
    confusion: Confusion | None = None
    breakdowns: Sequence[Breakdown] = ()


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Results on one split after training on a few examples per class, several times."""

    split: str
    num_shots: int
    metrics: Mapping[str, Sequence[float]]
    """Metric -> one value per run."""


@dataclass(frozen=True, kw_only=True)
class TrainingCurve:
    """A quantity over the epochs of a training."""

    name: str
    epochs: Array
    values: Array


@dataclass(frozen=True, kw_only=True)
class System:
    """One run: features, a classifier, and its results per split."""

    name: str
    kind: Kind
    label: str
    """What it predicts."""
    features: str
    classifier: str
    seed: int | None = None
    splits: Mapping[str, SplitResult] = field(default_factory=dict)
    few_shot: Sequence[FewShot] = ()
    training: Sequence[TrainingCurve] = ()
    config: str = ""
    """Resolved config, YAML."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints, versions and everything else that describes how it was made."""
    notes: Sequence[str] = ()
    """Sentences that training or testing left behind."""
    not_scored: str = ""
    """Why there are no results, as a sentence; empty where there are."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A paired bootstrap test of two systems on the same utterances: first minus second."""

    split: str
    metric: str
    first: str
    second: str
    difference: MetricEstimate
    p_value: float
    num_utterances: int


@dataclass(frozen=True, kw_only=True)
class Account:
    """Number of rows of one split by what became of them."""

    split: str
    num_total: int
    num_ok: int
    num_failed: int
    num_pending: int


@dataclass(frozen=True, kw_only=True)
class FailureReason:
    """One kind of failure and its first examples."""

    kind: str
    count: int
    examples: Sequence[tuple[str, str]]
    """(utterance_id, message)"""


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """A sample of the embeddings on their first two principal components."""

    points: Array
    """(P, 2)"""
    explained: tuple[float, float]
    """Share of the sample's variance on each component, in [0, 1]."""
    columns: Mapping[str, Sequence[str]]
    """Column to colour by -> P values."""
    num_total: int


@dataclass(frozen=True, kw_only=True)
class Series:
    """A quantity over wall time; series of one quantity are drawn together."""

    quantity: str
    unit: str
    name: str
    """Whose: a task, a device."""
    time_s: Array
    values: Array


@dataclass(frozen=True, kw_only=True)
class FeatureSetReport:
    """One set of features: how it was made, what it cost, and where every row went."""

    name: str
    encoder: str
    facts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    accounts: Sequence[Account] = ()
    not_counted: str = ""
    """Why the rows are not counted yet, as a sentence."""
    failures: Sequence[FailureReason] = ()
    embedding_map: EmbeddingMap | None = None
    no_map: str = ""
    """Why there is no map, as a sentence."""
    timelines: Sequence[Series] = ()
    """Throughput, device load, memory, power."""
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All of one report."""

    title: str
    date: str
    """When the newest result shown was made."""
    made_by: str
    """Program and version."""
    sources: Sequence[str]
    systems: Sequence[System] = ()
    comparisons: Sequence[Comparison] = ()
    feature_sets: Sequence[FeatureSetReport] = ()
    config: str = ""
    """Resolved config of the experiment, YAML."""
    notes: Sequence[str] = ()
    """Sentences about parts that could not be read."""
    jobs: Sequence[Mapping[str, Any]] = ()
    """What the steps of experiments that ran on a cluster cost, by their jobs/accounting.json."""
    inputs: str = ""
    """Digest of the results that were read; see `reporting.inputs`."""
