"""Self-supervised models as functions of a padded batch whose rows do not see each other's length.

Suffixes: B utterances, S padded samples, T padded frames, D hidden size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders._torch.masking import FrameMask, MaskedGroupNorm
from voxshard.encoders._torch.pooling import valid_mask
from voxshard.encoders.hf import ConvolutionalFrames


class WaveformModel:
    """wav2vec 2.0 and its relatives: convolutions over samples, then layers of attention, perhaps with convolutions."""

    def __init__(self, model: Any, frames: ConvolutionalFrames) -> None:
        self.model = model
        self.frames = frames
        self._position_mask = FrameMask(model.encoder)  # the positional convolution, and those in conformer layers
        self._group_norm: MaskedGroupNorm | None = None
        first = model.feature_extractor.conv_layers[0]
        if getattr(model.config, "feat_extract_norm", "layer") == "group":  # by config: names do not determine it
            self._group_norm = first.layer_norm = MaskedGroupNorm(first.layer_norm)

    def __call__(
        self, waveforms_BS: torch.Tensor, lengths_B: npt.NDArray[np.int64], lengths_there_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one batch.

        Parameters
        ----------
        lengths_B, lengths_there_B : valid samples of each row, here and on the device.

        Returns
        -------
        last_hidden_state (B, T, D), and which frames are valid, bool (B, T).
        """
        padded = bool((lengths_B < waveforms_BS.shape[1]).any())
        num_frames_B = self.frames.num_frames(lengths_there_B)
        self._position_mask.valid.num_frames_B = num_frames_B if padded else None
        if self._group_norm is not None:
            self._group_norm.valid.num_frames_B = self.frames.num_frames(lengths_there_B, 1) if padded else None
        attention_mask = valid_mask(lengths_there_B, waveforms_BS.shape[1]).long() if padded else None
        last_BTD = self.model(input_values=waveforms_BS, attention_mask=attention_mask).last_hidden_state
        return last_BTD, valid_mask(num_frames_B, last_BTD.shape[1])


class FilterBankModel:
    """w2v-BERT: stacked filter-bank frames, then conformer layers; see `SeamlessFeatures` for the last column."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, features_BTM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one batch of features (B, T, M + 1); returns last_hidden_state (B, T, D) and bool (B, T)."""
        attended_BT = features_BTM[..., -1] > 0
        output = self.model(input_features=features_BTM[..., :-1], attention_mask=attended_BT.long())
        return output.last_hidden_state, attended_BT
