"""Names and settings of the classifiers, and the configs of a training, of a grid and of an evaluation.

Settings that a classifier hands to scikit-learn keep scikit-learn's names and defaults, unless a docstring states
otherwise. Nothing here imports scikit-learn, so that a config can be checked where it is not installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from voxshard import plugins
from voxshard.config import Settings, as_list, did_you_mean, validated
from voxshard.errors import ConfigError
from voxshard.locations import LocalPath, Location, Url

ENTRY_POINT_GROUP = "voxshard.classifiers"
ClassWeight = Literal["balanced"] | None


def as_class(value: Any) -> Any:
    """Return a class as its label text; YAML reads 0 and true as other types."""
    return str(value).lower() if isinstance(value, int) else value


class TrainingSettings(Settings):
    """Settings that every classifier takes (`--set key=value`); by default features are not changed."""

    standardize: bool = False
    """Shift and scale every dimension to mean 0 and variance 1 on the training rows (first step)."""
    pca: int | None = Field(None, ge=1)
    """Project onto this number of principal components of the training rows (second step)."""
    whiten: bool = False
    """Scale the principal components to variance 1."""
    l2: bool = False
    """Scale every row to length 1 (third step)."""
    layer: int | None = Field(None, ge=0)
    """Index of the layer to use if features have several; null: all layers, concatenated."""
    join: Literal["vote", "mean"] | None = None
    """How decisions on a recording's frames or windows are combined: majority vote (ties go to the lowest class) or the
    mean of the probabilities (log-likelihoods for gmm, margins for support vector machines). Null: mean for detection
    and for gmm, whose metrics need graded scores, otherwise vote."""
    positive: Annotated[str | None, BeforeValidator(as_class)] = None
    """Class for which scores are high; makes two classes a detection task. Null: `bonafide`, else 1 or true."""
    calibrate: str | None = None
    """Split on whose scores a calibration to log-likelihood ratios is fitted; for detection."""
    calibration: Literal["logistic", "affine"] = "logistic"
    """Method of the calibration: logistic regression, or a fit from means and variances, which also suits scores that
    separate the classes."""
    num_folds: int | None = Field(None, ge=2)
    """With `--folds`, number of folds over which the values of its column are distributed; null: each value is one
    fold."""
    memory_limit_gb: float | None = Field(None, gt=0)
    """Maximum memory for the training rows, in GB (10^9 bytes); null: the free memory of this machine or job."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.whiten and self.pca is None:
            raise ValueError("whiten scales principal components: give pca=N too")
        return self


class StreamingSettings(TrainingSettings):
    """Settings of classifiers that can also be trained on sets larger than memory."""

    epochs: int = Field(20, ge=1)
    """Number of passes over a training set larger than the memory limit; smaller sets are fitted at once."""


class LogisticSettings(TrainingSettings):
    """Logistic regression with an L2 penalty."""

    C: float = Field(1.0, gt=0)
    max_iter: int = Field(300, ge=1)
    """Maximum number of iterations; scikit-learn's default, 100, rarely suffices for embeddings that are not
    standardized."""
    class_weight: ClassWeight = None


class MlpSettings(StreamingSettings):
    """Multi-layer perceptron, a network of fully connected layers."""

    hidden_layer_sizes: tuple[Annotated[int, Field(ge=1)], ...] = (100,)
    activation: Literal["identity", "logistic", "tanh", "relu"] = "relu"
    solver: Literal["adam", "sgd", "lbfgs"] = "adam"
    alpha: float = Field(1e-4, ge=0)
    learning_rate_init: float = Field(1e-3, gt=0)
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    max_iter: int = Field(200, ge=1)
    early_stopping: bool = False


class SvmSettings(TrainingSettings):
    """Support vector machine with a kernel."""

    C: float = Field(1.0, gt=0)
    kernel: Literal["rbf", "linear", "poly", "sigmoid"] = "rbf"
    gamma: Annotated[float, Field(ge=0)] | Literal["scale", "auto"] = "scale"
    class_weight: ClassWeight = None


class LinearSvmSettings(TrainingSettings):
    """Linear support vector machine, which is faster than one with a kernel."""

    C: float = Field(1.0, gt=0)
    max_iter: int = Field(1000, ge=1)
    class_weight: ClassWeight = None


class PerceptronSettings(StreamingSettings):
    """Linear model with logarithmic loss, trained by stochastic gradient descent."""

    alpha: float = Field(1e-4, ge=0)
    max_iter: int = Field(1000, ge=1)
    class_weight: ClassWeight = None


class KnnSettings(TrainingSettings):
    """K-nearest-neighbours classifier."""

    n_neighbors: int = Field(1, ge=1)
    """Number of neighbours; scikit-learn's default is 5."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """Distance between rows; scikit-learn's default is euclidean."""
    weights: Literal["uniform", "distance"] = "uniform"


