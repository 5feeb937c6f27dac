"""A trained classifier with all metadata that its use needs, stored without pickle.

model/model.skops   the fitted pipelines of scikit-learn, one, or one per label
model/model.json    classes, what the scores mean, how frames are joined, calibration, features it was trained on
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import skops.io
from sklearn.pipeline import Pipeline
from skops.io.exceptions import UntrustedTypesFoundException

from voxshard import __version__, files, software
from voxshard.errors import CorruptFileError, FormatVersionError, IncompleteError
from voxshard.learning.classifiers import ScoreKind, classifier_of, trusted_types
from voxshard.learning.scores import Join
from voxshard.scoring.calibration import Calibration

FORMAT_VERSION = 1
Kind = Literal["detection", "classification", "multilabel"]

_SAME_PARTS = 2
"""Parts of scikit-learn's version that must agree: attributes of estimators differ between minor versions, and loading
across them is not supported (https://scikit-learn.org/stable/model_persistence.html)."""
TRUSTED_TYPES = [
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "voxshard.learning.estimators.ClassMixtures",
    "voxshard.learning.estimators.Prototypes",
]
"""Types a stored model may contain in addition to those of NumPy, SciPy and scikit-learn that skops trusts by itself.

Trees and optimizers are plain arrays and numbers, which skops leaves to its caller; none of these runs code on loading.
"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Description of the prediction.

    `detection`: two classes, one score, higher for `classes[positive]`. `classification`: a score per class.
    `multilabel`: several labels, each one's score higher where it applies; `classes` are then the labels' names.
    """

    kind: Kind
    labels: Sequence[str]
    """Label columns of the manifest."""
    classes: Sequence[str]
    """Classes in the order of their numbers."""
    positive: int | None = None
    """Number of the positive class, for detection."""

    @property
    def score_names(self) -> list[str]:
        """Names of the score columns in scores.tsv and trials.parquet."""
        return ["score"] if self.kind == "detection" else [f"score_{name}" for name in self.classes]


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """A feature set that a model was trained on."""

    path: str
    name: str
    encoder: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained classifier with its metadata."""

    classifier: str
    target: Target
    features: Sequence[FeatureSource]
    layer: int | None
    join: Join
    pipelines: Sequence[Pipeline]
    """One pipeline; for `multilabel`, one per label, which distinguishes the classes 0 and 1."""
    calibration: Calibration | None = None
    """Calibration of the scores, in a detection task."""

    @property
    def score_kind(self) -> ScoreKind:
        return classifier_of(self.classifier).scores

    def write(self, folder: Path) -> None:
        """Write model.skops and model.json into a folder."""
        skops.io.dump(list(self.pipelines), folder / "model.skops")
        about = {
            "format_version": FORMAT_VERSION,
            "classifier": self.classifier,
            "target": asdict(self.target),
            "features": [asdict(source) for source in self.features],
            "layer": self.layer,
            "join": self.join,
            "score_kind": self.score_kind,
            "calibration": self.calibration.to_json() if self.calibration else None,
            "software": {
                "voxshard": __version__,
                **{name: version(name) for name in ("scikit-learn", "skops", "numpy")},
            },
        }
        files.publish_json(folder / "model.json", about)

    @classmethod
    def read(cls, folder: Path) -> Model:
        """Load a model. Nothing in the files is executed, and untrusted types are refused.

        Raises
        ------
        IncompleteError : there is no model.
        FormatVersionError : written by a newer voxshard.
        CorruptFileError : damaged, or with a type that a model of voxshard does not contain.
        BackendUnavailableError : made with another scikit-learn than the one installed here, or with a newer skops.
        """
        try:
            about: Mapping[str, Any] = json.loads(files.read_bytes(folder / "model.json"))
            found = about["format_version"]
            if found > FORMAT_VERSION:
                raise FormatVersionError(f"{folder}: model format {found}, this voxshard reads up to {FORMAT_VERSION}")
            made_with = about.get("software", {})
            software.check_release(folder, made_with, {"scikit-learn": _SAME_PARTS})
            software.check_not_older(folder, made_with, "skops")
            files.check_readable(folder / "model.skops")
            return cls(
                classifier=about["classifier"],
                target=Target(**about["target"]),
                features=[FeatureSource(**source) for source in about["features"]],
                layer=about["layer"],
                join=about["join"],
                pipelines=skops.io.load(
                    folder / "model.skops", trusted=[*TRUSTED_TYPES, *trusted_types(about["classifier"])]
                ),
                calibration=Calibration(**about["calibration"]) if about["calibration"] else None,
            )
        except FileNotFoundError as exc:
            raise IncompleteError(
                f"{folder}: no model here (no {Path(str(exc.filename)).name}); train it again"
            ) from exc
        except UntrustedTypesFoundException as exc:
            raise CorruptFileError(
                f"{folder / 'model.skops'}: contains types that no model of voxshard has, so it is not loaded: {exc}"
            ) from exc
        except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as exc:
            raise CorruptFileError(f"{folder}: not a model of voxshard: {exc!r}; train it again") from exc
