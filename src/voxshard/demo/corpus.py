"""Generator of a small spoofing-detection corpus: spoken digits from a formant synthesizer, in the ASVspoof 5 layout.

The "bona fide" voices have what a larynx does: pitch that wanders from cycle to cycle, breath, and loudness that
varies. The "spoofed" ones are the same voices after one of three attacks: D01 a steady, buzzy source; D02 phases thrown
away and estimated again (Griffin-Lim); D03 pitch and tempo changed; all three through a vocoder of less bandwidth.
Everything is noisy, and part of it went through a narrow band, so that telling them apart is neither trivial nor
hopeless. It contains no recordings of people; the corpus is as free as the code that makes it.

Vowel formants: Peterson and Barney, "Control methods used in a study of the vowels", JASA 24 (1952), averages for men.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import librosa
import numpy as np
import numpy.typing as npt
import soundfile
from librosa.effects import pitch_shift, time_stretch
from scipy.signal import butter, lfilter, sosfilt

from voxshard.progress import Progress

RATE = 16_000
FRAME = 80  # 5 ms, the step at which formants move
SPLITS = {  # name: letter, folder, protocol, voices, utterances per voice
    "train": ("T", "flac_T", "ASVspoof5.train.tsv", (0, 1, 2, 3, 4, 5), 50),
    "dev": ("D", "flac_D", "ASVspoof5.dev.track_1.tsv", (6, 7), 60),
    "eval": ("E", "flac_E_eval", "ASVspoof5.eval.track_1.tsv", (8, 9, 10), 60),
}
ATTACKS = ("D01", "D02", "D03")

# Phone: first three formants in Hz, voicing, frication, where frication is centred in Hz, seconds.
PHONES = {
    "IY": (270, 2290, 3010, 1.0, 0.0, 0, 0.14),
    "IH": (390, 1990, 2550, 1.0, 0.0, 0, 0.09),
    "EH": (530, 1840, 2480, 1.0, 0.0, 0, 0.11),
    "AH": (640, 1190, 2390, 1.0, 0.0, 0, 0.10),
    "AA": (730, 1090, 2440, 1.0, 0.0, 0, 0.11),
    "AO": (570, 840, 2410, 1.0, 0.0, 0, 0.14),
    "UH": (440, 1020, 2240, 1.0, 0.0, 0, 0.08),
    "UW": (300, 870, 2240, 1.0, 0.0, 0, 0.16),
    "R": (460, 1240, 1600, 0.8, 0.0, 0, 0.07),
    "W": (300, 700, 2200, 0.7, 0.0, 0, 0.07),
    "N": (280, 1500, 2500, 0.5, 0.0, 0, 0.09),
    "V": (300, 1200, 2400, 0.5, 0.2, 4000, 0.06),
    "Z": (300, 1500, 2500, 0.4, 0.5, 5500, 0.09),
    "S": (300, 1500, 2500, 0.0, 0.8, 5500, 0.11),
    "F": (300, 1200, 2400, 0.0, 0.3, 4000, 0.09),
    "TH": (300, 1400, 2500, 0.0, 0.3, 4500, 0.08),
    "T": (350, 1800, 2600, 0.0, 0.6, 4500, 0.03),
    "K": (350, 1700, 2300, 0.0, 0.5, 2500, 0.03),
    "-": (400, 1500, 2500, 0.0, 0.0, 0, 0.05),
}
DIGITS = (
    "Z IH R UH UW", "W AH N", "- T UW", "TH R IY", "F AO R",
    "F AA IH V", "S IH - K S", "S EH V AH N", "EH IH - T", "N AA IH N",
)  # fmt: skip

Samples = npt.NDArray[np.float64]


def speak(digit: int, voice: int, rng: np.random.Generator, *, natural: bool) -> Samples:
    """Synthesize one digit in one voice, with samples in [-1, 1]."""
    own = np.random.default_rng(1000 + voice)
    tract, pitch_hz, pace = own.uniform(0.9, 1.12), own.uniform(95, 220), own.uniform(0.85, 1.2)
    phones = [PHONES[name] for name in DIGITS[digit].split()]
    lengths = [max(3, round(phone[6] * pace * rng.uniform(0.85, 1.2) * RATE / FRAME)) for phone in phones]
    track = np.repeat(np.array([phone[:6] for phone in phones], float), lengths, axis=0)
    kernel = np.hanning(9) / np.hanning(9).sum()
    track = np.stack([np.convolve(np.pad(row, 4, "edge"), kernel, "valid") for row in track.T], axis=1)
    source = _larynx(track[:, 3], pitch_hz * rng.uniform(0.92, 1.08), rng, natural=natural)
    voiced = _formants(source, track[:, :3] * tract, rng.uniform(0.9, 1.1))
    return _normalised(voiced + _friction(track[:, 4], track[:, 5], rng))


def _larynx(voicing: Samples, pitch_hz: float, rng: np.random.Generator, *, natural: bool) -> Samples:
    """Return glottal pulses; natural ones vary in pitch and strength and contain breath noise."""
    count = len(voicing) * FRAME
    fall = np.linspace(1.08, 0.88, count) if natural else np.ones(count)
    wander = np.convolve(rng.standard_normal(count), np.ones(800) / 28, "same") * (0.05 if natural else 0.004)
    phase = np.cumsum(pitch_hz * fall * (1 + wander) / RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    pulses *= 1 + (0.18 if natural else 0.03) * rng.standard_normal(count)
    tilt = 0.94 if natural else 0.91
    flow = lfilter([1 - tilt], [1, -2 * tilt, tilt * tilt], pulses)
    breath = rng.standard_normal(count) * (0.05 if natural else 0.004)
    return np.asarray((flow + breath) * np.repeat(voicing, FRAME))


def _formants(source: Samples, formants_hz: Samples, width: float) -> Samples:
    """Filter a signal by three moving resonances and a fixed fourth one, in series."""
    signal = source
    fourth = np.full(len(formants_hz), 3500.0)
    for formant_hz, bandwidth_hz in zip([*formants_hz.T, fourth], (70, 100, 150, 250), strict=True):
        radius = np.exp(-np.pi * bandwidth_hz * width / RATE)
        state, pieces = np.zeros(2), []
        for frame, centre_hz in zip(signal.reshape(-1, FRAME), formant_hz, strict=True):
            a = [1, -2 * radius * np.cos(2 * np.pi * min(centre_hz, 7000) / RATE), radius**2]
            piece, state = lfilter([sum(a)], a, frame, zi=state)
            pieces.append(piece)
        signal = np.concatenate(pieces)
    return np.diff(signal, prepend=0.0) * 6


def _friction(strength: Samples, centre_hz: Samples, rng: np.random.Generator) -> Samples:
    noise = rng.standard_normal(len(strength) * FRAME)
    if not strength.any():
        return np.zeros_like(noise)
    centre = float(np.average(centre_hz, weights=strength))
    band = butter(2, [max(500, centre - 1500), min(7800, centre + 2000)], "bandpass", fs=RATE, output="sos")
    return np.asarray(sosfilt(band, noise)) * np.repeat(strength, FRAME) * 0.05


def attacked(digit: int, voice: int, attack: str, rng: np.random.Generator) -> Samples:
    """Synthesize one digit as an attack of the given kind, through a vocoder of limited bandwidth."""
    vocoder_rate = int(rng.choice([9_000, 10_000, 11_025, 13_000]))
    rendered = _rendered(digit, voice, attack, rng)
    narrow = librosa.resample(rendered, orig_sr=RATE, target_sr=vocoder_rate)
    return _normalised(librosa.resample(narrow, orig_sr=vocoder_rate, target_sr=RATE))


def _rendered(digit: int, voice: int, attack: str, rng: np.random.Generator) -> Samples:
    if attack == "D01":
        return speak(digit, voice, rng, natural=False)
    speech = speak(digit, voice, rng, natural=True)
    if attack == "D02":
        magnitude = np.abs(librosa.stft(speech, n_fft=512, hop_length=128))
        return np.asarray(librosa.griffinlim(magnitude, n_iter=2, hop_length=128, n_fft=512, random_state=0))
    shifted = pitch_shift(speech, sr=RATE, n_steps=float(rng.choice([-4, -3, 3, 4])))
    return np.asarray(time_stretch(shifted, rate=float(rng.uniform(0.85, 1.2))))


def _normalised(samples: Samples) -> Samples:
    return 0.5 * samples / max(float(np.abs(samples).max()), 1e-9)


def transmitted(samples: Samples, codec: str, rng: np.random.Generator) -> Samples:
    """Add a room's noise and, for C01, apply a telephone's band."""
    pause = rng.integers(200, 2400, 2)
    samples = np.pad(samples, (int(pause[0]), int(pause[1]))) * rng.uniform(0.2, 1.0)
    snr_db = rng.uniform(30, 48)
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-snr_db / 20)
    samples = samples + level * rng.standard_normal(len(samples))
    if codec == "C01":
        samples = np.asarray(sosfilt(butter(4, [300, 3400], "bandpass", fs=RATE, output="sos"), samples))
    return np.clip(samples, -1, 1)


def utterances(split: str) -> Iterator[tuple[str, str, Samples]]:
    """Yield file name, protocol line and samples of each utterance of a split."""
    letter, _, _, voices, count = SPLITS[split]
    for voice in voices:
        for number in range(count):
            rng = np.random.default_rng([voice, number])
            name = f"{letter}_{voice:04d}{number:06d}"
            attack = "-" if number % 2 else ATTACKS[number // 2 % 3]
            codec = "C01" if split != "train" and number % 5 == 0 else "-"
            digit = int(rng.integers(10))
            spoken = speak(digit, voice, rng, natural=True) if attack == "-" else attacked(digit, voice, attack, rng)
            key = "bonafide" if attack == "-" else "spoof"
            quality, seed = ("4", name) if codec != "-" else ("-", "-")
            gender = "F" if voice % 2 else "M"
            tag = "-" if attack == "-" else f"A{attack}"
            label = "bonafide" if attack == "-" else attack
            line = f"{letter}_V{voice} {name} {gender} {codec} {quality} {seed} {tag} {label} {key} -"
            yield name, line, transmitted(spoken, codec, rng)


def write_corpus(out: Path, progress: Progress) -> None:
    """Write the corpus into a folder; a complete corpus remains unchanged."""
    finished = out / "FINISHED"
    if finished.exists():
        return
    progress.begin("making the corpus", items=sum(len(voices) * count for *_, voices, count in SPLITS.values()))
    for split, (_, folder, protocol, _, _) in SPLITS.items():
        (out / folder).mkdir(parents=True, exist_ok=True)
        lines = []
        for name, line, samples in utterances(split):
            soundfile.write(out / folder / f"{name}.flac", samples, RATE)
            lines.append(line)
            progress.advance()
        (out / protocol).write_text("\n".join(lines) + "\n")
    finished.touch()
