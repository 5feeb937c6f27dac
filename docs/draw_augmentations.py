"""Draw docs/images/augmentations.png: `python docs/draw_augmentations.py`, with the extras torch and report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import soundfile

from voxshard.learning._torch.augmentation import Augmenter
from voxshard.learning.augment_config import AugmentSettings
from voxshard.networks.inputs import MelPatches

RATE = 16000
TARGET = Path(__file__).parent / "images" / "augmentations.png"
STRENGTHS: dict[str, Any] = {
    "time_shift": 0.4, "speed": 0.3, "pitch": 5, "stretch": 0.3, "gain": 20, "mixup": 8, "noise": 0.5,
    "background": 0.9, "cut_out": 0.4, "trim": 0.1, "frequency_mask": 0.3, "time_mask": 0.3, "spectrogram_noise": 0.5,
}  # fmt: skip


def sweep(low: float, high: float, seconds: float = 1.0) -> np.ndarray:
    """A tone that rises from one frequency (Hz) to the other, silent at both ends."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = 0.5 * np.sin(2 * np.pi * (low * time + (high - low) / (2 * seconds) * time**2))
    wave += 0.25 * np.sin(2 * np.pi * 2.1 * (low * time + (high - low) / (2 * seconds) * time**2))
    quiet = np.zeros(int(0.15 * RATE))
    return np.concatenate([quiet, wave, quiet]).astype(np.float32)


def main() -> None:
    """One panel per effect, next to the signal as it was."""
    front_end = MelPatches(RATE, 64, 1024, 128, 170, logarithm=True)
    wave, other = sweep(300, 1500), sweep(4000, 500)
    with tempfile.TemporaryDirectory() as folder:
        soundfile.write(Path(folder) / "hum.wav", sweep(2500, 2500, 2.0), RATE)
        panels = {"as it was": front_end(wave)[0]}
        for name, strength in STRENGTHS.items():
            value = {"folder": folder, "strength": strength} if name == "background" else strength
            augmenter = Augmenter(AugmentSettings.model_validate({name: value}), RATE)
            generator = np.random.default_rng(2 if name in ("speed", "stretch", "gain", "pitch") else 4)
            label = np.array([1.0, 0.0], np.float32)
            changed, label = augmenter.waveform(
                wave, label, lambda _: (other, np.array([0.0, 1.0], np.float32)), generator
            )
            features = front_end(np.pad(changed, (0, max(0, 170 * 128 - len(changed))))[: 170 * 128])[0]
            title = f"{name} {strength}" + (f": labels {label[0]:.2f}, {label[1]:.2f}" if name == "mixup" else "")
            panels[title] = augmenter.spectrogram(features, generator)
    figure, axes = plt.subplots(2, 7, figsize=(14, 4), sharex=True, sharey=True, layout="constrained")
    for axis, (title, features) in zip(axes.flat, panels.items(), strict=True):
        axis.imshow(features.T, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=14)
        axis.set_title(title, fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    TARGET.parent.mkdir(exist_ok=True)
    figure.savefig(TARGET, dpi=90)


if __name__ == "__main__":
    main()
