"""A corpus of noises in the published layout of ASVspoof 5, so that no test needs recordings from elsewhere."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[2]
SPLITS = {
    "T": ("flac_T", "ASVspoof5.train.tsv"),
    "D": ("flac_D", "ASVspoof5.dev.track_1.tsv"),
    "E": ("flac_E_eval", "ASVspoof5.eval.track_1.tsv"),
}
SIZES = {"T": 180, "D": 100, "E": 140}
VERSION = 1
"""Increase it whenever `write` changes what it writes: an earlier corpus is then not used again."""


def write(root: Path, sizes: dict[str, int]) -> None:
    """Write recordings of 0.6 to 2.4 s; bona fide ones are louder at low frequencies.

    Parameters
    ----------
    root : an empty folder.
    sizes : number of recordings of each split, under the letters of `SPLITS`.
    """
    rng = np.random.default_rng(0)
    for letter, (folder, protocol) in SPLITS.items():
        (root / folder).mkdir()
        lines = []
        for number in range(sizes[letter]):
            name = f"{letter}_{number:010d}"
            noise = rng.standard_normal(int(16000 * rng.uniform(0.6, 2.4)))
            if number % 2:
                noise = np.convolve(noise, np.ones(8) / 3, "same")
            soundfile.write(root / folder / f"{name}.flac", 0.1 * noise, 16000)
            key = "bonafide" if number % 2 else "spoof"
            codec = "C05 4 " + name if letter != "T" and number % 3 == 0 else "- - -"
            attack = "- bonafide" if number % 2 else "AC1 A01"
            lines.append(f"{letter}_{number % 3} {name} F {codec} {attack} {key} -")
        (root / protocol).write_text("\n".join(lines) + "\n")


def kept() -> Path:
    """The corpus of 420 recordings (about ten minutes), written once for all tests of this checkout."""
    place = ROOT / "build" / "tests" / f"asvspoof5-{VERSION}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=place.parent))
        draft.chmod(0o755)
        write(draft, SIZES)
        try:
            draft.rename(place)
        except OSError:  # another worker was faster
            if not place.exists():
                raise
    return place
