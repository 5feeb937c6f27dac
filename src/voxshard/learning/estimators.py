"""The two classifiers that scikit-learn lacks, as scikit-learn estimators.

Letters: N rows, D embedding size, C classes.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from sklearn.mixture import GaussianMixture

from voxshard.errors import DataError

Rows = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


class Prototypes(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Nearest-class-mean classifier; probabilities are the softmax over negative distances to the means.

    Parameters
    ----------
    metric : "euclidean" takes squared distances, as prototypical networks do; "cosine" takes 1 - cosine similarity.

    References
    ----------
    Snell, Swersky, Zemel: Prototypical networks for few-shot learning, 2017: https://arxiv.org/abs/1703.05175
    """

    def __init__(self, metric: str = "euclidean") -> None:
        self.metric = metric

    def fit(self, rows: Rows, labels: Rows) -> Self:
        """Fit to rows (N, D) with labels (N,)."""
        for name in ("classes_", "sums_", "counts_"):
            if hasattr(self, name):
                delattr(self, name)
        return self.partial_fit(rows, labels, np.unique(labels))

    def partial_fit(self, rows: Rows, labels: Rows, classes: Rows | None = None) -> Self:
        """Add rows to the means; the first call must pass all classes."""
        if not hasattr(self, "classes_"):
            self.classes_ = np.asarray(classes)
            self.sums_ = np.zeros((len(self.classes_), rows.shape[1]))
            self.counts_ = np.zeros(len(self.classes_), np.int64)
        for index, name in enumerate(self.classes_):
            chosen = rows[labels == name]
            self.sums_[index] += chosen.sum(axis=0, dtype=np.float64)
            self.counts_[index] += len(chosen)
        return self

    def _distances(self, rows: Rows) -> Floats:
        means = self.sums_ / self.counts_[:, None]
        if self.metric == "cosine":
            return np.asarray(cosine_distances(rows, means))
        return np.asarray(euclidean_distances(rows, means, squared=True))

    def decision_function(self, rows: Rows) -> Floats:
        """Return log-odds of the second class, (N,), or, for more than two classes, negative distances, (N, C)."""
        distances = self._distances(rows)
        return distances[:, 0] - distances[:, 1] if len(self.classes_) == 2 else -distances

    def predict_proba(self, rows: Rows) -> Floats:
        """Return the softmax over negative distances, (N, C)."""
        return np.asarray(softmax(-self._distances(rows), axis=1))

    def predict(self, rows: Rows) -> Rows:
        """Return the nearest class of each row, (N,); the first one in a tie."""
        return np.asarray(self.classes_[self._distances(rows).argmin(axis=1)])


class ClassMixtures(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier with one Gaussian mixture per class; classes are compared by log-likelihood, with equal priors.

    With `lfcc` frames and 512 diagonal components it is the classical LFCC-GMM of the ASVspoof challenges.

    References
    ----------
    Sahidullah, Kinnunen, Hanilci: A comparison of features for synthetic speech detection, Interspeech 2015.
    """

    def __init__(
        self,
        n_components: int = 16,
        covariance_type: str = "diag",
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        random_state: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, rows: Rows, labels: Rows) -> Self:
        """Fit to rows (N, D) with labels (N,).

        Raises
        ------
        DataError : a class has fewer rows than there are components, or a single one.
        """
        self.classes_ = np.unique(labels)
        fewest = min(int((labels == name).sum()) for name in self.classes_)
        if fewest < max(2, self.n_components):
            raise DataError(
                f"gmm: a class has {fewest} training rows, a mixture of {self.n_components} needs as many, at least 2; "
                "give --set n_components=N, frames instead of one vector per utterance, or more examples"
            )
        self.mixtures_ = [
            GaussianMixture(
                n_components=self.n_components,
                covariance_type=self.covariance_type,
                reg_covar=self.reg_covar,
                max_iter=self.max_iter,
                random_state=self.random_state,
            ).fit(rows[labels == name])
            for name in self.classes_
        ]
        return self

    def log_likelihood(self, rows: Rows) -> Floats:
        """Return the log-likelihood (natural logarithm) of each row under each class, (N, C)."""
        return np.column_stack([mixture.score_samples(rows) for mixture in self.mixtures_])

    def predict(self, rows: Rows) -> Rows:
        """Return the most likely class of each row, (N,); the first one in a tie."""
        return np.asarray(self.classes_[self.log_likelihood(rows).argmax(axis=1)])
