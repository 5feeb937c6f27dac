"""Default precision of an experiment's encoders: from the config's `jobs`, or from the site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from voxshard.encoders import registry
from voxshard.encoders.base import Precision
from voxshard.experiment.schema import ExperimentConfig, ExtractSection, JobOptions


def with_precision(config: ExperimentConfig, of_site: JobOptions) -> ExperimentConfig:
    """Return the config with the precision written into the encoders that use a GPU and whose own settings have none.

    `jobs.extract-<name>.precision` comes before `jobs.extract.precision`, and that before the site's
    `stages.extract.precision`. Encoders that do not compute in it keep theirs. It is a setting of the encoder from
    here on: part of EXP/config.yaml, and of the fingerprint.
    """
    sections = dict(config.extract)
    for name, section in config.extract.items():
        asked = [config.jobs.get(key, JobOptions()).precision for key in (f"extract-{name}", "extract")]
        precision = next((item for item in [*asked, of_site.precision] if item is not None), None)
        if precision is not None and precision in _open_precisions(section):
            sections[name] = section.model_copy(update={"encoder": {**section.encoder, "precision": precision}})
    return config.model_copy(update={"extract": sections})


def _open_precisions(section: ExtractSection) -> Iterator[Precision]:
    """Yield the precisions that can be chosen for an extraction; none if its encoder names one, or uses no GPU."""
    options = section.options()
    name, settings = options["encoder"], options["settings"]
    if section.device == "cpu" or "precision" in settings or registry.spec_of(name).settings is None:
        return
    if registry.needs_gpu(name, settings):
        yield from get_args(registry.settings_model(name).model_fields["precision"].annotation)
