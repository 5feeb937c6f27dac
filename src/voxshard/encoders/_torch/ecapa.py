"""The `ecapa` encoder: SpeechBrain's ECAPA-TDNN from its checkpoint alone, exact in padded batches.

Suffixes: B utterances, C channels, F frames, T frames of the padded batch, M mel bands.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from torch import nn

from voxshard.encoders._torch.base import TorchEncoder
from voxshard.encoders._torch.masking import ValidFrames
from voxshard.encoders._torch.torch_files import read_tensors
from voxshard.encoders.base import KnownHashes, describe
from voxshard.encoders.ecapa import CHECKPOINT, EcapaSettings
from voxshard.encoders.filterbanks import HOP_SAMPLES, SpeechBrainFbank
from voxshard.encoders.weight_files import hash_files, locate
from voxshard.errors import CorruptFileError

_CODE_VERSION = 1


class EcapaEncoder(TorchEncoder):
    """Encoder with one speaker embedding per utterance."""

    settings_model = EcapaSettings
    settings: EcapaSettings

    def __init__(self, name: str, settings: EcapaSettings, known_hashes: KnownHashes) -> None:
        self.settings = settings
        self.folder = locate(name, settings.weights, required=(CHECKPOINT,))
        self.sizes = sizes_of(read_tensors(self.folder / CHECKPOINT, "meta"), where=self.folder / CHECKPOINT)
        self.preparer = SpeechBrainFbank(num_mels=self.sizes["input_size"])
        # Reflection at the end of an utterance needs one frame more than it fills.
        self.reach = max(_reaches(self.sizes["kernel_sizes"], self.sizes["dilations"]))
        rate, seconds = self.preparer.sample_rate, settings.chunk_seconds
        self.info = describe(
            name=name,
            settings=settings,
            code_version=_CODE_VERSION,
            libraries=("torch", "speechbrain"),
            weight_files=hash_files(self.folder, settings.weight_files(self.folder), known_hashes),
            weights_folder=self.folder,
            requires=("torch", "speechbrain"),
            needs_gpu=True,
            sample_rate=rate,
            dim=self.sizes["lin_neurons"],
            granularity="utterance",
            batch_policy="padded",
            min_samples=self.reach * HOP_SAMPLES,
            chunk_samples=None if seconds is None else round(seconds * rate),
        )

    def build(self) -> nn.Module:
        """The network with its weights, and reflection that knows where each utterance ends."""
        path = self.folder / CHECKPOINT
        network = ECAPA_TDNN(**self.sizes)
        try:
            network.load_state_dict(read_tensors(path), strict=True)
        except RuntimeError as exc:
            raise CorruptFileError(f"{path}: does not fit the sizes read from it: {exc}") from exc
        self.reflection = ReflectAtEnd(network)
        return network  # type: ignore[no-any-return]

    def forward(self, features_BTM: torch.Tensor, lengths_B: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Return "embedding" (B, D)."""
        padded_BTM = nn.functional.pad(features_BTM, (0, 0, 0, self.reach))  # room for the longest one's reflection
        num_frames_B = self.lengths_on_device(lengths_B)
        self.reflection.valid.num_frames_B = num_frames_B
        # SpeechBrain counts frames t < relative * T. F / T may come out just above F in float32; half a frame less
        # never miscounts.
        relative_B = (num_frames_B.float() - 0.5) / padded_BTM.shape[1]
        return {"embedding": self.model(padded_BTM, relative_B)[:, 0]}

    def cost(self, length: int) -> float:
        """Seconds of audio; a feature row is 10 ms."""
        return length * HOP_SAMPLES / self.info.sample_rate


class ReflectAtEnd:
    """Before every convolution, continues each utterance by its mirror image where the padding begins.

    SpeechBrain's convolutions pad by reflection, which in a padded batch reflects padding instead of speech: cosine
    similarities to the embedding of the file alone fall to 0.94.
    """

    def __init__(self, network: nn.Module) -> None:
        self.valid = ValidFrames()
        """To be set before each batch."""
        for module in network.modules():
            reach = (
                getattr(module, "dilation", 1) * (getattr(module, "kernel_size", 1) - 1) // 2 if _pads(module) else 0
            )
            if reach:
                module.register_forward_pre_hook(self._filler(reach))

    def _filler(self, reach: int) -> Any:
        def fill(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            num_frames_B = self.valid.num_frames_B
            assert num_frames_B is not None
            x_BCT = inputs[0]
            beyond = torch.arange(reach, device=x_BCT.device)
            shape = (*x_BCT.shape[:2], reach)
            targets = (num_frames_B[:, None] + beyond)[:, None].expand(shape)
            sources = (num_frames_B[:, None] - 2 - beyond)[:, None].expand(shape)
            return (x_BCT.scatter(2, targets, x_BCT.gather(2, sources)), *inputs[1:])

        return fill


def _pads(module: nn.Module) -> bool:
    """Whether a module is one of SpeechBrain's convolutions, which pad their own input."""
    return getattr(module, "padding_mode", None) == "reflect"


def _reaches(kernels: Iterable[int], dilations: Iterable[int]) -> list[int]:
    return [dilation * (kernel - 1) // 2 for kernel, dilation in zip(kernels, dilations, strict=True)]


def sizes_of(state: dict[str, torch.Tensor], *, where: Path) -> dict[str, Any]:
    """Return the arguments of ECAPA_TDNN that fit a checkpoint, from the shapes of its tensors.

    Dilations leave no trace in shapes; they follow the paper: 1, then 2, 3, 4, ... per block, and 1 at the end
    (https://arxiv.org/abs/2005.07143, section 3, and SpeechBrain's defaults).

    Raises
    ------
    CorruptFileError : not the tensors of an ECAPA-TDNN.
    """
    try:
        blocks = sorted({int(name.split(".")[1]) for name in state if name.startswith("blocks.")})
        inner = blocks[1:]
        first, mfa = state["blocks.0.conv.conv.weight"].shape, state["mfa.conv.conv.weight"].shape
        res2net = [
            name for name in state if name.startswith("blocks.1.res2net_block.") and name.endswith("conv.conv.weight")
        ]
        attention = state["asp.tdnn.conv.conv.weight"].shape
        return {
            "input_size": first[1],
            "channels": [first[0], *(state[f"blocks.{n}.tdnn2.conv.conv.weight"].shape[0] for n in inner), mfa[0]],
            "kernel_sizes": [
                first[2],
                *(state[f"blocks.{n}.res2net_block.blocks.0.conv.conv.weight"].shape[2] for n in inner),
                mfa[2],
            ],
            "dilations": [1, *range(2, len(inner) + 2), 1],
            "attention_channels": attention[0],
            "res2net_scale": len(res2net) + 1,
            "se_channels": state["blocks.1.se_block.conv1.conv.weight"].shape[0],
            "global_context": attention[1] == 3 * mfa[0],
            "lin_neurons": state["fc.conv.weight"].shape[0],
        }
    except (KeyError, IndexError, ValueError) as exc:
        raise CorruptFileError(f"{where}: not an ECAPA-TDNN checkpoint: no tensor {exc}") from exc
