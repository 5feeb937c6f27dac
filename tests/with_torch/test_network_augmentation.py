"""Every augmentation does what its strength specifies, on signals where one can tell."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import soundfile

from support.network_trials import network_config, tone_corpus

pytest.importorskip("torch")

from voxshard.errors import ConfigError
from voxshard.learning._torch.augmentation import Augmenter, play
from voxshard.learning._torch.data import EVALUATION, Item, Recordings
from voxshard.learning.augment_config import AugmentSettings
from voxshard.learning.network_config import TrainingClipSettings
from voxshard.manifest import Manifest
from voxshard.networks.inputs import TorchaudioMfcc

RATE = 16000
TARGET = np.array([1.0, 0.0], np.float32)
OTHER = np.array([0.0, 1.0], np.float32)


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def pitch_of(wave: np.ndarray) -> float:
    """Frequency of the loudest component, in Hz."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(spectrum.argmax() * RATE / len(wave))


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def augmented(wave: np.ndarray, seed: int = 0, **effects: Any) -> np.ndarray:
    augmenter = Augmenter(AugmentSettings.model_validate(effects), RATE)
    return augmenter.waveform(wave, TARGET, lambda _: (tone(3000.0), OTHER), np.random.default_rng(seed))[0]


SEEDS = range(12)


def test_a_time_shift_rolls_by_at_most_what_it_says_to_either_side() -> None:
    wave = np.zeros(RATE, np.float32)
    wave[8000] = 1.0
    places = [int(augmented(wave, seed, time_shift=0.1).argmax()) - 8000 for seed in SEEDS]
    assert max(map(abs, places)) <= 1600
    assert min(places) < -300
    assert max(places) > 300
    assert len(set(places)) == len(places)


def test_speed_changes_pitch_and_length_together() -> None:
    np.testing.assert_allclose(len(play(tone(440.0), 1.25)), RATE / 1.25, atol=2)
    assert abs(pitch_of(play(tone(440.0), 1.25)) - 550) < 2
    for seed in SEEDS:
        wave = augmented(tone(440.0), seed, speed=0.2)
        assert abs(pitch_of(wave) * len(wave) - 440 * RATE) < 1.5 * RATE
        assert RATE / 1.2 - 2 <= len(wave) <= RATE / 0.8 + 2


def test_pitch_moves_by_at_most_so_many_semitones_and_keeps_the_length() -> None:
    moved = []
    for seed in SEEDS:
        wave = augmented(tone(440.0), seed, pitch=3)
        assert len(wave) == RATE
        moved.append(12 * np.log2(pitch_of(wave) / 440))
    assert max(map(abs, moved)) < 3.1
    assert max(moved) - min(moved) > 2


def test_stretching_changes_the_length_and_keeps_the_pitch() -> None:
    lengths = []
    for seed in SEEDS:
        wave = augmented(tone(440.0), seed, stretch=0.2)
        assert abs(pitch_of(wave) - 440) < 5
        lengths.append(len(wave) / RATE)
    assert 0.79 < min(lengths) < 0.95
    assert 1.05 < max(lengths) < 1.21


def test_gain_is_a_factor_of_at_most_so_many_decibel() -> None:
    gains = [20 * np.log10(rms(augmented(tone(440.0), seed, gain=6)) / rms(tone(440.0))) for seed in SEEDS]
    assert max(map(abs, gains)) <= 6.001
    assert min(gains) < -2 < 2 < max(gains)


def test_noise_is_at_most_so_strong_relative_to_the_recording() -> None:
    wave = tone(440.0)
    shares = [rms(augmented(wave, seed, noise=0.1) - wave) / rms(wave) for seed in SEEDS]
    assert 0.0095 < min(shares) < 0.03
    assert 0.03 < max(shares) < 0.104


def test_background_is_a_piece_of_a_recording_from_the_folder(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", tone(1000.0, 3.0), RATE)
    wave = tone(440.0)
    shares = []
    for seed in SEEDS:
        added = augmented(wave, seed, background={"folder": tmp_path, "strength": 0.5}) - wave
        assert abs(pitch_of(added) - 1000) < 2
        shares.append(rms(added) / rms(wave))
    assert min(shares) < 0.2 < 0.3 < max(shares) <= 0.501


def test_a_background_folder_without_recordings_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"^augment.background.folder {re.escape(str(tmp_path))}: no audio files in it$"
    ):
        augmented(tone(440.0), background={"folder": tmp_path, "strength": 0.5})


