"""`voxshard classifiers` and `voxshard networks` list names, and every setting with type, default and meaning."""

from __future__ import annotations

import pytest

from voxshard.cli import main
from voxshard.learning.train_config import SETTINGS
from voxshard.networks.settings import FAMILIES, SUMMARIES


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def test_every_name_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for command, names in (("classifiers", SETTINGS), ("networks", FAMILIES)):
        lines = printed(capsys, command).splitlines()
        assert [line.split()[0] for line in lines[: len(names)]] == list(names)
        assert all(len(line.split()) > 1 for line in lines[: len(names)])
    assert set(SUMMARIES) == set(FAMILIES)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_of_a_classifier_are_listed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "classifiers", name)
    assert all(f"--set {key}=" in text for key in SETTINGS[name].model_fields)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_settings_of_a_network_and_of_its_training_are_listed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "networks", name)
    for key in (
        *(set(FAMILIES[name].model_fields) - {"heads"}),
        "heads.hidden",
        "training.lr",
        "episodes.ways",
        "loss",
    ):
        assert f"--set {key}=" in text
    assert "--set training.early_stopping.patience=   integer, default 5" in text
    assert "--set augment.gain=   strength, or {strength, probability}, default off" in text


def test_an_unknown_name_is_exit_2_with_the_likely_one(capsys: pytest.CaptureFixture[str]) -> None:
    for command, name, meant in (("classifiers", "logistc", "logistic"), ("networks", "vg", "vgg")):
        with pytest.raises(SystemExit) as ended:
            main([command, name])
        assert ended.value.code == 2
        assert f"did you mean {meant}?" in capsys.readouterr().err
