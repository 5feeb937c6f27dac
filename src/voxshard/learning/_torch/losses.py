"""Losses over float targets with missing values. Suffixes: B utterances, C outputs, W outputs of one group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from speechbrain.nnet.losses import AdditiveAngularMargin
from torch import nn

from voxshard.networks.settings import Loss


class NetworkLoss(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """Loss function of a network; outputs whose target is NaN do not contribute.

    Parameters
    ----------
    sizes : outputs of each head; cross-entropy is taken head by head and summed.
    weights_C : of the outputs' classes; None: all alike.
    margin, scale : of the angular margin.
    """

    def __init__(
        self, loss: Loss, sizes: Sequence[int], weights_C: npt.NDArray[np.float32] | None, margin: float, scale: float
    ) -> None:
        super().__init__()
        self.loss, self.sizes = loss, list(sizes)
        weights = torch.ones(sum(sizes)) if weights_C is None else torch.from_numpy(weights_C)
        self.register_buffer("weights_C", weights, persistent=False)
        self.angular = AdditiveAngularMargin(margin, scale)

    def forward(self, outputs_BC: torch.Tensor, targets_BC: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over known targets; 0 (with a gradient of 0) if there are none."""
        outputs_BC = outputs_BC.float()
        if self.loss in ("bce", "mse"):
            return self._elementwise(outputs_BC, targets_BC)
        total = outputs_BC.sum() * 0.0
        groups = zip(
            outputs_BC.split(self.sizes, dim=1),
            targets_BC.split(self.sizes, dim=1),
            self.weights_C.split(self.sizes),
            strict=True,
        )
        for outputs_BW, targets_BW, weights_W in groups:
            known_B1 = ~targets_BW.isnan().any(dim=1, keepdim=True)
            total = total + self._softmax(outputs_BW, torch.where(known_B1, targets_BW, 0.0), weights_W)
        return total

    def _elementwise(self, outputs_BC: torch.Tensor, targets_BC: torch.Tensor) -> torch.Tensor:
        known = ~targets_BC.isnan()
        targets = targets_BC.nan_to_num(0.0)
        if self.loss == "mse":
            values = (outputs_BC - targets).square() * torch.where(targets > 0.5, self.weights_C, 1.0)
        else:
            values = nn.functional.binary_cross_entropy_with_logits(
                outputs_BC, targets, pos_weight=self.weights_C, reduction="none"
            )
        return torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1)

    def _softmax(self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if self.loss == "aam":
            outputs = self.angular(outputs, targets)
        shares = targets * weights
        total = shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)  # 0 where no label of the group applies
        return -(shares * torch.log_softmax(outputs, dim=1)).sum() / total


def balanced_weights(targets_UC: npt.NDArray[np.float32], loss: Loss, sizes: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return weights (C,) that give rare classes the same influence as frequent ones.

    For their own outputs (bce, mse) the positives' weight is negatives / positives; for exclusive classes it is
    number / (classes * number of this class), as in scikit-learn.
    """
    known = ~np.isnan(targets_UC)
    positive = np.maximum(np.nansum(targets_UC, axis=0), 1.0)
    if loss in ("bce", "mse"):
        return np.asarray(np.maximum(known.sum(axis=0) - positive, 1.0) / positive, np.float32)
    parts, start = [], 0
    for size in sizes:
        counts = positive[start : start + size]
        parts.append(counts.sum() / (size * counts))
        start += size
    return np.concatenate(parts).astype(np.float32)