def test_a_background_file_that_cannot_be_read_is_named_and_no_recording_blamed(tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"not audio")
    with pytest.raises(ConfigError, match=r"^augment.background.folder: /.*/noise.wav: .*; take it out of the folder$"):
        augmented(tone(440.0), background={"strength": 0.3, "folder": tmp_path})


@pytest.mark.parametrize("effect", ["pitch", "stretch"])
def test_recordings_shorter_than_a_window_are_changed_without_a_warning(effect: str) -> None:
    wave = tone(440.0, seconds=0.05)
    assert not np.array_equal(augmented(wave, **{effect: 0.5})[: len(wave)], wave)


def test_cut_out_silences_one_stretch_of_at_most_this_part() -> None:
    for seed in SEEDS:
        silent = np.flatnonzero(augmented(np.full(RATE, 0.5, np.float32), seed, cut_out=0.3) == 0.0)
        assert len(silent) <= 0.3 * RATE + 1
        if len(silent):
            assert silent[-1] - silent[0] + 1 == len(silent)


def test_trim_cuts_both_ends_that_are_quieter_than_the_strength_says() -> None:
    wave = np.concatenate([0.01 * tone(440.0, 0.5), tone(440.0, 1.0), 0.01 * tone(440.0, 0.5)])
    assert abs(len(augmented(wave, trim=0.1)) - RATE) < 2500
    assert len(augmented(wave, trim=0.001)) == len(wave)


def test_mixup_mixes_waveforms_and_labels_in_one_share() -> None:
    augmenter = Augmenter(AugmentSettings.model_validate({"mixup": 0.4}), RATE)
    shares = set()
    for seed in SEEDS:
        mixed, target = augmenter.waveform(
            tone(440.0), TARGET, lambda _: (tone(3000.0, 0.25), OTHER), np.random.default_rng(seed)
        )
        share = float(target[0])
        np.testing.assert_allclose(target, [share, 1 - share], atol=1e-6)
        assert 0 <= share <= 1
        np.testing.assert_allclose(
            mixed, share * tone(440.0) + (1 - share) * np.resize(tone(3000.0, 0.25), RATE), atol=1e-5
        )
        shares.add(round(share, 3))
    assert len(shares) > 6


def test_silence_is_appended_to_the_shorter_of_two_that_are_mixed() -> None:
    augmenter = Augmenter(AugmentSettings.model_validate({"mixup": {"strength": 10, "pad": "zero"}}), RATE)
    short, long = tone(440.0, 0.25), tone(3000.0)
    for wave, other in ((short, long), (long, short)):
        mixed, target = augmenter.waveform(
            wave, TARGET, lambda _, found=other: (found, OTHER), np.random.default_rng(0)
        )
        expected = np.zeros(RATE, np.float32)
        expected[: len(wave)] += target[0] * wave
        expected[: len(other)] += target[1] * other
        np.testing.assert_allclose(mixed, expected, atol=1e-6)


DRAWS = range(400)


