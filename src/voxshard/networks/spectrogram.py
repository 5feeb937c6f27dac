"""Convolutional networks for small training sets, on spectrogram patches. Suffixes: P patches, T frames, M mel bands, C
channels.

Three shapes compared by Pons, Serrà and Serra, "Training neural audio classifiers with few data" (arXiv 1810.10274),
here with batch normalisation after every convolution.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from voxshard.networks.settings import SpectrogramSettings


class LearnedLog(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """Compression log(a x + b) with positive learned a and b, initially log(10000 x + 1) (Pons et al., section 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.tensor(10000.0).log())
        self.log_b = nn.Parameter(torch.tensor(0.0))

    def forward(self, power: torch.Tensor) -> torch.Tensor:
        return torch.log(self.log_a.exp() * power + self.log_b.exp())


class Flat(nn.Module):  # type: ignore[misc]
    """Convolutions, followed by one dense layer over the remaining patch."""

    def __init__(self, convolutions: nn.Module, settings: SpectrogramSettings) -> None:
        super().__init__()
        self.convolutions = convolutions
        with torch.no_grad():
            size = convolutions.eval()(torch.zeros(1, 1, settings.patch_frames, settings.num_mels)).flatten(1).shape[1]
        self.dense = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(size, settings.embedding_size))

    def forward(self, patches_PTM: torch.Tensor) -> torch.Tensor:
        """Map (P, T, M) to (P, embedding size)."""
        return self.dense(self.convolutions(patches_PTM[:, None]).flatten(1))


def sbcnn(settings: SpectrogramSettings) -> nn.Module:
    """Build the SB-CNN of Salamon and Bello (arXiv 1608.04363): three 5 x 5 convolutions, two poolings of 4 x 2."""
    channels = settings.channels
    return Flat(
        nn.Sequential(
            *_convolution(1, channels, 5),
            nn.MaxPool2d((4, 2)),
            *_convolution(channels, 2 * channels, 5),
            nn.MaxPool2d((4, 2)),
            *_convolution(2 * channels, 2 * channels, 5),
        ),
        settings,
    )


def vgg(settings: SpectrogramSettings) -> nn.Module:
    """Build five 3 x 3 convolutions, each followed by 2 x 2 pooling."""
    sizes = [1, *(settings.channels * factor for factor in (1, 1, 2, 2, 2))]
    layers = [
        layer
        for before, after in itertools.pairwise(sizes)
        for layer in (*_convolution(before, after, 3), nn.MaxPool2d(2))
    ]
    return Flat(nn.Sequential(*layers), settings)


class Timbre(nn.Module):  # type: ignore[misc]
    """Filters that are as high as most of the spectrum and few frames wide; each measures how strongly its timbre
    occurs anywhere."""

    def __init__(self, settings: SpectrogramSettings) -> None:
        super().__init__()
        heights = [int(settings.num_mels * part) for part in (0.85, 0.67)]  # 108 and 86 of 128 bands
        self.filters = nn.ModuleList(
            nn.Sequential(*_convolution(1, settings.channels, (width, height), padding=(width // 2, 0)))
            for height in heights
            for width in (1, 3, 7)
        )
        size = len(self.filters) * settings.channels
        self.dense = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(size, settings.embedding_size))

    def forward(self, patches_PTM: torch.Tensor) -> torch.Tensor:
        """Map (P, T, M) to (P, embedding size)."""
        found = [convolution(patches_PTM[:, None]).amax(dim=(2, 3)) for convolution in self.filters]
        return self.dense(torch.cat(found, dim=1))


ARCHITECTURES = {"sbcnn": sbcnn, "timbre": Timbre, "vgg": vgg}


def _convolution(
    before: int, after: int, kernel: int | tuple[int, int], padding: tuple[int, int] | None = None
) -> list[nn.Module]:
    if padding is None:
        assert isinstance(kernel, int)
        padding = (kernel // 2, kernel // 2)
    return [nn.Conv2d(before, after, kernel, padding=padding, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