class ForestSettings(TrainingSettings):
    """Random forest."""

    n_estimators: int = Field(100, ge=1)
    max_depth: int | None = Field(None, ge=1)
    min_samples_leaf: int = Field(1, ge=1)
    class_weight: ClassWeight = None


class BoostingSettings(TrainingSettings):
    """Histogram gradient boosting."""

    learning_rate: float = Field(0.1, gt=0)
    max_iter: int = Field(100, ge=1)
    max_leaf_nodes: int | None = Field(31, ge=2)
    min_samples_leaf: int = Field(20, ge=1)
    l2_regularization: float = Field(0.0, ge=0)
    class_weight: ClassWeight = None


class GmmSettings(TrainingSettings):
    """One Gaussian mixture per class."""

    n_components: int = Field(16, ge=1)
    """Number of Gaussians per class; the classical LFCC-GMM has 512, on frames."""
    covariance_type: Literal["diag", "full", "tied", "spherical"] = "diag"
    reg_covar: float = Field(1e-6, ge=0)
    max_iter: int = Field(100, ge=1)


class PrototypesSettings(StreamingSettings):
    """Nearest class mean, with a softmax over negative distances."""

    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance to the means: squared euclidean distance, or 1 - cosine similarity."""


SETTINGS: Mapping[str, type[TrainingSettings]] = {
    "logistic": LogisticSettings,
    "mlp": MlpSettings,
    "svm": SvmSettings,
    "linear-svm": LinearSvmSettings,
    "perceptron": PerceptronSettings,
    "knn": KnnSettings,
    "random-forest": ForestSettings,
    "gradient-boosting": BoostingSettings,
    "gmm": GmmSettings,
    "prototypes": PrototypesSettings,
}
NAMES = tuple(SETTINGS)
"""Our own classifiers; `available` has those of other packages, too."""


def available() -> dict[str, str]:
    """Return every classifier by name with a one-line description: first our own, then those of other packages."""
    others = plugins.registered(ENTRY_POINT_GROUP, SETTINGS)
    own = {name: inspect.cleandoc(model.__doc__ or "").partition("\n")[0] for name, model in SETTINGS.items()}
    return own | {name: f"From {plugins.package_of(point)}." for name, point in others.items()}


def settings_model(name: str) -> type[TrainingSettings]:
    """Return the class of a classifier's settings; our own classifiers do not need scikit-learn for this.

    Raises
    ------
    ConfigError : no such classifier; the message lists the classifiers.
    """
    if name in SETTINGS:
        return SETTINGS[name]
    _known(name)
    from voxshard.learning.classifiers import classifier_of

    found = classifier_of(name).settings
    assert found is not None, "classifier_of checks it"
    return found


def _known(name: str) -> str:
    if name not in SETTINGS:
        names = available()
        if name not in names:
            raise ConfigError(f"no such classifier; classifiers: {', '.join(names)}{did_you_mean(name, names)}")
    return name


Name = Annotated[str, AfterValidator(_known)]
"""Name of a classifier, ours or another package's."""


def settings_of(name: str, content: Mapping[str, Any], *, where: str = "--set") -> TrainingSettings:
    """Return the validated settings of a classifier.

    Raises
    ------
    ConfigError : everything that is wrong with `content`, with the keys this classifier knows.
    """
    return validated(settings_model(name), content, where=f"{where} ({name})")