def old_gain(wave: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Half of the clips, by -12 to 12 dB: what `--gain 0.5` did in the clinical speech programs."""
    if rng.random() >= probability:
        return wave
    return wave * 10 ** (rng.uniform(-12, 12) / 20)


def test_half_of_the_clips_by_12_db_are_those_of_hand_written_code() -> None:
    wave, rng = tone(440.0, 0.02), np.random.default_rng(1)
    ours = [augmented(wave, seed, gain={"probability": 0.5, "strength": 12}) for seed in DRAWS]
    theirs = [old_gain(wave, 0.5, rng) for _ in DRAWS]
    for item in ours:
        np.testing.assert_allclose(item, wave * (item[3] / wave[3]), rtol=1e-5)  # one factor for the clip
    factors, expected = ([float(item[3] / wave[3]) for item in found] for found in (ours, theirs))
    unchanged = [sum(factor == 1.0 for factor in found) for found in (factors, expected)]
    assert abs(unchanged[0] - unchanged[1]) < 40
    decibel = [[20 * np.log10(factor) for factor in found if factor != 1.0] for found in (factors, expected)]
    assert max(map(abs, decibel[0])) <= 12.001
    assert scipy.stats.ks_2samp(*decibel).pvalue > 0.001


def test_a_share_of_beta_10_10_mixes_as_hand_written_code_does() -> None:
    augmenter = Augmenter(AugmentSettings.model_validate({"mixup": {"probability": 0.5, "strength": 10}}), RATE)
    wave, other = tone(440.0, 0.02), tone(3000.0, 0.02)
    shares = []
    for seed in DRAWS:
        mixed, target = augmenter.waveform(wave, TARGET, lambda _: (other, OTHER), np.random.default_rng(seed))
        share = float(target[0])
        np.testing.assert_allclose(mixed, share * wave + (1 - share) * other, atol=1e-6)
        np.testing.assert_allclose(target, share * TARGET + (1 - share) * OTHER, atol=1e-6)
        shares.append(share)
    mixed_shares = [share for share in shares if share != 1.0]
    assert 160 < len(mixed_shares) < 240
    assert scipy.stats.kstest(mixed_shares, scipy.stats.beta(10, 10).cdf).pvalue > 0.001


def test_noise_of_a_fixed_deviation_does_not_depend_on_the_recording() -> None:
    for wave in (tone(440.0), 0.01 * tone(440.0)):
        added = augmented(wave, noise={"strength": 0.005, "relative": False}) - wave
        assert abs(added.std() / 0.005 - 1) < 0.02


def test_masks_of_a_maximal_width_are_torchaudios() -> None:
    import torch
    import torchaudio

    features = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32) + 9
    torch.manual_seed(0)
    for effect, axis, theirs in (
        ("frequency_mask", 1, torchaudio.transforms.FrequencyMasking(6)),
        ("time_mask", 0, torchaudio.transforms.TimeMasking(6)),
    ):
        augmenter = Augmenter(AugmentSettings.model_validate({effect: {"max_width": 6, "fill": "zero"}}), RATE)
        ours = [augmenter.spectrogram(features, np.random.default_rng(seed)) for seed in DRAWS]
        expected = [theirs(torch.from_numpy(features.T)[None])[0].numpy().T for _ in DRAWS]
        widths = []
        for found in (*ours, *expected):
            zero = (found == 0).all(axis=1 - axis)
            np.testing.assert_array_equal(found.compress(~zero, axis=axis), features.compress(~zero, axis=axis))
            masked = np.flatnonzero(zero)
            assert not len(masked) or masked[-1] - masked[0] + 1 == len(masked)
            widths.append(len(masked))
        assert set(widths[: len(DRAWS)]) == set(widths[len(DRAWS) :]) == set(range(6))
        counts = [np.bincount(part, minlength=6) for part in (widths[: len(DRAWS)], widths[len(DRAWS) :])]
        assert scipy.stats.chi2_contingency(counts).pvalue > 0.001


def test_uniform_noise_and_a_frame_shift_are_added_after_the_normalization() -> None:
    """Of the front end of audio spectrogram transformers: x + rand(F, M) * rand() / 10, then a roll by -10 to 9."""
    features = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
    mean, std = -4.2677393, 2 * 4.5689974
    settings = AugmentSettings.model_validate({"uniform_noise": 0.1, "frame_shift": 10})
    normalized = (features - mean) / std
    sizes, shifts = [], []
    for seed in DRAWS:
        found = (Augmenter(settings, RATE, std).spectrogram(features, np.random.default_rng(seed)) - mean) / std
        shift = min(range(-10, 11), key=lambda frames: np.abs(np.roll(normalized, frames, axis=0) - found).sum())
        added = found - np.roll(normalized, shift, axis=0)
        sizes.append(added.max())
        shifts.append(shift)
        assert added.min() > -1e-6
        assert abs(added.mean() - sizes[-1] / 2) < 0.05 * sizes[-1] + 1e-5
    assert set(shifts) == set(range(-10, 10))
    assert scipy.stats.kstest(np.array(sizes) * 10, "uniform").pvalue > 0.001


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"gain": {"probability": 0.5}}, "a probability without a strength changes nothing"),
        ({"time_mask": {"max_width": 4, "strength": 0.1}}, "give strength, a part of the spectrogram, or max_width"),
        ({"frame_shift": 2.5}, "strength 2.5 is a number of frames"),
    ],
)
def test_an_augmentation_that_means_nothing_is_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentSettings.model_validate(value)


def test_masks_replace_neighbouring_bands_and_frames_by_the_mean() -> None:
    features = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
    for effect, axis, size in (("frequency_mask", 0, 40), ("time_mask", 1, 60)):
        augmenter = Augmenter(AugmentSettings.model_validate({effect: 0.25}), RATE)
        widths = set()
        for seed in SEEDS:
            found = augmenter.spectrogram(features, np.random.default_rng(seed))
            changed = np.flatnonzero((found != features).any(axis=axis))
            assert 1 <= len(changed) <= 0.25 * size
            assert changed[-1] - changed[0] + 1 == len(changed)
            np.testing.assert_allclose(found.take(changed, axis=1 - axis), features.mean())
            widths.add(len(changed))
        assert len(widths) > 3


def test_spectrogram_noise_has_the_deviation_it_says() -> None:
    features = 3 * np.random.default_rng(0).standard_normal((4, 32, 40)).astype(np.float32)
    augmenter = Augmenter(AugmentSettings.model_validate({"spectrogram_noise": 0.2}), RATE)
    found = augmenter.spectrogram(features, np.random.default_rng(1))
    assert found.shape == features.shape
    assert abs((found - features).std() / features.std() - 0.2) < 0.01


def test_strength_0_and_probability_0_are_off_and_the_same_seed_gives_the_same() -> None:
    wave = tone(440.0)
    effects: dict[str, Any] = {"gain": 0, "noise": {"strength": 0.5, "probability": 0}}
    assert augmented(wave, **effects) is wave
    on = {"pitch": 2, "noise": 0.1, "time_shift": 0.2, "gain": 6}
    np.testing.assert_array_equal(augmented(wave, 5, **on), augmented(wave, 5, **on))
    assert not np.array_equal(augmented(wave, 5, **on), augmented(wave, 6, **on))


def test_augmenting_leaves_the_global_generators_as_they_were() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).random()
    augmented(tone(440.0), noise=0.1, gain=6)
    assert (random.random(), np.random.random()) == expected


def test_a_probability_is_the_share_of_recordings_that_are_changed() -> None:
    wave = tone(440.0, 0.05)
    changed = [augmented(wave, seed, gain={"strength": 6, "probability": 0.3}) is not wave for seed in range(300)]
    assert 0.2 < np.mean(changed) < 0.4


def waveforms(manifest: Manifest, targets: np.ndarray, **changes: Any) -> Recordings:
    values: dict[str, Any] = {"clip": TrainingClipSettings(), "seed": 0, **changes}
    return Recordings(
        utterances=list(manifest.utterances()), targets_UC=targets, root=manifest.root, sample_rate=8000,
        min_samples=1, preparer=None, **values,
    )  # fmt: skip


def test_training_crops_change_with_the_epoch_and_evaluation_takes_the_centre(tmp_path: Path) -> None:
    manifest = Manifest.read(tone_corpus(tmp_path, per_class=2, seconds=(1.0,)))
    targets = np.zeros((len(manifest), 3), np.float32)
    recordings = waveforms(manifest, targets, clip=TrainingClipSettings(max_seconds=0.2))
    whole = waveforms(manifest, targets)
    first, again, second, centre = (recordings[key].features for key in ((0, 1), (0, 1), (1, 1), (EVALUATION, 1)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(centre, whole[EVALUATION, 1].features[3200:4800])
    assert isinstance(recordings[0, 1], Item)


def test_evaluation_is_not_augmented(tmp_path: Path) -> None:
    config = network_config(tone_corpus(tmp_path, per_class=2), tmp_path / "run", augment={"gain": 20})
    manifest = Manifest.read(config.manifest)
    targets = np.zeros((len(manifest), 3), np.float32)
    augmenter = Augmenter(config.augment, 8000)
    recordings = waveforms(manifest, targets, augmenter=augmenter)
    plain = recordings[EVALUATION, 0].features
    assert not np.allclose(recordings[0, 0].features, plain)
    wave, _ = soundfile.read(tmp_path / "audio/low-0.wav", dtype="float32")
    np.testing.assert_array_equal(plain, wave)


@pytest.mark.parametrize("sizes", [(80, 128, 400, 200, 16000), (20, 40, 256, 80, 8000)])
def test_the_mfcc_is_torchaudios(sizes: tuple[int, ...]) -> None:
    import torch
    import torchaudio

    num_mfcc, num_mels, n_fft, hop, rate = sizes
    wave = np.random.default_rng(2).standard_normal(rate).astype(np.float32) * 0.1
    settings = {"n_fft": n_fft, "hop_length": hop, "n_mels": num_mels}
    with pytest.warns(UserWarning, match="zero values") if num_mels == 128 else _nothing():
        theirs = torchaudio.transforms.MFCC(rate, num_mfcc, melkwargs=settings)
    ours = TorchaudioMfcc(rate, num_mfcc, num_mels, n_fft, hop)(wave)
    np.testing.assert_allclose(ours, theirs(torch.from_numpy(wave)).numpy().T, atol=5e-3)


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()
