"""Networks on a stored `logmel` set: the same network as from audio, and what such a set cannot give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from support.network_trials import RATE, SPECTROGRAM, logmel_set, network_config, tone_corpus

torch = pytest.importorskip("torch")

from voxshard import audio  # noqa: E402
from voxshard.api import TrainedRun  # noqa: E402
from voxshard.encoders.acoustic.logmel import log_mel  # noqa: E402
from voxshard.encoders.base import ClipSettings  # noqa: E402
from voxshard.errors import FeatureMismatchError  # noqa: E402
from voxshard.learning.network_config import NetworkConfig  # noqa: E402
from voxshard.learning.stored_logmel import StoredLogMel  # noqa: E402
from voxshard.learning.train_config import EvaluateConfig  # noqa: E402
from voxshard.networks.network_files import Checkpoint  # noqa: E402
from voxshard.stages import evaluate, train  # noqa: E402
from voxshard.stages.base import Task  # noqa: E402
from voxshard.store.features import FeatureSet  # noqa: E402
from voxshard.store.runs import Run  # noqa: E402

FROM_AUDIO = {**SPECTROGRAM, "features": "logmel"}
FROM_STORE = {name: value for name, value in SPECTROGRAM.items() if name not in ("sample_rate", "num_mels", "n_fft")}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_corpus(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def stored(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logmel_set(tones, tmp_path_factory.mktemp("features") / "logmel")


def trained(config: NetworkConfig) -> Run:
    run = train.run(config, Task())
    assert run is not None
    return run


def both(tones: Path, stored: Path, folder: Path, **changes: Any) -> tuple[Run, Run]:
    """The same training, from the recordings and from the frames."""
    changes = {"network": "vgg", **changes}
    recordings = network_config(tones, folder / "audio", settings=FROM_AUDIO, **changes)
    frames = network_config(tones, folder / "frames", settings=FROM_STORE, **changes)
    return trained(recordings), trained(frames.model_copy(update={"manifest": None, "features": stored}))


def check_equal(one: Run, other: Run) -> None:
    """Trials of both in the order of the corpus, scores the same to float32."""
    first, second = (run.trials().sort_by("utterance_id") for run in (one, other))
    assert first["utterance_id"].to_pylist() == second["utterance_id"].to_pylist()
    for name in ("score_high", "score_low", "score_middle"):
        np.testing.assert_allclose(first[name].to_numpy(), second[name].to_numpy(), atol=1e-5)


@pytest.mark.parametrize("family", ["sbcnn", "timbre", "vgg"])
def test_a_training_from_stored_frames_ends_as_one_from_audio(
    tones: Path, stored: Path, tmp_path: Path, family: str
) -> None:
    augment = {"frequency_mask": 0.2, "time_mask": {"strength": 0.3, "probability": 0.5}, "spectrogram_noise": 0.1}
    recordings, frames = both(tones, stored, tmp_path, network=family, augment=augment, validate_on="test")
    curves = [run.tables()["training"]["train_loss"].to_numpy() for run in (recordings, frames)]
    assert curves[0][-1] < curves[0][0]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
    check_equal(recordings, frames)
    first, second = (Checkpoint.read(run.path).about.network.settings for run in (recordings, frames))
    assert first == second


def test_few_shot_trainings_and_prototypes_take_stored_frames_too(tones: Path, stored: Path, tmp_path: Path) -> None:
    changes = {"episodes": {"support": 1, "query": 1, "per_epoch": 4}, "n_shot": [2, 3], "runs": 2}
    recordings, frames = both(tones, stored, tmp_path, **changes)
    for row, other in zip(*(run.tables()["n-shot"].to_pylist() for run in (recordings, frames)), strict=True):
        assert (row["shots"], row["run"]) == (other["shots"], other["run"])
        assert row["accuracy"] == pytest.approx(other["accuracy"])
    check_equal(recordings, frames)


def test_what_was_trained_on_frames_scores_recordings_and_the_other_way_round(
    tones: Path, stored: Path, tmp_path: Path
) -> None:
    recordings, frames = both(tones, stored, tmp_path)
    assert frames.config["features"][0]["path"] == str(stored.resolve())
    for run, place in ((frames, tones), (recordings, stored)):
        before = run.metrics["metrics"]["test"]
        found = evaluate.run(EvaluateConfig(run=run.path, on=(place,), replicates=0), Task())
        name = f"{place.stem}-test"
        assert found.metrics[name]["accuracy"]["value"] == before["accuracy"]["value"]
        scores = run.trials()
        again = scores.filter(np.equal(scores["split"].to_pylist(), name)).sort_by("utterance_id")
        own = scores.filter(np.equal(scores["split"].to_pylist(), "test")).sort_by("utterance_id")
        np.testing.assert_allclose(again["score_low"].to_numpy(), own["score_low"].to_numpy(), atol=1e-5)
    own = frames.scores()
    predicted = TrainedRun.read(frames.path).predict(stored)
    of_id = dict(zip(FeatureSet(stored).ids, predicted, strict=True))
    assert [of_id[name] for name in own["utterance_id"].to_pylist()] == own["prediction"].to_pylist()
    np.testing.assert_array_equal(sorted(TrainedRun.read(frames.path).predict(tones)), sorted(predicted))
    before = frames.scores()
    evaluate.run(EvaluateConfig(run=frames.path, replicates=0), Task())
    assert frames.scores().equals(before)


def test_frames_are_cropped_where_the_waveform_would_be(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    manifest = tone_corpus(tmp_path, per_class=2, seconds=(1.0,))
    soundfile.write(tmp_path / "audio/low-0.wav", noise, RATE, subtype="FLOAT")
    opened = StoredLogMel.open(logmel_set(manifest, tmp_path / "logmel"))
    utterances = list(opened.manifest.utterances())
    row = [item.utterance_id for item in utterances].index("low-0.wav")
    whole = log_mel(noise, opened.settings).T
    for crop in ("centre", "random"):
        clip = ClipSettings.model_validate({"max_seconds": 0.3, "crop": crop, "seed": 5})
        found = opened.frames(row, utterances[row], clip)
        cut = audio.fit(noise, sample_rate=RATE, clip=clip, utterance_id="low-0.wav")
        assert found.shape == log_mel(cut, opened.settings).T.shape == (31, 32)
        first = int(np.abs(whole - found[0]).sum(axis=1).argmin())
        np.testing.assert_array_equal(found, whole[first : first + 31])
        offset = np.flatnonzero(noise == cut[0])[0]
        assert abs(first * 80 - offset) <= 40, "at most half a hop next to the waveform's crop"


def test_short_recordings_are_filled_up_with_their_own_frames_or_with_silence(stored: Path) -> None:
    opened = StoredLogMel.open(stored)
    utterance = next(opened.manifest.utterances())
    frames = opened.frames(0, utterance, ClipSettings())
    repeated = opened.frames(0, utterance, ClipSettings(max_seconds=1.0, pad="repeat"))
    silent = opened.frames(0, utterance, ClipSettings(max_seconds=1.0, pad="zero"))
    assert repeated.shape == silent.shape == (101, 32)
    np.testing.assert_array_equal(repeated[: len(frames)], frames)
    np.testing.assert_array_equal(repeated[len(frames) : 2 * len(frames)], frames)
    np.testing.assert_allclose(silent[len(frames) :], max(-100.0, frames.max() - 80))


def test_settings_that_the_set_was_not_extracted_with_are_refused_together(
    tones: Path, stored: Path, tmp_path: Path
) -> None:
    settings = {**FROM_STORE, "num_mels": 64, "sample_rate": 16000}
    config = network_config(tones, tmp_path / "run", network="vgg", settings=settings)
    with pytest.raises(FeatureMismatchError) as caught:
        train.run(config.model_copy(update={"manifest": None, "features": stored}), Task())
    assert str(caught.value) == (
        f"{stored} was extracted otherwise than this network wants its input: sample_rate ({RATE} there, 16000 here); "
        "num_mels (32 there, 64 here). Leave these settings out, or extract again with others"
    )


def test_sets_without_log_mel_frames_are_refused(tones: Path, tmp_path: Path) -> None:
    pooled = logmel_set(tones, tmp_path / "pooled", pooling="mean")
    with pytest.raises(FeatureMismatchError, match=r"pooled: logmel, utterance; networks are trained on the frames of"):
        StoredLogMel.open(pooled)


def test_evaluating_on_frames_of_another_kind_is_refused(tones: Path, stored: Path, tmp_path: Path) -> None:
    run = trained(network_config(tones, tmp_path / "run", network="vgg"))
    with pytest.raises(FeatureMismatchError, match=r"wants its input: features \(logmel there, mel here\)"):
        evaluate.run(EvaluateConfig(run=run.path, on=(stored,)), Task())
