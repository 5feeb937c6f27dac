"""The precision of encoders set once, by the config's jobs or by the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from voxshard.config import dump_yaml
from voxshard.errors import ConfigError
from voxshard.experiment.default_precision import with_precision
from voxshard.experiment.schema import ExperimentConfig, JobOptions, load
from voxshard.slurm import site

ENCODERS: dict[str, Any] = {
    "open": {"encoder": {"name": "hf", "weights": "some/model"}},
    "chosen": {"encoder": {"name": "hf", "weights": "some/model", "precision": "bf16"}},
    "on_cpu": {"encoder": {"name": "hf", "weights": "some/model"}, "device": "cpu"},
    "acoustic": {"encoder": "mfcc"},
    "trillsson": {"encoder": {"name": "trillsson3", "weights": "some/model"}},
    "hear": {"encoder": {"name": "hear", "module": "some_module"}},
}


def config(tmp_path: Path, jobs: dict[str, Any]) -> ExperimentConfig:
    path = tmp_path / "config.yaml"
    content = {"out": str(tmp_path / "exp"), "prepare": {"format": "folder", "root": "/corpus"}, "extract": ENCODERS}
    path.write_text(dump_yaml({**content, "jobs": jobs}))
    return load(path, {})


def precisions(found: ExperimentConfig) -> dict[str, str | None]:
    return {name: section.encoder.get("precision") for name, section in found.extract.items()}


@pytest.mark.parametrize(
    ("of_site", "jobs", "expected"),
    [
        (None, {}, {}),
        ("tf32", {}, {"open": "tf32", "trillsson": "tf32"}),
        (None, {"extract": {"precision": "tf32"}}, {"open": "tf32", "trillsson": "tf32"}),
        ("tf32", {"extract": {"precision": "float32"}}, {"open": "float32", "trillsson": "float32", "hear": "float32"}),
        ("tf32", {"extract": {"precision": "bf16"}}, {"open": "bf16"}),  # TensorFlow computes in float32 and tf32
        ("fp16", {"extract-open": {"precision": "tf32"}, "extract": {"precision": "bf16"}}, {"open": "tf32"}),
    ],
)
def test_the_closest_setting_counts_for_encoders_on_a_gpu_that_name_none(
    tmp_path: Path, of_site: Any, jobs: dict[str, Any], expected: dict[str, str]
) -> None:
    found = with_precision(config(tmp_path, jobs), JobOptions(precision=of_site))
    assert precisions(found) == {**dict.fromkeys(ENCODERS), "chosen": "bf16", **expected}


def test_what_was_set_once_is_a_setting_of_the_encoder_from_then_on(tmp_path: Path) -> None:
    """It is in EXP/config.yaml, and applying it again changes nothing."""
    first = with_precision(config(tmp_path, {}), JobOptions(precision="tf32"))
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_yaml(first.model_dump(mode="json")))
    assert with_precision(load(path, {}), JobOptions(precision="bf16")) == first
    assert first.extract["open"].options()["settings"]["precision"] == "tf32"


def test_a_precision_where_it_has_no_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"jobs\.train\.precision: no effect; only jobs\.extract has one"):
        config(tmp_path, {"train": {"precision": "tf32"}})
    with pytest.raises(ConfigError, match=r"stages\.default\.precision: no effect; only stages\.extract has one"):
        site.load("test", {"stages": {"default": {"precision": "tf32"}}})
    assert site.load("test", {"stages": {"extract": {"precision": "tf32"}}}).options("extract").precision == "tf32"
