"""Publication of a file, feature set, run or experiment to a bucket, complete and with every digest checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import field_validator

from voxshard import files
from voxshard.config import Settings
from voxshard.errors import IncompleteError
from voxshard.files import quoted
from voxshard.locations import AnyLocation, LocalPath, Location, Url
from voxshard.stages.base import Task
from voxshard.store.layout import FeatureDir
from voxshard.store.merged import read_summary
from voxshard.uploads import Published, publish

_RECORD = "published.json"
"""File in EXP/jobs that records what the experiment published last, for jobs without a network."""


class PublishConfig(Settings):
    """Settings of one publication."""

    path: LocalPath
    """File, feature set, run, experiment or other folder to publish."""
    url: Location
    """Target URL: an object or a folder in a bucket, not the bucket itself."""
    replace: bool = False
    """Replace objects whose content differs."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: AnyLocation) -> AnyLocation:
        if not isinstance(value, Url):
            raise ValueError("a local path; expected a URL such as s3://bucket/results or gs://bucket/results")
        return value


def run(config: PublishConfig, task: Task | None = None) -> Published:
    """Upload objects that are missing or differ in the bucket; the completion marker is written last.

    Raises
    ------
    IncompleteError : a feature set that is not merged.
    ObjectExistsError : without `replace`, the URL holds another content; nothing is uploaded.
    StoppedError : asked to stop; the same command resumes.
    AccessDeniedError, NoSuchBucketError, TransientFaultError, BackendUnavailableError : of the bucket.
    """
    task = task or Task()
    for folder in (config.path, *sorted((config.path / "features").glob("*"))):
        _check_is_merged(folder)
    assert isinstance(config.url, Url)
    url, jobs = str(config.url), config.path / "jobs"
    is_experiment = jobs.is_dir() and (config.path / "config.yaml").is_file()
    report = config.path / "report.html"

    def begin() -> None:
        if is_experiment:
            files.publish_json(jobs / _RECORD, {"url": url, "report": None})

    published = publish(
        config.path, config.url, replace=config.replace, on_accepted=begin, progress=task.progress, check=task.check
    )
    if is_experiment:
        content = {"url": url, "report": files.sha256_of(report) if report.exists() else None}
        files.publish_json(jobs / _RECORD, content)
    return published


def published_record(experiment: Path) -> Mapping[str, Any] | None:
    """Return the URL to which an experiment was last published, and the SHA-256 of its report; None if it never was."""
    try:
        content = json.loads(files.read_bytes(experiment / "jobs" / _RECORD))
    except FileNotFoundError:
        return None
    return content if isinstance(content, dict) else None


def _check_is_merged(path: Path) -> None:
    folder = FeatureDir(path)
    if folder.identity.exists():
        summary = read_summary(folder)
        if summary is None or summary["stale"] or not folder.features.exists():
            raise IncompleteError(
                f"{path}: not merged, so it is not complete; run `voxshard merge {quoted(path)}` first"
            )
