"""The settings of augmentations that the documentation shows mean what it says."""

from __future__ import annotations

import re
from pathlib import Path

from voxshard.config import parse_assignments
from voxshard.learning.augment_config import AugmentSettings
from voxshard.learning.network_config import NetworkConfig
from voxshard.networks.settings import EcapaNetworkSettings

PAGE = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()


def old_flags() -> dict[str, dict[str, object]]:
    """Flag -> what its `--set` options set."""
    rows = re.findall(r"^\| `(--[^`]+)` \| `(--set [^|]+)` \|", PAGE, re.M)
    return {
        flag: parse_assignments(re.findall(r"--set '?([^' ]+(?: [^'-][^']*)?)'?(?= --set|$)", options))
        for flag, options in rows
    }


def test_every_old_flag_has_a_form_that_is_accepted() -> None:
    found = old_flags()
    assert len(found) == 11
    for flag, options in found.items():
        augment = options.get("augment", {})
        settings = {name: value for name, value in options.items() if name != "augment"}
        if flag.startswith("--fbank"):
            assert settings.pop("mean") == "M"
            assert settings.pop("std") == "2S"
            EcapaNetworkSettings.model_validate(settings)
            continue
        assert not settings
        config = NetworkConfig.model_validate(
            {
                "manifest": "m.parquet", "network": "ecapa", "label": "loud", "out": "run", "augment": augment,
                "settings": {"mean": -4.3, "std": 9.1},
            }
        )  # fmt: skip
        assert [*config.augment.on_waveform, *config.augment.on_spectrogram] == list(augment)


def test_a_flag_that_was_a_probability_is_one_here() -> None:
    found = old_flags()
    gain = AugmentSettings.model_validate(found["--gain 0.5"]["augment"]).gain
    assert (gain.probability, gain.strength) == (0.5, 12)
    mixup = AugmentSettings.model_validate(found["--mixup 0.5"]["augment"]).mixup
    assert (mixup.probability, mixup.strength, mixup.pad) == (0.5, 10, "zero")
    assert AugmentSettings.model_validate({"gain": 6}).gain.probability == 1


def test_every_augmentation_is_on_the_page_in_its_order() -> None:
    table = PAGE.partition("| name |")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert named == list(AugmentSettings.model_fields)
