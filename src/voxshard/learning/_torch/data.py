"""Batches from a manifest or a stored set, read and prepared in worker processes in the same way as in extraction.

Letters: U utterances, S samples, L feature length, B utterances of a batch, C outputs.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Sampler

from voxshard import audio
from voxshard.cpus import available_cpus
from voxshard.encoders.base import BatchPolicy, ClipSettings, Features, Waveform
from voxshard.encoders.batching import collate, make_batches
from voxshard.errors import TooShortError, UtteranceError
from voxshard.learning._torch.augmentation import Augmenter
from voxshard.learning.network_config import TrainingClipSettings
from voxshard.learning.stored_logmel import StoredLogMel
from voxshard.manifest import Manifest, Utterance
from voxshard.networks.inputs import into_patches

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]
Key: TypeAlias = tuple[int, int]
"""Epoch and row; the epoch decides random crops and augmentation. -1: evaluation, nothing random."""
EVALUATION = -1
_UNKNOWN_S = 10.0
"""Assumed duration, in seconds, of a recording that was not probed, when batches are made."""


@dataclass(frozen=True)
class Item:
    """One recording, prepared for the network."""

    row: int
    features: Features
    target_C: Floats


@dataclass(frozen=True)
class Unusable:
    """A recording that cannot be used, with the reason."""

    row: int
    error: str
    message: str


@dataclass(frozen=True)
class AudioBatch:
    """Prepared recordings of one training step."""

    rows: Ints
    features: torch.Tensor
    """Padded features; see `voxshard.encoders.batching.collate`."""
    lengths_B: Ints
    targets_BC: torch.Tensor
    unusable: Sequence[Unusable]

    def pin_memory(self) -> AudioBatch:
        """Return the batch in page-locked memory; called by the data loader."""
        return replace(self, features=self.features.pin_memory(), targets_BC=self.targets_BC.pin_memory())


@dataclass(frozen=True, kw_only=True)
class AudioDataset(ABC):
    """PyTorch dataset of utterances, `examples[epoch, row]`. Subclasses define where the features come from."""

    utterances: Sequence[Utterance]
    targets_UC: Floats
    clip: TrainingClipSettings
    seed: int
    augmenter: Augmenter | None = None
    partners: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """Rows from which mixup draws the other recording."""

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, key: Key) -> Item | Unusable:
        epoch, row = key
        augmenter = self.augmenter if epoch != EVALUATION else None
        generator = np.random.default_rng([self.seed, epoch + 1, row])
        try:
            features, target_C = self.features(epoch, row, augmenter, generator)
        except UtteranceError as exc:
            return Unusable(row, type(exc).__name__, str(exc))
        if augmenter is not None:
            features = augmenter.spectrogram(features, generator)
        return Item(row, np.asarray(features, np.float32), np.asarray(target_C, np.float32))

    @abstractmethod
    def features(
        self, epoch: int, row: int, augmenter: Augmenter | None, generator: np.random.Generator
    ) -> tuple[Features, Floats]:
        """Return the cropped input of the network for one utterance, and its labels.

        Raises
        ------
        UtteranceError : it cannot be used.
        """

    def clip_of(self, epoch: int, *, pad: bool = True) -> ClipSettings:
        """Return the clip settings for an epoch."""
        clip = self.clip
        changes: dict[str, object] = {}
        if epoch != EVALUATION:
            changes = {"crop": "random", "seed": _mix(self.seed, epoch)}
        if not pad:
            changes |= {"pad": "none", "min_seconds": None}
        return ClipSettings(**clip.model_dump(include=set(ClipSettings.model_fields)) | changes)


@dataclass(frozen=True, kw_only=True)
class Recordings(AudioDataset):
    """Dataset that reads the utterances of a manifest from their recordings."""

    root: str
    sample_rate: int
    min_samples: int
    preparer: Callable[[Waveform], Features] | None

    @classmethod
    def of(cls, manifest: Manifest, targets_UC: Floats, backbone: Any, **settings: Any) -> Recordings:
        """Return the dataset for a network's backbone, with its sample rate and its features."""
        return cls(
            utterances=list(manifest.utterances()),
            root=manifest.root,
            targets_UC=targets_UC,
            sample_rate=backbone.sample_rate,
            min_samples=backbone.min_samples,
            preparer=backbone.preparer,
            **settings,
        )

    def features(
        self, epoch: int, row: int, augmenter: Augmenter | None, generator: np.random.Generator
    ) -> tuple[Features, Floats]:
        target_C = self.targets_UC[row]
        if augmenter is not None and augmenter.settings.on_waveform:
            waveform = self._read(epoch, row, pad=False)

            def partner(drawing: np.random.Generator) -> tuple[Waveform, Floats] | None:
                other = int(drawing.choice(self.partners))
                try:
                    return self._read(epoch, other, pad=False), self.targets_UC[other]
                except UtteranceError:
                    return None

            waveform, target_C = augmenter.waveform(waveform, target_C, partner, generator)
            name = self.utterances[row].utterance_id
            clip = self.clip_of(epoch)
            waveform = audio.fit(waveform, sample_rate=self.sample_rate, clip=clip, utterance_id=name)
        else:
            waveform = self._read(epoch, row, pad=True)
        if len(waveform) < self.min_samples:
            raise TooShortError(
                f"{len(waveform)} samples at {self.sample_rate} Hz; this network needs at least {self.min_samples}; "
                "clip.min_seconds with clip.pad=repeat fills short recordings up"
            )
        features = waveform if self.preparer is None else np.ascontiguousarray(self.preparer(waveform))
        return features, target_C

    def _read(self, epoch: int, row: int, *, pad: bool) -> Waveform:
        utterance = self.utterances[row]
        clip = audio.read_with_retries(
            audio.resolve(self.root, utterance.path),
            sample_rate=self.sample_rate,
            clip=self.clip_of(epoch, pad=pad),
            utterance_id=utterance.utterance_id,
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            problem=utterance.problem,
        )
        return clip.waveform


