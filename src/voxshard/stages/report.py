"""Report on runs, experiments and feature sets: report.html, results.csv, results.tex."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from voxshard import files
from voxshard.config import Settings, as_list
from voxshard.errors import BackendUnavailableError, ConfigError
from voxshard.extraction.telemetry import advice
from voxshard.locations import AnyLocation, Location, check_output, local_copy
from voxshard.stages.base import Task
from voxshard.uploads import output

TABLES = ("results.csv", "results.tex")
"""Results as tables, next to a report on runs."""


class ReportConfig(Settings):
    """Settings of one report."""

    paths: Annotated[tuple[Location, ...], BeforeValidator(as_list)] = Field(min_length=1)
    """Runs, experiments or feature sets that the report covers."""
    out: Location
    """HTML file to write."""
    title: str | None = None
    """Title of the report; null: the name of the run or experiment."""


def run(config: ReportConfig, task: Task | None = None) -> AnyLocation:
    """Write the report, and the results next to it as CSV and LaTeX; each file is replaced completely.

    Raises
    ------
    ConfigError : `out` is a folder.
    BackendUnavailableError : Jinja2 or Matplotlib is not installed.
    DataError : a path is no run, experiment or feature set, or is damaged.
    """
    task = task or Task()
    if isinstance(config.out, Path) and config.out.is_dir():
        raise ConfigError(
            f"--out {config.out}: a folder; give the name of the HTML file, such as {config.out / 'report.html'}"
        )
    check_output(config.out, (".html", ".htm"))
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise BackendUnavailableError(f"a report needs {' and '.join(missing)}: pip install 'voxshard[report]'")
    from voxshard.reporting import comparability, html, loading, result_tables

    data = loading.load_report(
        [local_copy(path) for path in config.paths], title=config.title, advise=advice, progress=task.progress
    )
    task.check()
    page = html.render(data)
    with output(config.out, also=TABLES) as path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if data.systems:
            files.publish_bytes(path.with_name(TABLES[0]), result_tables.results_csv(data.systems).encode())
            views = [
                (f"{split}{topic.suffix}", topic.view(split))
                for topic in comparability.topics(data)
                for split in topic.splits
            ]
            files.publish_bytes(path.with_name(TABLES[1]), result_tables.results_latex(views).encode())
        files.publish_bytes(path, page.encode())
    return config.out
