"""The registry of classifiers: their scikit-learn estimators and the meaning of their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from voxshard import plugins
from voxshard.errors import ConfigError
from voxshard.learning.estimators import ClassMixtures, Prototypes
from voxshard.learning.train_config import ENTRY_POINT_GROUP, StreamingSettings, TrainingSettings

ScoreKind = Literal["log-odds", "margin", "share", "log-likelihood"]


@dataclass(frozen=True)
class Classifier:
    """Registry entry of one classifier."""

    estimator: Callable[..., ClassifierMixin]
    scores: ScoreKind
    """Kind of the scores for two classes: log-odds (as well calibrated as the model is), signed distances from the
    border, fractions of votes (with ties), or log-likelihoods."""
    seeded: bool = True
    streams: bool = False
    """Whether the classifier can be trained on sets larger than memory."""
    bytes_per_value: float = 12.0
    """Memory for fitting, in bytes per training value, including the stored float32. Values other than 12 were measured
    with 512 values per row."""
    fixed: tuple[tuple[str, Any], ...] = ()
    """Parameters of the estimator that users cannot set."""
    settings: type[TrainingSettings] | None = None
    """Settings of another package's classifier; fields beyond those of TrainingSettings are parameters of the
    estimator. Our own are in `train_config.SETTINGS`."""
    trusted_types: tuple[str, ...] = ()
    """Types that a fitted estimator of another package contains, as `module.Class`, in addition to its
    own class and those of NumPy, SciPy and scikit-learn. Stored models with other types are refused."""


CLASSIFIERS: Mapping[str, Classifier] = {
    "logistic": Classifier(LogisticRegression, "log-odds", bytes_per_value=6),
    "mlp": Classifier(MLPClassifier, "log-odds", streams=True, bytes_per_value=6),
    "svm": Classifier(SVC, "margin"),
    "linear-svm": Classifier(LinearSVC, "margin", bytes_per_value=30),
    "perceptron": Classifier(SGDClassifier, "log-odds", streams=True, fixed=(("loss", "log_loss"),), bytes_per_value=6),
    "knn": Classifier(KNeighborsClassifier, "share", seeded=False, bytes_per_value=15),
    "random-forest": Classifier(RandomForestClassifier, "share", bytes_per_value=7),
    "gradient-boosting": Classifier(HistGradientBoostingClassifier, "log-odds", bytes_per_value=26),
    "gmm": Classifier(ClassMixtures, "log-likelihood", bytes_per_value=14),
    "prototypes": Classifier(Prototypes, "log-odds", seeded=False, streams=True, bytes_per_value=10),
}


def classifier_of(name: str) -> Classifier:
    """Return a classifier by name, ours or that of another package.

    Raises
    ------
    BrokenPluginError : another package registers something else than a `Classifier` with settings.
    """
    if name in CLASSIFIERS:
        return CLASSIFIERS[name]
    point = plugins.registered(ENTRY_POINT_GROUP, CLASSIFIERS).get(name)
    if point is None:
        raise ConfigError(f"no classifier {name!r} is installed here; install the package that provides it")
    found = plugins.load(point)
    if not isinstance(found, Classifier):
        raise plugins.broken(point, f"expected a voxshard.learning.classifiers.Classifier, found {found!r}")
    if found.settings is None or not issubclass(found.settings, TrainingSettings):
        raise plugins.broken(point, "its `settings` is no subclass of voxshard.learning.train_config.TrainingSettings")
    return found


def trusted_types(name: str) -> list[str]:
    """Return the types that a stored model of another package's classifier may contain; empty for our own."""
    if name in CLASSIFIERS:
        return []
    found = classifier_of(name)
    own = found.estimator
    return [*found.trusted_types, *([f"{own.__module__}.{own.__qualname__}"] if isinstance(own, type) else [])]


def preprocessing(settings: TrainingSettings, seed: int) -> list[tuple[str, Any]]:
    """Return the unfitted steps before the classifier, in order."""
    steps: list[tuple[str, Any]] = []
    if settings.standardize:
        steps.append(("standardize", StandardScaler()))
    if settings.pca is not None:
        steps.append(("pca", PCA(n_components=settings.pca, whiten=settings.whiten, random_state=seed)))
    if settings.l2:
        steps.append(("l2", Normalizer()))
    return steps


def build(name: str, settings: TrainingSettings, seed: int) -> Pipeline:
    """Return an unfitted pipeline of preprocessing and classifier."""
    entry = classifier_of(name)
    own = set(type(settings).model_fields) - set(StreamingSettings.model_fields)
    parameters = {**settings.model_dump(include=own), **dict(entry.fixed)}
    if entry.seeded:
        parameters["random_state"] = seed
    return Pipeline([*preprocessing(settings, seed), ("classifier", entry.estimator(**parameters))])
