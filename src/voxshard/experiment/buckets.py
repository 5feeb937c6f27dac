"""Checks of an experiment's URLs before hours of work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from voxshard import urls
from voxshard.experiment.schema import ExperimentConfig
from voxshard.locations import check_output_name
from voxshard.runtime import runtime


def check_buckets(config: ExperimentConfig) -> None:
    """Check, without any request, that the URLs in a config can be used in this environment.

    Nothing is checked if the stages run in another one: there, each stage checks its own.

    Raises
    ------
    BackendUnavailableError : a package is not installed.
    ConfigError : `publish` names a bucket, or a URL contains credentials.
    """
    if runtime.split(config.runtime)[0] != "here":
        return
    for url in _urls_in(config.model_dump(mode="json")):
        urls.require(url)
    if config.publish is not None:
        check_output_name(config.publish)


def _urls_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (text for text in (value, value.partition("=")[2]) if urls.is_url(text))  # or NAME=URL
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _urls_in(item)
