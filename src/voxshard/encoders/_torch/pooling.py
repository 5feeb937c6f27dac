"""Pooling over valid frames on the device. Suffixes: B utterances, T padded frames, D embedding size."""

from __future__ import annotations

import torch

from voxshard.encoders.pooling import Pooling


def valid_mask(num_frames_B: torch.Tensor, num_padded: int) -> torch.Tensor:
    """Return bool (B, T): True where a frame belongs to its utterance."""
    return torch.arange(num_padded, device=num_frames_B.device) < num_frames_B[:, None]


def pool(frames_BTD: torch.Tensor, valid_BT: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Reduce each utterance's valid frames to one vector, in float32.

    Parameters
    ----------
    valid_BT : bool; what is not valid is never read. Every row has at least one valid frame.

    Returns
    -------
    (B, D), for mean+std (B, 2 D): means, then standard deviations (of the population, so that one frame gives 0).
    """
    frames_BTD = frames_BTD.float()
    invalid_BT1 = ~valid_BT[..., None]
    if pooling == "max":
        return frames_BTD.masked_fill(invalid_BT1, -torch.inf).amax(dim=1)
    total_BD = frames_BTD.masked_fill(invalid_BT1, 0.0).sum(dim=1)
    if pooling == "sum":
        return total_BD
    count_B1 = valid_BT.sum(dim=1, keepdim=True)
    mean_BD = total_BD / count_B1
    if pooling == "mean":
        return mean_BD
    if pooling == "mean+std":
        spread_BTD = (frames_BTD - mean_BD[:, None]).masked_fill(invalid_BT1, 0.0)
        return torch.cat([mean_BD, torch.sqrt(spread_BTD.square().sum(dim=1) / count_B1)], dim=-1)
    raise AssertionError(f"{pooling!r} does not pool")
