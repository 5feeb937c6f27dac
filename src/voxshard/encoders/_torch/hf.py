"""The `hf` encoder: audio models of transformers, the same numbers for an utterance in any batch.

Suffixes: B utterances, L padded feature length, T padded frames, D hidden size, N layers asked for, K codebooks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders import hf
from voxshard.encoders._torch.base import TensorOutput, TorchEncoder
from voxshard.encoders._torch.hf_families.choose import choose_family
from voxshard.encoders._torch.hf_families.windowed import by_utterance
from voxshard.encoders._torch.pooling import pool
from voxshard.encoders.base import KnownHashes, Output, describe
from voxshard.encoders.hf import HfSettings
from voxshard.encoders.pooling import Pooling, join_pooled, pooled_size
from voxshard.encoders.weight_files import hash_files

_CODE_VERSION = 1


class HfEncoder(TorchEncoder):
    """A model in the layout of transformers' `save_pretrained`; what is special to its kind is in its family."""

    settings_model = HfSettings
    settings: HfSettings

    def __init__(self, name: str, settings: HfSettings, known_hashes: KnownHashes) -> None:
        self.settings = settings
        folder = hf.folder_of(settings.weights, wanted_by=name, required=(hf.CONFIG,))
        self.family = family = choose_family(folder, settings)
        self.pooling: Pooling = settings.pooling or family.default_pooling
        self.pooled = self.pooling != "none"
        self.stacked = isinstance(settings.layer, tuple)
        self.stores_codes = family.gives_codes and settings.codes and not self.pooled
        self.preparer = family.preparer
        is_windows = family.window_s is not None and not self.pooled
        # what stands for the default is not part of the fingerprint, so that sets made before it had a name stay valid
        chosen = settings.model_copy(
            update={"pooling": self.pooling if self.pooling != family.default_pooling else None}
        )
        self.info = describe(
            name=name,
            settings=chosen,
            code_version=_CODE_VERSION,
            libraries=("torch", "transformers"),
            weight_files=hash_files(folder, settings.weight_files(folder), known_hashes),
            derived={"layers": list(family.layers)},
            weights_folder=folder,
            requires=("torch", "transformers"),
            needs_gpu=True,
            sample_rate=family.sample_rate,
            dim=pooled_size(family.dim, self.pooling),
            num_layers=len(family.layers) if self.stacked else None,
            granularity="utterance" if self.pooled else "windows" if is_windows else "frames",
            frame_rate_hz=None if self.pooled else family.frame_rate_hz,
            window_s=family.window_s if is_windows else None,
            hop_s=family.window_s if is_windows else None,
            batch_policy=family.batch_policy,
            min_samples=family.min_samples,
            chunk_samples=family.chunk_samples,
        )

    def build(self) -> torch.nn.Module:
        """Build the model of the family, cut above the highest requested layer."""
        if self.family.note:
            logging.getLogger(__name__).warning("%s: %s", self.info.weights_folder, self.family.note)
        return self.family.build()

    def num_frames(self, length: int) -> int:
        """Return the number of frames of an utterance whose features have this length."""
        return self.family.num_frames(length)

    def forward(self, features_BL: torch.Tensor, lengths_B: npt.NDArray[np.int64]) -> dict[str, TensorOutput]:
        """Run the model and pool: "embedding" (B, D) or (B, N, D); or "frames" (B, T, D) or (B, T, N, D)."""
        hidden = self.family.run(features_BL, lengths_B, self.lengths_on_device(lengths_B))
        if self.family.batch_policy == "windows":
            return self._from_windows(hidden.layers, hidden.valid_BT, lengths_B)
        if self.pooled:
            pooled = [pool(layer_BTD, hidden.valid_BT, self.pooling) for layer_BTD in hidden.layers]
            return {"embedding": torch.stack(pooled, dim=1) if self.stacked else pooled[0]}
        layers = hidden.layers
        results: dict[str, TensorOutput] = {"frames": torch.stack(layers, dim=2) if self.stacked else layers[0]}
        if self.stores_codes:
            assert hidden.codes_BTK is not None
            results["codes"] = hidden.codes_BTK
        if self.family.counts_valid_frames:
            results["num_frames"] = hidden.valid_BT.sum(dim=1)
        return results

    def _from_windows(
        self, layers: list[torch.Tensor], valid: torch.Tensor, lengths_B: npt.NDArray[np.int64]
    ) -> dict[str, TensorOutput]:
        """Return what `forward` returns, from the windows of all utterances one after the other."""
        counts = [int(length) for length in lengths_B]
        valid_by_row = by_utterance(valid, counts)
        by_layer = [by_utterance(layer, counts) for layer in layers]
        rows = [list(row) for row in zip(*by_layer, strict=True)]
        if not self.pooled:
            return {
                "frames": [torch.stack(row, dim=1) if self.stacked else row[0] for row in rows],
                "num_frames": torch.stack([valid_T.sum() for valid_T in valid_by_row]),
            }
        pooled = [
            torch.cat([pool(layer_TD[None], valid_T[None], self.pooling) for layer_TD in row])
            for row, valid_T in zip(rows, valid_by_row, strict=True)
        ]
        embedding_BND = torch.stack(pooled)
        return {"embedding": embedding_BND if self.stacked else embedding_BND[:, 0]}

    def join(self, parts: Sequence[Output], lengths: Sequence[int]) -> Output:
        """Frames one after the other; pooled embeddings as if all the pieces' frames had been pooled at once."""
        if not self.pooled:
            return super().join(parts, lengths)
        counts = [self.num_frames(length) for length in lengths]
        return {"embedding": join_pooled([part["embedding"] for part in parts], counts, self.pooling)}

    def cost(self, length: int) -> float:
        """Seconds of audio, and on top what the model's attention adds."""
        return self.family.cost(length)