@dataclass(frozen=True, kw_only=True)
class StoredPatches(AudioDataset):
    """Dataset of the utterances of a stored `logmel` set, in patches."""

    stored: StoredLogMel
    patch_frames: int

    def features(
        self, epoch: int, row: int, augmenter: Augmenter | None, generator: np.random.Generator
    ) -> tuple[Features, Floats]:
        frames_FM = self.stored.frames(row, self.utterances[row], self.clip_of(epoch))
        return into_patches(frames_FM, self.patch_frames), self.targets_UC[row]


def _mix(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:6], "big")


def collate_batch(items: Sequence[Item | Unusable], policy: BatchPolicy) -> AudioBatch:
    """Combine recordings into a batch; unusable ones are listed separately."""
    usable = [item for item in items if isinstance(item, Item)]
    unusable = [item for item in items if isinstance(item, Unusable)]
    if not usable:
        empty = np.empty(0, np.int64)
        return AudioBatch(empty, torch.empty(0), empty, torch.empty(0), unusable)
    features, lengths_B = collate([item.features for item in usable], policy)
    rows = np.array([item.row for item in usable], np.int64)
    targets_BC = torch.from_numpy(np.stack([item.target_C for item in usable]))
    return AudioBatch(rows, torch.from_numpy(features), lengths_B, targets_BC, unusable)


class ResumableBatchSampler(Sampler[list[Key]]):  # type: ignore[misc]  # torch is Any where it is not installed
    """Batches of an epoch, which depend only on seed and epoch, so that a training can resume in an epoch.

    `position` is the epoch and the number of its batches are done already; `rank` and `world` are this process's
    share of every batch. All three are set when the training starts.

    Parameters
    ----------
    durations : of `rows`, for batches of recordings of like length; None: random batches.
    """

    def __init__(
        self, rows: Ints, batch_size: int, seed: int, durations: npt.NDArray[np.float64] | None = None
    ) -> None:
        self.rows, self.batch_size, self.seed, self.durations = rows, batch_size, seed, durations
        self.position: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.rank, self.world = 0, 1

    def __len__(self) -> int:
        """Return the number of complete batches, or 1 if there are fewer rows than that. A smaller remainder is used in
        other epochs."""
        return max(1, len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, start = self.position()
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.rows))[: len(self) * self.batch_size]
        if self.durations is not None:
            order = order[np.argsort(self.durations[order], kind="stable")]
        batches = np.array_split(order, len(self))
        if self.durations is not None:
            batches = [batches[number] for number in generator.permutation(len(self))]
        for batch in batches[start:]:
            yield [(epoch, int(self.rows[place])) for place in batch[self.rank :: self.world]]


class EpisodeOrder(Sampler[list[Key]]):  # type: ignore[misc]
    """Episodes for prototypical training: the support and query recordings of each drawn class, class by class.

    `position`, `rank` and `world` as in `ResumableBatchSampler`; every process has its own episodes.

    Parameters
    ----------
    classes : class numbers of `rows`.
    size : recordings per class, support and query together.
    """

    def __init__(self, rows: Ints, classes: Ints, ways: int, size: int, num_episodes: int, seed: int) -> None:
        self.by_class = [rows[classes == number] for number in np.unique(classes)]
        self.ways, self.size, self.num_episodes, self.seed = ways, size, num_episodes, seed
        self.position: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.rank, self.world = 0, 1

    def __len__(self) -> int:
        return self.num_episodes

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, start = self.position()
        for number in range(start, self.num_episodes):
            generator = np.random.default_rng([self.seed, epoch, number, self.rank])
            drawn = generator.permutation(len(self.by_class))[: self.ways]
            yield [
                (epoch, int(row)) for place in drawn for row in generator.permutation(self.by_class[place])[: self.size]
            ]


def loader(
    examples: AudioDataset,
    batches: Sampler[list[Key]] | list[list[Key]],
    policy: BatchPolicy,
    num_workers: int,
    device: torch.device,
) -> DataLoader[Any]:
    """Make a data loader over batches of keys. Workers are forked once and prefetch two batches each. For a GPU,
    batches are in pinned memory, so that copies do not block the host."""
    return DataLoader(
        examples,  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=functools.partial(collate_batch, policy=policy),
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        persistent_workers=num_workers > 0 and isinstance(batches, Sampler),
        worker_init_fn=_one_thread if num_workers else None,
        generator=torch.Generator().manual_seed(0),  # else every pass would draw from the generator dropout uses
    )


def _one_thread(_worker: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def default_workers() -> int:
    """Return the number of available CPUs except the one that trains."""
    return max(0, available_cpus() - 1)


def evaluation_batches(examples: AudioDataset, rows: Ints, budget_s: float) -> list[list[Key]]:
    """Group recordings of similar length into batches of up to `budget_s` seconds of audio."""
    longest_s = examples.clip.max_seconds or math.inf
    durations = [examples.utterances[row].duration_s for row in rows]
    milliseconds = [max(1, round(1000 * min(_UNKNOWN_S if value is None else value, longest_s))) for value in durations]
    grouped = make_batches(milliseconds, "padded", lambda length: length / 1000, budget_s)
    return [[(EVALUATION, int(rows[place])) for place in batch] for batch in grouped]
