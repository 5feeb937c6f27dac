"""What `voxshard train --network` accepts, without any framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.network_trials import tone_corpus
from voxshard.config import validated
from voxshard.errors import ConfigError
from voxshard.learning.label_groups import float_targets, learn_groups, number_groups
from voxshard.learning.network_config import NetworkConfig
from voxshard.manifest import Manifest

BASE = {"manifest": "m.parquet", "label": "digit", "network": "ecapa", "out": "run"}

STORED = {"manifest": None, "features": "f", "network": "vgg"}


def problems_of(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validated(NetworkConfig, {**BASE, **changes}, where="train").network_settings()
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels_file": "l.txt"}, "give label, or labels_file, and not both"),
        ({"label": ["a", "b"], "loss": "aam"}, "n_shot, episodes and aam take one label"),
        ({"devices": 3}, "training.batch_size is not a multiple of devices (3)"),
        ({"devices": 8}, "training.batch_size: ecapa normalises over the batch, give at least 16"),
        ({"augment": {"gain": "loud"}}, "augment.gain: an augmentation is a strength, or {strength: ..., probability"),
        ({"training": {"early_stopping": {}}}, "training.early_stopping needs validate_on: the split to judge by"),
        ({"network": "wav2vec2", "augment": {"time_mask": 0.1}}, "augment.time_mask: wav2vec2 is given waveforms"),
        ({"augment": {"cut_out": 1.5}}, "strength 1.5 is a part of the whole: below 1"),
        ({"augment": {"background": 0.5}}, "background needs a folder of recordings"),
        ({"episodes": {}, "augment": {"mixup": 0.4}}, "episodes have their own loss and take no mixup"),
        ({"settings": {"width": 30}}, "width is a multiple of 8"),
        ({"settings": {"widht": 64}}, "widht: unknown key; valid keys: attention_channels, embedding_size, features"),
        ({"network": "wav2vec2", "settings": {"fine_tune": "half"}}, "fine_tune is none, all, transformer"),
        ({"network": "wav2vec2", "settings": {"fine_tune": 0}}, "fine_tune is none, all, transformer"),
        ({"network": "wav2vec2", "settings": {"layer": -1}}, "a layer is 0 (input of the first layer), 1, 2, ... or"),
        ({"features": "f"}, "give manifest, or features, and not both"),
        ({**STORED, "network": "ecapa"}, "network ecapa is trained from audio; sbcnn, timbre, vgg take stored logmel"),
        ({**STORED, "network": "vggish"}, "network vggish is trained from audio; sbcnn, timbre, vgg take stored"),
        ({**STORED, "augment": {"time_mask": 0.1, "gain": 6}}, "augment.gain changes waveforms, and stored features"),
        ({**STORED, "clip": {"trim": True}}, "clip.trim needs a waveform; extract with trim=true, or train from audio"),
        ({"network": "vgg", "settings": {"features": "logmel", "learned_log": True}}, "features=logmel is in decibels"),
        ({"network": "vgg", "settings": {"fmax": 3000}}, "fmin and fmax are of logmel and log10"),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_anything_starts(changes: dict[str, Any], message: str) -> None:
    assert message in problems_of(**changes)


def test_a_number_alone_is_the_strength_of_an_augmentation() -> None:
    config = validated(NetworkConfig, {**BASE, "augment": {"gain": 6}}, where="train")
    assert (config.augment.gain.strength, config.augment.gain.probability) == (6, 1)


def test_a_positive_class_may_look_like_a_number() -> None:
    assert validated(NetworkConfig, {**BASE, "positive": 0}, where="train").positive == "0"


def test_labels_become_float_targets_with_gaps(tmp_path: Path) -> None:
    table = Manifest.read(tone_corpus(tmp_path)).table
    chosen = [split == "train" for split in table["split"].to_pylist()]
    target, groups = learn_groups(table, ["pitch", "loud"], None, chosen, None)  # type: ignore[arg-type]
    assert [group.labels for group in groups] == [("loud",), ("pitch=high", "pitch=low", "pitch=middle")]
    targets = float_targets(number_groups(table, target, groups))
    assert targets[0].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert str(targets[1].tolist()) == "[nan, 0.0, 1.0, 0.0]"