def _shots(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(number < 1 for number in value):
        raise ValueError("a number of examples is at least 1")
    return tuple(sorted(set(value)))


Shots = Annotated[tuple[int, ...], BeforeValidator(as_list), AfterValidator(_shots)]


def as_names(value: Any) -> Any:
    """Return several names as a list, given as `a,b`, `[a, b]` or `a`."""
    items = as_list(value)
    if not isinstance(items, list | tuple):
        return items  # refused by the type of the setting
    return [name for item in items for name in str(item).split(",")]


def _as_groups(value: Any) -> Any:
    """Return groups of columns: `[a, "b,c"]` stands for a alone, and for b and c combined."""
    items = as_list(value)
    return [as_names(item) for item in items] if isinstance(items, list | tuple) else items


class CommonTrainOptions(Settings):
    """Options that trainings of classifiers and of networks have in common."""

    split: str | None = None
    """Split to train on. Null: `train`; with `folds`, every labelled utterance."""
    folds: str | None = None
    """Column for cross-validation: each of its values is tested with a model that was trained on the others."""
    n_shot: Shots = ()
    """Number of training examples per class; several numbers give a curve. The model of the most examples, first run,
    is kept."""
    runs: int = Field(5, ge=1)
    """Number of random draws for each number in `n_shot`."""
    replicates: int = Field(1000, ge=0)
    """Number of bootstrap replicates for intervals; 0: no intervals."""
    wandb: bool = False
    """Also log to Weights & Biases, offline if it cannot be reached."""

    @property
    def trackers(self) -> tuple[str, ...]:
        """Services to which epochs and results are logged."""
        return ("wandb",) if self.wandb else ()

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if self.folds and self.n_shot:
            raise ValueError("folds and n_shot are two ways to choose what to train on; give one")
        return self


class TrainOptions(CommonTrainOptions):
    """Options that a single classifier training and a grid of them have in common."""

    label: Annotated[tuple[str, ...], BeforeValidator(as_names)] = Field(min_length=1)
    """Columns of the manifest to predict; several yes-or-no columns are learned one against all others."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.folds in self.label:
            raise ValueError(
                f"folds: {self.folds} is the label: each fold would test a class that training has not seen; give "
                "another column, such as speaker, or utterance_id with num_folds=5"
            )
        if len(self.label) > 1 and self.n_shot:
            raise ValueError("n_shot draws examples per class, so it takes one label")
        return self


class TrainConfig(TrainOptions):
    """Settings of one classifier training."""

    features: Annotated[tuple[Location, ...], BeforeValidator(as_list)] = Field(min_length=1)
    """Merged feature sets; several are joined by utterance_id, and their vectors concatenated."""
    classifier: Name
    out: Location
    """Run directory to write."""
    seed: int = Field(0, ge=0)
    """Seed of the classifier, of the drawn examples and of the bootstrap intervals."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of preprocessing and classifier."""

    def classifier_settings(self) -> TrainingSettings:
        """Return `settings`, validated for the classifier.

        Raises
        ------
        ConfigError : everything that is wrong with them.
        """
        return settings_of(self.classifier, self.settings, where="settings")


class EvaluateConfig(Settings):
    """Settings of one evaluation."""

    run: Location
    """Run directory to evaluate."""
    out: Location | None = None
    """Run directory for a copy of `run` with the results; null: the results are written into `run` itself."""
    on: Annotated[tuple[Location, ...], BeforeValidator(as_list)] = ()
    """Other merged feature sets, as many as the model was trained on, or a manifest with other labels or splits."""
    split: str | None = None
    """Score only this split. Null: the splits that were measured in training; on other features, every split."""
    group_by: Annotated[tuple[tuple[str, ...], ...], BeforeValidator(_as_groups)] = ()
    """Columns for breakdowns of the metrics, one by one; `codec,codec_q` combines two columns."""
    replicates: int = Field(1000, ge=0)
    """Number of bootstrap replicates for intervals; 0: no intervals."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.run, Url) and self.out is None:
            raise ValueError(f"run: {self.run} is in a bucket, and results are not written into it; give out (--out)")
        return self


class GridOptions(TrainOptions):
    """Options of a grid of trainings; also the section `train` of an experiment's config."""

    classifier: Annotated[tuple[Name, ...], BeforeValidator(as_list)] = Field(("logistic",), min_length=1)
    seed: Annotated[tuple[int, ...], BeforeValidator(as_list)] = (0,)
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of preprocessing for every classifier; a key that is a classifier's name contains settings for that
    classifier only."""


class GridConfig(GridOptions):
    """One training for every combination of features, classifier and seed."""

    features: list[Annotated[tuple[LocalPath, ...], BeforeValidator(as_list)]] = Field(min_length=1)
    """Feature sets; an item that is a list is joined into one set."""
    out: LocalPath
    """Folder of the runs: EXP/runs."""
    name: str | None = None
    """Part of the runs' names that distinguishes them from those of another grid."""

    def expand(self) -> list[TrainConfig]:
        """Return the configs of the trainings in a fixed order, each with `out`
        EXP/runs/<features>[-<name>]-<classifier>-<seed>.

        Raises
        ------
        ConfigError : settings that are wrong for one of them, or two that would write the same run.
        """
        known = available()
        part = f"-{self.name}" if self.name else ""
        shared = {key: value for key, value in self.settings.items() if key not in known}
        trainings = [
            validated(
                TrainConfig,
                {
                    **self.model_dump(include=set(TrainOptions.model_fields)),
                    "features": features,
                    "classifier": classifier,
                    "seed": seed,
                    "out": self.out / f"{'+'.join(path.name for path in features)}{part}-{classifier}-{seed}",
                    "settings": {**shared, **self.settings.get(classifier, {})},
                },
                where="train",
            )
            for features in self.features
            for classifier in self.classifier
            for seed in self.seed
        ]
        for training in trainings:
            training.classifier_settings()
        names = [training.out.name for training in trainings]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"grid: two trainings would write {twice[0]}; give feature sets folders of different names"
            )
        return trainings
